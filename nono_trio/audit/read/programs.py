"""The programs of a session: what processes.ndjson says of each, counted by decision.

Rules of this file: memory is bounded; the number of programs is the child's to choose, so those
beyond MAX_PROGRAMS are counted together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit.read.records import lines, size_of
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.processes import ProcessLine, decode_process, program_text
from nono_trio.errors import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_PROGRAMS: Final = 1000
MAX_PROCESSES: Final = 1000  # of one program that are counted as different ones
OTHER_PROGRAMS: Final = "(other programs)"
GONE: Final = "(gone before it was found)"
UNKNOWN: Final = "(not found)"

# The numbers of attempts that a record changed, as bits of one byte.
ALLOWED: Final = 1
DENIED: Final = 2
FAILED: Final = 4
TAKEN_BACK: Final = 8  # an allowed attempt, which had another outcome after all


class ProgramCount(msgspec.Struct):
    """One program: a file, and the script of an interpreter, with its attempts by outcome.

    `processes` are counted up to MAX_PROCESSES; `sha256` is null if it was not read or is not one.
    """

    name: str
    exe: str | None = None
    sha256: str | None = None
    processes: int = 0
    allowed: int = 0
    denied: int = 0
    failed: int = 0


class _Seen(msgspec.Struct):
    count: ProgramCount
    processes: set[tuple[int | None, int | None]] = msgspec.field(default_factory=set)
    hashes: set[str] = msgspec.field(default_factory=set)


class Programs:
    """Counts the lines of a session. `decisions` has for each sequence what its record did to the
    numbers of attempts, so their sums here are the session's."""

    def __init__(self, decisions: bytearray) -> None:
        self._decisions = decisions
        self._seen: dict[tuple[str, str | None], _Seen] = {}

    def add(self, line: ProcessLine) -> None:
        """Count one line; one of a record that counts for nothing is passed over."""
        if not 0 <= line.sequence < len(self._decisions):
            return
        decision = self._decisions[line.sequence]
        if not decision:
            return
        seen = self._of(line)
        seen.count.allowed += bool(decision & ALLOWED) - bool(decision & TAKEN_BACK)
        seen.count.denied += bool(decision & DENIED)
        seen.count.failed += bool(decision & FAILED)
        if line.pid is not None and len(seen.processes) < MAX_PROCESSES:
            seen.processes.add((line.pid, line.start_time))
            seen.count.processes = len(seen.processes)
        if line.exe_sha256 is not None and len(seen.hashes) < 2:
            seen.hashes.add(line.exe_sha256)
            seen.count.sha256 = line.exe_sha256 if len(seen.hashes) == 1 else None

    def _of(self, line: ProcessLine) -> _Seen:
        name, exe = program_of(line), line.exe
        if (name, exe) not in self._seen and len(self._seen) >= MAX_PROGRAMS:
            name, exe = OTHER_PROGRAMS, None
        found = self._seen.get((name, exe))
        if found is None:
            found = self._seen[name, exe] = _Seen(ProgramCount(name, exe))
        return found

    def counted(self) -> list[ProgramCount]:
        """Return the programs, those with the most denials first."""
        counts = [seen.count for seen in self._seen.values()]
        return sorted(counts, key=lambda one: (-one.denied, -one.failed, -one.allowed, one.name))


def program_of(line: ProcessLine) -> str:
    """The name of a line's program, or the reason why no program was found."""
    if line.state == "found":
        return program_text(line.exe, line.argv)
    return GONE if line.state == "gone" else UNKNOWN


def process_lines(path: Path) -> Iterator[ProcessLine]:
    """The lines of a session in order; none if there is no such file. Raises LogUnreadable."""
    try:
        for line in lines(path, size_of(path)):
            try:
                yield decode_process(line)
            except MALFORMED:
                continue
    except OSError as error:
        raise unreadable(path, error) from error
