"""Swap stand-ins for secrets in a request to a bound host: in its head, or in a whole body.

Rules of this file:
- A stand-in is swapped only in the places of its credential. In another place it stays, and the
  result says so.
- Everything but the stand-in stays byte for byte: the result is `given` itself without one.
- A secret is written as its place needs it: as it is in a header, in base64 for Basic, in percent
  escapes in a target or form, in escapes of JSON in a JSON string. A name in JSON or in a form is
  never changed.
- A secret that its place can't have raises SecretUnfit, and nothing is swapped: a line break in a
  header would be a field or a request of the secret's author.
- Only the fields and parameters of a credential are changed, because servers send others back. The
  stand-in must be a whole token there: a server shows a token in its error text if it is malformed.
- Secrets are part of no error and no `repr`.

The secrets may not be there yet. `stand_ins_in_head` and `stand_ins_in_body` say whose are needed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from nono_trio.core.credentials.credential import DEFAULT_HEADERS, DEFAULT_PARAMETERS, Place
from nono_trio.core.http.header_fields import basic_parts
from nono_trio.core.http.media_types import is_form, is_json
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.log.events import InjectionMode

MAX_BODY: Final = 256 * 1024  # bytes of a body that is read whole to swap in it

# How a record names a place; a body has no name there.
INJECTION_MODES: Final[Mapping[Place, InjectionMode]] = {
    Place.HEADER: "header",
    Place.BASIC: "basic_auth",
    Place.QUERY: "query_param",
    Place.PATH: "url_path",
}

# No part of a token may be before or after a stand-in in a field. A dot may be before it: there are
# protocols of WebSocket like "api-key.TOKEN".
_BEFORE: Final = rb"(?<![A-Za-z0-9_+/~-])"
_AFTER: Final = rb"(?![A-Za-z0-9_.+/~-])"
_BASIC: Final = late_pattern(rb"([Bb][Aa][Ss][Ii][Cc] +)([A-Za-z0-9+/=]+)([ \t]*)")
_LEGAL_VALUE: Final = late_pattern(rb"(?! )[\x20-\x7e\x80-\xff]+(?<! )")
_CONTROL: Final = late_pattern(rb"[\x00-\x1f\x7f]")
_PERCENT: Final = late_pattern(rb"(%[0-9A-Fa-f]{2})")
_JSON_ESCAPE: Final = late_pattern(rb"(\\(?:u[0-9A-Fa-f]{4}|.))", re.DOTALL)
_HAS_ESCAPE: Final = late_pattern(rb"\\(?:u00|/)")  # one of which a stand-in may have a character
_JSON_STRING: Final = late_pattern(rb'("[^"\\]*(?:\\.[^"\\]*)*")([ \t\r\n]*:)?', re.DOTALL)
_PATH_SAFE: Final = "!$'()*+,;=:@"  # besides the unreserved ones, RFC 3986 3.3


class SecretUnfit(Exception):
    """A secret can't be written in a place. `reason` is a sentence without the secret."""

    def __init__(self, name: str, place: Place, reason: str) -> None:
        super().__init__(f"the secret of credential {name} {reason}")
        self.name = name
        self.place = place
        self.reason = str(self)


@dataclass(frozen=True, slots=True)
class Swap:
    """A stand-in, the secret to put there, and the places in which that is done."""

    name: str
    stand_in: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    places: frozenset[Place]
    headers: frozenset[str] = DEFAULT_HEADERS
    parameters: frozenset[str] = DEFAULT_PARAMETERS


class Spot(NamedTuple):
    """A stand-in that was seen: the credential's name and the place.

    `part` is the name of the field or parameter, as the command wrote it; "" in other places.
    """

    name: str
    place: Place
    part: str = ""


@dataclass(frozen=True, slots=True)
class Swapped:
    """The stand-ins that were swapped, and those that stayed."""

    done: tuple[Spot, ...] = ()
    left: tuple[Spot, ...] = ()


@dataclass(frozen=True, slots=True)
class SwappedHead(Swapped):
    """The target and the fields to send; they may carry secrets."""

    target: bytes = field(default=b"", repr=False)
    fields: Sequence[Field] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class SwappedBody(Swapped):
    """The body to send; it may carry secrets."""

    data: bytes = field(default=b"", repr=False)


def swap_head(target: bytes, fields: Sequence[Field], swaps: Iterable[Swap]) -> SwappedHead:
    """Swap in a target in origin-form and in fields with lower-case names. Raises SecretUnfit.

    Without a stand-in the result has the given target and the given sequence.
    """
    notes = _Notes()
    for one in swaps:
        target = _swap_target(target, one, notes)
        fields = _swap_fields(fields, one, notes)
    return SwappedHead(*notes.seen(), target, fields)


