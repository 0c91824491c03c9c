"""Records of denials that a program repeats as fast as it can: few of them, and none uncounted.

Rules of this file: a denial is answered only after the record that tells of it, its own or an
earlier one's, is in the log; at the end one record tells of those that no other has told of.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from nono_trio.core.policy.reasons import format_suppressed
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.denial_window import DenialWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import NetworkEvent


class DenialThrottle:
    """Records denials by key, or counts them. The clock is trio's."""

    def __init__(self, recorder: RecordsDecisions) -> None:
        self._recorder = recorder
        self._denied = DenialWindow()
        # Holds back those that are only counted until the record that stands for them is there.
        self._recording = trio.Lock()

    async def record(self, key: str, event: Callable[[str], NetworkEvent]) -> None:
        """Record one, or count it; `event` makes the record, given what its reason ends in.

        Raises AuditBusy, AuditLost and SessionSealed: then, and if cancelled, it stays counted.
        """
        async with self._recording:
            untold = self._denied.claim(key, trio.current_time())
            if untold is None:
                return
            try:
                await self._recorder.record(event(format_suppressed(untold)))
            except BaseException:
                self._denied.give_back(key, untold)
                raise

    def count_untold(self, count: int) -> None:
        """Count denials that nobody could tell apart any more."""
        self._denied.drop(count)

    async def record_untold(self, event: Callable[[int], NetworkEvent]) -> None:
        """At the end of the session: record how many no record has told of, if any. Raises nothing,
        for by then nobody could do anything about the log."""
        untold = self._denied.untold
        if untold:
            with suppress(AuditBusy, AuditLost, SessionSealed):
                await self._recorder.record(event(untold))
