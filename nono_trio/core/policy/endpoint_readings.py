"""The ways in which servers may read a path: a deny rule holds in each of them.

Servers differ: some ignore case, decode reserved characters (%40 is @), merge slashes, drop a
slash at the end, cut parameters off a segment (";x"), decode twice, or take an encoded slash for
a slash. An allow rule needs none of this, since it must match the path exactly.

Rules of this file: a reading is compared, and never sent; more readings deny more. Their number is
bounded by MAX_LEVELS of endpoint_path.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from nono_trio.core.policy.endpoint_path import decoded_levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono_trio.core.policy.endpoint_path import CanonicalTarget

Reading: TypeAlias = tuple[str, ...]

_CUT_REST: Final = re.compile(r"[?#].*", re.DOTALL)
_UNUSUAL: Final = re.compile(r"[%;:. ]")


def readings(target: CanonicalTarget) -> set[Reading]:
    """Return every reading of a path: its segments, folded and without empty ones."""
    path = target.path
    if not _UNUSUAL.search(path):
        return {_reading(path.split("/"))}
    found: set[Reading] = set()
    for segments in _levels(target.segments):
        joined = "/".join(segments)
        for form in (segments, joined.split("/"), _CUT_REST.sub("", joined).split("/")):
            found.add(_reading(form))
            found.add(_reading(_cut(one) for one in form))
    return found


def folded(text: str) -> str:
    """Return a text as readings have it: decoded, and without regard to case."""
    return [text, *decoded_levels(text)][-1].casefold()


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
    return tuple(one.casefold() for one in segments if one)