def swap_body(content_type: bytes | None, data: bytes, swaps: Iterable[Swap]) -> SwappedBody:
    """Swap in a whole body of JSON or a form, of at most MAX_BODY bytes. Raises SecretUnfit.

    A stand-in in a body of another type, or in one that is not valid JSON, stays.
    """
    notes = _Notes()
    for one in swaps:
        swap = one if Place.BODY in one.places else _without_secret(one)
        changed = _swap_json(content_type, data, swap) or _swap_form(content_type, data, swap)
        if changed is not None and notes.add(one, Place.BODY):
            data = changed
        elif changed is None and one.stand_in in data:
            notes.stays(one, Place.BODY)
    return SwappedBody(*notes.seen(), data)


def is_swappable(content_type: bytes | None) -> bool:
    """Return True for a type of body in which `swap_body` swaps."""
    return is_json(content_type) or is_form(content_type)


def stand_ins_in_head(target: bytes, fields: Sequence[Field], swaps: Iterable[Swap]) -> Swapped:
    """As `swap_head`, but only say what would be swapped; the secrets are not looked at."""
    found = swap_head(target, fields, map(_without_secret, swaps))
    return Swapped(found.done, found.left)


def stand_ins_in_body(content_type: bytes | None, data: bytes, swaps: Iterable[Swap]) -> Swapped:
    """As `swap_body`, but only say what would be swapped; the secrets are not looked at."""
    found = swap_body(content_type, data, map(_without_secret, swaps))
    return Swapped(found.done, found.left)


class _Notes:
    """The stand-ins that were swapped and that stayed, each once, in order."""

    def __init__(self) -> None:
        self._done: dict[Spot, None] = {}
        self._left: dict[Spot, None] = {}

    def add(self, swap: Swap, place: Place, part: str = "") -> bool:
        """Note a stand-in in a place; return True if it is to be swapped there."""
        swaps = place in swap.places
        (self._done if swaps else self._left)[Spot(swap.name, place, part)] = None
        return swaps

    def stays(self, swap: Swap, place: Place, part: str = "") -> None:
        """Note a stand-in that is not swapped."""
        self._left[Spot(swap.name, place, part)] = None

    def seen(self) -> tuple[tuple[Spot, ...], tuple[Spot, ...]]:
        """Return what was swapped, and what stayed."""
        return tuple(self._done), tuple(self._left)


def _without_secret(swap: Swap) -> Swap:
    return replace(swap, secret=swap.stand_in)


def _swap_fields(fields: Sequence[Field], swap: Swap, notes: _Notes) -> Sequence[Field]:
    """Return the fields to send; the same object without a stand-in that is swapped."""
    changed: list[Field] | None = None
    for number, (name, value) in enumerate(fields):
        if swap.stand_in in value or name == b"authorization":
            new = _swap_value(name, value, swap, notes)
            if new is not value:
                changed = changed or [*fields]
                changed[number] = (name, new)
    return fields if changed is None else changed


def _swap_value(name: bytes, value: bytes, swap: Swap, notes: _Notes) -> bytes:
    """Return the value to send; the same object without a stand-in."""
    if swap.stand_in in value:
        return _swap_plain(name.decode("latin-1"), value, swap, notes)
    if name == b"authorization" and (basic := _BASIC.fullmatch(value)) is not None:
        sides = basic_parts(basic[2])
        if swap.stand_in in sides and notes.add(swap, Place.BASIC):
            return basic[1] + b64encode(_swap_sides(sides, swap)) + basic[3]
        if swap.stand_in not in sides and any(swap.stand_in in one for one in sides):
            notes.stays(swap, Place.BASIC)
    return value


def _swap_plain(name: str, value: bytes, swap: Swap, notes: _Notes) -> bytes:
    whole = re.compile(_BEFORE + re.escape(swap.stand_in) + _AFTER)
    if name not in swap.headers or not whole.search(value):
        notes.stays(swap, Place.HEADER, name)
    elif notes.add(swap, Place.HEADER, name):
        _check(swap, Place.HEADER, _LEGAL_VALUE.fullmatch(swap.secret), _NO_HEADER)
        return whole.sub(lambda _: swap.secret, value)
    return value


_NO_HEADER: Final = "has a line break, a control character or a space at its end"


def _swap_sides(sides: Sequence[bytes], swap: Swap) -> bytes:
    _check(swap, Place.BASIC, not _CONTROL.search(swap.secret), "has a control character")
    if sides[0] == swap.stand_in:
        _check(swap, Place.BASIC, b":" not in swap.secret, "has a colon, which ends a user name")
    return b":".join(swap.secret if one == swap.stand_in else one for one in sides)


