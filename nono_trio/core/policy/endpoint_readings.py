"""The ways in which servers may read a canonical path: endpoint rules hold in each of them.

Servers differ: some ignore case, decode reserved characters (%40 is @), merge slashes, drop a
slash at the end, cut parameters off a segment (";x"), decode twice, take an encoded slash for a
slash, or end the path at an encoded question mark. Most of that leads to another spelling of the
same segment, which only a deny rule must take into account. What makes the path shorter matters to
an allow rule as well: `/users/*/public` must not let `/users/root%3F/public` through, nor `*.json`
`secret;.json`. Merged slashes do not: only `**` stands for an empty segment, and it may stand for
none.

Rules of this file: a reading is compared, and never sent; more readings deny more. Their number is
bounded by MAX_LEVELS of endpoint_path.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.endpoint_path import decoded_levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.core.policy.endpoint_path import CanonicalTarget

Reading: TypeAlias = tuple[str, ...]

# An encoded "?" or "#", encoded again or not, and the full-width ones.
_EARLY_END: Final = late_pattern(r"%(?:25)*(?:3F|23|EF%(?:25)*BC%(?:25)*(?:9F|83))", re.IGNORECASE)
_PARAMETERS: Final = late_pattern(r"(?:;|%(?:25)*3B)[^/]*", re.IGNORECASE)
_CUT_REST: Final = late_pattern(r"[?#].*", re.DOTALL)
_UNUSUAL: Final = late_pattern(r"[%;:. ]")


def strict_readings(target: CanonicalTarget, pattern: str = "") -> Iterator[Sequence[str]]:
    """Yield the readings of a path that an allow rule must match, all of them.

    They are its segments, and those of servers that cut parameters off or end the path early. A
    rule whose own `pattern` has parameters or an encoded question mark means them.
    """
    forms = [target.path]
    if "%" in target.path and not _EARLY_END.search(pattern):
        early = _EARLY_END.search(target.path)
        forms += [] if early is None else [target.path[: early.start()]]
    if not _PARAMETERS.search(pattern):
        forms += [_PARAMETERS.sub("", one) for one in forms if _PARAMETERS.search(one)]
    for form in forms:
        yield form[1:].split("/")


def readings(target: CanonicalTarget) -> frozenset[Reading]:
    """Return every reading of a path: its segments, folded and without empty ones. They are kept
    with the target for the next deny rule."""
    if not target.readings:
        target.readings.append(_readings(target))
    return target.readings[0]


def _readings(target: CanonicalTarget) -> frozenset[Reading]:
    path = target.path
    if not _UNUSUAL.search(path):
        return frozenset({_reading(path.split("/"))})
    found: set[Reading] = set()
    for segments in _levels(target.segments):
        joined = "/".join(segments)
        for form in (segments, joined.split("/"), _CUT_REST.sub("", joined).split("/")):
            found.add(_reading(form))
            found.add(_reading(map(_cut, form)))
        if joined.startswith("/"):  # "//host/path", which a URL parser splits so
            found.add(_reading(joined.split("/")[2:]))
    return frozenset(found)


def folded(text: str) -> str:
    """Return a text as readings have it: decoded, and without regard to case and accents."""
    return _folded([text, *decoded_levels(text)][-1])


def _levels(segments: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the segments as they are, and after each decoding of all of them."""
    yield [*segments]
    decoded = [[one, *decoded_levels(one)] for one in segments]
    for level in range(1, max(map(len, decoded))):
        yield [one[min(level, len(one) - 1)] for one in decoded]


def _cut(segment: str) -> str:
    """Cut off parameters, a stream of NTFS, and the spaces and dots that Windows drops."""
    name = segment.partition(";")[0].partition(":$")[0]
    return name.rstrip(":").rstrip(" .") if name != segment else segment.rstrip(" .")


def _reading(segments: Iterable[str]) -> Reading:
    return tuple(map(_folded, filter(None, segments)))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    import unicodedata  # late: few paths have such characters

    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(one for one in plain if not unicodedata.combining(one))
    return plain.upper().casefold()  # upper-case first: a dotless i is an I then
