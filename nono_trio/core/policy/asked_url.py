"""The URL and method of a question (`why --url`), read as a client would send them.

Rules of this file: the fragment stays with the client; spaces and characters outside ASCII are
escaped; everything else is left for the policy to judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.rule import HTTP_PORT, MAX_PORT, TLS_PORT
from nono_trio.errors import UsageError

_URL: Final = late_pattern(
    r"(https?)://(\[[^\]/?#@]*\]|[^:/?#@\[\]]+)(?::([1-9][0-9]{0,4}))?([/?][^#]*)?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_METHOD: Final = late_pattern(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_INVISIBLE: Final = late_pattern(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class AskedUrl:
    """A request; `host` is as written, `target` in origin-form."""

    scheme: str
    host: str
    port: int
    target: str


def parse_asked_url(text: str, method: str) -> AskedUrl:
    """Return the request that a URL and a method stand for. Raises UsageError."""
    match = _URL.fullmatch(text)
    if match is None or int(match[3] or HTTP_PORT) > MAX_PORT:
        hint = "a URL is like https://api.example.com/v1/items"
        raise UsageError(f"--url: expected a URL with http:// or https://, got {text!a}", hint=hint)
    if not _METHOD.fullmatch(method):
        raise UsageError(f"--method: expected a method, got {method!a}", hint="--method GET")
    scheme = match[1].lower()
    port = int(match[3] or (TLS_PORT if scheme == "https" else HTTP_PORT))
    target = _INVISIBLE.sub(_escaped, match[4] or "/")
    return AskedUrl(scheme, match[2], port, target if target.startswith("/") else f"/{target}")


def _escaped(match: re.Match[str]) -> str:
    data = match[0].encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in data)
