"""The answer of a token endpoint: its tokens are found, and stand-ins are put in their place.

It is JSON (RFC 6749 5.1, and the device flow of RFC 8628), or a form as GitHub sends one. Rules of
this file:
- A token is the text of a field of TOKEN_FIELDS, or of one that the profile names, in the answer or
  in an object within it. Of names only letters and digits are compared, without case: some servers
  write accessToken, and some clients read "access_token[]" as access_token.
- Everything but the tokens stays byte for byte.
- An answer that clients may read in two ways is refused: a member that is there twice, text that is
  not UTF-8, a token that is no text, a form with characters that a form escapes. So is one that has
  a token within another text too.
- An answer without a token is no error: it says why the server gives no token (yet).
- No error and no `repr` has a token, or a text of the server's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from nono_trio.core.http.media_types import is_form, is_json
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_ANSWER: Final = 256 * 1024  # bytes; tokens of some kilobytes, with profile data beside them
MAX_DEPTH: Final = 32  # of objects and lists; known answers have three
MAX_TOKENS: Final = 16  # of one answer; known ones have four
TOKEN_FIELDS: Final = ("access_token", "refresh_token", "id_token")
MAX_LIFETIME: Final = 10 * 366 * 24 * 3600  # seconds; a longer time is no use to anybody

# Of a valid JSON text: strings (a name if a colon follows), brackets, and all other values.
_JSON_TOKEN: Final = late_pattern(
    rb'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")(?P<colon>[ \t\r\n]*:)?'
    rb"|(?P<open>[{\[])|(?P<close>[}\]])|(?P<other>[^\s,:\"{}\[\]]+)",
    re.DOTALL,
)
# Characters that a form escapes: some clients read such text as JSON, or cut it at ";".
_NOT_FORM: Final = late_pattern(rb"[^!#-:=?-\[\]-z|~]")
# Escapes of JSON, and those of forms.
_ESCAPES: Final = late_pattern(rb"\\u00([0-9a-f]{2})|%([0-9a-f]{2})", re.IGNORECASE)
_ERROR_CODE: Final = late_pattern(r"[a-z][a-z_]{1,63}")  # RFC 6749 5.2 and extensions of it
_NO_TOKENS: Final = frozenset({b"null", b"false", b"true"})
_LIFETIME: Final = late_pattern(r"[0-9]{1,12}")


class BadAnswer(Exception):
    """An answer that must not go on; `reason` completes "the answer of the token endpoint ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A parsed answer. `tokens` are the values by field, `lifetime` is expires_in in seconds.

    `error` is the code of an error (RFC 6749 5.2). A field that is there in several objects has the
    first value in `tokens`; `values` has all.
    """

    tokens: Mapping[str, bytes] = field(repr=False)
    values: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    lifetime: int | None = None
    error: str | None = None
    _pieces: tuple[bytes, ...] = field(default=(), repr=False)
    _is_form: bool = False

    def with_stand_ins(self, stand_ins: Mapping[bytes, bytes]) -> bytes:
        """Return the answer with the value of `stand_ins` for each token that it has one for.

        Raises BadAnswer if such a token is still in it, within another text.
        """
        pieces = [*self._pieces]
        for number in range(1, len(pieces), 2):
            new = stand_ins.get(pieces[number], pieces[number])
            pieces[number] = _form_value(new) if self._is_form else _json_value(new)
        made = b"".join(pieces)
        texts = (made, unquote_to_bytes(made)) if self._is_form else (made, *_texts(made))
        replaced = [one for _, one in self.values if one in stand_ins]
        if any(token in text for token in replaced for text in texts):
            raise BadAnswer("has a token within another text")
        return made


def _form_value(value: bytes) -> bytes:
    return quote_from_bytes(value, safe="").encode()


def _json_value(value: bytes) -> bytes:
    return msgspec.json.encode(value.decode())[1:-1]


def field_key(name: str) -> str:
    """Return a name as names of fields are compared."""
    return "".join(filter(str.isalnum, name)).lower()


def may_hold_token(data: bytes, fields: Collection[str]) -> bool:
    """Tell whether a text that is no answer may have a token: the name of a field, and a value."""
    text = _ESCAPES.sub(lambda match: bytes.fromhex((match[1] or match[2]).decode()), data)
    names = "|".join("[^a-z0-9]{0,2}".join(field_key(one)) for one in fields)
    pattern = rf"(?:{names})[^a-z0-9:=>]{{0,8}}[:=>][^a-z0-9]{{0,8}}[^\s\"'&<]{{8}}"
    return re.search(pattern.encode(), text, re.IGNORECASE) is not None


def read_token_answer(
    content_type: bytes | None,
    data: bytes,
    fields: Collection[str] = TOKEN_FIELDS,
    *,
    is_request: bool = False,
) -> TokenAnswer:
    """Parse the body of an answer. Raises BadAnswer.

    Without a content type it must be a JSON object. `is_request`: it is a request, whose form a
    client may have escaped in part.
    """
    if len(data) > MAX_ANSWER:
        raise BadAnswer(f"is longer than {MAX_ANSWER} bytes")
    names = {field_key(one): one for one in fields}
    if is_form(content_type):
        if not is_request and _NOT_FORM.search(data.strip()) is not None:
            raise BadAnswer("has characters that a form escapes")
        return _read_form(data, names)
    if content_type is None or is_json(content_type):
        return _read_json(data, names)
    raise BadAnswer("is neither JSON nor a form")


def _read_form(data: bytes, names: Mapping[str, str]) -> TokenAnswer:
    pieces: list[bytes] = [b""]
    found: list[tuple[str, bytes]] = []
    others: dict[str, str] = {}
    for number, pair in enumerate(data.split(b"&")):
        raw_name, equals, raw_value = pair.partition(b"=")
        name, value = _form_text(raw_name), _form_text(raw_value)
        key = field_key(name)
        key = key if key in names else name
        if key in others:
            raise BadAnswer("has a field twice")
        others[key] = value
        pieces[-1] += (b"&" if number else b"") + raw_name + equals
        if key in names and value:
            token = value.encode()
            found.append((names[key], token))
            pieces += (token, b"")
        else:
            pieces[-1] += raw_value
    return _answer(found, others.get("expires_in"), others.get("error"), pieces, is_form=True)


def _form_text(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadAnswer("is not UTF-8") from None


def _read_json(data: bytes, names: Mapping[str, str]) -> TokenAnswer:
    try:
        decoded = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("is not valid JSON") from None
    if not isinstance(decoded, dict):
        raise BadAnswer("is not a JSON object")
    walk = _Walk(names)
    for match in _JSON_TOKEN.finditer(data):
        walk.take(match)
    pieces = _cut(data, frozenset(token for _, token in walk.found))
    return _answer(
        walk.found, decoded.get("expires_in"), decoded.get("error"), pieces, is_form=False
    )


class _Walk:
    """Goes through a valid JSON text and gathers the values of the fields."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        # For each open object the names that it has; None for a list.
        self._open: list[set[str] | None] = []
        self._name: str | None = None  # of the member whose value comes next
        self.found: list[tuple[str, bytes]] = []

    def take(self, match: re.Match[bytes]) -> None:
        """Take the next match of _JSON_TOKEN. Raises BadAnswer."""
        if match["colon"] is not None:
            self._take_name(_json_text(match["text"]).decode())
        elif match["close"]:
            self._open.pop()
        else:
            field_name = self._names.get(self._name or "")
            self._name = None
            if field_name is not None and match["other"] not in _NO_TOKENS:
                self._take_token(field_name, match["text"])
            if match["open"]:
                self._take_open(match["open"])

    def _take_name(self, name: str) -> None:
        names = self._open[-1]
        key = field_key(name)
        key = key if key in self._names else name
        if names is None or key in names:
            raise BadAnswer("has a member twice")
        names.add(key)
        self._name = key

    def _take_token(self, name: str, raw: bytes | None) -> None:
        if raw is None:
            raise BadAnswer("has a token that is no text")
        if text := _json_text(raw):
            self.found.append((name, text))

    def _take_open(self, bracket: bytes) -> None:
        self._open.append(set() if bracket == b"{" else None)
        if len(self._open) > MAX_DEPTH:
            raise BadAnswer("is nested too deeply")


