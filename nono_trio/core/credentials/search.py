r"""Find stand-ins in the bytes of a request, unchanged and in the usual encodings.

A stand-in in a request to a host that it is not bound to betrays a thief. What is searched for is
the end of each stand-in, at most SOUGHT bytes: enough that it does not occur by chance.

Found are: the bytes themselves; base64 in its three alignments and two alphabets, so also within
base64 of "user:STAND-IN"; hex in one case. Base64 and hex may be broken into lines of 60 characters
or more, because parts of them are enough. Each of these also with characters as percent escapes
(%67, also as %2567 and %252567), as escapes of JSON (\u0067, also with up to four backslashes), and
as percent escapes within a JSON text.

Not found: base64 of base64, escapes of JSON within percent escapes, compressed or encrypted data,
and a stand-in that is cut or changed by a rule of the thief's own.

Rules of this file:
- A stream keeps what may begin a stand-in together with what is still to come, but for its first
  FREE bytes. So what is found does not depend on how the data is cut, and the end of a stand-in
  never goes.
- Escapes are read from left to right. What a stream keeps begins where an escape begins.
- The memory is bounded: a stream keeps less than MAX_KEPT bytes for a stand-in of usual length.
"""

from __future__ import annotations

import re
from base64 import b32encode, b64encode
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SOUGHT: Final = 32  # bytes of a stand-in that are searched for; of digits only, 106 bits
MAX_KEPT: Final = 63 * (2 * SOUGHT + 1)  # each character in the longest escape of escapes
# Bytes of a beginning that a stream lets go all the same. Almost every text ends with a byte that
# begins some form, and a peer that waits for the last byte of a message would wait for ever.
FREE: Final = 7
_ANCHOR: Final = 12  # bytes by which the first pass finds candidates; longer ones are slower
_SHORTEST_PART: Final = 16  # characters of an encoded form that do not occur by chance
_GROUP: Final = 48  # anchors that are searched for in one pass at full speed
_FEWEST_VARIED: Final = 16  # letters and digits in an end that is enough

_LETTER_OR_DIGIT: Final = late_pattern(rb"[A-Za-z0-9]")
_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")
# The beginning of an escape at the end of the data.
_OPEN_JSON: Final = late_pattern(rb"\\{1,4}(?:u(?:0(?:0[0-9A-Fa-f]?)?)?)?\Z")
_OPEN_PERCENT: Final = late_pattern(rb"%(?:25){0,2}[0-9A-Fa-f]?\Z")
_LONGEST_OPEN: Final = 8
_MISREAD: Final = 16  # bytes at most that are misread if a text is cut within an escape
_BYTE_OF: Final = {
    spelled.encode(): bytes([value])
    for value in range(256)
    for high in {f"{value >> 4:x}", f"{value >> 4:X}"}
    for low in {f"{value & 15:x}", f"{value & 15:X}"}
    for spelled in [high + low]
}


@dataclass(frozen=True, slots=True)
class Fed:
    """The result of feeding a stream: the bytes that may go now, and the index of a stand-in.

    With an index, the request must not go on: nothing after it is let go.
    """

    data: bytes
    found: int | None = None


class StandInSearch:
    """Searches for all stand-ins of a session; safe to share. Its `repr` shows none of them.

    Stand-ins are as `stand_in_like` makes them: of at least MIN_LENGTH printable characters without
    percent sign and backslash.
    """

    def __init__(self, stand_ins: Sequence[bytes]) -> None:
        forms = [dict.fromkeys(_forms(one)) for one in stand_ins]
        self._forms = _Forms(forms)
        self._name_forms = _Forms([dict.fromkeys(_name_forms(one)) for one in stand_ins])
        used = {byte for one in forms for form in one for byte in form} - set(b"\\")
        # Each begins with one literal character, which the regex engine finds quickly.
        self._json = re.compile(rb"(\\\\{0,3}u00" + _hex_pairs(used | {ord("%")}) + rb")")
        self._percent = re.compile(rb"(%(?:25){0,2}" + _hex_pairs(used) + rb")")

    def __repr__(self) -> str:
        return "StandInSearch()"

    def find(self, data: bytes) -> int | None:
        """Return the index of a stand-in that occurs in `data`, None without one."""
        forms = self._forms
        found = forms.find(data)
        if found is None and b"\\u00" in data:
            decoded = _decoded(self._json, data)
            if decoded is not data:
                data = decoded
                found = forms.find(data)
        if found is None and b"%" in data:
            decoded = _decoded(self._percent, data)
            if decoded is not data:
                found = forms.find(decoded)
        return found

    def find_in_name(self, name: str | bytes) -> int | None:
        """Return the index of a stand-in that occurs in a host name, None without one.

        Case and dots do not matter: a name loses its case, and a label holds 63 bytes. Also found
        are hex, base32 (RFC 4648) and base64.
        """
        text = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
        return self._name_forms.find(text.lower().replace(b".", b""))

    def stream(self) -> StreamSearch:
        """Return a new search in data that comes in parts."""
        return StreamSearch(self)

    def undecided(self, data: bytes) -> int:
        """Return where the shortest end of `data` begins that must be kept: with what follows it
        may be a stand-in. It is len(data) if all may go."""
        fewest = self._forms.longest + _MISREAD
        size = fewest
        while True:
            tail = _Tail(self._json, self._percent, data[-size:])
            if len(tail.decoded) >= fewest or size >= len(data):
                return max(len(data) - size, 0) + tail.undecided(self._forms)
            size *= 4


