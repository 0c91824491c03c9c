"""A timeline in constant memory: counts by lane, in columns of equal width.

Rules of this file: the columns begin at the session's start and are 1 ms wide at first. When a time
lies behind the last column, two columns become one. So one pass is enough, the end need not be
known, and at the end at least half of MOST columns are in use, or each is 1 ms wide. A log may have
any number as a time: a time before the start, or after the end if that is known, counts in the
first or last column and in `moved`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Lane: TypeAlias = Literal["denied", "failed", "allowed", "files"]

LANES: Final[tuple[Lane, ...]] = ("denied", "failed", "allowed", "files")
MOST: Final = 4096  # columns: more than a screen has pixels
END_OF_TIME: Final = 253_370_764_800_000  # the year 9999 in ms, which calendars can still show


class Timeline:
    """Counts by lane. `begin` and `width` are milliseconds, `begin` since 1970; without `begin` the
    first time that is added is the start."""

    def __init__(self, begin: int | None = None, end: int | None = None) -> None:
        self.width = 1
        self.moved = 0
        self.count = 0
        """The number of columns up to the last one that is in use, or up to the end."""
        self._begin = begin
        self._end = end
        self.columns: dict[Lane, list[int]] = {lane: [0] * MOST for lane in LANES}
        if begin is not None and end is not None:
            self._reach(max(begin, end))

    @property
    def begin(self) -> int:
        """The start; 0 of a timeline without any."""
        return self._begin or 0

    @property
    def end(self) -> int:
        """The end of the last column."""
        return self.begin + self.count * self.width

    def add(self, lane: Lane, unix_ms: int) -> None:
        """Count one record at a time in ms since 1970."""
        if self._begin is None:
            self._begin = min(unix_ms, END_OF_TIME)
        last = END_OF_TIME if self._end is None else max(self._end, self._begin)
        time = min(max(unix_ms, self._begin), last)
        self.moved += time != unix_ms
        place = self._reach(time)  # it may make other columns
        self.columns[lane][place] += 1

    def total(self, lane: Lane) -> int:
        """The number of records in a lane."""
        return sum(self.columns[lane])

    def drawn(self, lane: Lane, most: int) -> list[int]:
        """The counts of a lane in at most `most` columns: each one adds up as many as needed."""
        counts, together = self.columns[lane], self.together(most)
        return [sum(counts[start : start + together]) for start in range(0, self.count, together)]

    def together(self, most: int) -> int:
        """How many columns one drawn column stands for."""
        return max(1, -(-self.count // most))

    def _reach(self, time: int) -> int:
        """Return the column of a time, widening columns until there is one."""
        begin = self._begin or 0
        while (time - begin) // self.width >= MOST:
            self._widen()
        place = (time - begin) // self.width
        self.count = max(self.count, place + 1)
        return place

    def _widen(self) -> None:
        for lane, counts in self.columns.items():
            pairs = [counts[at] + counts[at + 1] for at in range(0, MOST, 2)]
            self.columns[lane] = pairs + [0] * (MOST - len(pairs))
        self.width *= 2
        self.count = -(-self.count // 2)
