"""What the proxy itself says to a client: one short text that tells what to change.

The reason stands in the status line, too: of a refused CONNECT most programs show nothing else (Go,
urllib3 and what is built on them show the phrase, curl the number).

Rules of this file: only reasons and hints that we wrote go out, and even those are cut down to
printable ASCII, so nothing of a request comes back unescaped. Every answer has a Content-Length,
so the connection can go on, and says so when it does not.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Final

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

CHALLENGE: Final = 'Proxy-Authenticate: Basic realm="nono-trio"\r\n'  # RFC 9110 11.7.1: with a 407
_ALLOW: Final = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT\r\n"  # with a 405
_CLOSE: Final = "Connection: close\r\n"
_FIELDS: Final = {407: CHALLENGE, 405: _ALLOW}


@lru_cache(maxsize=256)  # a client that is refused once is mostly refused again with the same text
def refusal(status: int, reason: str, hint: str | None, *, close: bool, body: bool = True) -> bytes:
    """The bytes of one refusal; `body` is False for HEAD, whose answer has a head only."""
    reason = _printable(reason)
    text = f"nono-trio: {reason}\n"
    if hint:
        text += f"hint: {_printable(hint)}\n"
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}: {reason}\r\n"
        f"Content-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\n"
        f"{_FIELDS.get(status, '')}"
        f"{_CLOSE if close else ''}"
        f"\r\n"
        f"{text if body else ''}"
    ).encode("ascii")


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)
