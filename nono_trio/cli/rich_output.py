"""Tables and panels on a terminal, drawn by rich; the only file that imports it.

Rules of this file: it is imported late, and never by a run. Texts reach rich as `Text`, which has
no markup and no names of emoji; their makers have cleaned them. Only what is read is drawn: a
command that a person may paste stays outside of panels, in one line.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from rich import box, cells
from rich.console import Console, Group
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from nono_trio.cli.parts import Decisions, Facts, Table
from nono_trio.cli.style import STYLES, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from nono_trio.cli.parts import Column, Part

GAP: Final = 2  # between columns
HANG: Final = 2  # what the later lines of a folded text are indented by
FRAME: Final = 4  # a panel's borders and their padding
# A narrower timeline has no columns: the time alone would take a third of it.
LEAST_TIMELINE: Final = 64


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as the terminal at most."""
    console = _console()
    console.print(_grid(table, console.width))


def print_panels(parts: Sequence[Part]) -> None:
    """Print each part in a panel; all are as wide as the widest, or as the terminal."""
    console = _console()
    bodies = [_body(part, console, console.width - FRAME) for part in parts]
    widest = max(Measurement.get(console, console.options, body).maximum for body in bodies)
    width = min(console.width, widest + FRAME)
    for part, body in zip(parts, bodies, strict=True):
        title = Text(part.title, "bold")
        console.print(
            Panel(
                body, title=title, title_align="left", box=box.ROUNDED, border_style="dim",
                width=width,
            )
        )  # fmt: skip


def print_check(state: str, name: str, found: str, widths: tuple[int, int]) -> None:
    """Print one finding: its state, its name and a text that is folded below itself."""
    console = _console()
    stacked = console.width < LEAST_TIMELINE
    grid = Grid.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(width=widths[0], no_wrap=True)
    grid.add_column(width=None if stacked else widths[1], overflow="fold")
    if stacked:
        grid.add_row(_state(state), Text(name, "bold"))
        grid.add_row(Text(), Text(found))
    else:
        grid.add_column(overflow="fold")
        grid.add_row(_state(state), Text(name), Text(found))
    console.print(grid)


def _console() -> Console:
    """The terminal at stdout. Its variables for other programs (FORCE_COLOR, COLUMNS) don't
    count: style.py has decided already."""
    return Console(
        file=sys.stdout, width=width_of(sys.stdout), force_terminal=True, color_system="standard",
        markup=False, emoji=False, highlight=False, legacy_windows=False, force_jupyter=False,
    )  # fmt: skip


def _body(part: Part, console: Console, width: int) -> RenderableType:
    if isinstance(part, Facts):
        return _facts(part, console, width)
    if isinstance(part, Table):
        return _grid(part, width)
    return _timeline(part, console, width)


def _facts(part: Facts, console: Console, width: int) -> Grid:
    """A label is shown once, however many texts it has."""
    left = width - GAP - max(cells.cell_len(label) for label, _ in part.rows)
    grid = Grid.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    before = None
    for label, text in part.rows:
        shown = _first_word(text) if label == "status" else Text(text)
        label_cell = Text("" if label == before else label, "dim")
        grid.add_row(label_cell, _hanging(shown, console, left))
        before = label
    return grid


def _timeline(part: Decisions, console: Console, width: int) -> RenderableType:
    if width < LEAST_TIMELINE:
        lines = [
            Text(row)
            if isinstance(row, str)
            else Text.assemble(row[0], " ", _state(row[1]), " ", row[2])
            for row in part.rows
        ]
        return Group(*(_hanging(line, console, width) for line in lines))
    grid = Grid.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in part.rows:
        if isinstance(row, str):
            grid.add_row(Text("..."), Text(), Text(row, "dim"))
        else:
            grid.add_row(Text(row[0], "dim"), _state(row[1]), Text(row[2]))
    return grid


def _hanging(text: Text, console: Console, width: int) -> Text:
    """A text that is too long, folded with its later lines indented: the next one begins left."""
    if cells.cell_len(text.plain) <= width or width <= HANG + 1:
        return text
    first, *rest = text.wrap(console, width - HANG, overflow="fold")
    return Text("\n").join([first, *(Text(" " * HANG) + line for line in rest)])


def _grid(table: Table, width: int) -> RenderableType:
    """The columns that fit, with exact widths, and what was left out below them."""
    naturals = [_natural(table, index) for index in range(len(table.columns))]
    chosen = _fitting(table.columns, naturals, width)
    grid = Grid(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for index, column_width in chosen.items():
        column = table.columns[index]
        grid.add_column(
            Text(column.title), width=column_width, justify="right" if column.right else "left",
            overflow="ellipsis" if column.flexible == "cut" else "fold",
            no_wrap=column.flexible != "fold",
        )  # fmt: skip
    for row in table.rows:
        grid.add_row(*(_cell(table.columns[one], row[one]) for one in chosen))
    left_out = [column.title for index, column in enumerate(table.columns) if index not in chosen]
    notes = [table.more] if table.more else []
    if left_out:
        notes.append(f"no room for {', '.join(left_out)}")
    return Group(grid, *(Text(note, "dim") for note in notes)) if notes else grid


def _natural(table: Table, index: int) -> int:
    """The width of a column's widest cell."""
    texts = [table.columns[index].title, *(row[index] for row in table.rows)]
    return max(map(cells.cell_len, texts))


def _fitting(columns: Sequence[Column], naturals: Sequence[int], width: int) -> dict[int, int]:
    """Return the columns that stay, each with its width."""
    staying = [*range(len(columns))]
    while True:
        least = [_least(columns[one], naturals[one]) for one in staying]
        needed = sum(least) + GAP * (len(staying) - 1)
        leaving = [one for one in staying if columns[one].leaves]
        if needed <= width or not leaving:
            break
        staying.remove(min(leaving, key=lambda one: columns[one].leaves))
    free = max(0, width - needed)
    widths = dict(zip(staying, least, strict=True))
    for one in staying:  # too narrow even so
        if columns[one].flexible:
            less = min(max(0, needed - width), widths[one] - 1)
            widths[one] -= less
            needed -= less
    for one in sorted(staying, key=lambda one: naturals[one]):  # the short ones whole, first
        more = min(free, naturals[one] - widths[one])
        widths[one] += more
        free -= more
    return widths


def _least(column: Column, natural: int) -> int:
    return min(natural, column.least) if column.flexible else natural


def _cell(column: Column, text: str) -> Text:
    if column.states:
        return _state(text)
    return Text(text, STYLES["deny"] if column.denials and text.strip("0?") else "")


def _state(word: str) -> Text:
    return Text(word, STYLES.get(word.strip(), ""))


def _first_word(text: str) -> Text:
    """A text that begins with a state: `sealed, exit code 0`."""
    shown = Text(text)
    word = text.partition(" ")[0].rstrip(",:")
    if word in STYLES:
        shown.stylize(STYLES[word], 0, len(word))
    return shown