class _Tail:
    """The end of a text with its escapes read, and where each byte of each reading begins."""

    def __init__(self, json: re.Pattern[bytes], percent: re.Pattern[bytes], given: bytes) -> None:
        self._given = given
        self._first_open = _open(_OPEN_JSON, given)
        starts: Sequence[int] = range(self._first_open)
        self._text, self._text_starts = _located(json, given[: self._first_open], starts)
        end = _open(_OPEN_PERCENT, self._text)
        if end < len(self._text):
            self._first_open = self._text_starts[end]
        self.decoded, self._starts = _located(percent, self._text[:end], self._text_starts[:end])

    def undecided(self, forms: _Forms) -> int:
        kept = min(self._first_open, len(self._given) - forms.beginning(self._given))
        for text, starts in ((self._text, self._text_starts), (self.decoded, self._starts)):
            if text != self._given and (begun := forms.beginning(text)):
                kept = min(kept, starts[-begun])
        if kept < self._first_open:  # what is kept begins where an escape begins, not within it
            kept = self._starts[bisect_right(self._starts, kept) - 1]
        return kept


class StreamSearch:
    """Searches in data that comes in parts, and keeps back what may begin a stand-in."""

    def __init__(self, search: StandInSearch) -> None:
        self._search = search
        self._kept = b""
        self._gone = 0  # bytes of `_kept` that were let go
        self._found: int | None = None

    def feed(self, data: bytes) -> Fed:
        """Take the next part. After a find nothing is let go any more."""
        if self._found is not None:
            return Fed(b"", self._found)
        gone = self._gone
        data = self._kept + data if self._kept else data
        self._found = self._search.find(data)
        if self._found is not None:
            self._kept = b""
            return Fed(b"", self._found)
        end = self._search.undecided(data)
        self._kept = data[end:]
        self._gone = min(FREE, len(self._kept))
        free = end + self._gone
        return Fed(data if not gone and free == len(data) else data[gone:free])

    def end(self) -> bytes:
        """Return what was kept back, at the end of the data; nothing after a find. Other data may
        follow, of which this is not the beginning."""
        kept, self._kept = self._kept[self._gone :], b""
        self._gone = 0
        return kept


class _Forms:
    """Texts to find: some for each stand-in."""

    def __init__(self, forms: Iterable[Iterable[bytes]]) -> None:
        self._forms = [(form, index) for index, some in enumerate(forms) for form in some]
        self.longest = max((len(form) for form, _ in self._forms), default=0)
        self._by_first: dict[bytes, list[bytes]] = {}
        for form, _ in self._forms:
            self._by_first.setdefault(form[:1], []).append(form)
        anchors = [*dict.fromkeys(form[-_ANCHOR:] for form, _ in self._forms)]
        # The fast path of the library is for this kind of match and some dozens of texts.
        self._anchors = [
            BytesAhoCorasick(anchors[at : at + _GROUP], matchkind=MatchKind.LeftmostFirst)
            for at in range(0, len(anchors), _GROUP)
        ]

    def find(self, data: bytes) -> int | None:
        for anchors in self._anchors:
            if anchors.find_matches_as_indexes(data):
                return next((index for form, index in self._forms if form in data), None)
        return None

    def beginning(self, data: bytes) -> int:
        """Return the length of the longest end of `data` that begins a form and is not whole."""
        for size in range(min(self.longest - 1, len(data)), 0, -1):
            end = data[-size:]
            for form in self._by_first.get(end[:1], ()):
                if len(form) > size and form.startswith(end):
                    return size
        return 0


