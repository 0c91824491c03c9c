"""The query part of an endpoint rule: parameters by name, with the values that they may have.

Rules of this file:
- An allow rule's parameters must all be there, and each occurrence must have a value that fits:
  some servers take the first, some the last. Parameters that the rule does not name are free.
- A deny rule fits if one occurrence of each of its parameters fits.
- Names are compared as the most lenient server reads them: without case, up to a bracket or a
  zero byte, with dots and spaces as underscores (PHP). Values are so for a deny rule: without
  case, up to a zero byte, without blanks around them.
- A query that servers split in different ways (";", or another question mark at its beginning,
  which URLSearchParams drops), or with a broken escape, fits no allow rule with parameters. For a
  deny rule all ways of splitting count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.endpoint_pattern import has_in_order
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# A rule's parameters: the name as it is compared, and the texts between the stars of its value.
Parameter = tuple[str, tuple[str, ...]]

_BROKEN: Final = late_pattern(r"%(?![0-9A-Fa-f]{2})")
_SEPARATORS: Final = late_pattern("[&;]")
_LENIENT: Final = str.maketrans(". +", "___")


def parse_query(text: str) -> tuple[Parameter, ...]:
    """Parse NAME=VALUE&NAME=VALUE of a rule; `*` in a value is any text. Raises UsageError."""
    if _BROKEN.search(text):
        raise UsageError("the query has a percent sign that is no escape", hint=_FORM)
    parameters = []
    for piece in text.split("&"):
        name, equals, value = piece.partition("=")
        if not name or not equals or ";" in piece:
            raise UsageError("expected NAME=VALUE in the query", hint=_FORM)
        parameters.append(_parameter(_decoded(name), value))
    return tuple(parameters)


def query_text(parameters: Mapping[str, str]) -> str:
    """Return the text of decoded parameters, as `parse_query` reads it."""
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in parameters.items())


def query_covers(parameters: Sequence[Parameter], query: str | None) -> bool:
    """Return True if an allow rule with these parameters covers a query."""
    if not parameters:
        return True
    if query is None or ";" in query or query.startswith("?") or _BROKEN.search(query):
        return False
    given = [*_pairs(query.split("&"))]
    if any("\ufffd" in name or "\ufffd" in value for name, value in given):
        return False
    return all(
        _all_fit([value for name, value in given if name == wanted], texts)
        for wanted, texts in parameters
    )


def query_may_cover(parameters: Sequence[Parameter], query: str | None) -> bool:
    """Return True if a server may read a query as one that these parameters cover."""
    if not parameters:
        return True
    query = (query or "").lstrip("?")
    splits = (query.split("&"), _SEPARATORS.split(query))
    given = [pair for pieces in splits for pair in _pairs(pieces)]
    return all(
        any(name == wanted and _fits(texts, value, fold=True) for name, value in given)
        for wanted, texts in parameters
    )


_FORM: Final = "a query is like ?service=git-upload-pack&ref=v*: * is any text"


def _parameter(name: str, value: str) -> Parameter:
    return _compared(name), tuple(map(_decoded, value.split("*")))


def _pairs(pieces: Iterable[str]) -> Iterator[tuple[str, str]]:
    for piece in pieces:
        name, _, value = piece.partition("=")
        yield _compared(_decoded(name)), _decoded(value)


def _compared(name: str) -> str:
    return name.partition("\0")[0].strip().partition("[")[0].translate(_LENIENT).casefold()


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def _quoted(text: str) -> str:
    kept = "-._~*/:@!$'(),"
    return "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in kept)
        else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )  # fmt: skip


def _all_fit(values: Sequence[str], texts: tuple[str, ...]) -> bool:
    return bool(values) and all(_fits(texts, value) for value in values)


def _fits(texts: tuple[str, ...], value: str, *, fold: bool = False) -> bool:
    """Return True if a value has the texts in this order, from its beginning to its end; `fold`: or
    one of the readings that a deny rule is for."""
    if not fold:
        return has_in_order(texts, value)
    texts, value = tuple(one.casefold() for one in texts), value.casefold()
    readings = {value, value.strip(), value.partition("\0")[0].strip()}
    return any(has_in_order(texts, one) for one in readings)
