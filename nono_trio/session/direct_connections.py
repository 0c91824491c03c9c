"""Connections past the proxy, tried by the child of a cage without a network of its own.

The guard (`sandbox.broker.connect_broker`) refuses it; here it becomes a decision in the log, and
a sentence after the run, since such a program shows no more than "permission denied". Rules: the
record is in the log before the program is answered; a program that tries again and again gets few
records, and no attempt is lost from their counts.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.notices import DIRECT_TARGET
from nono_trio.core.net.address import is_loopback
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ALLOW_FLAG
from nono_trio.errors import AuditBusy
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.decision import host_denied
from nono_trio.proxy.access.denial_throttle import DenialThrottle

if TYPE_CHECKING:
    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.core.net.address import Address
    from nono_trio.proxy.access.denial_throttle import IsReason

REASON: Final = format_reason(DenialCode.DIRECT)
UNSEEN: Final = format_reason(DenialCode.DIRECT_UNKNOWN)


class DirectConnections:
    """Records refused connections.

    `count` is how many there were; `unseen` is how many more there were whose target is not known.
    """

    def __init__(self, recorder: RecordsDecisions, is_reason: IsReason | None = None) -> None:
        self.count = 0
        self.unseen = 0
        self._loopback: tuple[Address, int] | None = None  # the first that led there
        self._denials = DenialThrottle(recorder, unix_ms, is_reason)

    async def refused(
        self, address: Address | None, port: int, origin: RecordOrigin | None = None
    ) -> None:
        """Record one, or count it. Raises AuditLost and SessionSealed; if cancelled, it may not
        have been recorded, and then nothing was answered either."""
        with suppress(AuditBusy):  # nothing is let through without its record
            if address is None:
                self.unseen += 1
                decision = host_denied(DIRECT_TARGET, None, UNSEEN)
                await self._denials.record(UNSEEN, decision, origin)
            else:
                self.count += 1
                if is_loopback(address) and self._loopback is None:
                    self._loopback = address, port
                decision = host_denied(str(address), port, REASON)
                await self._denials.record(f"{address} {port}", decision, origin)

    def notes(self) -> list[str]:
        """Return sentences about them for the user."""
        told = []
        if self.count:
            told.append(
                f"{_refused(self.count, 'direct connection')}: landlock isolation has no"
                " transparent network, so programs have to use the proxy (HTTP_PROXY and"
                " HTTPS_PROXY name it)"
            )
        if self._loopback is not None:
            address, port = self._loopback
            told.append(
                "loopback is left out of the proxy (NO_PROXY) until an entry names it as the"
                f" program does: {ALLOW_FLAG} localhost:{port}, or {entry(str(address), port)}; a"
                f" program that knows of no proxy needs namespace isolation and --open-port {port}"
            )
        if self.unseen:
            told.append(
                f"{_refused(self.unseen, 'connection')}: the program can't be looked into (its"
                " file can be executed but not read)"
            )
        return told

    async def record_suppressed(self) -> None:
        """At the end of the session: record how many no record has told of. Raises nothing."""
        await self._denials.record_suppressed(
            partial(host_denied, DIRECT_TARGET, None), DenialCode.DIRECT_SUPPRESSED
        )


def _refused(count: int, what: str) -> str:
    return f"1 {what} was refused" if count == 1 else f"{count} {what}s were refused"
