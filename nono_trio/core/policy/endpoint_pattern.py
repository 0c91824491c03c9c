"""The path of an endpoint rule: segments, `*` for one, `**` for any number of them.

Rules of this file:
- `*` never crosses a slash. As a whole segment it stands for one that is not empty; beside other
  characters (`*.json`) for any of the segment. `**` is a whole segment, and stands for none, one or
  more: `/a/**` matches `/a`, `/a/` and `/a/b/c`.
- A pattern is written as a person writes a path. It gets the canonical spelling of a request's
  path; what has no such spelling raises UsageError.
- An allow rule must match the canonical path, and where servers differ (endpoint_readings.py) what
  they make of it: without parameters, or up to an encoded question mark.
- A deny rule matches if one of many readings does.
- Time is bounded by segments x items of the pattern: the child chooses the path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from nono_trio.core.policy.endpoint_path import (
    BadPath,
    CanonicalTarget,
    canonical_segment,
    canonical_target,
)
from nono_trio.core.policy.endpoint_readings import folded, readings, strict_readings
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_SEGMENTS: Final = "**"
_ANY: Final[tuple[str, ...]] = ()
ONE_SEGMENT: Final = "*"

# One item of a pattern: the texts between the stars of one segment; () stands for `**`.
Item: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern in canonical spelling; `folded_items` are those that a deny rule compares."""

    text: str
    items: tuple[Item, ...]
    folded_items: tuple[Item, ...]
    hides_slash: bool = False

    def covers(self, target: CanonicalTarget) -> bool:
        """Return True if an allow rule with this pattern covers the path."""
        return all(_match(self.items, one) for one in strict_readings(target, self.text))

    def may_cover(self, target: CanonicalTarget) -> bool:
        """Return True if a server may read the path as one that this pattern covers."""
        return any(_match(self.folded_items, one) for one in readings(target))


def parse_pattern(text: str) -> PathPattern:
    """Parse the path of a rule. Raises UsageError, whose text names neither flag nor rule."""
    encoded = "".join(one if one.isascii() else _escaped(one) for one in text)
    try:
        target = canonical_target(encoded)
    except BadPath as fault:
        raise UsageError(f"the path {fault.reason}", hint=_FORM) from None
    if any(canonical_segment(one) in (".", "..") for one in encoded.split("/")):
        _refuse("the path has a dot segment", "write the path that it leads to")
    if target.query is not None:
        _refuse("the path has a question mark", _FORM)
    segments = target.segments
    if "" in segments[:-1]:
        _refuse("the path has two slashes in a row", "requests with them are matched without them")
    items = tuple(map(_item, segments))
    kept = [one for one in items if one != ("",)]
    folded_items = tuple(tuple(map(folded, one)) for one in kept)
    return PathPattern(target.path, items, folded_items, target.hides_slash)


_FORM: Final = "a path is like /repos/*/issues/**: * is one segment, ** any number"


def _item(segment: str) -> Item:
    if segment == ANY_SEGMENTS:
        return _ANY
    if ANY_SEGMENTS in segment:
        hint = "write ** between two slashes, or one * for the rest of a segment"
        _refuse("the path has ** beside other characters", hint)
    return tuple(segment.split(ONE_SEGMENT))


def _match(items: Sequence[Item], segments: Sequence[str]) -> bool:
    if items and items[-1] == _ANY and _ANY not in items[:-1]:
        fixed = items[:-1]  # the usual pattern: no search is needed
        return len(segments) >= len(fixed) and all(map(fits, fixed, segments))
    return _search(items, segments)


def _search(items: Sequence[Item], segments: Sequence[str]) -> bool:
    """Match the items between two `**` at their earliest place, which is the best one."""
    at, item, after_star, star_at = 0, 0, -1, 0
    while at < len(segments):
        if item < len(items) and items[item] == _ANY:
            item += 1
            after_star, star_at = item, at
        elif item < len(items) and fits(items[item], segments[at]):
            item, at = item + 1, at + 1
        elif after_star >= 0:
            star_at += 1
            item, at = after_star, star_at
        else:
            return False
    return all(one == _ANY for one in items[item:])


def fits(item: Item, segment: str) -> bool:
    """Return True if a segment fits an item other than `**`."""
    return segment != "" if item == ("", "") else has_in_order(item, segment)


def has_in_order(texts: Item, value: str) -> bool:
    """Return True if `value` is `texts` in this order with anything between them: it begins with
    the first and ends with the last."""
    if len(texts) == 1:
        return value == texts[0]
    first, *middle, last = texts
    end = len(value) - len(last)
    if end < len(first) or not value.startswith(first) or not value.endswith(last):
        return False
    at = len(first)
    for text in middle:
        found = value.find(text, at, end)
        if found < 0:
            return False
        at = found + len(text)
    return True


def _escaped(character: str) -> str:
    try:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))
    except UnicodeEncodeError:
        _refuse("the path is not UTF-8", _FORM)


def _refuse(reason: str, hint: str) -> NoReturn:
    raise UsageError(reason, hint=hint)
