"""processes.ndjson: which program each network record came from, a line for each holder.

A holder is a process that had the connection's socket open when it was looked for. Rules of this
file: everything that a child chooses (a path, arguments) is redacted, valid UTF-8 and bounded; what
is not known is null, never a guess. A line may come after its record. Its key order is the format:
`sequence` is the first, so that the rest can be encoded once for each process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.interpreters import is_interpreter, script_place
from nono_trio.core.log.redaction import REDACTED, redact_argv
from nono_trio.core.log.text_limits import bounded_text
from nono_trio.core.net.endpoints import Endpoints

if TYPE_CHECKING:
    from collections.abc import Sequence

State: TypeAlias = Literal["found", "gone", "unknown"]

MAX_ARGUMENTS: Final = 2  # the program's own name for itself, and of an interpreter the script
MAX_ARGUMENT: Final = 256
MAX_PATH: Final = 512


# -uuser:password, -Uproxyuser:password, -bcookie, -Ecertificate:password
_WITH_SECRET: Final = frozenset(("-u", "-U", "-b", "-E"))


class ProcessLine(msgspec.Struct, kw_only=True, frozen=True):
    """One line. `pid` is the host's number, `start_time` in clock ticks since boot.

    `state`: "found" names a holder; "gone": no process had the socket open any more; "unknown": it
    was open, and its holder was not found.
    """

    sequence: int
    pid: int | None = None
    start_time: int | None = None
    exe: str | None = None
    exe_sha256: str | None = None
    argv: list[str] | None = None
    uid: int | None = None
    state: State


_encoder = msgspec.json.Encoder()
_decoder = late_decoder(ProcessLine)
_SEQUENCE_ZERO: Final = b'{"sequence":0,'


def decode_process(line: bytes) -> ProcessLine:
    """Return the line; raises msgspec.DecodeError and UnicodeDecodeError."""
    return _decoder.decode(line)


class Program(msgspec.Struct, eq=False):
    """The program of one process, until the process executes another one. Mutable: arguments and
    hash are filled in later; `is_settled` is True when nothing more comes."""

    exe: str | None
    argv: list[str] | None = None
    exe_sha256: str | None = None
    is_settled: bool = False


class Holder(msgspec.Struct, eq=False):
    """One process with one program."""

    pid: int
    start_time: int
    uid: int | None
    program: Program
    _rest: bytes = b""
    _alone: Found | None = None

    @property
    def alone(self) -> Found:
        """The result for a socket that only this process holds."""
        if self._alone is None:
            self._alone = Found("found", (self,))
        return self._alone

    def line(self, sequence: int) -> bytes:
        """The holder's line of a record, with its newline."""
        if not self._rest or not self.program.is_settled:
            program = self.program
            self._rest = _rest_of(
                ProcessLine(
                    sequence=0,
                    pid=self.pid,
                    start_time=self.start_time,
                    exe=program.exe,
                    exe_sha256=program.exe_sha256,
                    argv=program.argv,
                    uid=self.uid,
                    state="found",
                )
            )
        return b'{"sequence":%d,%b' % (sequence, self._rest)


class Found(msgspec.Struct, frozen=True):
    """The result for one socket; without holders only its state."""

    state: State
    holders: tuple[Holder, ...] = ()

    @property
    def is_settled(self) -> bool:
        """True if its lines are final."""
        return all(holder.program.is_settled for holder in self.holders)

    @property
    def programs(self) -> Sequence[Program]:
        """The programs of its holders, each once."""
        if len(self.holders) == 1:  # as nearly always
            return (self.holders[0].program,)
        return [*dict.fromkeys(holder.program for holder in self.holders)]

    def lines(self, sequence: int) -> bytes:
        """The lines of a record."""
        if len(self.holders) == 1:
            return self.holders[0].line(sequence)
        if not self.holders:
            return b'{"sequence":%d,%b' % (sequence, _WITHOUT_HOLDER[self.state])
        return b"".join([holder.line(sequence) for holder in self.holders])


class Sought(msgspec.Struct, frozen=True):
    """A socket that is open; a longer look is needed to find its holder."""

    ends: Endpoints
    inode: int


RecordOrigin: TypeAlias = Endpoints | Found
"""The origin of a record: a socket whose holder is to be found, or a holder that is known."""

GONE: Final = Found("gone")
UNKNOWN: Final = Found("unknown")


def _rest_of(line: ProcessLine) -> bytes:
    """The encoded line, after its sequence."""
    return _encoder.encode(line).removeprefix(_SEQUENCE_ZERO) + b"\n"


_WITHOUT_HOLDER: Final[dict[State, bytes]] = {
    found.state: _rest_of(ProcessLine(sequence=0, state=found.state)) for found in (GONE, UNKNOWN)
}


def shown_argv(exe: str | None, argv: Sequence[str]) -> list[str]:
    """The two arguments that a line has: the first, and the second or, of an interpreter with
    options, the script. The value of a secret flag is none of them."""
    name = program_name(exe)
    script = script_place(name, argv) or 1
    redacted = redact_argv(argv[: script + 1])
    shown = [*redacted[:1], *redacted[script:]]
    if not is_interpreter(name):
        shown = [_without_secret(argument) for argument in shown]
    return [bounded_text(argument, MAX_ARGUMENT) for argument in shown]


def _without_secret(argument: str) -> str:
    """Redact the value of an option of curl and its like that is one word with it. Upstream's table
    has no such words, and only a command line is bound to it."""
    option, value = argument[:2], argument[2:]
    if option in _WITH_SECRET and value:
        return f"{option}{REDACTED}"
    if option == "-H":
        return option + redact_argv([option, value])[1]
    return argument


def shown_path(path: str) -> str:
    """A program's path as a line has it."""
    (redacted,) = redact_argv([path])
    return bounded_text(redacted, MAX_PATH)


def program_text(exe: str | None, argv: Sequence[str] | None) -> str:
    """A program in a few characters: its name, and of an interpreter the script or module.

    Untrusted text: control characters are the caller's to remove.
    """
    name = program_name(exe)
    if argv is None or len(argv) < 2 or not is_interpreter(name):
        return name
    script = argv[1]
    return name if script.startswith("-") else f"{name} {_last_part(script)}"


def program_name(exe: str | None) -> str:
    """The name of a program's file."""
    return _last_part(exe) if exe else "unknown program"


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path