def _forms(stand_in: bytes) -> Iterator[bytes]:
    """The texts by which a stand-in is found."""
    part = _sought(stand_in)
    yield part
    yield part.replace(b"/", rb"\/")
    for form in _base64_forms(part):
        for one in _parts(form, 2):  # a line break is in one of them
            yield from (one, one.translate(_URL_ALPHABET), one.replace(b"/", rb"\/"))
    for one in _parts(part.hex().encode(), 3):
        yield from (one, one.upper())


def _name_forms(stand_in: bytes) -> Iterator[bytes]:
    """The texts by which a stand-in is found in a name: lower-case, without dots."""
    part = _sought(stand_in)
    yield part.replace(b".", b"").lower()
    yield from _parts(part.hex().encode(), 3)
    for form in _base64_forms(part):
        for one in _parts(form, 2):
            yield from (one.lower(), one.translate(_URL_ALPHABET).lower())
    for before in range(5):
        form = _inner(b32encode(bytes(before) + part), 5, before, len(part))
        yield from _parts(form.lower(), 2)


def _base64_forms(part: bytes) -> Iterator[bytes]:
    """The characters of base64 that only the stand-in decides, for each alignment."""
    for before in range(3):
        yield _inner(b64encode(bytes(before) + part), 6, before, len(part))


def _parts(form: bytes, most: int) -> list[bytes]:
    """Cut a form into `most` equal parts, or fewer if they would be too short."""
    count = max(1, min(most, len(form) // _SHORTEST_PART))
    size = -(-len(form) // count)
    return [form[at : at + size] for at in range(0, len(form), size)]


def _inner(encoded: bytes, bits: int, before: int, size: int) -> bytes:
    """The characters with `bits` bits each that `size` bytes after `before` others decide."""
    return encoded[-(-before * 8 // bits) : (before + size) * 8 // bits]


def _sought(stand_in: bytes) -> bytes:
    """The end of a stand-in, or the whole if its end has few letters and digits."""
    end = stand_in[-SOUGHT:]
    return end if len(_LETTER_OR_DIGIT.findall(end)) >= _FEWEST_VARIED else stand_in


def _hex_pairs(values: Iterable[int]) -> bytes:
    """Return the regex of the two hex digits of these bytes, in either case."""
    by_first: dict[str, set[str]] = {}
    for value in values:
        first, second = f"{value >> 4:x}", f"{value & 15:x}"
        for one in (first, first.upper()):
            by_first.setdefault(one, set()).update((second, second.upper()))
    branches = [f"{first}[{''.join(sorted(some))}]" for first, some in sorted(by_first.items())]
    return f"(?:{'|'.join(branches) or '(?!)'})".encode()


def _decoded(escape: re.Pattern[bytes], data: bytes) -> bytes:
    """Return `data` with the escapes as the bytes that they mean; `data` itself without any."""
    pieces = escape.split(data)
    if len(pieces) == 1:
        return data
    pieces[1::2] = [_BYTE_OF[one[-2:]] for one in pieces[1::2]]
    return b"".join(pieces)


def _located(
    escape: re.Pattern[bytes], data: bytes, starts: Sequence[int]
) -> tuple[bytes, Sequence[int]]:
    """As `_decoded`; also return where each byte begins, given where each byte of `data` does."""
    pieces = escape.split(data)
    if len(pieces) == 1:
        return data, starts
    located: list[int] = []
    at = 0
    for number, piece in enumerate(pieces):
        if number % 2:
            located.append(starts[at])
            pieces[number] = _BYTE_OF[piece[-2:]]
        else:
            located += starts[at : at + len(piece)]
        at += len(piece)
    return b"".join(pieces), located


def _open(beginning: re.Pattern[bytes], data: bytes) -> int:
    """Return where an unfinished escape at the end begins; len(data) without one."""
    end = data[-_LONGEST_OPEN:]
    match = beginning.search(end)
    return len(data) if match is None else len(data) - len(end) + match.start()
