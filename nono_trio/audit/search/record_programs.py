"""The program of each record of a session, from processes.ndjson: which asked for what.

Rules of this file: memory is bounded. A record has two bytes, of the first MAX_RECORDS; a command
chooses the number of programs and of holders, so those beyond a bound have one name together, or
none. Whether a program is the one that is looked for is kept for those too.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit.read.programs import OTHER_PROGRAMS, program_of
from nono_trio.audit.read.records import line_blocks, size_of
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.processes import ProcessLine, decode_process
from nono_trio.errors import unreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.search.patterns import ProgramGlob

MAX_RECORDS: Final = 2**24  # 32 MiB; a log of as many records has some 16 GB
MAX_PROGRAMS: Final = 4096
MAX_TEXT: Final = 2048  # of a program, or of a line; ours are shorter
MAX_LINES: Final = 8192  # one of each process: its others differ in their sequence only
MAX_HOLDERS: Final = 65_536  # records with more than one holder
MAX_NAMED: Final = 8  # holders of one record
_NONE: Final = 0
_OTHER: Final = 1
_OTHER_WANTED: Final = 2
_BEGINNING: Final = b'{"sequence":'


class SeenProgram(msgspec.Struct, frozen=True):
    """A program as a record names it; `exe` and `argv` are null for one that was not found."""

    name: str
    exe: str | None = None
    argv: tuple[str, ...] | None = None


class RecordPrograms:
    """The programs of a session's records, read once. `wanted` is the pattern of a search."""

    def __init__(self, path: Path, wanted: ProgramGlob | None = None) -> None:
        """Read the file; without one, no record has a program. Raises LogUnreadable."""
        self.is_whole = True
        """False if records lie beyond MAX_RECORDS, whose programs are not known."""
        self._pattern = wanted
        self._programs = [SeenProgram("")] + [SeenProgram(OTHER_PROGRAMS)] * 2
        self._is_wanted = bytearray([0, 0, 1])
        self._numbers: dict[SeenProgram, int] = {}
        self._of_line: dict[bytes, int] = {}
        self._first = array("H")
        self._more: dict[int, list[int]] = {}
        try:
            for block in line_blocks(path, size_of(path)):
                for line in block.split(b"\n"):
                    if line:
                        self._add(line)
        except OSError as error:
            raise unreadable(path, error) from error

    def of(self, sequence: int) -> tuple[SeenProgram, ...]:
        """Return the programs of a record, each once; none if no line names one."""
        numbers = self._numbers_of(sequence)
        if len(numbers) == 1:  # as nearly always
            return (self._programs[numbers[0]],)
        return tuple(dict.fromkeys(self._programs[number] for number in numbers))

    def has_wanted(self, sequence: int) -> bool:
        """Return True if one of a record's programs is looked for."""
        return any(self._is_wanted[number] for number in self._numbers_of(sequence))

    @property
    def any_wanted(self) -> bool:
        """True if the file names a program that is looked for."""
        return any(self._is_wanted[number] for number in set(self._first)) or any(
            self._is_wanted[number] for numbers in self._more.values() for number in numbers
        )

    def _numbers_of(self, sequence: int) -> list[int]:
        if not 0 <= sequence < len(self._first) or self._first[sequence] == _NONE:
            return []
        return [self._first[sequence], *self._more.get(sequence, ())]

    def _add(self, line: bytes) -> None:
        sequence, number = self._read(line)
        if sequence < 0 or number == _NONE:
            return
        if sequence >= MAX_RECORDS:
            self.is_whole = False
            return
        if sequence >= len(self._first):
            self._first.frombytes(bytes(2 * (sequence + 1 - len(self._first))))
        if self._first[sequence] == _NONE:
            self._first[sequence] = number
        elif self._first[sequence] != number:
            self._add_holder(sequence, number)

    def _add_holder(self, sequence: int, number: int) -> None:
        """Keep another holder; where there is no room, one that is looked for takes a place."""
        more = self._more.get(sequence)
        if more is None and len(self._more) < MAX_HOLDERS:
            more = self._more[sequence] = []
        if more is not None and len(more) < MAX_NAMED:
            more.append(number)
        elif self._is_wanted[number] and not self.has_wanted(sequence):
            self._first[sequence] = number

    def _read(self, line: bytes) -> tuple[int, int]:
        """Return the sequence of a line and the number of its program; (-1, 0) for no line."""
        head, _, rest = line.partition(b",")
        digits = head[len(_BEGINNING) :]
        number = self._of_line.get(rest)
        if number is not None and head.startswith(_BEGINNING) and _is_number(digits):
            return int(digits), number
        try:
            process = decode_process(line)
        except MALFORMED:
            return -1, _NONE
        number = self._number(process)
        if _names_once(rest) and len(self._of_line) < MAX_LINES:
            self._of_line[rest] = number
        return process.sequence, number

    def _number(self, process: ProcessLine) -> int:
        program = _program(process)
        number = self._numbers.get(program)
        if number is not None:
            return number
        pattern = self._pattern
        is_found = process.state == "found"
        is_wanted = pattern is not None and is_found and pattern.fits(process.exe, process.argv)
        if len(self._programs) >= MAX_PROGRAMS or _size(program) > MAX_TEXT:
            return _OTHER_WANTED if is_wanted else _OTHER
        self._programs.append(program)
        self._is_wanted.append(is_wanted)
        number = self._numbers[program] = len(self._programs) - 1
        return number


def _program(process: ProcessLine) -> SeenProgram:
    if process.state != "found":
        return SeenProgram(program_of(process))
    argv = None if process.argv is None else tuple(process.argv)
    return SeenProgram(program_of(process), process.exe, argv)


def _size(program: SeenProgram) -> int:
    return len(program.exe or "") + sum(map(len, program.argv or ()))


def _is_number(digits: bytes) -> bool:
    """Return True for a whole number as JSON has it."""
    return digits.isdigit() and len(digits) < 18 and (digits[:1] != b"0" or digits == b"0")


def _names_once(rest: bytes) -> bool:
    """Return True if no second `sequence` can follow the first in a line."""
    return len(rest) <= MAX_TEXT and b'"sequence"' not in rest and b"\\u" not in rest
