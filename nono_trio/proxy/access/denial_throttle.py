"""Rate-limits the records of repeated denials, so that a flood can't fill the log.

A program that is refused a name asks again at once, for both address families, through every search
path; a hostile program asks for a new name each time. So one key (a name, or address and port) is
recorded once a window, and all keys together at most so often a second. A denial without a record
of its own is counted as suppressed; the key's next record says how many there were, and two records
at the end count all that no other record has counted: keys without any record, and repeats.

Rules of this file:
- A denial is answered only after a record of its key is in the log: its own, or an earlier one.
- No denial is lost from the counts; only its key may be forgotten. The memory is bounded.
- Denials that can't make a run fail have a bound of their own, so that a flood of them hides no
  other. A key of the others that never got a record counts as a denied attempt.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import trio

from nono_trio.core.log.events import Network
from nono_trio.core.policy.outcome import is_counted
from nono_trio.core.policy.reasons import DenialCode, format_reason, format_suppressed
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.proxy.access.decision import Decision

    IsReason: TypeAlias = Callable[[NetworkEvent], bool]

WINDOW: Final = 60.0  # seconds for which one record of a name is enough: the TTL of its addresses
# Records a second over all names: more than a build that tries mirrors makes, and an hour of a
# tunnel's flood stays under 40 MB of log.
MAX_RECORDS_A_SECOND: Final = 20
MAX_NAMES: Final = 4096  # names remembered, 1 KiB each at most; of the oldest the count is kept


class DenialThrottle:
    """Records denials by key, or counts them. The clock of the window is trio's; `now_ms` gives
    the time of the records, in milliseconds since 1970. `is_reason` tells which denials may make
    a run fail; None: those that count as denied."""

    def __init__(
        self,
        recorder: RecordsDecisions,
        now_ms: Callable[[], int],
        is_reason: IsReason | None = None,
    ) -> None:
        self._is_reason = is_reason or is_counted
        self._recorder = recorder
        self._now_ms = now_ms
        self._window = DenialWindow()
        # Makes a denial that is only counted wait for the record that counts for it. Records of
        # other keys don't wait: the program behind one may take long to find.
        self._recording: dict[str, trio.Event] = {}

    async def record(
        self,
        key: str,
        decision: Decision,
        origin: RecordOrigin | None = None,
        will_wait: Callable[[], None] | None = None,
    ) -> None:
        """Record one denial, which came from the socket `origin`, or count it. `will_wait` is
        called before each wait.

        Raises AuditBusy, AuditLost and SessionSealed: then, and if cancelled, it stays counted.
        """
        while (recording := self._recording.get(key)) is not None:
            if will_wait is not None:
                will_wait()
            await recording.wait()
        event = decision.event(self._now_ms())
        suppressed = self._window.claim(key, trio.current_time(), lambda: self._is_reason(event))
        if suppressed is None:
            return
        if will_wait is not None:
            will_wait()
        recorded = self._recording[key] = trio.Event()
        try:
            if suppressed:
                event = decision.event(self._now_ms(), format_suppressed(suppressed))
            await self._recorder.record(event, origin)
        except BaseException:
            self._window.give_back(key, suppressed, weighs=self._is_reason(event))
            raise
        finally:
            del self._recording[key]
            recorded.set()

    async def record_suppressed(
        self, about_many: Callable[[str], Decision], code: DenialCode
    ) -> None:
        """At the end of the session: record how many denials no record has counted, if any.
        `about_many` makes a decision of a reason, `code` is that of repeats. Raises nothing, since
        no caller could repair the log at this point."""
        counts = self._window.suppressed
        if counts.unrecorded:  # a log that is too slow here must not hide them
            reason = format_reason(DenialCode.UNRECORDED, count=counts.unrecorded)
            event = about_many(reason).event(self._now_ms())
            self._recorder.leave_for_end(Network(event=event))
        if counts.repeats:
            reason = format_reason(code, count=counts.repeats)
            with suppress(AuditBusy, AuditLost, SessionSealed):
                await self._recorder.record(about_many(reason).event(self._now_ms()))


class Suppressed(msgspec.Struct, frozen=True):
    """Numbers of denials that no record has counted: keys that may make a run fail and have no
    record at all, and the rest."""

    unrecorded: int
    repeats: int

    def plus(self, other: Suppressed) -> Suppressed:
        """Return the sums."""
        return Suppressed(self.unrecorded + other.unrecorded, self.repeats + other.repeats)


class _Denied(msgspec.Struct):
    """Time of the name's last record (None: the next denial must be recorded), its denials since,
    the number of its records, and if it may make a run fail."""

    recorded: float | None = None
    suppressed: int = 0
    records: int = 0
    weighs: bool = False

    @property
    def counts(self) -> Suppressed:
        unrecorded = int(self.weighs and not self.records and self.suppressed > 0)
        return Suppressed(unrecorded, self.suppressed - unrecorded)


class DenialWindow:
    """The names denied of late. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._names: dict[str, _Denied] = {}
        self._second = 0.0
        self._in_second = {False: 0, True: 0}  # those that may make a run fail: True
        self._dropped = Suppressed(0, 0)

    @property
    def suppressed(self) -> Suppressed:
        """The denials that no record has counted yet."""
        counted = self._dropped
        for denied in self._names.values():
            counted = counted.plus(denied.counts)
        return counted

    def claim(self, name: str, now: float, is_reason: Callable[[], bool]) -> int | None:
        """Count a denial. Returns the number of suppressed denials of the name since its last
        record if this one must be recorded; otherwise None. `is_reason` is asked, if it matters,
        whether the denial may make a run fail."""
        denied = self._names.get(name) or self._remember(name)
        is_recent = denied.recorded is not None and now - denied.recorded < WINDOW
        if not is_recent:
            denied.weighs = is_reason()
        if is_recent or not self._has_room(now, weighs=denied.weighs):
            denied.suppressed += 1
            return None
        denied.recorded, suppressed, denied.suppressed = now, denied.suppressed, 0
        denied.records += 1
        return suppressed

    def give_back(self, name: str, suppressed: int, *, weighs: bool) -> None:
        """Undo a `claim` whose record failed; `suppressed` is what it returned, `weighs` what
        `is_reason` did."""
        denied = self._names.get(name)
        if denied is None:  # forgotten meanwhile
            unrecorded = int(weighs)
            self._dropped = self._dropped.plus(Suppressed(unrecorded, suppressed + 1 - unrecorded))
        else:
            denied.recorded = None
            denied.suppressed += suppressed + 1
            denied.records -= 1

    def _remember(self, name: str) -> _Denied:
        if len(self._names) >= MAX_NAMES:
            oldest = next(iter(self._names))
            self._dropped = self._dropped.plus(self._names.pop(oldest).counts)
        denied = self._names[name] = _Denied()
        return denied

    def _has_room(self, now: float, *, weighs: bool) -> bool:
        """True if this second has room for another record; takes the room."""
        if now - self._second >= 1:
            self._second, self._in_second = now, {False: 0, True: 0}
        if self._in_second[weighs] >= MAX_RECORDS_A_SECOND:
            return False
        self._in_second[weighs] += 1
        return True
