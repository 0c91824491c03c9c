"""The colours of a terminal: whether it gets them, and the one of each word.

Rules of this file: a pipe, a file, NO_COLOR, TERM=dumb and a CI job get plain text. Colour never
carries a meaning alone: the word itself says it. Every run imports this file, so it imports no
library; tables and panels are in rich_output.py.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The names are those of rich, the numbers those of ECMA-48: the eight colours that every terminal
# has, in the shades that its user chose.
CODES: Final[Mapping[str, str]] = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
    "bold red": "1;31",
}
# Decisions, outcomes, verdicts and states.
STYLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("deny", "denied", "tampered", "missing", "failed"), "bold red"),
    **dict.fromkeys(("fail", "crashed", "unreadable", "unknown", "not verified"), "yellow"),
    **dict.fromkeys(
        ("allow", "allowed", "sealed", "verified", "consistent", "ok", "recovered"), "green"
    ),
    **dict.fromkeys(("running", "open"), "cyan"),
}
DEFAULT_WIDTH: Final = 80  # of a terminal that does not know its own
PLAIN_TERMINALS: Final = ("", "dumb", "unknown")
# The beginnings of our own lines; a decision begins with its time. Only this much of a line gets
# colour, so no text of a command can choose it. Patterns are compiled when a line needs them.
_BEGINNINGS: Final = (
    (r"nono-trio: (error:|denied\b|exit code \d+:|OBSERVING:)", "bold red"),
    (r"nono-trio: (warning:|failed\b)", "yellow"),
    (r"nono-trio: ([1-9][\d,]* denied)", "bold red"),
    (r"\d\d:\d\d:\d\d\.\d{3}\S* (deny)\b", "bold red"),
    (r"\d\d:\d\d:\d\d\.\d{3}\S* (allow)\b", "green"),
)


def is_styled(stream: TextIO | None) -> bool:
    """Return True if `stream` is a terminal that shows colour, and nothing forbids it."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("CI"):
        return False
    if os.environ.get("TERM", "") in PLAIN_TERMINALS:
        return False
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def width_of(stream: TextIO) -> int:
    """Return the columns of the terminal that `stream` writes to."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def painted(text: str, style: str) -> str:
    """Return `text` in a style of CODES, for a terminal."""
    return f"\x1b[{CODES[style]}m{text}\x1b[0m"


def painted_word(word: str) -> str:
    """Return a decision, verdict or state as a terminal shows it in colour; padding is allowed."""
    style = STYLES.get(word.strip())
    return word if style is None else painted(word, style)


def painted_line(line: str) -> str:
    """Return a line of ours with its first words in colour: an error, a warning, a decision."""
    for beginning, style in _BEGINNINGS:
        found = re.match(beginning, line)
        if found is not None:
            start, end = found.span(1)
            return f"{line[:start]}{painted(line[start:end], style)}{line[end:]}"
    return line


def print_verdict(lines: Iterable[str]) -> None:
    """Print lines on stdout; the first begins with a verdict, which has colour on a terminal."""
    first, *rest = lines
    word = first.partition(" ")[0]
    print(painted_word(word) + first[len(word) :] if is_styled(sys.stdout) else first)
    for line in rest:
        print(line)
