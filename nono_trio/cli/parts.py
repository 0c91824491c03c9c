"""The parts of an output as data: facts, tables and decisions.

Rules of this file: every text in them is cleaned by its maker, as for a plain line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Column(msgspec.Struct, frozen=True):
    """A column of a table.

    `flexible` columns give way where a terminal is narrow, down to `least`: their text is folded,
    or cut with `…`.
    `leaves`: columns that do not fit even so are left out in the order of these numbers; 0 stays.
    `states`: its words are decisions, verdicts or states, and have a colour. `denials`: its numbers
    count denials; those above zero have a colour.
    """

    title: str
    right: bool = False
    flexible: Literal["fold", "cut"] | None = None
    leaves: int = 0
    states: bool = False
    denials: bool = False
    least: int = 12


class Facts(msgspec.Struct, frozen=True):
    """Labels with texts, in order; a label may repeat."""

    title: str
    rows: Sequence[tuple[str, str]]


class Table(msgspec.Struct, frozen=True):
    """Rows of cells; `more` says what was left out, for a line below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    more: str = ""


class Decisions(msgspec.Struct, frozen=True):
    """A timeline: time, decision and the rest of each; a bare text is a line between them."""

    title: str
    rows: Sequence[tuple[str, str, str] | str]


Part: TypeAlias = Facts | Table | Decisions
