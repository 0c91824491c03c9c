"""Tables and facts on stdout: plain lines, or drawn to fit a terminal.

Rules of this file: it imports no library; rich_output.py, which draws, is imported only on a
terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from nono_trio.cli.parts import Facts, Table
from nono_trio.cli.style import is_styled, width_of
from nono_trio.cli.text import clean, table_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.cli.parts import Column

LEAST_WIDTH: Final = 36  # an id, a status and a few characters


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with its header on stdout."""
    if is_drawn():
        drawing().print_table(Table("", columns, rows))
        return
    right = {index for index, column in enumerate(columns) if column.right}
    for line in table_lines([[column.title for column in columns], *rows], right=right):
        print(line)


def print_facts(title: str, rows: Iterable[tuple[str, str]], label_width: int) -> None:
    """Print labels with their texts on stdout, cleaned: in a panel, or as indented lines."""
    cleaned = [(label, clean(text)) for label, text in rows]
    if is_drawn():
        drawing().print_panels([Facts(title, cleaned)])
        return
    for label, text in cleaned:
        print(f"  {label:<{label_width}}{text}")


def is_drawn() -> bool:
    """Return True if stdout is a terminal with colour that has the lines of panels, and is wide
    enough."""
    if not is_styled(sys.stdout) or not sys.stdout.encoding.lower().startswith("utf"):
        return False
    return width_of(sys.stdout) >= LEAST_WIDTH


def drawing() -> Any:  # noqa: ANN401  (a module)
    """Return the module that draws; call it for a terminal only."""
    from nono_trio.cli import rich_output

    return rich_output
