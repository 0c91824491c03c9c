"""Records connections and datagrams that the kernel has refused because no socket gets them.

Rules of this file:
- No byte was let through, so the record may come after the refusal.
- A scan gets few records (denial_throttle.py). One record at the end counts the others; another one
  counts what the kernel's buffer has dropped.
- A packet that can't be parsed is ignored. So is the first packet of a connection that a listener
  for every port gets: its handler decides and records it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import REFUSED_PORTS_TARGET
from nono_trio.core.net.host import Host
from nono_trio.core.net.ip_packet import destination, ends
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, parse_reason, with_allow_entry
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.decision import host_denied
from nono_trio.proxy.access.denial_throttle import DenialThrottle
from nono_trio.proxy.listeners.ending import serve_to_the_end

if TYPE_CHECKING:
    import socket

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.net.endpoints import Endpoints
    from nono_trio.core.net.fake_ip import FakeAddresses
    from nono_trio.core.net.ip_packet import Attempt
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.access.denial_throttle import IsReason
    from nono_trio.proxy.listeners.ending import Ending

BATCH: Final = 32  # packets before other tasks get a turn
MOST_UNREAD: Final = 1 << 16  # more than a socket's buffer has

MOST_BYTES: Final = 128  # as much as the capture's filter passes
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_STATISTICS: Final = struct.Struct("=II")  # packets, drops; reading resets both


class RefusedPorts:
    """Records what arrives at a socket of `sandbox.launcher.linux.packet_capture`."""

    def __init__(
        self,
        names: FakeAddresses,
        policy: Policy,
        recorder: RecordsDecisions,
        is_reason: IsReason | None = None,
    ) -> None:
        self._names = names
        self._policy = policy
        self._recorder = recorder
        self._connections = DenialThrottle(recorder, unix_ms, is_reason)
        # A flood of datagrams must not take the place of connections.
        self._datagrams = DenialThrottle(recorder, unix_ms, is_reason)
        self._listened: list[IPv4Network | IPv6Network] = []
        self.lost = 0
        """Packets that the kernel has dropped because they came too fast, and those at the end that
        the log was too slow for; known at the end."""

    async def serve(self, sock: socket.socket, has_every_port: bool = False) -> None:
        """Record until cancelled, then record the remaining packets and close `sock`. Raises
        AuditLost (in a group).

        `has_every_port`: connections to the policy's `every_port_networks` have a listener.
        """
        if has_every_port:
            self._listened = [ip_network(one) for one in self._policy.every_port_networks]
        with sock:
            sock.setblocking(False)
            # A cancelled record might be in the log or not, so recording is asked to end.
            await serve_to_the_end(partial(self._record_until_asked, sock))

    async def _record_until_asked(self, sock: socket.socket, ending: Ending) -> None:
        try:
            with suppress(SessionSealed):
                while not ending.is_asked:
                    await ending.readable(sock)
                    await self._read(sock)
                    await trio.lowlevel.checkpoint()
                with suppress(AuditLost):
                    while await self._read(sock):
                        pass
                await self._record_suppressed()
        finally:
            self._count_lost(sock)

    async def _read(self, sock: socket.socket) -> bool:
        """Record up to BATCH packets. Returns False once there are no more."""
        for _ in range(BATCH):
            try:
                packet = sock.recv(MOST_BYTES)
            except OSError:
                return False
            attempt = destination(packet)
            if attempt is not None and not self._has_listener(attempt):
                with suppress(AuditBusy):  # it stays counted
                    await self._record(attempt, ends(packet))
        return True

    def _has_listener(self, attempt: Attempt) -> bool:
        return attempt.is_connection and any(attempt.address in one for one in self._listened)

    async def _record(self, attempt: Attempt, origin: Endpoints | None) -> None:
        name = self._names.name_of(attempt.address)
        host = Host(str(attempt.address), attempt.address) if name is None else Host(name)
        if attempt.is_connection and attempt.port is not None:
            await self._connections.record(
                f"{host.name} {attempt.port}",
                host_denied(host.name, attempt.port, self._reason(host, attempt.port)),
                origin,
            )
        else:
            await self._datagrams.record(
                f"{host.name} {attempt.port} {attempt.protocol}",
                host_denied(
                    host.name,
                    attempt.port,
                    self._datagram_reason(host, attempt.port),
                    method=attempt.protocol,
                ),
                origin,
            )

    def _reason(self, host: Host, port: int) -> str:
        verdict = self._policy.decide(host, port)
        if not verdict.allowed:
            return verdict.reason or "denied"
        if port in self._policy.named_ports:
            return format_reason(DenialCode.NO_LISTENERS_LEFT)
        # An entry with `:*`, on a kernel without tproxy.
        return with_allow_entry(format_reason(DenialCode.NEEDS_PORT), entry(host.name, port))

    def _datagram_reason(self, host: Host, port: int | None) -> str:
        verdict = None if port is None else self._policy.decide(host, port)
        if port is None or verdict is None:
            return format_reason(DenialCode.DATAGRAM)
        if not verdict.allowed:
            is_listed = parse_reason(verdict.reason or "").code is DenialCode.ON_DENY_LIST
            return (is_listed and verdict.reason) or format_reason(DenialCode.DATAGRAM)
        return format_reason(DenialCode.DATAGRAM_TO_ALLOWED, destination=entry(host.name, port))

    def _count_lost(self, sock: socket.socket) -> None:
        """Count what the kernel has dropped, and what was not read because the log was too slow."""
        with suppress(OSError):
            statistics = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self.lost = _STATISTICS.unpack(statistics)[1]
        with suppress(OSError):
            for _ in range(MOST_UNREAD):  # a process that still runs may send more
                attempt = destination(sock.recv(MOST_BYTES))
                self.lost += attempt is not None and not self._has_listener(attempt)
        if self.lost:
            reason = format_reason(DenialCode.PACKETS_LOST, count=self.lost)
            event = _about_many(reason).event(unix_ms())
            self._recorder.leave_for_end(Network(event=event))

    async def _record_suppressed(self) -> None:
        await self._connections.record_suppressed(_about_many, DenialCode.PORTS_SUPPRESSED)
        await self._datagrams.record_suppressed(_about_many, DenialCode.DATAGRAMS_SUPPRESSED)


def _about_many(reason: str) -> Decision:
    return host_denied(REFUSED_PORTS_TARGET, None, reason)
