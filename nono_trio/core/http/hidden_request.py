"""Whether a body begins as a request does, so that whoever leaves it unread may run it.

A server that reads no body where the method has none in practice takes its bytes for the
connection's next request. To have the connection end with the response is no cure where a reverse
proxy stands before the server: it keeps its own connections, and passes the body on.

Rules of this file: what servers take for the blanks of a request line counts as one (Python's own
takes what `str.split` does); what a body goes on with is not looked at. JSON, XML and forms begin
in another way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead

REASON: Final = "the body begins as a request, which servers that do not read it would run"
BODY_IS_READ: Final = frozenset({"PATCH", "POST", "PUT"})  # methods whose body is what they are for
MAX_METHOD: Final = 64  # bytes; the longest registered one has 17

_BLANKS: Final = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0"
_LETTER: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # of a token (RFC 9110 5.6.2)
_BEGINS_REQUEST = re.compile(_LETTER + rb"{1,%d}+[%b]" % (MAX_METHOD, re.escape(_BLANKS)))
_MAY_BEGIN_ONE = re.compile(_LETTER + rb"{0,%d}" % MAX_METHOD)


def has_unusual_body(head: RequestHead) -> bool:
    """Whether a request has a body that its method does not make a server expect."""
    return (head.length > 0 or head.body == "chunked") and head.method not in BODY_IS_READ


class HiddenRequest:
    """Looks at the beginning of one body, in pieces of any size."""

    def __init__(self) -> None:
        self._beginning: bytes | None = b""

    def is_in(self, data: bytes) -> bool:
        """Take in the next bytes of the body, before they are passed on; whether a request begins
        there. What was passed on before is no more than a word."""
        if self._beginning is None:
            return False
        beginning = (self._beginning + data[: MAX_METHOD * 2]).lstrip(_BLANKS)
        if not beginning and len(data) > MAX_METHOD * 2:  # nothing but blanks so far
            beginning = data.lstrip(_BLANKS)[: MAX_METHOD * 2]
        self._beginning = beginning
        if _BEGINS_REQUEST.match(beginning):
            return True
        if not _MAY_BEGIN_ONE.fullmatch(beginning):
            self._beginning = None
        return False
