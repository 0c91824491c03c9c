"""Spellings of request paths, and how servers of different kinds read what we send them.

`tests/data/endpoint-paths.ndjson` has a spelling a line, with what it must become. `{X*N}` in it is
X, N times. The servers are models: each takes a target as it arrives and returns the resource that
it would serve, as segments. They know nothing of the code under test.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from checkout import TESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MACRO = re.compile(r"\{([^{}]{1,8})\*(\d+)\}")


@dataclass(frozen=True)
class Spelling:
    """One line of the table; `canonical` is None for a path that is refused for `refused`."""

    path: str
    canonical: str | None
    refused: str
    hides_slash: bool


def spellings() -> list[Spelling]:
    """The table."""
    text = (TESTS / "data" / "endpoint-paths.ndjson").read_text("utf-8")
    return [_spelling(json.loads(line)) for line in text.split("\n") if line]


def _spelling(row: dict[str, object]) -> Spelling:
    canonical = row.get("canonical")
    return Spelling(
        _expanded(str(row["path"])),
        None if canonical is None else _expanded(str(canonical)),
        str(row.get("refused", "")),
        row.get("hides_slash") is True,
    )


def _expanded(text: str) -> str:
    return _MACRO.sub(lambda match: match[1] * int(match[2]), text)


def matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """Return True if a rule's path covers segments: `**` is any number of them, `*` is one."""
    if not pattern:
        return not segments
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(matches(rest, segments[at:]) for at in range(len(segments) + 1))
    return bool(segments) and fits(first, segments[0]) and matches(rest, segments[1:])


def fits(item: str, segment: str) -> bool:
    """Return True if one segment fits one item of a pattern; a lone `*` needs a character."""
    if item == "*":
        return segment != ""
    if "*" not in item:
        return item == segment
    before, _, after = item.partition("*")
    rest = segment[len(before) :]
    return segment.startswith(before) and any(
        fits(after, rest[at:]) or (after == "*") for at in range(len(rest) + 1)
    )


def covered(pattern: str, resource: Sequence[str]) -> bool:
    """Return True if a pattern means a resource. A slash at the end makes no other resource, and
    neither does the case of letters: the servers that ignore it find the same."""
    items = [one.lower().replace("%2f", "/") for one in pattern[1:].split("/")]
    segments = [one.lower() for one in resource]
    without = segments[:-1] if segments[-1:] == [""] and len(segments) > 1 else segments
    return any(matches(items, one) for one in (segments or [""], without))


def _resolved(segments: Sequence[str]) -> list[str]:
    found: list[str] = []
    for one in segments:
        if one == "..":
            del found[-1:]
        elif one != ".":
            found.append(one)
    return found


def _segments(path: str) -> list[str]:
    return path.removeprefix("/").split("/")


def _path(target: str) -> str:
    return target.partition("?")[0]


def _decoded(path: str) -> str:
    return unquote(path, errors="replace")


def _without_parameters(path: str) -> str:
    return "/".join(one.partition(";")[0] for one in path.split("/"))


def literal(target: str) -> list[str]:
    """Splits first, then decodes each segment once."""
    return [*map(_decoded, _segments(_path(target)))]


def early_decoding(target: str) -> list[str]:
    """Decodes first, so that an encoded slash is a slash; resolves dot segments after that."""
    return _resolved(_segments(_decoded(_path(target))))


def merging(target: str) -> list[str]:
    """As nginx: decodes, merges slashes, resolves dot segments."""
    *segments, last = early_decoding(target) or [""]
    return [*filter(None, segments), last]


def double_decoding(target: str) -> list[str]:
    """Decodes in front of another server that decodes again."""
    return _resolved(_segments(_decoded(_decoded(_path(target)))))


def truncating(target: str) -> list[str]:
    """As Apache's rewriting: decodes, and takes what follows a question mark for a query."""
    return _resolved(_segments(re.split("[?#]", _decoded(_path(target)))[0]))


def servlet(target: str) -> list[str]:
    """As Tomcat: cuts parameters off each segment, then decodes and resolves."""
    parts = map(_decoded, _segments(_without_parameters(_path(target))))
    return _resolved([one for one in parts if one])


def servlet_behind_proxy(target: str) -> list[str]:
    """As Tomcat behind a proxy that decodes."""
    parts = _segments(_decoded(_without_parameters(_decoded(_path(target)))))
    return _resolved([one for one in parts if one])


def windows(target: str) -> list[str]:
    """As IIS of old: decodes twice, backslashes are slashes, compatible characters are their plain
    ones, dots and spaces at the end and streams are dropped."""
    text = unicodedata.normalize("NFKC", _decoded(_decoded(_path(target)))).replace("\\", "/")
    parts = [one.partition("::$")[0].partition(":$")[0] for one in _segments(text)]
    stripped = [one if one in (".", "..") else one.rstrip(" .") for one in parts]
    return [one for one in _resolved(stripped) if one]


def overlong(target: str) -> list[str]:
    """Takes overlong UTF-8 for the characters that it was made of, as servers did long ago."""
    data = unquote_to_bytes(_path(target))
    data = data.replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/").replace(b"\xe0\x80\xae", b".")
    return _resolved(_segments(data.decode("utf-8", "replace")))


def url_parsing(target: str) -> list[str]:
    """As a program that gives the target to a URL parser with a base."""
    path = _path(target)
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return _resolved([*map(_decoded, _segments(path))])


def cutting_at_zero(target: str) -> list[str]:
    """As a program in C: a zero byte ends the path."""
    return _resolved(_segments(_decoded(_path(target)).partition("\0")[0]))


SPLITTING: tuple[Callable[[str], list[str]], ...] = (
    literal, servlet, url_parsing,
)  # fmt: skip
"""Servers to which an encoded slash is no slash."""
DECODING: tuple[Callable[[str], list[str]], ...] = (
    early_decoding, merging, double_decoding, truncating, servlet_behind_proxy, windows, overlong,
    cutting_at_zero,
)  # fmt: skip