def _cut(data: bytes, tokens: frozenset[bytes]) -> list[bytes]:
    """Cut a JSON text at the texts that are tokens, under whatever name: each second piece is
    one."""
    pieces: list[bytes] = []
    end = 0
    for match in _JSON_TOKEN.finditer(data):
        if match["text"] is None or match["colon"] is not None:
            continue
        text = _json_text(match["text"])
        if text in tokens:
            start, after = match.span("text")
            pieces += (data[end : start + 1], text)
            end = after - 1
    return [*pieces, data[end:]]


def _json_text(raw: bytes) -> bytes:
    text: str = msgspec.json.decode(raw, type=str)
    return text.encode()


def _texts(data: bytes) -> list[bytes]:
    """Return all texts of a JSON text that have an escape, decoded."""
    found = (match["text"] for match in _JSON_TOKEN.finditer(data) if match["text"] is not None)
    return [_json_text(one) for one in found if b"\\" in one]


def _answer(
    found: list[tuple[str, bytes]],
    lifetime: object,
    error: object,
    pieces: list[bytes],
    *,
    is_form: bool,
) -> TokenAnswer:
    tokens: dict[str, bytes] = {}
    for name, value in found:
        tokens.setdefault(name, value)
    if len(found) > MAX_TOKENS:
        raise BadAnswer(f"has more than {MAX_TOKENS} tokens")
    code = error if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else None
    return TokenAnswer(tokens, tuple(found), _seconds(lifetime), code, tuple(pieces), is_form)


def _seconds(value: object) -> int | None:
    """Return expires_in; None for what is no time. Some servers write it as a text."""
    if isinstance(value, str) and _LIFETIME.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 < value <= MAX_LIFETIME else None
