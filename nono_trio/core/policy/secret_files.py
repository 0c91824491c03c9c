"""Guesses from name and content whether a file holds a secret.

In doubt the answer is "yes": the file would be copied where a command may read it, and a person can
name the file to have it copied all the same.
"""

from __future__ import annotations

from typing import Final

from nono_trio.core.late import late_pattern

_NAMES: Final = late_pattern(
    r"(?i)(.*credential.*|.*secret.*|.*token.*|auth\.json|oauth_creds\.json|\.netrc|_netrc|\.pgpass"
    r"|\.git-credentials|\.pypirc|\.env(\..*)?|id_[a-z0-9]+|.*\.(pem|key|p12|pfx|kdbx|jks))"
)
_CONTENT: Final = (
    late_pattern(rb"-----BEGIN [A-Z ]*PRIVATE KEY"),
    late_pattern(rb"(?i)_auth(token)?\s*="),
    # A word for a secret, and a value long enough to be one.
    late_pattern(
        rb"(?i)(api[_-]?key|access[_-]?key|token|secret|passw(or)?d|credential|bearer)s?[\w-]*"
        rb"[\"']?\s*[:= ]\s*[\"']?[^\s\"'$<>{}()]{12,}"
    ),
    late_pattern(rb"://[^/\s:@\"']+:[^/\s@\"']+@"),  # a URL with a password
    late_pattern(
        rb"\b(sk-[\w-]{16,}|gh[opsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|npm_\w{20,}"
        rb"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|xox[abpr]-[\w-]{10,}|eyJ[\w-]{20,}\.eyJ)"
    ),
)


def looks_secret(name: str, content: bytes) -> bool:
    """Return True if a file with this name (without its directories) and content looks like a
    secret."""
    return _NAMES.fullmatch(name) is not None or any(one.search(content) for one in _CONTENT)
