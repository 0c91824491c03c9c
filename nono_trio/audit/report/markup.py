"""HTML that is safe by its type: a `str` is text and is escaped, `Html` is markup.

Rules of this file: `escaped` is the only way from text to markup, for elements and attributes;
nothing else in the package joins texts to markup. A character that is not printable (control
characters, text direction, invisible ones) is shown as its escape, marked as one. Data for a script
is JSON without `<`, `>`, `&` and without characters beyond ASCII.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.shown_text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENTITIES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
)
_IN_JSON: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_VOID: Final = frozenset(("meta", "link"))


class Html(str):
    """Markup. Only this module makes it of text; others join what it gave them."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return text as markup: entities for what HTML reads as markup, escapes for what is not
    printable."""
    return Html(clean(text).translate(_ENTITIES))


def text(value: str) -> Html:
    """Return text for the inside of an element; the escapes in it are marked, so that a text which
    has these characters itself looks different."""
    if isinstance(value, Html):
        return value
    if value.isprintable():
        return escaped(value)
    parts, run = list[str](), ""
    for character in value:
        if character.isprintable():
            if run:
                parts.append(element("span", Html(escaped(run)), class_="hidden-character"))
                run = ""
            parts.append(escaped(character))
        else:
            run += character
    if run:
        parts.append(element("span", Html(escaped(run)), class_="hidden-character"))
    return Html("".join(parts))


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Return parts as one piece of markup; those that are texts are escaped."""
    return Html(text(between).join(text(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str | int | bool | None) -> Html:
    """Return an element; texts among its children are escaped. Attributes: `class_` is class, an
    underscore is a hyphen, True is an attribute without a value, None and False leave it out."""
    written = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined(children)}</{tag}>")


def raw_element(name: str, content: str, **attributes: str) -> Html:
    """Return a style or script element with our own source; it must not end the element."""
    if f"</{name}" in content.lower():
        raise AssertionError(f"the source of a {name} element ends it")
    opening = element(name, **attributes)
    return Html(f"{opening.removesuffix(f'</{name}>')}{content}</{name}>")


def json_data(value: object) -> str:
    """Return JSON that can lie inside a script element: it holds no character of markup."""
    return json.dumps(value, separators=(",", ":")).translate(_IN_JSON)


def _attribute(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")
