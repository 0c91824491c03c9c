"""CONNECT: an open tunnel, from the 200 to the last byte.

Rules of this file: bytes that came with the head go first, so an early TLS hello is not lost; a
tunnel that is cut (the session ends, a bug) still says what moved through it, because its counts
are plain attributes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.proxy.answers import ESTABLISHED
from nono_trio.proxy.client import Expired
from nono_trio.proxy.relay import Direction, End, SideFailed

if TYPE_CHECKING:
    from nono_trio.core.events import ClosedBy
    from nono_trio.proxy.client import Client
    from nono_trio.proxy.limits import Limits
    from nono_trio.proxy.readiness import Readiness
    from nono_trio.proxy.relay import RelayBuffer
    from nono_trio.proxy.upstream import Upstream

PEER_ENDED: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})


class Tunnel:
    """One tunnel. `closed_by` is "shutdown" until something else has ended it."""

    def __init__(
        self, client: Client, upstream: Upstream, buffer: RelayBuffer, readiness: Readiness
    ) -> None:
        self.closed_by: ClosedBy = "shutdown"
        self._first_ended: ClosedBy | None = None
        self._client = client
        near = End("client", client.sock, client.watch)
        far = End("upstream", upstream.sock, upstream.watch)
        self.up = Direction(near, far, buffer, readiness, client.unread)
        self.down = Direction(far, near, buffer, readiness, b"")
        client.unread = b""

    async def run(self, limits: Limits) -> None:
        """Answer 200 and relay until both directions have ended, a side broke or was idle too
        long. If cancelled, both sockets are left to the caller."""
        try:
            await self._client.send(ESTABLISHED)
            while not (self.up.done and self.down.done):
                self._client.expire_in(limits.idle)
                await self._turn()
            self.closed_by = self._first_ended or "client"
        except SideFailed as failure:
            self.closed_by = self._first_ended or _blamed(failure)
        except OSError:
            self.closed_by = "client"
        except Expired:
            self.closed_by = "idle"
        finally:
            self.up.release()
            self.down.release()

    async def _turn(self) -> None:
        """Move what is there, then wait for more or let others run."""
        more = self.up.pump()
        more = self.down.pump() or more
        if self._first_ended is None and (self.up.done or self.down.done):
            self._first_ended = "client" if self.up.done else "upstream"
        if more:
            await trio.lowlevel.checkpoint()
        elif not (self.up.done and self.down.done):
            await self._client.pause()


def _blamed(failure: SideFailed) -> ClosedBy:
    """The side that ended the tunnel, or "error" if the network between did."""
    cause = failure.__cause__
    ended = isinstance(cause, OSError) and cause.errno in PEER_ENDED
    return failure.side if ended else "error"
