"""Records of requests without the right token: at most one a second; the others are counted.

Such requests say little about the caged program. Any program of the machine can send them to a
listener of the machine, as fast as the machine can, so a record for each would fill the disk and
bury the rest of the log.

Rules of this file:
- A request is answered only after a record is in the log: its own, or an earlier one within the
  second.
- The next record says how many were suppressed; at the latest the one at the last client's end.
- Many clients send the token only when asked. So the requests of the caged command are remembered
  by host and port, and at the end each host that the token never came for has a record: a denied
  one. The number of hosts is bounded, the rest is counted.
- The clock is trio's.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import CHALLENGES_TARGET
from nono_trio.core.policy.reasons import DenialCode, format_reason, format_suppressed
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.decision import Decision, Refusal, host_denied
from nono_trio.steps import become_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin

BETWEEN_RECORDS: Final = 1.0  # seconds
LAST_RECORD_SECONDS: Final = 1.0  # the session is ending; a stuck log must not delay it
CATEGORY: Final = "authentication_failed"
MOST_CHALLENGED: Final = 1000  # hosts with their ports; a command that asks for more scans


class TokenFailures:
    """Records failures, or counts them. `suppressed` is the number that no record has counted;
    `challenged` are the command's requests that no later one with the token has followed."""

    def __init__(self, recorder: RecordsDecisions, now_ms: Callable[[], int]) -> None:
        self.suppressed = 0
        self.challenged: dict[tuple[str, int | None], Decision] = {}
        self._beyond = 0
        self._recorder = recorder
        self._now_ms = now_ms
        self._recorded = -math.inf
        # Makes a failure that is only counted wait for the record that counts for it.
        self._recording = trio.Lock()

    async def record(self, decision: Decision, origin: RecordOrigin | None = None) -> None:
        """Record one failure of the socket `origin`, or count it.

        Raises AuditBusy, AuditLost and SessionSealed: then, and if cancelled, it stays counted.
        """
        await become_task()
        async with self._recording:
            if self._is_due:
                more = format_suppressed(self.suppressed)
                await self._commit(decision.event(self._now_ms(), more), origin, own=1)
            else:
                self.suppressed += 1

    def challenge(self, decision: Decision) -> None:
        """Remember a request of the command's own, which may come again with the token."""
        key = (decision.target, decision.port)
        if key in self.challenged or len(self.challenged) < MOST_CHALLENGED:
            self.challenged[key] = decision
        else:
            self._beyond += 1

    def answered(self, decision: Decision) -> None:
        """The command has sent the token for the host and port of `decision`."""
        self.challenged.pop((decision.target, decision.port), None)

    async def record_suppressed(self) -> None:
        """Record how many are only counted, if there are any and a record is due. Raises nothing,
        since no caller could repair the log."""
        if not self._recording.locked():  # else another task is recording
            with suppress(AuditBusy, AuditLost, SessionSealed):
                async with self._recording:
                    if self._is_due:
                        await self._commit_suppressed()

    async def record_last(self) -> None:
        """As `record_suppressed`, due or not; for the end."""
        with suppress(AuditBusy, AuditLost, SessionSealed):
            async with self._recording:
                await self._commit_suppressed()

    async def record_unanswered(self) -> None:
        """At the end: record each host that the token never came for, and how many more there were.
        Raises nothing. If cancelled, the rest is left to the end of the log."""
        try:
            async with trio.open_nursery() as nursery:  # one append for all of them
                for key, decision in [*self.challenged.items()]:
                    nursery.start_soon(self._record_unanswered, key, decision)
        finally:
            count = len(self.challenged) + self._beyond
            if count:
                reason = format_reason(DenialCode.UNANSWERED_MORE, count=count)
                event = host_denied(CHALLENGES_TARGET, None, reason).event(self._now_ms())
                self._recorder.leave_for_end(Network(event=event))

    async def _record_unanswered(self, key: tuple[str, int | None], decision: Decision) -> None:
        refusal = Refusal(407, format_reason(DenialCode.UNANSWERED), category="host_denied")
        with suppress(AuditBusy, AuditLost, SessionSealed):
            await self._recorder.record(decision.refused(refusal).event(self._now_ms()))
            del self.challenged[key]

    @property
    def _is_due(self) -> bool:
        return trio.current_time() - self._recorded >= BETWEEN_RECORDS

    async def _commit_suppressed(self) -> None:
        if self.suppressed:
            reason = format_reason(DenialCode.TOKENS_SUPPRESSED, count=self.suppressed)
            decision = Decision("connect", "", refusal=Refusal(407, reason, category=CATEGORY))
            await self._commit(decision.event(self._now_ms()), None, own=0)

    async def _commit(self, event: NetworkEvent, origin: RecordOrigin | None, own: int) -> None:
        counted, self.suppressed = self.suppressed, 0
        self._recorded = trio.current_time()
        try:
            await self._recorder.record(event, origin)
        except BaseException:
            self._recorded = -math.inf
            self.suppressed += counted + own
            raise