def _swap_target(target: bytes, swap: Swap, notes: _Notes) -> bytes:
    if swap.stand_in not in target and b"%" not in target:
        return target
    path, mark, query = target.partition(b"?")
    if (changed := _in_percent(path, swap, _PATH_SAFE)) is not None:
        if not path.startswith(b"/"):  # absolute-form: a part of it is an authority
            notes.stays(swap, Place.PATH)
        elif notes.add(swap, Place.PATH):
            path = changed
    return path + mark + _swap_query(query, swap, notes)


def _swap_query(query: bytes, swap: Swap, notes: _Notes) -> bytes:
    """Return a query after the swap in the whole values of the credential's parameters."""
    if _in_percent(query, swap, "") is None:
        return query
    pairs = query.split(b"&")
    for number, pair in enumerate(pairs):
        raw_name, equals, value = pair.partition(b"=")
        name = unquote_to_bytes(raw_name).decode("latin-1")
        if unquote_to_bytes(value) == swap.stand_in and name.lower() in swap.parameters:
            if notes.add(swap, Place.QUERY, name):
                pairs[number] = raw_name + equals + quote_from_bytes(swap.secret, safe="").encode()
        elif _in_percent(pair, swap, "") is not None:
            notes.stays(swap, Place.QUERY, name)
    return b"&".join(pairs)


def _swap_form(content_type: bytes | None, data: bytes, swap: Swap) -> bytes | None:
    """Return a form after the swap in its values; None without a stand-in in one."""
    if not is_form(content_type):
        return None
    if swap.stand_in not in data and b"%" not in data:
        return None
    pairs = data.split(b"&")
    is_found = False
    for number, pair in enumerate(pairs):
        name, equals, value = pair.partition(b"=")
        if (changed := _in_percent(value, swap, "")) is not None:
            pairs[number] = name + equals + changed
            is_found = True
    return b"&".join(pairs) if is_found else None


def _in_percent(text: bytes, swap: Swap, safe: str) -> bytes | None:
    """Return a text with percent escapes after the swap; None without a stand-in."""
    encoded = quote_from_bytes(swap.secret, safe=safe).encode()
    return _replaced(text, swap.stand_in, encoded, _PERCENT, _percent_byte)


def _swap_json(content_type: bytes | None, data: bytes, swap: Swap) -> bytes | None:
    """Return JSON after the swap in its strings that are values; None without a stand-in."""
    if not is_json(content_type):
        return None
    if not _may_have(data, swap):
        return None
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # it is not known what is a string
    new = _json_text(swap)
    is_found = False

    def swapped(match: re.Match[bytes]) -> bytes:
        nonlocal is_found
        if match[2] is not None or not _may_have(match[1], swap):
            return match[0]
        changed = _replaced(match[1], swap.stand_in, new, _JSON_ESCAPE, _json_byte)
        is_found |= changed is not None
        return match[0] if changed is None else changed

    changed = _JSON_STRING.sub(swapped, data)
    return changed if is_found else None


def _may_have(text: bytes, swap: Swap) -> bool:
    return swap.stand_in in text or _HAS_ESCAPE.search(text) is not None


def _json_text(swap: Swap) -> bytes:
    try:
        text = swap.secret.decode()
    except UnicodeDecodeError:
        raise SecretUnfit(swap.name, Place.BODY, "is not UTF-8") from None
    return msgspec.json.encode(text)[1:-1]


def _replaced(
    text: bytes,
    stand_in: bytes,
    new: bytes,
    escape: re.Pattern[bytes],
    meant: Callable[[bytes], bytes],
) -> bytes | None:
    """Return `text` with `new` where the stand-in is, plain or with escapes; None without it.

    `meant` returns the one byte that an escape stands for.
    """
    pieces = escape.split(text)
    if len(pieces) == 1:
        return text.replace(stand_in, new) if stand_in in text else None
    starts: list[int] = []
    at = 0
    for number, piece in enumerate(pieces):
        if number % 2:
            starts.append(at)
            pieces[number] = meant(piece)
        else:
            starts += range(at, at + len(piece))
        at += len(piece)
    starts.append(at)
    decoded = b"".join(pieces)
    found = decoded.find(stand_in)
    if found < 0:
        return None
    parts: list[bytes] = []
    end = 0
    while found >= 0:
        parts += (text[end : starts[found]], new)
        found += len(stand_in)
        end = starts[found]
        found = decoded.find(stand_in, found)
    return b"".join((*parts, text[end:]))


def _percent_byte(escape: bytes) -> bytes:
    return bytes([int(escape[1:], 16)])


def _json_byte(escape: bytes) -> bytes:
    """Return the byte of an escape of ASCII, else one that no stand-in has."""
    if escape[1:2] != b"u":
        return escape[1:] if escape[1:] in (b"/", b'"', b"\\") else b"\0"
    number = int(escape[2:], 16)
    return bytes([number]) if number < 0x80 else b"\0"


def _check(swap: Swap, place: Place, legal: object, reason: str) -> None:
    if not legal:
        raise SecretUnfit(swap.name, place, reason)
