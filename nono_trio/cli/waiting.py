"""A line on a person's terminal while a command works for longer than a second.

Rules of this file: it is written to stderr, and only if that is a terminal with colour and this
process is in its foreground; a thread writes it, so the work pays nothing; it is wiped before
anything else is printed, at the end, and on an error. The cursor is never hidden, so that a command
that is killed leaves a terminal that works. rich has such lines too, but it hides the cursor, and
its import costs more than most commands.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, TypeVar

from nono_trio.cli.style import is_styled, width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")

AFTER_SECONDS: Final = 1.0
TICK_SECONDS: Final = 0.1
BAR_WIDTH: Final = 24
_WIPE: Final = "\r\x1b[K"
_SPINNER: Final = "|/-\\"


class Waiting:
    """The line, as a context manager; `what` says what is done: `verifying`.

    `expect` and `over` count items, `watch` takes a function that returns the share of the present
    item that is done; without any of these the line only turns. Thread-safe.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._total = 0
        self._done = 0
        self._share: Callable[[], float] | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._paused = False
        self._is_shown = False
        self._turns = 0

    def __enter__(self) -> Self:
        if is_styled(sys.stderr) and _is_in_foreground():
            thread = threading.Thread(target=self._run, name="waiting", daemon=True)
            with suppress(RuntimeError):  # the system has no room for one: then without the line
                thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Wipe the line; it does not come again."""
        self._ended.set()
        with self._lock:
            self._wipe()

    def expect(self, total: int) -> None:
        """Say how many items there are."""
        self._total = total

    def watch(self, share: Callable[[], float]) -> None:
        """Show the share of the present item that is done, from 0 to 1; called by a thread."""
        self._share = share

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return the items, counted; while the caller has one, the line is wiped."""
        iterator = iter(items)
        while True:
            self._paused = False
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._pause()
            self._done += 1
            self._share = None
            yield item

    def _pause(self) -> None:
        with self._lock:
            self._paused = True
            self._wipe()

    def _wipe(self) -> None:
        if self._is_shown:
            self._is_shown = False
            if _is_in_foreground():
                _write(_WIPE)

    def _run(self) -> None:
        if self._ended.wait(AFTER_SECONDS):
            return
        while not self._ended.is_set():
            with self._lock:
                if self._may_show():
                    self._is_shown = True
                    _write(f"{_WIPE}{self._line()}")
            self._ended.wait(TICK_SECONDS)

    def _may_show(self) -> bool:
        """Return False also after Ctrl-Z and `bg`: a terminal may stop who writes from there."""
        return not self._paused and not self._ended.is_set() and _is_in_foreground()

    def _line(self) -> str:
        self._turns += 1
        share = self._share() if self._share is not None else None
        text = f"{_SPINNER[self._turns % len(_SPINNER)]} {self._what}"
        if self._total > 1:
            text += f" {self._done + 1:,} of {self._total:,}"
            share = (self._done + (share or 0.0)) / self._total
        if share is not None:
            share = min(max(share, 0.0), 1.0)
            text += f" [{'#' * int(share * BAR_WIDTH):<{BAR_WIDTH}}] {share:4.0%}"
        return text[: max(0, width_of(sys.stderr) - 1)]  # a full line would go on in the next one


def _write(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _is_in_foreground() -> bool:
    """Return False if a shell runs this process beside the person's own work."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except OSError:  # it is not the terminal of this session
        return True
