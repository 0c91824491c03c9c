"""Guesses the intended host where a person wrote a URL, a range or a port.

Rules of this file: the caller has already refused the text. The guess appears in an error and its
hint; it opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from nono_trio.core.late import late_pattern

_URL: Final = late_pattern(
    r"([a-z][a-z0-9+.-]*)://(?:[^/?#@]*@)?(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?(?:[/?#].*)?",
    re.IGNORECASE,
)
_RANGE: Final = late_pattern(r"\[?([0-9a-f.:]+)\]?/[0-9]{1,3}", re.IGNORECASE)
_WITH_PORT: Final = late_pattern(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+):([0-9]{1,5})", re.IGNORECASE)
# The notation of git and scp for a file of another machine, which they reach by ssh.
_SSH: Final = late_pattern(r"[^\s:/@]+@([^\s:/@]+)(?::.*)?")
_PORTS: Final = {
    "ftp": "21", "git": "9418", "git+ssh": "22", "http": "80", "https": "443", "mongodb": "27017",
    "mysql": "3306", "postgres": "5432", "postgresql": "5432", "redis": "6379", "rediss": "6379",
    "ssh": "22", "ws": "80", "wss": "443",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Meant:
    """The form that a text has (`what`: "a URL", ...), with its host and port if it has them.

    An IPv6 address is in brackets.
    """

    what: str
    host: str
    port: str | None = None


def meant_by(text: str) -> Meant | None:
    """Return the form of a text that is not a host; None for an unknown form."""
    if url := _URL.fullmatch(text):
        return Meant("a URL", url[2], url[3] or _PORTS.get(url[1].lower()))
    if addresses := _RANGE.fullmatch(text):
        first = addresses[1]
        return Meant("a range", f"[{first}]" if ":" in first else first)
    if with_port := _WITH_PORT.fullmatch(text):
        return Meant("a host and a port", with_port[1], with_port[2])
    if ssh := _SSH.fullmatch(text):
        return Meant("a user and a host", ssh[1], "22")
    return None
