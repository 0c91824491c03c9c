"""Detects a body that begins like a request, because a server that does not read it may run it.

Some servers do not read the body of a method that has no body in practice, and take its bytes for
the connection's next request. Closing the connection after the response does not help if the server
is behind a reverse proxy, which keeps its own connections and forwards the body.

A server must read the body of a POST, PUT or PATCH, but a handler of it may not. Where rules decide
about requests, the first line of such a body is inspected too: it must not be a request line.

Rules of this file: every byte that some server accepts as a blank in a request line counts as a
blank (Python's server accepts what `str.split` does). Only the beginning of a body is inspected.
JSON, XML and forms begin in another way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead

REASON: Final = "the body begins as a request, which servers that do not read it would run"
BODY_IS_READ: Final = frozenset({"PATCH", "POST", "PUT"})  # a server must read the body of these
MAX_METHOD: Final = 64  # bytes; the longest registered one has 17

_BLANKS: Final = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0"
_LETTER: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # of a token (RFC 9110 5.6.2)
_BEGINS_REQUEST = late_pattern(_LETTER + rb"{1,%d}+[%b]" % (MAX_METHOD, re.escape(_BLANKS)))
_VERSION = late_pattern(b"[%b]HTTP/[0-9]" % re.escape(_BLANKS), re.IGNORECASE)
_VERSION_BYTES: Final = 7
_MAY_BEGIN_ONE = late_pattern(_LETTER + rb"{0,%d}" % MAX_METHOD)


def has_unusual_body(head: RequestHead) -> bool:
    """True if a request has a body that servers do not expect with its method."""
    return (head.length > 0 or head.body == "chunked") and head.method not in BODY_IS_READ


class HiddenRequest:
    """Inspects the beginning of one body, in pieces of any size."""

    def __init__(self) -> None:
        self._beginning: bytes | None = b""

    def is_in(self, data: bytes) -> bool:
        """Inspect the next bytes of the body before they are sent; return True if the body begins
        like a request. The pieces before can have been a part of its first word only."""
        if self._beginning is None:
            return False
        word = data if self._beginning else data.lstrip(_BLANKS)
        self._beginning = beginning = self._beginning + word[: MAX_METHOD + 1]
        if _BEGINS_REQUEST.match(beginning):
            return True
        if not _MAY_BEGIN_ONE.fullmatch(beginning):
            self._beginning = None
        return False


class HiddenRequestLine:
    """Inspects the first line of one body, in pieces of any size, for a version of HTTP after the
    first word. Other texts that begin with a word and a blank may pass."""

    def __init__(self) -> None:
        self._held: bytes | None = b""
        self._has_word = False

    def is_in(self, data: bytes) -> bool:
        """Inspect the next bytes of the body before they are sent; return True if they complete
        a request line as far as its version. Its end is not among the pieces before."""
        if self._held is None:
            return False
        line = self._held + data
        if not self._has_word:
            line = line.lstrip(_BLANKS)
            if not _BEGINS_REQUEST.match(line):
                self._held = line if _MAY_BEGIN_ONE.fullmatch(line) else None
                return False
            self._has_word = True
        end = line.find(b"\n")
        if _VERSION.search(line, 0, len(line) if end < 0 else end):
            return True
        self._held = line[1 - _VERSION_BYTES :] if end < 0 else None
        return False


def hides_request(value: bytes) -> bool:
    """Return True if a server that does not know trailers could take one with this value for a
    request line: the name and its colon for the method."""
    return _VERSION.search(b" " + value) is not None


def body_inspector(
    head: RequestHead, *, is_judged: bool
) -> HiddenRequest | HiddenRequestLine | None:
    """Return what inspects the body of a request; None if it may have any bytes. `is_judged`: a
    rule has decided about the request."""
    if has_unusual_body(head):
        return HiddenRequest()
    has_body = head.length > 0 or head.body == "chunked"
    return HiddenRequestLine() if is_judged and has_body else None
