"""Finds the programs of a record, and the decision of a flow, with bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.audit.read.records import MAX_LINE, parse_record
from nono_trio.core.export.exported import MAX_LONG
from nono_trio.core.log.events import MALFORMED, Network
from nono_trio.core.log.processes import decode_process
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.log.events import Flow, NetworkEvent
    from nono_trio.core.log.processes import ProcessLine

# processes.ndjson is in the order in which programs were found, which is nearly that of the log.
LOOK_AHEAD_LINES: Final = 2000
LOOK_AHEAD_BYTES: Final = 4 * 1024 * 1024
MAX_PROGRAMS: Final = 8  # of one record
_STEPS: Final = 64  # halves any file


class NumberedLine(NamedTuple):
    """A whole line and the offset of its end."""

    end: int
    line: bytes


class WantedPrograms:
    """The programs of the records from `first` to `last`, and where the later lines begin."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._found: dict[int, list[ProcessLine]] = {}
        self._lines: list[tuple[int, int]] = []  # begin of a line, its sequence
        self._end = start

    def add(self, begin: int, end: int, sequence: int, line: ProcessLine | None) -> None:
        """Take one line; None for one that is not wanted."""
        self._lines.append((begin, sequence))
        self._end = end
        if line is not None:
            programs = self._found.setdefault(sequence, [])
            if len(programs) < MAX_PROGRAMS:
                programs.append(line)

    def of(self, sequence: int) -> list[ProcessLine]:
        """Return the programs of a record."""
        return self._found.get(sequence, [])

    def offset_after(self, sequence: int) -> int:
        """Return where the lines of the records after `sequence` begin: at the first of them."""
        for begin, found in self._lines:
            if found > sequence:
                return begin
        return self._end


def wanted_programs(path: Path, start: int, first: int, last: int) -> WantedPrograms:
    """Read the lines from `start` on until LOOK_AHEAD_LINES are of later records. Raises OSError;
    a line that can't be read is passed over."""
    wanted, later, begin = WantedPrograms(start), 0, start
    if last < first:
        return wanted
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return wanted
    with file:
        file.seek(start)
        while later < LOOK_AHEAD_LINES and begin - start < LOOK_AHEAD_BYTES:
            line = file.readline(MAX_LINE)
            if not line.endswith(b"\n"):
                break
            end = begin + len(line)
            try:
                program = decode_process(line)
            except MALFORMED:
                begin = end
                continue
            later += program.sequence > last
            is_wanted = first <= program.sequence <= last
            wanted.add(begin, end, program.sequence, program if is_wanted else None)
            begin = end
    return wanted


def decision_at(log: Path, sequence: int, size: int) -> NetworkEvent | None:
    """Return the network event with a sequence in the first `size` bytes of a log, which are in
    order; None if no record has it. Raises OSError."""
    low, high = 0, size  # of the beginnings of lines; `low` is one
    with open_regular(log) as file:
        for _ in range(_STEPS):
            middle = (low + high) // 2
            if middle > low:
                file.seek(middle - 1)
                file.readline(MAX_LINE)
            else:
                file.seek(low)
            begin = file.tell()
            line = file.readline(MAX_LINE) if begin < high else b""
            if not line:
                high = middle
            elif (record := parse_record(line)) is None:
                return None
            elif record.sequence == sequence:
                return record.event.event if isinstance(record.event, Network) else None
            elif record.sequence < sequence:
                low = begin + len(line)
            else:
                high = middle
            if low >= high:
                return None
    return None


def is_sane(flow: Flow) -> bool:
    """Return True for a flow whose numbers a session can have written."""
    numbers = (flow.sequence, flow.opened_unix_ms, flow.duration_ms, flow.bytes_up, flow.bytes_down)
    is_port = flow.port is None or 0 <= flow.port <= 0xFFFF
    return is_port and all(0 <= number <= MAX_LONG for number in numbers)
