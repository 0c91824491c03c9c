"""An open tunnel: from the answer that tells of it (to a CONNECT or an Upgrade) to the last byte.

Rules of this file: bytes that were read before go first, so an early TLS hello is not lost; a
tunnel that is cut still says what moved through it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.proxy.transport.client import Expired
from nono_trio.proxy.transport.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.core.log.events import ClosedBy
    from nono_trio.core.net.hello_retry import HelloRetry
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.relay import RelayBuffer
    from nono_trio.proxy.transport.transport import Transport

    Look: TypeAlias = Callable[[], Awaitable[ClosedBy | None]]
    """Looks at what the client says first, which it leaves in `unread`; who ended the tunnel, if
    that is what it comes to."""


class Tunnel(Relay):
    """One tunnel between a client and an upstream, in the client's task."""

    __slots__ = ("_client", "_left_over")

    def __init__(
        self, client: Client, upstream: Transport, buffer: RelayBuffer, left_over: bytes = b""
    ) -> None:
        super().__init__(client.transport, upstream, buffer)
        self._client = client
        self._left_over = left_over

    async def carry(
        self,
        limits: ProxyLimits,
        greeting: bytes,
        look: Look | None = None,
        retry: HelloRetry | None = None,
    ) -> None:
        """Send the greeting, if any, and relay until both directions have ended, a side broke or
        was idle too long. Before the relay starts `look` may end it. If cancelled, both transports
        are left to the caller.

        With `retry` a second TLS hello is looked at: raises OtherHello, BadHello.
        """
        try:
            if greeting:
                await self._client.send(greeting)
            if look is not None and (ended := await look()) is not None:
                self.closed_by = ended
                return
            if retry is not None:
                self.up.look, self.down.look = retry.client_says, retry.server_says
            self._hold_early()
            await self.run(partial(self._client.pause, limits.idle))
        except (OtherHello, BadHello):
            self.closed_by = "error"
            raise
        except OSError:
            self.closed_by = "client"
        except Expired:
            self.closed_by = "idle"
        finally:
            self.release()

    def _hold_early(self) -> None:
        """Have what was read already go first."""
        if self._left_over:
            self.down.hold(self._left_over)
        if self._client.unread:
            self.up.hold(self._client.unread)
            self._client.unread = b""
