"""Records of requests that could not show the token: at most one a second, and none uncounted.

They say little about the caged program. On a listener of the machine anybody may knock, as fast as
the machine can, so a record for each would fill the disk and bury what the log is for.

Rules of this file: a request is answered only after the record that tells of it, its own or an
earlier one's, is in the log; what was only counted is told by the next record, at the latest with
the last client's end; the clock is trio's.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from nono_trio.core.policy.reasons import DenialCode, format_reason, format_suppressed
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.decision import Refusal, Subject, denied

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import NetworkEvent

BETWEEN_RECORDS: Final = 1.0  # seconds
LAST_RECORD_SECONDS: Final = 1.0  # the session is ending; a log that stands still does not hold it
CATEGORY: Final = "authentication_failed"


class TokenFailures:
    """Records them, or counts them. `untold` is how many no record has told of yet."""

    def __init__(self, recorder: RecordsDecisions, now_ms: Callable[[], int]) -> None:
        self.untold = 0
        self._recorder = recorder
        self._now_ms = now_ms
        self._recorded = -math.inf
        # Holds back those that are only counted until the record that stands for them is there.
        self._recording = trio.Lock()

    async def record(self, event: NetworkEvent) -> None:
        """Record one, or count it. Raises AuditBusy, AuditLost and SessionSealed: then, and if
        cancelled, it stays counted."""
        async with self._recording:
            if self._is_due:
                more = format_suppressed(self.untold)
                await self._tell(replace(event, reason=f"{event.reason}{more}"), own=1)
            else:
                self.untold += 1

    async def record_untold(self) -> None:
        """Record how many are only counted, if any are and a record is due. Raises nothing, for
        who calls it could do nothing about the log."""
        if not self._recording.locked():  # else somebody is at it
            with suppress(AuditBusy, AuditLost, SessionSealed):
                async with self._recording:
                    if self._is_due:
                        await self._tell_untold()

    async def record_last(self) -> None:
        """As `record_untold`, due or not; for the end."""
        with suppress(AuditBusy, AuditLost, SessionSealed):
            async with self._recording:
                await self._tell_untold()

    @property
    def _is_due(self) -> bool:
        return trio.current_time() - self._recorded >= BETWEEN_RECORDS

    async def _tell_untold(self) -> None:
        if self.untold:
            reason = format_reason(DenialCode.TOKENS_SUPPRESSED, count=self.untold)
            refusal = Refusal(407, reason, category=CATEGORY)
            await self._tell(denied(Subject("connect", ""), refusal, self._now_ms()), own=0)

    async def _tell(self, event: NetworkEvent, own: int) -> None:
        told, self.untold = self.untold, 0
        self._recorded = trio.current_time()
        try:
            await self._recorder.record(event)
        except BaseException:
            self._recorded = -math.inf
            self.untold += told + own
            raise
