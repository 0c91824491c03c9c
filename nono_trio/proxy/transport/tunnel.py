"""An open tunnel: from the answer to its CONNECT or Upgrade to the last byte.

Rule of this file: bytes that were read before the tunnel opened are sent first, so that an early
TLS hello is not lost.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.proxy.transport.client import Expired
from nono_trio.proxy.transport.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.relay import RelayBuffer
    from nono_trio.proxy.transport.transport import Transport

    Look: TypeAlias = Callable[[], Awaitable[ClosedBy | None]]
    """Reads the client's first bytes, which stay in `unread`. Returns None to go on, or the side
    that has ended the tunnel."""


class FollowsHello(Protocol):
    """Gets the first bytes of both sides, until it needs no more; `HelloRetry` is one."""

    def client_says(self, data: bytes | memoryview) -> bool: ...  # noqa: D102

    def server_says(self, data: bytes | memoryview) -> bool: ...  # noqa: D102


class Tunnel(Relay):
    """One tunnel between a client and an upstream, in the client's coroutine."""

    __slots__ = ("_client", "_idle", "_left_over", "_look")

    def __init__(
        self,
        client: Client,
        upstream: Transport,
        buffer: RelayBuffer,
        left_over: bytes = b"",
        look: Look | None = None,
        retry: FollowsHello | None = None,
    ) -> None:
        """`look` runs before the relay and may end the tunnel. `retry` follows the TLS handshake.
        Neither is held for longer than it is needed."""
        super().__init__(client.transport, upstream, buffer)
        self._client = client
        self._left_over = left_over
        self._look = look
        self._idle = math.inf
        if retry is not None:
            self.up.look, self.down.look = retry.client_says, retry.server_says

    async def carry(
        self,
        limits: ProxyLimits,
        greeting: bytes,
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Send the greeting, if any, and relay until both directions have ended, a side broke or
        the tunnel was idle too long. If cancelled, both transports are left to the caller.

        Raises OtherHello and BadHello for a hello that must not be there. `pause` waits until a
        side is ready; the client's own unless given. Raises what it and a sieve raise.
        """
        self._idle = limits.idle
        try:
            if greeting:
                await self._client.send(greeting)
            if self._look is not None and (ended := await self._look_first()) is not None:
                self.closed_by = ended
                return
            self._hold_early()
            await self.run(partial(_move_after, pause) if pause else self._rest)
        except (OtherHello, BadHello):
            self.closed_by = "error"
            raise
        except OSError:
            self.closed_by = "client"
        except Expired:
            self.closed_by = "idle"
        finally:
            self.release()

    def _rest(self, move: Callable[[], bool]) -> Awaitable[None]:
        return self._client.pause_while(move, self._idle)

    async def _look_first(self) -> ClosedBy | None:
        look, self._look = self._look, None
        return None if look is None else await look()

    def _hold_early(self) -> None:
        """Have the bytes that were already read sent first."""
        if self._left_over:
            self.down.hold(self._left_over)
            self._left_over = b""
        if self._client.unread:
            self.up.hold(self._client.unread)
            self._client.unread = b""


async def _move_after(pause: Callable[[], Awaitable[None]], move: Callable[[], bool]) -> None:
    """As `Rest`, with another pause than the client's own."""
    while True:
        await pause()
        if not move():
            return
