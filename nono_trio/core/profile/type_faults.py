"""The schema's error about a value of a profile, in plain words: where, what was expected, a hint.

Rules of this file: it reads the texts of msgspec and the types of the schema, never a value. A text
that it does not know stays as it is.
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.profile.values import suggestion

_PLACE: Final = late_pattern(r" - at `\$([^`]*)`")
_MEMBER: Final = late_pattern(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_TYPES: Final = late_pattern(r"`([a-z |]+)`")
_ENUM: Final = late_pattern(r"Invalid enum value (.*)", re.DOTALL)
_MISSING: Final = late_pattern(r"Object missing required field `([^`]*)`")
_UNKNOWN: Final = late_pattern(r"Object contains unknown field `([^`]*)`")
# Plain words for msgspec's names of types.
_WORDS: Final = {
    "array": "a list",
    "object": "a table",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
ANY_KEY: Final = "..."  # msgspec does not name the key of a table's entry


class TypeFault(NamedTuple):
    """`members` leads from the value to its faulty part: keys, places in lists, ANY_KEY."""

    members: tuple[str | int, ...]
    message: str
    hint: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The keys on that way."""
        return tuple(one for one in self.members if isinstance(one, str) and one != ANY_KEY)


def explain(error: str, kind: Any) -> TypeFault:  # noqa: ANN401  (a type of the schema)
    """Return the fault that msgspec found in a value that should be of `kind`."""
    place = _PLACE.search(error)
    members = tuple(
        int(index) if index.isdigit() else name or index
        for name, index in _MEMBER.findall(place[1] if place else "")
    )
    text = _PLACE.sub("", error)
    kind = _at(kind, members)
    if (match := _ENUM.fullmatch(text)) and (choices := _choices(kind)):
        *first, last = choices
        words = f"{', '.join(first)} or {last}" if first else last
        return TypeFault(members, f"expected {words}, got {match[1]}")
    if match := _MISSING.fullmatch(text):
        return TypeFault(members, f"expected the key {match[1]}", f"write {match[1]} = ...")
    if match := _UNKNOWN.fullmatch(text):
        known = getattr(_struct(kind), "__struct_fields__", ())
        hint = suggestion(match[1], known, "known keys")
        return TypeFault((*members, match[1]), "unknown key", hint)
    text = _TYPES.sub(_plain_types, text)
    return TypeFault(members, text[:1].lower() + text[1:])


def _at(kind: Any, members: tuple[str | int, ...]) -> Any:  # noqa: ANN401
    """The type at the end of that way; None where the schema does not say."""
    for member in members:
        struct = _struct(kind)
        fields = () if struct is None else msgspec.structs.fields(struct)
        kind = next((field.type for field in fields if field.name == member), None)
    return kind


def _struct(kind: Any) -> Any:  # noqa: ANN401
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return one
    return None


def _choices(kind: Any) -> list[str]:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return [*map(str, get_args(kind))]
    return [word for one in get_args(kind) if one is not NoneType for word in _choices(one)]


def _plain_types(match: re.Match[str]) -> str:
    names = [name for name in match[1].split(" | ") if name != "null"]
    return " or ".join(_WORDS.get(name, name) for name in names)
