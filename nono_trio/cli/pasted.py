"""Adds --audit-dir DIR to the commands in hints if the user gave it, so that they work when pasted.

Rules of this file: main.py says once which directory the command line names. A directory that
NONO_TRIO_STATE_DIR names is that of the next command as well, so nothing is added for it.
"""

from __future__ import annotations

import itertools
import shlex
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAG: Final = "--audit-dir"
# The commands that look there, without the flag behind them.
_COMMAND: Final = late_pattern(
    r"(nono-trio (?:audit (?:ledger [a-z]+|export-session|(?!check-proof|ledger)[a-z]+)"
    r"|keys [a-z]+|ps|stop|inspect))"
    rf"(?![\w-])(?! {_FLAG})"
)
_given: ContextVar[str | None] = ContextVar("state directory of the command line", default=None)


def remember_state(arguments: Sequence[str]) -> None:
    """Remember the state directory that a command line names."""
    found = None
    ours = [*itertools.takewhile(lambda word: word != "--", arguments)]
    for word, following in itertools.pairwise([*ours, ""]):
        if word == _FLAG:
            found = following
        elif word.startswith(f"{_FLAG}="):
            found = word.partition("=")[2]
    _given.set(found or None)


def pasteable(text: str) -> str:
    """Return a text for a person whose commands look where this one did."""
    directory = _given.get()
    if directory is None:
        return text
    added = f" {_FLAG} {shlex.quote(directory)}"
    return _COMMAND.sub(lambda command: command[0] + added, text)
