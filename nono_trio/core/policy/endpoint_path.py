r"""The canonical path of a request: the one spelling that is matched, sent upstream and recorded.

Rules of this file:
- RFC 3986 6.2.2: escapes of unreserved characters are decoded, other escapes are upper-case, dot
  segments are resolved. Nothing else changes: "//" stays, because object stores use it.
- A path that begins with "//" is refused: URL parsers take what follows for a host.
- A path that servers read in different ways is refused with its reason: one that climbs above the
  root, a backslash, a control character, a character outside ASCII, a fragment, a broken escape,
  a dot segment with parameters ("..;x") or behind one more decoding ("%252e%252e", "%EF%BC%8E").
- An encoded slash ("%2F") is kept; `hides_slash` says so, and only a rule that allows it matches.
- The query is sent as it came. A fragment, a control character or a character outside ASCII in it
  is refused.
- Paths are remembered without their queries, and none that its record shows in part only: a secret
  of one request must not stay in memory.
- The work is bounded: MAX_PATH characters, MAX_SEGMENTS segments, MAX_LEVELS decodings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from nono_trio.core.late import late_pattern
from nono_trio.core.log.redaction import redact_path

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATH: Final = 4096  # characters; OpenShell's bound, and half of a request line here
MAX_SEGMENTS: Final = 256  # matching takes time by segments; real paths have fewer than 30
MAX_LEVELS: Final = 3  # escapes within escapes; real clients have two at most
PATH_CACHE: Final = 1024  # paths kept; at most 16 KiB each, so 16 MiB in the worst case
LONGEST_KEPT: Final = 2048  # characters of a path that is kept

_ESCAPE: Final = late_pattern(r"%(?:([0-9A-Fa-f]{2})|)")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_VISIBLE: Final = late_pattern(r"[\x21-\x7e]*")
_CONTROL: Final = late_pattern(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A dot segment, also with what some servers remove: parameters, a query, and spaces and dots at the
# end (Windows), of which nothing may be left.
_DOTS: Final = late_pattern(r"\.{1,2}(?: [ .]*)?(?:[;?#].*)?", re.DOTALL)
_BLANK: Final = late_pattern(r"[ .]+")
_WITHOUT_WIDTH: Final = late_pattern("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# Other characters that a conversion to a code page of Windows turns into a slash or a backslash.
_BEST_FIT: Final = str.maketrans(dict.fromkeys("\u2044\u2215\u29f8", "/") | dict.fromkeys(
    "\u2216\u29f5\u29f9\u00a5\u20a9", "\\"
))  # fmt: skip


class BadPath(Exception):
    """A target that has no safe reading; `reason` completes "the path ..." and quotes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CanonicalTarget:
    """The path and query of a request in their canonical spelling.

    `query` is what follows the question mark, None without one. `hides_slash`: a segment has a
    slash in it after decoding.
    """

    path: str
    query: str | None = None
    hides_slash: bool = False
    readings: list[frozenset[tuple[str, ...]]] = field(
        default_factory=list, compare=False, repr=False
    )
    """Its readings, once they were looked for (endpoint_readings.py); at most 64 KiB."""

    @property
    def text(self) -> str:
        """The target to send upstream, in origin-form."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def segments(self) -> tuple[str, ...]:
        """The texts between the slashes; the last one is "" for a path that ends in a slash."""
        return tuple(self.path[1:].split("/"))


def canonical_target(target: str) -> CanonicalTarget:
    """Return the canonical spelling of a target in origin-form. Raises BadPath. Idempotent over
    `CanonicalTarget.text`."""
    if not _VISIBLE.fullmatch(target):
        _refuse_character(target)
    if "#" in target:
        _refuse("has a fragment")
    path, mark, query = target.partition("?")
    may_be_kept = len(path) <= LONGEST_KEPT and redact_path(path) == path
    canonical, hides_slash = (_remembered if may_be_kept else _canonical)(path)
    return CanonicalTarget(canonical, query if mark else None, hides_slash)


def canonical_segment(segment: str) -> str:
    """Return a segment with its escapes in canonical spelling. Raises BadPath."""
    return _ESCAPE.sub(_canonical_escape, segment) if "%" in segment else segment


def decoded_levels(segment: str) -> Iterator[str]:
    """Yield what a segment is after one decoding, two, and so on, until nothing changes.

    Characters that servers take for others (full-width ones) are those others. Raises BadPath.
    """
    from urllib.parse import unquote_to_bytes  # late: for paths with escapes

    for _ in range(MAX_LEVELS + 1):
        try:
            decoded = _compatible(unquote_to_bytes(segment).decode("utf-8"))
        except UnicodeDecodeError:
            _refuse("has escapes that are not UTF-8")
        if decoded == segment:
            return
        yield decoded
        segment = decoded
    _refuse(f"has escapes within escapes, more than {MAX_LEVELS} deep")


@lru_cache(maxsize=PATH_CACHE)
def _remembered(path: str) -> tuple[str, bool]:
    return _canonical(path)


def _canonical(path: str) -> tuple[str, bool]:
    """Return the canonical path, and whether a segment hides a slash. Raises BadPath."""
    if not path.startswith("/"):
        _refuse("does not begin with a slash")
    if "\\" in path:
        _refuse("has a backslash")
    if len(path) > MAX_PATH:
        _refuse(f"is longer than {MAX_PATH} characters")
    given = path[1:].split("/")
    if len(given) > MAX_SEGMENTS:
        _refuse(f"has more than {MAX_SEGMENTS} segments")
    segments, hides_slash = _resolved(given)
    if len(segments) > 1 and not segments[0]:
        _refuse("begins with two slashes")
    return "/" + "/".join(segments), hides_slash


def _resolved(given: list[str]) -> tuple[list[str], bool]:
    """Return the segments without dot segments, and whether one of them hides a slash."""
    found: list[tuple[str, bool]] = []
    ends_in_dots = False
    for one in given:
        segment = canonical_segment(one)
        ends_in_dots = segment in (".", "..")
        if not ends_in_dots:
            found.append((segment, _hides_slash(segment)))
        elif segment == "..":
            if not found:
                _refuse("climbs above the root")
            found.pop()
    if ends_in_dots:
        found.append(("", False))
    return [segment for segment, _ in found], any(hides for _, hides in found)


def _canonical_escape(match: re.Match[str]) -> str:
    digits = match[1]
    if digits is None:
        _refuse("has a percent sign that is no escape")
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else f"%{digits.upper()}"


def _hides_slash(segment: str) -> bool:
    """Check a segment as servers may read it; return whether it has a slash then."""
    _check_dots(segment)
    if "%" not in segment:
        return False
    hides_slash = False
    for decoded in decoded_levels(segment):
        if _CONTROL.search(decoded):
            _refuse("has an encoded control character")
        if "\\" in decoded:
            _refuse("has an encoded backslash")
        for piece in decoded.split("/"):
            _check_dots(piece)
        hides_slash |= "/" in decoded
    return hides_slash


def _check_dots(piece: str) -> None:
    if piece and piece[0] in ". " and (_DOTS.fullmatch(piece) or _BLANK.fullmatch(piece)):
        _refuse("has an ambiguous dot segment")


def _compatible(text: str) -> str:
    """Return what servers may take a text for that is not ASCII."""
    if text.isascii():
        return text
    import unicodedata  # late: few paths have such characters

    text = _WITHOUT_WIDTH.sub("", text).translate(_BEST_FIT)
    return unicodedata.normalize("NFKC", text)


def _refuse_character(target: str) -> NoReturn:
    if not target.isascii():
        _refuse("has characters outside ASCII")
    _refuse("has a space" if " " in target else "has a control character")


def _refuse(reason: str) -> NoReturn:
    raise BadPath(reason)
