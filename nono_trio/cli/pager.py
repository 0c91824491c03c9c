"""A pager for outputs that are higher than the terminal, as `git log` has one.

Rules of this file: the pager is the person's own ($NONO_TRIO_PAGER, $PAGER, or else `less`), and
runs outside of any cage. A pipe, a file, TERM=dumb, CI, --json and --no-pager get no pager. Its end
before ours is no error. Ctrl-C is the pager's too, so we wait for it and leave the terminal as it
was. LESSSECURE=1 keeps `less` from starting programs: the text on the screen is untrusted.
"""

from __future__ import annotations

import io
import os
import select
import shlex
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from nono_trio.cli.style import PLAIN_TERMINALS, width_of
from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

VARIABLES: Final = ("NONO_TRIO_PAGER", "PAGER")
USUAL: Final = ("less", "-FRX")  # colours; nothing is wiped at its end
_COLOUR: Final = late_pattern(r"\x1b\[[0-9;]*m")


def output_is_open() -> bool:
    """Return False if the reader of stdout has gone: it may be long until the next result."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    return True


def require_reader() -> None:
    """Raise BrokenPipeError if the reader of stdout has gone: what was found is not the whole."""
    if not output_is_open():
        raise BrokenPipeError


def _nothing() -> None:
    pass


@contextmanager
def paged(*, wanted: bool, on_start: Callable[[], None] = _nothing) -> Iterator[None]:
    """Send stdout through a pager as soon as it is higher than the terminal.

    `on_start` is called before the pager starts: nothing else may write to the terminal then. If
    the pager ends early, the block is left at its next output. Raises UsageError for a variable
    that is no command.
    """
    command = _command() if wanted and _is_for_a_person() else ()
    if not command:
        yield
        return
    terminal = sys.stdout
    output = _Screenful(terminal, command, on_start)
    sys.stdout = cast("TextIO", output)
    try:
        yield
    except BrokenPipeError:
        if not output.is_ended:
            raise
    finally:
        sys.stdout = terminal
        output.finish()


def _is_for_a_person() -> bool:
    if os.environ.get("TERM", "") in PLAIN_TERMINALS or os.environ.get("CI"):
        return False
    try:
        return sys.stdout.isatty() and sys.stdin.isatty()
    except (AttributeError, ValueError):  # one of them is closed
        return False


def _command() -> Sequence[str]:
    """The words of the pager's command; () for none."""
    for name in VARIABLES:
        text = os.environ.get(name)
        if text is None:
            continue
        try:
            return shlex.split(text)
        except ValueError:
            raise UsageError(
                f"{name}: expected a command, got {text!r}", hint="--no-pager prints without one"
            ) from None
    from shutil import which  # late: a pipe gets no pager

    return USUAL if which(USUAL[0]) else ()


class _Screenful(io.TextIOBase):
    """stdout for the block: holds one screen back, then starts the pager and writes to it.

    It says of itself that it is the terminal, so that the output has its width and its colours.
    """

    def __init__(
        self, terminal: TextIO, command: Sequence[str], on_start: Callable[[], None]
    ) -> None:
        self._terminal = terminal
        self._command = command
        self._on_start = on_start
        self._width, self._rows_left = width_of(terminal), _height(terminal) - 1
        self._held: list[str] = []
        self._pager: subprocess.Popen[bytes] | None = None
        self._is_direct = False
        self._modes: list[Any] | None = None
        self.is_ended = False
        """True if the pager ended while there was more for it."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's."""
        return self._terminal.encoding

    def isatty(self) -> bool:
        """True: what comes here is shown on the terminal."""
        return True

    def fileno(self) -> int:
        """The terminal's."""
        return self._terminal.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Hold or pass on; raises BrokenPipeError if the pager has ended."""
        if self._pager is not None:
            self._pass_on(text)
        elif self._is_direct:
            self._terminal.write(text)
        else:
            self._held.append(text)
            if "\n" in text and not self._has_room("".join(self._held)):
                self._start()
        return len(text)

    def finish(self) -> None:
        """Show what is still held, or wait until the person has left the pager; Ctrl-C is for the
        pager alone then."""
        pager = self._pager
        if pager is None:
            self._terminal.write(self._take())
            self._terminal.flush()
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with suppress(OSError):
                if pager.stdin is not None:
                    pager.stdin.close()
            pager.wait()
        finally:
            self._restore_modes()
            signal.signal(signal.SIGINT, before)

    def _has_room(self, text: str) -> bool:
        rows = sum(_rows(line, self._width) for line in text.split("\n")[:-1])
        return rows <= self._rows_left

    def _take(self) -> str:
        held, self._held = "".join(self._held), []
        return held

    def _start(self) -> None:
        import subprocess  # late, as termios: for a screen that is full
        import termios

        self._on_start()
        with suppress(OSError, ValueError, termios.error):
            self._modes = termios.tcgetattr(self._terminal.fileno())
        environment = {"LESS": "FRX"} | os.environ | {"LESSSECURE": "1"}
        try:
            self._pager = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, env=environment, bufsize=0
            )
        except OSError as error:
            from nono_trio.cli.live import say  # late: for errors only

            self._is_direct = True
            say(f"the pager {self._command[0]!a} can't be started: {error.strerror}")
            self._terminal.write(self._take())
            return
        self._pass_on(self._take())

    def _pass_on(self, text: str) -> None:
        assert self._pager is not None
        assert self._pager.stdin is not None
        left = memoryview(text.encode(self.encoding, "backslashreplace"))
        try:
            while left:
                left = left[self._pager.stdin.write(left) or 0 :]
        except BrokenPipeError:
            self.is_ended = True
            raise

    def _restore_modes(self) -> None:
        """Undo what a pager that was killed left: no echo, no line editing."""
        import termios

        with suppress(OSError, ValueError, termios.error):
            terminal = self._terminal.fileno()
            if self._modes is not None and os.tcgetpgrp(terminal) == os.getpgrp():
                termios.tcsetattr(terminal, termios.TCSANOW, self._modes)


def _height(terminal: TextIO) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).lines or sys.maxsize
    except (OSError, ValueError):
        return sys.maxsize


def _rows(line: str, width: int) -> int:
    """The rows of the terminal that a line fills."""
    return max(1, -(-len(_COLOUR.sub("", line)) // width))
