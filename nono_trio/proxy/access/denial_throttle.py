"""Rate-limits the records of repeated denials, so that a flood can't fill the log.

A program that is refused a name asks again at once, for both address families, through every search
path; a hostile program asks for a new name each time. So one key (a name, or address and port) is
recorded once a window, and all keys together at most so often a second. A denial without a record
of its own is counted as suppressed; the key's next record says how many there were, and one record
at the end counts all that no other record has counted.

Rules of this file:
- A denial is answered only after a record of its key is in the log: its own, or an earlier one.
- No denial is lost from the counts; only its key may be forgotten. The memory is bounded.
- Denials that the user expects have a bound of their own, so that a flood of them hides no other.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.reasons import format_suppressed
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.proxy.access.decision import Decision

    IsExpected: TypeAlias = Callable[[str, int | None], bool]

WINDOW: Final = 60.0  # seconds for which one record of a name is enough: the TTL of its addresses
# Records a second over all names: more than a build that tries mirrors makes, and an hour of a
# tunnel's flood stays under 40 MB of log.
MAX_RECORDS_A_SECOND: Final = 20
MAX_NAMES: Final = 4096  # names remembered, 1 KiB each at most; of the oldest the count is kept


class DenialThrottle:
    """Records denials by key, or counts them. The clock of the window is trio's; `now_ms` gives
    the time of the records, in milliseconds since 1970. `is_expected` tells which hosts' denials
    are no reason for a verdict; None: no host's."""

    def __init__(
        self,
        recorder: RecordsDecisions,
        now_ms: Callable[[], int],
        is_expected: IsExpected | None = None,
    ) -> None:
        self._is_expected = is_expected
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
        expected = False
        if self._is_expected is not None:
            is_look_up = decision.method == LOOK_UP
            port = None if is_look_up else decision.port
            expected = self._is_expected(decision.target, port)
        suppressed = self._window.claim(key, trio.current_time(), expected=expected)
        if suppressed is None:
            return
        if will_wait is not None:
            will_wait()
        recorded = self._recording[key] = trio.Event()
        try:
            more = format_suppressed(suppressed)
            await self._recorder.record(decision.event(self._now_ms(), more), origin)
        except BaseException:
            self._window.give_back(key, suppressed)
            raise
        finally:
            del self._recording[key]
            recorded.set()

    def count_suppressed(self, count: int) -> None:
        """Count denials whose keys are not known."""
        self._window.drop(count)

    async def record_suppressed(self, decision: Callable[[int], Decision]) -> None:
        """At the end of the session: record how many denials no record has counted, if any;
        `decision` is called with their number. Raises nothing, since no caller could repair the log
        at this point."""
        suppressed = self._window.suppressed
        if suppressed:
            with suppress(AuditBusy, AuditLost, SessionSealed):
                await self._recorder.record(decision(suppressed).event(self._now_ms()))


@dataclass(slots=True)
class _Denied:
    """Time of the name's last record (None: not recorded yet), and its denials since."""

    recorded: float | None = None
    suppressed: int = 0


class DenialWindow:
    """The names denied of late. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._names: dict[str, _Denied] = {}
        self._second = 0.0
        self._in_second = {False: 0, True: 0}  # those that are expected: True
        self._dropped = 0

    @property
    def suppressed(self) -> int:
        """Number of denials that no record has counted yet."""
        return self._dropped + sum(denied.suppressed for denied in self._names.values())

    def claim(self, name: str, now: float, *, expected: bool = False) -> int | None:
        """Count a denial. Returns the number of suppressed denials of the name since its last
        record if this one must be recorded; otherwise None."""
        denied = self._names.get(name) or self._remember(name)
        is_recent = denied.recorded is not None and now - denied.recorded < WINDOW
        if is_recent or not self._has_room(now, expected=expected):
            denied.suppressed += 1
            return None
        denied.recorded, suppressed, denied.suppressed = now, denied.suppressed, 0
        return suppressed

    def give_back(self, name: str, suppressed: int) -> None:
        """Undo a `claim` whose record failed; `suppressed` is what it returned."""
        denied = self._names.get(name)
        if denied is None:  # forgotten meanwhile
            self._dropped += suppressed + 1
        else:
            denied.recorded = None
            denied.suppressed += suppressed + 1

    def drop(self, count: int) -> None:
        """Count denials whose names are not known."""
        self._dropped += count

    def _remember(self, name: str) -> _Denied:
        if len(self._names) >= MAX_NAMES:
            oldest = next(iter(self._names))
            self._dropped += self._names.pop(oldest).suppressed
        denied = self._names[name] = _Denied()
        return denied

    def _has_room(self, now: float, *, expected: bool) -> bool:
        """True if this second has room for another record; takes the room."""
        if now - self._second >= 1:
            self._second, self._in_second = now, {False: 0, True: 0}
        if self._in_second[expected] >= MAX_RECORDS_A_SECOND:
            return False
        self._in_second[expected] += 1
        return True
