"""The WebSocket opening handshake (RFC 6455 4): recognizes a request for it and a valid answer.

An upgrade turns an HTTP connection into a tunnel, so only a complete handshake counts. A server may
send the status 101 without switching (a client can cause it in some servers through a URL), and
would run requests sent after it without a record.

Rules of this file: a request without a complete handshake asks for no upgrade, and its Upgrade
field is dropped. A valid answer is computed from the request's key, so it can't be old, stored or
invented.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from nono_trio.core.http.header_fields import connection_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import RequestHead

UPGRADE_FIELDS: Final = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
"""The fields that ask for the upgrade, and that agree to it."""

_PROTOCOL: Final = b"websocket"
_VERSION: Final = b"13"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_KEY_BYTES: Final = 16


def offered_key(head: RequestHead) -> bytes | None:
    """The key of a request that asks for a WebSocket and for no other protocol; otherwise None."""
    if head.first(b"upgrade") is None:
        return None
    if head.method != "GET" or head.version != "1.1" or head.body != "none":
        return None
    key = _only(head.fields, b"sec-websocket-key")
    asks = _names_websocket(head.fields) and _only(head.fields, b"sec-websocket-version")
    return key if asks == _VERSION and key is not None and _is_key(key) else None


def is_accepted(fields: Iterable[Field], key: bytes) -> bool:
    """True if the fields of a 101 complete the handshake that was begun with `key`."""
    lowered = [(name.lower(), value) for name, value in fields]
    proof = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return _names_websocket(lowered) and _only(lowered, b"sec-websocket-accept") == proof


def _names_websocket(fields: Iterable[Field]) -> bool:
    """True if Upgrade has WebSocket as its one protocol, and Connection names Upgrade."""
    fields = tuple(fields)
    options = [
        option
        for name, value in fields
        if name == b"connection"
        for option in connection_options(value)
    ]
    protocol = _only(fields, b"upgrade")
    return protocol is not None and protocol.lower() == _PROTOCOL and b"upgrade" in options


def _only(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The value of a field; None unless the field occurs exactly once."""
    values = [value for field, value in fields if field == name]
    return values[0] if len(values) == 1 else None


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
