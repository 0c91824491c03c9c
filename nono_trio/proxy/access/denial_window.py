"""Which query for a denied name gets a record of its own, so that a flood can't fill the log.

A program that is refused a name asks again at once, for both address families, through every search
path; a hostile one asks for a new name each time. So a name is recorded once a window, all names
together at most so often a second, and what gets no record is counted; the count is told with the
name's next record or, for all that is left, in one record at the end.

Rules of this file: no query is forgotten, only its name may be; the memory is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW: Final = 60.0  # seconds for which one record of a name stands: also the TTL of its addresses
# Records a second over all names: more than a build that tries mirrors makes, and an hour of a
# tunnel's flood stays under 40 MB of log.
MAX_RECORDS_A_SECOND: Final = 20
MAX_NAMES: Final = 4096  # names remembered, 1 KiB each at most; of the oldest the count is kept


@dataclass(slots=True)
class _Denied:
    """When the name was last recorded (None: not yet), and its queries without a record since."""

    recorded: float | None = None
    untold: int = 0


class DenialWindow:
    """The denied names of late. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._names: dict[str, _Denied] = {}
        self._second = 0.0
        self._in_second = 0
        self._dropped = 0

    @property
    def untold(self) -> int:
        """How many queries no record has told of yet."""
        return self._dropped + sum(denied.untold for denied in self._names.values())

    def claim(self, name: str, now: float) -> int | None:
        """Count a query. If it is to be recorded: how many queries for the name went without a
        record since its last one; else None."""
        denied = self._names.get(name) or self._remember(name)
        if (denied.recorded is not None and now - denied.recorded < WINDOW) or not self._may(now):
            denied.untold += 1
            return None
        denied.recorded, untold, denied.untold = now, denied.untold, 0
        return untold

    def give_back(self, name: str, untold: int) -> None:
        """What `claim` returned could not be recorded after all: no record stands for the name."""
        denied = self._names.get(name)
        if denied is None:  # forgotten meanwhile
            self._dropped += untold + 1
        else:
            denied.recorded = None
            denied.untold += untold + 1

    def drop(self, count: int) -> None:
        """Count queries whose names are not known."""
        self._dropped += count

    def _remember(self, name: str) -> _Denied:
        if len(self._names) >= MAX_NAMES:
            oldest = next(iter(self._names))
            self._dropped += self._names.pop(oldest).untold
        denied = self._names[name] = _Denied()
        return denied

    def _may(self, now: float) -> bool:
        """Whether this second has room for another record; takes the room."""
        if now - self._second >= 1:
            self._second, self._in_second = now, 0
        if self._in_second >= MAX_RECORDS_A_SECOND:
            return False
        self._in_second += 1
        return True
