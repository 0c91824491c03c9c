"""Records connections that the kernel has refused because no socket listens at their port.

Rules of this file:
- No byte was let through, so the record may come after the refusal.
- A scan gets few records (denial_throttle.py). One record at the end counts the others, with those
  that the kernel's buffer has dropped.
- A packet that can't be parsed is ignored.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.log.notices import REFUSED_PORTS_TARGET
from nono_trio.core.net.host import Host
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.decision import host_denied
from nono_trio.proxy.access.denial_throttle import DenialThrottle

if TYPE_CHECKING:
    import socket

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.net.fake_ip import FakeAddresses
    from nono_trio.core.policy.network_policy import Policy

BATCH: Final = 32  # packets before other tasks get a turn
LAST_RECORD_SECONDS: Final = 1.0  # the end of the session does not wait longer for a log that hangs

_MOST_BYTES: Final = 128
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_STATISTICS: Final = struct.Struct("=II")  # packets, drops; reading resets both
_PORT: Final = struct.Struct("!H")


class RefusedPorts:
    """Records what arrives at a socket of `sandbox.launcher.linux.packet_capture`."""

    def __init__(self, names: FakeAddresses, policy: Policy, recorder: RecordsDecisions) -> None:
        self._names = names
        self._policy = policy
        self._denials = DenialThrottle(recorder, unix_ms)

    async def serve(self, sock: socket.socket) -> None:
        """Record until cancelled, then record the remaining packets and close `sock`. Raises
        AuditLost."""
        with sock:
            sock.setblocking(False)
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    await self._read(sock)
                    await trio.lowlevel.checkpoint()
            except SessionSealed:
                return
            finally:
                with trio.move_on_after(LAST_RECORD_SECONDS, shield=True):
                    with suppress(AuditLost, SessionSealed):
                        while await self._read(sock):
                            pass
                    await self._record_suppressed(sock)

    async def _read(self, sock: socket.socket) -> bool:
        """Record up to BATCH packets. Returns False once there are no more."""
        for _ in range(BATCH):
            try:
                packet = sock.recv(_MOST_BYTES)
            except OSError:
                return False
            tried = packet_destination(packet)
            if tried is not None:
                with suppress(AuditBusy):  # it stays counted
                    await self._record(*tried)
        return True

    async def _record(self, address: IPv4Address | IPv6Address, port: int) -> None:
        name = self._names.name_of(address)
        host = Host(str(address), address) if name is None else Host(name)
        reason = self._reason(host, port)
        await self._denials.record(f"{host.name} {port}", host_denied(host.name, port, reason))

    def _reason(self, host: Host, port: int) -> str:
        verdict = self._policy.decide(host, port)
        if not verdict.allowed:
            return verdict.reason or "denied"
        if port in self._policy.named_ports:
            return format_reason(DenialCode.NO_LISTENERS_LEFT)
        # An entry with `:*` opens no listeners.
        return with_allow_entry(format_reason(DenialCode.NEEDS_PORT), entry(host.name, port))

    async def _record_suppressed(self, sock: socket.socket) -> None:
        with suppress(OSError):
            statistics = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._denials.count_suppressed(_STATISTICS.unpack(statistics)[1])
        await self._denials.record_suppressed(
            lambda count: host_denied(
                REFUSED_PORTS_TARGET, None, format_reason(DenialCode.PORTS_SUPPRESSED, count=count)
            )
        )


def packet_destination(packet: bytes) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Return destination address and port of a TCP packet that begins with its IP header, None if
    it is cut. The kernel's filter lets only TCP through.
    """
    address: IPv4Address | IPv6Address
    if packet[:1] and packet[0] >> 4 == 6:
        if len(packet) < 44:
            return None
        address, header = IPv6Address(packet[24:40]), 40
    else:
        header = (packet[0] & 15) * 4 if packet else 0
        if header < 20 or len(packet) < header + 4:
            return None
        address = IPv4Address(packet[16:20])
    return address, _PORT.unpack_from(packet, header + 2)[0]
