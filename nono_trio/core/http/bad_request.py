"""The refusal of a malformed request, in a form that is safe to log, to send and to print.

Rules of this file: `reason` is fixed text and never quotes the request. `target` quotes it without
control characters. User information and query carry secrets, so it leaves them out.
"""

from __future__ import annotations

import re

from nono_trio.core.late import late_pattern

MAX_SHOWN_TARGET = 255  # characters of a refused target in the audit log; a host name fits

_QUERY_OR_FRAGMENT = late_pattern(rb"[?#]")
_SCHEME = rb"[A-Za-z][A-Za-z0-9+.-]*://"
_HOST_AND_PORT = late_pattern(rb"(?:%b)?[A-Za-z0-9._-]+(?::[0-9]{1,5})?(?:/.*)?" % _SCHEME)
# In a target that was cut short an "@" may follow later: no password fits these patterns.
_SAFE_CUT = late_pattern(
    rb"(?:%b[^/:@]*(?::[0-9]{0,5})?)?/.*|[^/:@]*(?::[0-9]{0,5}[^/:@]?)?" % _SCHEME, re.DOTALL
)
_UNPRINTABLE = late_pattern(rb"[^\x20-\x7e]")


class BadRequest(Exception):
    """A request that is refused before the policy is asked.

    `status` is the HTTP status of the answer. `reason` is one printable ASCII sentence without a
    full stop. `target` is the text for the audit event, "" if no target could be read.
    """

    def __init__(self, status: int, reason: str, target: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.target = target


def shown_target(target: bytes, *, whole: bool = True) -> str:
    r"""A refused request-target as the audit log may show it: bounded, \xNN for what can't print.

    Query and fragment are cut off, then everything up to the last "@". If the part that was cut off
    has an "@" too, the rest could be the first half of a password; then it is shown only if it
    reads as host and port. `whole` is False if the target's end was never read.
    """
    front, *behind = _QUERY_OR_FRAGMENT.split(target, maxsplit=1)
    shown = front.rpartition(b"@")[2]
    if behind and b"@" in behind[0] and not _HOST_AND_PORT.fullmatch(shown):
        return ""
    if not whole and not _SAFE_CUT.fullmatch(shown):
        return ""
    escaped = _UNPRINTABLE.sub(_escape, shown[:MAX_SHOWN_TARGET])
    return escaped.decode("ascii")[:MAX_SHOWN_TARGET]


def _escape(character: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % character[0][0]
