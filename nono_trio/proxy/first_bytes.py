"""Reads the first bytes of a client or a server: an HTTP head, a TLS hello, or anything at all.

Rules of this file:
- The bytes of a hello stay in `client.unread` after they were read, so they can still be sent on.
- Each read is bounded: by the time for a head, or by that of an idle tunnel.
- A client whose place was given away raises Expired, and gets no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.request_head import head_end
from nono_trio.core.net.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.transport.client import Client, Expired

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.limits import ProxyLimits


async def wait_for_client(
    client: Client, upstream: Upstream, limits: ProxyLimits
) -> ClosedBy | None:
    """Wait for the client's first byte, which is then in `unread`. Returns None, or the side that
    ended the connection before it came. Raises OSError.

    The server may be silent as long as on any idle tunnel. Not a byte of it is read.
    """
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


def has_spoken(upstream: Upstream) -> bool:
    """True if the server has sent anything yet; it stays unread."""
    return bool(upstream.early) or upstream.transport.has_bytes()


async def rest_of_head(client: Client, data: bytes, limits: ProxyLimits) -> tuple[bytes, int]:
    """Read on after `data`, the beginning of an HTTP head, until the head is complete. Returns what
    was read and the head's length. Raises BadRequest (`client.unread` has what was read then),
    OSError, and Expired for a client whose place was given away."""
    client.expire_in(limits.head)
    seen, client.unread = 0, data
    while (end := head_end(data, seen)) < 0:
        seen = len(data)
        try:
            more = await client.receive()
        except Expired:
            if client.dropped:
                raise
            reason = format_reason(DenialCode.HEAD_TIMEOUT, seconds=limits.head)
            raise BadRequest(408, reason) from None
        if not more:
            raise BadRequest(400, format_reason(DenialCode.HEAD_CUT))
        client.unread = data = data + more
    return data, end


async def read_hello(client: Client, limits: ProxyLimits) -> ClientHello | None:
    """Read a TLS hello; its bytes stay in `client.unread`. Returns None if the client sent nothing
    at all within the time for a head.

    Raises BadHello, OSError, and Expired for a client whose place was given away.
    """
    client.expire_in(limits.head)
    needed = 1
    while True:
        while len(client.unread) < needed:
            if not await _receive_more(client, limits):
                return None
        read = read_client_hello(client.unread)
        if isinstance(read, ClientHello):
            return read
        needed = read


async def _receive_more(client: Client, limits: ProxyLimits) -> bool:
    """Add to `client.unread`; False if the client ended or waited too long without a byte."""
    client.idle = not client.unread
    try:
        more = await client.receive()
    except Expired:
        if client.dropped:
            raise
        if not client.unread:
            return False
        reason = format_reason(DenialCode.HELLO_TIMEOUT, seconds=limits.head)
        raise BadHello(reason) from None
    finally:
        client.idle = False
    if not more and client.unread:
        raise BadHello(format_reason(DenialCode.HELLO_CUT))
    client.unread += more
    return bool(more)
