"""Reads the JSON-RPC messages of an MCP request, as strictly as its servers differ.

Rules of this file:
- A body that two servers may read in two ways is refused: a member that is there twice (also in
  another case, since Go's decoder takes `Method` for `method`), a byte order mark, NaN, bytes after
  the end, text that is not UTF-8, lone surrogates, a name that ends early in a C string.
- A message is a request, a notification or a response; what could be two of them is refused.
- Two JSON readers must accept the body: msgspec has the values and their bytes, the json module
  has each member with its name.
- The arguments of a call are kept as a SHA-256 of their bytes only.
- A refusal quotes nothing of the body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from nono_trio.core.http.mcp_message import (
    MAX_BODY,
    TOOLS_CALL,
    BadMessage,
    Message,
    folded,
    too_long,
)
from nono_trio.core.http.override_fields import hyphenated
from nono_trio.core.late import late_decoder, late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.http.header_fields import Field

MAX_BATCH: Final = 32  # messages, a record each; MCP has no batches any more since 2025-06-18
MAX_NAME: Final = 256  # characters of a tool, method, id or member; MCP has tools of 128 at most

_TYPE: Final = late_pattern(
    rb'application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?[ \t]*', re.IGNORECASE
)
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_PARAMETERS: Final = frozenset({"name", "arguments", "_meta"})
_CONTENT_TYPE: Final = b"content-type"
_CONTENT_ENCODING: Final = b"content-encoding"
# SEP-2243: fields that repeat method and name, for programs that read no body.
_METHOD_FIELD: Final = b"mcp-method"
_NAME_FIELD: Final = b"mcp-name"
_FIELDS: Final = frozenset({_CONTENT_TYPE, _CONTENT_ENCODING, _METHOD_FIELD, _NAME_FIELD})
_BASE64: Final = late_pattern(rb"=\?base64\?([A-Za-z0-9+/=]*)\?=")


class _Parts(msgspec.Struct):
    """A message with its members' bytes."""

    jsonrpc: str
    id: Any = msgspec.UNSET
    method: Any = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_any_decoder: Final = late_decoder(Any)
_single_decoder: Final = late_decoder(_Parts)
_batch_decoder: Final = late_decoder(list[_Parts])
_call_decoder: Final = late_decoder(_Call)


def check_fields(fields: Iterable[Field]) -> None:
    """Raise BadMessage unless the fields of a request say that its body is JSON in UTF-8, as it
    is."""
    for name, _ in fields:
        if name not in _FIELDS and hyphenated(name) in _FIELDS:
            raise BadMessage("has a field whose name differs from a known one in its hyphens only")
    kinds = [value for name, value in fields if name == _CONTENT_TYPE]
    if len(kinds) != 1 or not _TYPE.fullmatch(kinds[0]):
        raise BadMessage("must have the content type application/json, in UTF-8", 415)
    for name, value in fields:
        if name == _CONTENT_ENCODING and value.lower() != b"identity":
            raise BadMessage("must not be compressed", 415)


def read_messages(body: bytes, fields: Sequence[Field] = ()) -> tuple[Message, ...]:
    """Return the messages of a body, one or a batch. `fields` are those of the request; what they
    repeat of the message must agree. Raises BadMessage."""
    if len(body) > MAX_BODY:
        raise too_long()
    try:
        text = body.decode("utf-8")
        _any_decoder.decode(body)
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_any_number
        )
        if isinstance(value, list):
            parts = _batch_decoder.decode(body)
        else:
            parts = [_single_decoder.decode(body)]
    except BadMessage:
        raise
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadMessage("is not one JSON-RPC message") from error
    if not parts or len(parts) > MAX_BATCH:
        raise BadMessage(f"is a batch of none, or of more than {MAX_BATCH}")
    objects = value if isinstance(value, list) else [value]
    messages = tuple(_message(one, known) for one, known in zip(parts, objects, strict=True))
    _check_repeated(messages, fields)
    return messages


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if not pairs:  # a body may have thousands of them
        return {}
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadMessage("has a member twice")
    if "\0" in "".join(members):
        raise BadMessage("has a member with a NUL in its name")
    return members


