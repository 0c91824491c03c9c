"""The beginning of a CONNECT's tunnel on a port where it is known what has to be spoken.

A CONNECT says which host it means, its bytes may say another: the TLS hello by its server name, a
request by its Host. So the same is asked of them as of a connection that came without a proxy.

Rules of this file: the dial and the 200 come first, because a client speaks only after them; until
the client has shown what it must, not a byte of the server's is read; a client that says nothing
may stay as long as any idle tunnel; one look is taken, what comes after it is relayed unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.client_hello import BadHello
from nono_trio.proxy.connection_handler import read_hello
from nono_trio.proxy.transport.client import Expired

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.core.net.hello_retry import HelloRetry
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.limits import Limits
    from nono_trio.proxy.transport.client import Client


async def wait_for_client(client: Client, upstream: Upstream, limits: Limits) -> ClosedBy | None:
    """Wait for the client's first byte, which is then in `unread`; else who ended the connection
    without one. Raises OSError."""
    client.expire_in(limits.idle)
    while not client.unread:
        data = client.transport.try_receive()
        if data == b"":
            return "client"
        if data is not None:
            client.unread = data
        elif upstream.transport.ending:
            return "upstream"
        else:
            try:
                await client.pause()
            except Expired:
                return "idle"
    return None


async def check_hello(
    client: Client,
    upstream: Upstream,
    authorizer: HelloAuthorizer,
    limits: Limits,
    retry: HelloRetry,
) -> ClosedBy | Decision:
    """Read the TLS hello, its bytes left in `unread`, and return the decision about it, or the side
    that ended the connection before it came.

    `retry` gets the hello. Raises OSError.
    """
    ended = await wait_for_client(client, upstream, limits)
    if ended is not None:
        was_told = ended != "client" and has_spoken(upstream)
        return authorizer.server_first() if was_told else ended
    try:
        hello = await read_hello(client, limits)
    except BadHello as fault:
        return authorizer.malformed(fault)
    if hello is None:
        return "client"
    retry.first = hello
    return authorizer.authorize(hello)


def has_spoken(upstream: Upstream) -> bool:
    """Whether the server has sent anything yet; it stays unread."""
    return bool(upstream.early) or upstream.transport.has_bytes()
