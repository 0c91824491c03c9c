"""An open tunnel: from the answer that tells of it (to a CONNECT or an Upgrade) to the last byte.

Rules of this file: bytes that were read before go first, so an early TLS hello is not lost; a
tunnel that is cut (the session ends, a bug) still says what moved through it, because its counts
are plain attributes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.proxy.transport.client import Expired
from nono_trio.proxy.transport.relay import Direction, SideFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.core.log.events import ClosedBy
    from nono_trio.core.net.hello_retry import HelloRetry
    from nono_trio.proxy.limits import Limits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.epoll import Readiness
    from nono_trio.proxy.transport.relay import RelayBuffer
    from nono_trio.proxy.transport.upstream_connection import Upstream

    Look: TypeAlias = Callable[[], Awaitable[ClosedBy | None]]
    """Looks at what the client says first, which it leaves in `unread`; who ended the tunnel, if
    that is what it comes to."""

PEER_ENDED: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})


class Tunnel:
    """One tunnel, both directions in one task. `closed_by` is "shutdown" until something else has
    ended it."""

    __slots__ = ("_client", "_first_ended", "_left_over", "closed_by", "down", "up")

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        buffer: RelayBuffer,
        readiness: Readiness,
        left_over: bytes = b"",
    ) -> None:
        self.closed_by: ClosedBy = "shutdown"
        self._first_ended: Direction | None = None
        self._client = client
        near, far = client.watch, upstream.watch
        self.up = Direction(near, far, buffer, readiness)
        self.down = Direction(far, near, buffer, readiness)
        self._left_over = left_over

    async def run(
        self,
        limits: Limits,
        greeting: bytes,
        look: Look | None = None,
        retry: HelloRetry | None = None,
    ) -> None:
        """Send the greeting, if any, and relay until both directions have ended, a side broke or
        was idle too long. Before the relay starts `look` may end it. If cancelled, both sockets are
        left to the caller.

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
            await self._relay(limits)
        except (OtherHello, BadHello):
            self.closed_by = "error"
            raise
        except SideFailed as failure:
            self.closed_by = self._ended_by() or _blamed(failure)
        except OSError:
            self.closed_by = "client"
        except Expired:
            self.closed_by = "idle"
        else:
            self.closed_by = self._ended_by() or "client"
        finally:
            self.up.release()
            self.down.release()

    def _hold_early(self) -> None:
        """Have what was read already go first."""
        if self._left_over:
            self.down.hold(self._left_over)
        if self._client.unread:
            self.up.hold(self._client.unread)
            self._client.unread = b""

    async def _relay(self, limits: Limits) -> None:
        client, up, down = self._client, self.up, self.down
        while True:
            more = up.pump()
            more = down.pump() or more
            if (up.done or down.done) and self._pass_ends():
                return
            if more:
                await trio.lowlevel.checkpoint()
            elif client.watch.failed:  # not seen by who waits for the upstream to take bytes
                reset = ConnectionResetError(errno.ECONNRESET, "the client is gone")
                raise SideFailed("client") from reset
            else:
                client.expire_in(limits.idle)
                await client.pause()

    def _pass_ends(self) -> bool:
        """Pass on the first direction's end; the second's, when True is returned, goes out with
        the sockets' close."""
        if self.up.done and self.down.done:
            return True
        if self._first_ended is None:
            self._first_ended = self.up if self.up.done else self.down
            self._first_ended.pass_end()
        return False

    def _ended_by(self) -> ClosedBy | None:
        return None if self._first_ended is None else self._first_ended.source.side


def _blamed(failure: SideFailed) -> ClosedBy:
    """The side that ended the tunnel, or "error" if the network between did."""
    cause = failure.__cause__
    ended = isinstance(cause, OSError) and cause.errno in PEER_ENDED
    return failure.side if ended else "error"