def _no_constant(_: str) -> NoReturn:
    raise BadMessage("has a number that JSON does not have")


def _any_number(_: str) -> int:
    return 0  # only names matter here, and a long number takes long to be read


def _message(parts: _Parts, members: dict[str, Any]) -> Message:
    _check_names(members, _MEMBERS)
    if parts.jsonrpc != "2.0":
        raise BadMessage("is not of JSON-RPC 2.0")
    identifier = _identifier(parts.id)
    is_response = parts.result is not msgspec.UNSET or parts.error is not msgspec.UNSET
    if parts.method is msgspec.UNSET and is_response and parts.params is msgspec.UNSET:
        return Message(None)
    if not isinstance(parts.method, str) or is_response:
        raise BadMessage("has no method, or is more than a request")
    _check_text("method", parts.method)
    if folded(parts.method) != TOOLS_CALL:
        return Message(parts.method, identifier=identifier)
    parameters = members.get("params")
    if not isinstance(parameters, dict) or not isinstance(parts.params, msgspec.Raw):
        raise BadMessage("calls a tool without an object of parameters")
    _check_names(parameters, _PARAMETERS)
    return _call(parts.method, parts.params, identifier)


def _call(method: str, parameters: msgspec.Raw, identifier: int | str | None) -> Message:
    try:
        call = _call_decoder.decode(parameters)
    except ValueError as error:
        raise BadMessage("calls a tool without a name") from error
    _check_text("tool", call.name)
    arguments = ""
    if isinstance(call.arguments, msgspec.Raw):
        arguments = f"sha256:{hashlib.sha256(call.arguments).hexdigest()}"
    return Message(method, call.name, arguments, identifier)


def _check_text(what: str, text: str) -> None:
    """Refuse a name with characters that some servers drop, or end it at."""
    if not (0 < len(text) <= MAX_NAME and text.isprintable() and text == text.strip()):
        raise BadMessage(f"names no {what} that has at most {MAX_NAME} printable characters")


def _identifier(value: Any) -> int | str | None:  # noqa: ANN401  (as JSON has it)
    if value is msgspec.UNSET:
        return None
    if isinstance(value, str) and len(value) <= MAX_NAME:
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    raise BadMessage("has an id that is neither a text nor a whole number")


def _check_names(members: Iterable[str], known: frozenset[str]) -> None:
    """Refuse a name that some server takes for a known one."""
    for name in members:
        if len(name) > MAX_NAME:  # the form of 64 KiB of accents takes seconds
            raise BadMessage(f"has a member whose name is longer than {MAX_NAME} characters")
        # The form of an ASCII name is its own, and finding another one takes long.
        form = name.lower().strip() if name.isascii() else folded(name)
        if form in known and name not in known:
            raise BadMessage("has a member whose name differs from a known one in case only")
        if not name.isprintable():  # some drop such characters
            raise BadMessage("has a member whose name can't be printed")


def _check_repeated(messages: Sequence[Message], fields: Sequence[Field]) -> None:
    """Refuse fields that say something else than the message."""
    methods = [value for name, value in fields if name == _METHOD_FIELD]
    names = [value for name, value in fields if name == _NAME_FIELD]
    if not (methods or names):
        return
    message = messages[0]
    if len(messages) > 1 or len(methods) > 1 or len(names) > 1:
        raise BadMessage("has more than one method or name in its fields")
    if methods and methods[0].decode("latin-1") != message.method:
        raise BadMessage("has another method than its field Mcp-Method")
    if names and message.tool is not None and _field_text(names[0]) != message.tool:
        raise BadMessage("calls another tool than its field Mcp-Name says")


def _field_text(value: bytes) -> str:
    encoded = _BASE64.fullmatch(value)
    try:
        return (base64.b64decode(encoded[1], validate=True) if encoded else value).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
