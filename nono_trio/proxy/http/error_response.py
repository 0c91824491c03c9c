"""The proxy's own answers: one short text with the reason and a hint.

The status line contains the reason too, because most programs show only that line of a refused
CONNECT (Go and urllib3 show the phrase, curl shows the number).

Rules of this file: only reasons and hints of our own are sent, reduced to printable ASCII, so no
byte of a request comes back unescaped. Every answer has a Content-Length, so that the connection
can carry another request; if it can't, the answer has Connection: close.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

CHALLENGE: Final = 'Proxy-Authenticate: Basic realm="nono-trio"\r\n'  # RFC 9110 11.7.1: with a 407
_ALLOW: Final = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT\r\n"  # with a 405
_CLOSE: Final = "Connection: close\r\n"
MESSAGE_DENIED: Final = 403  # JSON-RPC keeps -32768 to -32000 for itself
_CHALLENGE_OF_ROUTE: Final = 'WWW-Authenticate: Bearer realm="nono-trio"\r\n'  # RFC 9110 11.6.1
_FIELDS: Final = {401: _CHALLENGE_OF_ROUTE, 407: CHALLENGE, 405: _ALLOW}
# INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE; as in http-grpc-status-mapping.md
_GRPC_CODES: Final = {400: 13, 401: 16, 403: 7, 502: 14, 503: 14, 504: 14}
GRPC_UNKNOWN: Final = 2


@lru_cache(maxsize=256)  # most clients that are refused are refused again with the same text
def refusal(status: int, reason: str, hint: str | None, *, close: bool, body: bool = True) -> bytes:
    """Return the bytes of one refusal. `body` is False for HEAD: its answer has a head only."""
    text = refusal_text(reason, hint)
    reason = _printable(reason)
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}: {reason}\r\n"
        f"Content-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\n"
        f"{_FIELDS.get(status, '')}"
        f"{_CLOSE if close else ''}"
        f"\r\n"
        f"{text if body else ''}"
    ).encode("ascii")


def message_refusal(identifier: int | str, reason: str, hint: str | None, *, close: bool) -> bytes:
    """Return the bytes of the refusal of one MCP request: a JSON-RPC error with status 200.

    Clients show its message to the agent. Of a 403 some show the number only, and some wait for an
    answer for ever.
    """
    body = message_error(identifier, reason, hint)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
        % (len(body), _CLOSE.encode("ascii") if close else b"", body)
    )


def message_error(identifier: int | str, reason: str, hint: str | None) -> bytes:
    """Return the JSON-RPC error that refuses one MCP request."""
    text = refusal_text(reason, hint).rstrip("\n")
    error = {"code": MESSAGE_DENIED, "message": text}
    answer = {"jsonrpc": "2.0", "id": identifier, "error": error}
    return msgspec.json.encode(answer)


def grpc_refusal(status: int, reason: str, hint: str | None) -> list[Field]:
    """Return the fields of an answer without a body that refuses a call of gRPC: its clients show
    `grpc-message`, and of any other answer the number only.

    The code is the one that they make of the HTTP status themselves.
    """
    text = refusal_text(reason, hint).rstrip("\n").replace("%", "%25").replace("\n", "%0A")
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % _GRPC_CODES.get(status, GRPC_UNKNOWN)),
        (b"grpc-message", text.encode("ascii")),
    ]


def refusal_text(reason: str, hint: str | None) -> str:
    """Return the body of a refusal, in printable ASCII."""
    text = f"nono-trio: {_printable(reason)}\n"
    return f"{text}hint: {_printable(hint)}\n" if hint else text


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)
