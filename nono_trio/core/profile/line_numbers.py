"""The line of every key and list item of a profile, in TOML or JSON.

`tomllib` and `json` give values without positions, but an error should name its line. Rules of this
file: its input has passed the parser already, so it refuses nothing; a key that it can't find has
no line.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from nono_trio.core.late import late_pattern

KeyPath: TypeAlias = tuple[str | int, ...]

# A comment, the four kinds of TOML string (JSON's is the third), punctuation, the end of a line,
# and every other run of characters: bare keys, numbers, dates, true.
_TOKEN: Final = late_pattern(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>\"\"\"(?:[^\\]|\\.)*?\"{3,5} | '''.*?'{3,5} | "(?:[^"\\\n]|\\.)*" | '[^'\n]*')
  | (?P<mark>[\[\]{}=,:.\n])
  | (?P<bare>[^\s\[\]{}=,:."'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of each key and list item of a valid TOML document."""
    reader = _Reader(text)
    reader.document()
    return reader.lines


def json_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of each key and list item of a valid JSON document."""
    reader = _Reader(text)
    reader.value(())
    return reader.lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """Return the line of the nearest element that has one: the item, its key, its table, the
    beginning."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Reader:
    """Reads tokens in order and fills `lines`."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}
        """The number of tables so far, by the name of their array."""
        self._tokens: list[tuple[str, str, int]] = []
        line, at = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", at, match.start())
            at = match.start()
            if match.lastgroup != "comment":
                self._tokens.append((match.lastgroup or "", match[0], line))
        self._next = 0

    def document(self) -> None:
        """Read TOML: lines with a [table], or with a key and its value."""
        table: KeyPath = ()
        while self._peek():
            if self._peek() == "\n":
                self._take()
            elif self._peek() == "[":
                table = self._header()
            else:
                self._pair(table, "=")

    def value(self, path: KeyPath) -> None:
        """Read one value: a list, a table, or a scalar."""
        self._skip_newlines()
        if self._peek() == "[":
            self._list(path)
        elif self._peek() == "{":
            self._table(path)
        else:
            self._take()
            while self._peek() and self._peek() not in ",]}\n":
                self._take()

    def _list(self, path: KeyPath) -> None:
        self._take()
        index = 0
        while self._more("]"):
            item = (*path, index)
            self.lines[item] = self._line()
            self.value(item)
            index += 1
        self._take()

    def _table(self, path: KeyPath) -> None:
        self._take()
        while self._more("}"):
            self._pair(path, "=:")
        self._take()

    def _more(self, end: str) -> bool:
        """Skip the separator of items; False at the end of the list or table."""
        while self._peek() in (",", "\n"):
            self._take()
        return self._peek() not in ("", end)

    def _pair(self, table: KeyPath, equals: str) -> None:
        """Read a key, dotted or not, and its value."""
        path = table
        while self._peek() and self._peek() not in equals:
            path = self._key(path)
        self._take()
        self.value(path)

    def _header(self) -> KeyPath:
        """Read `[a.b]`, or `[[a.b]]`, whose tables are numbered as the items of a list are."""
        path: KeyPath = ()
        line, brackets = self._line(), 0
        while self._peek() == "[":
            self._take()
            brackets += 1
        while self._peek() and self._peek() != "]":
            path = self._key(path)
        while self._peek() == "]":
            self._take()
        if brackets > 1:
            index = self._tables.get(path, 0)
            self._tables[path] = index + 1
            path = (*path, index)
            self.lines[path] = line
        return path

    def _key(self, path: KeyPath) -> KeyPath:
        """Read one part of a key, or the dot between two."""
        line = self._line()
        token = self._take()
        if token == ".":
            return path
        path = (*path, _unquoted(token))
        self.lines.setdefault(path, line)
        return path

    def _skip_newlines(self) -> None:
        while self._peek() == "\n":
            self._take()

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else 1

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token


def _unquoted(token: str) -> str:
    """Return a key as the parser names it; a key with escapes has no line."""
    return token[1:-1] if token[:1] in ("'", '"') else token
