"""Lines for people: straight to stderr, and by a thread while a session lives."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.cli.style import is_styled, painted_line

if TYPE_CHECKING:
    from nono_trio.cli.steady import SteadyOutput

_steady: SteadyOutput | None = None


def begin_session() -> None:
    """From now on nothing that a child does to stderr blocks the caller of print_line."""
    global _steady
    if _steady is None and sys.stderr is not None:
        from nono_trio.cli.steady import SteadyOutput

        with suppress(OSError):
            _steady = SteadyOutput()


def print_line(line: str) -> None:
    """Print one line, on a terminal with its first words in colour. A closed stderr is no error."""
    if sys.stderr is None:  # print() would take stdout
        return
    if is_styled(sys.stderr):
        line = painted_line(line)
    if _steady is not None:
        _steady.write_line(line)
        return
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def finish() -> None:
    """Wait until everything is written, or a bound is over."""
    if _steady is not None:
        _steady.finish()
