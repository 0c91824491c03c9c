"""Records connections to the cage's own loopback that a program of this machine would answer.

In the cage 127.0.0.1 is the cage itself. A program that wants the database of this machine there is
refused by the kernel, and its user would look for the fault in the database. So each such port gets
one record, which names `--open-port`. A port without a listener on this machine gets no record:
programs wait in loops for their own servers.

Rules of this file:
- Each port is judged once, by listeners that were read at most LISTENERS_SECONDS ago.
- Such a record is no stray: the verdict on a run does not count it (core/policy/attempts.py).
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.net.address import is_loopback
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.core.net.ip_packet import ends, source
from nono_trio.core.policy.reasons import OPEN_PORT_FLAG, DenialCode, format_reason
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.posix.clock import unix_ms
from nono_trio.posix.listening import loopback_listeners
from nono_trio.proxy.access.decision import host_denied
from nono_trio.proxy.listeners.refused_ports import BATCH, MOST_BYTES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet

    from nono_trio.audit.write.recorder import RecordsDecisions

REFUSED_LOOPBACK: Final = "refused-loopback"  # the name of the socket that the launcher opens
LISTENERS_SECONDS: Final = 1.0  # so often at most the machine's listeners are read
MAX_RECORDS: Final = 100  # ports of one session: more is a scan
_MOST_NAMED: Final = 4
_RECORD_SECONDS: Final = 1.0  # for one record, and for all that remain at the end of the session


class HostLoopback:
    """Records what arrives at a socket of `sandbox.launcher.linux.packet_capture`."""

    def __init__(
        self,
        recorder: RecordsDecisions,
        listeners: Callable[[], AbstractSet[int]] = loopback_listeners,
        *,
        relayed: Iterable[int] = (),
    ) -> None:
        """`relayed`: ports of --listen-port; there our own relay tries the cage's loopback."""
        self.ports: list[int] = []
        """The ports that a record has, in the order of the attempts."""
        self.lost = 0
        """Tries without a record, because the log was too slow."""
        self._recorder = recorder
        self._read_listeners = listeners
        self._listeners: AbstractSet[int] = frozenset()
        self._read_at = -LISTENERS_SECONDS
        self._asked = set(relayed)  # there are 65,535
        self._last = math.inf  # the time after which no record is waited for

    async def serve(self, sock: socket.socket) -> None:
        """Record until cancelled, then record what remains and close `sock`. Raises AuditLost."""
        with sock:
            sock.setblocking(False)
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    await self._record_batch(sock)
                    await trio.lowlevel.checkpoint()
            except SessionSealed:
                return
            finally:
                # Each record has a shield of its own, so all of them get this deadline.
                self._last = trio.current_time() + _RECORD_SECONDS
                with trio.move_on_after(_RECORD_SECONDS, shield=True):
                    with suppress(AuditLost, SessionSealed):
                        while await self._record_batch(sock):
                            pass

    def notes(self) -> list[str]:
        """Return sentences for the user: about the ports, and about tries without a record."""
        told = (
            [f"tries of loopback without a record: {self.lost} (the log was slow)"]
            if self.lost
            else []
        )
        if not self.ports:
            return told
        shown = self.ports[:_MOST_NAMED]
        more = f" and {len(self.ports) - len(shown)} more" if len(self.ports) > len(shown) else ""
        flags = " ".join(f"{OPEN_PORT_FLAG} {port}" for port in shown)
        return [
            *told,
            f"the command tried its own loopback at port {', '.join(map(str, shown))}{more}, where"
            f" only a program of this machine listens (to let it through: {flags})",
        ]

    async def _record_batch(self, sock: socket.socket) -> bool:
        """Record up to BATCH refusals. Returns False once there are no more."""
        for _ in range(BATCH):
            try:
                packet = sock.recv(MOST_BYTES)
            except OSError:
                return False
            refusing = source(packet)
            if refusing is not None and refusing.port is not None and is_loopback(refusing.address):
                await self._record(str(refusing.address), refusing.port, _reversed(ends(packet)))
        return True

    async def _record(self, address: str, port: int, origin: Endpoints | None) -> None:
        if port in self._asked:
            return
        self._asked.add(port)
        if port not in self._current_listeners() or len(self.ports) >= MAX_RECORDS:
            return
        reason = format_reason(DenialCode.HOST_LOOPBACK, port=port)
        event = host_denied(address, port, reason).event(unix_ms())
        # Shielded, since a record that is cancelled at the end of the session may be missing.
        deadline = min(trio.current_time() + _RECORD_SECONDS, self._last)
        with trio.CancelScope(deadline=deadline, shield=True), suppress(AuditBusy):
            await self._recorder.record(event, origin)
            self.ports.append(port)
            return
        self.lost += 1
        self._asked.discard(port)  # the next try may get its record

    def _current_listeners(self) -> AbstractSet[int]:
        now = trio.current_time()
        if now - self._read_at >= LISTENERS_SECONDS:
            self._listeners, self._read_at = self._read_listeners(), now
        return self._listeners


def _reversed(answer: Endpoints | None) -> Endpoints | None:
    """Return the client's socket: the packet is the answer to it."""
    if answer is None:
        return None
    return Endpoints(
        answer.protocol, answer.server, answer.server_port, answer.address, answer.port
    )
