"""Removal of secrets from command lines and request paths before they are logged.

There are two rules. People must recognise a command line, so only parts that look secret are
removed: upstream nono's table of flags, headers and query keys, with upstream's exact results (its
vectors are our tests). A request path may be for any service, so the value of every query parameter
is removed, and no list of names has to be complete.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED = "[REDACTED]"

_FLAGS = frozenset(
    {
        "--token",
        "--password",
        "--api-key",
        "--apikey",
        "--secret",
        "--auth",
        "--bearer",
        "--access-token",
        "--client-secret",
    }
)
_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "x-auth-token",
        "cookie",
        "set-cookie",
    }
)
_QUERY_KEYS = frozenset(
    {
        "token",
        "access_token",
        "api_key",
        "apikey",
        "key",
        "secret",
        "password",
        "code",
        "state",
        "nonce",
        "client_secret",
    }
)

_USERINFO = late_pattern(r"(://[^/?# \t\r\n:]*:)[^/?# \t\r\n]*@")
# It ends at a slash, so no two matches read the same bytes.
_PATH_USERINFO = late_pattern(
    r"((?::|%(?:25)*3a)(?:/|%(?:25)*2f){2})(?:(?!%(?:25)*2f)[^/?#])*(@|%(?:25)*40)",
    re.IGNORECASE | re.ASCII,
)
_QUERY = late_pattern(r"\?([^# \t\r\n]*)")
_QUERY_PIECE = late_pattern(r"([^&;=]*)=([^&;]*)")
_PARAMETER = late_pattern(r"[^&;]+")


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Return `argv` with its secrets replaced by `[REDACTED]`, as valid UTF-8.

    Bytes that are not UTF-8 (surrogate escapes in Python) become U+FFFD: a log line can't hold
    them.
    """
    redacted: list[str] = []
    before = ""
    for argument in map(_valid_text, argv):
        redacted.append(_redact_after(before, argument))
        before = "" if _takes_value(before) else argument
    return redacted


def redact_path(path: str) -> str:
    """Return a request path without query values, userinfo and fragment; names of parameters stay.

    The user information of every URL in the path is replaced, also where that URL is encoded. So
    two paths that differ in it alone have one record, which shows that something is left out.
    A parameter without `=` may be a bare token, so it is replaced as a whole.
    """
    bare = path.partition("#")[0]
    before, mark, query = bare.partition("?")
    if "@" in before or "%" in before:
        before = _PATH_USERINFO.sub(rf"\1{REDACTED}\2", before)
    if not query:
        return before + mark
    return before + mark + _PARAMETER.sub(_redact_parameter, query)


def _valid_text(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _takes_value(argument: str) -> bool:
    return _is_secret_flag(argument) or _is_header_flag(argument)


def _is_secret_flag(argument: str) -> bool:
    return argument.strip().lower() in _FLAGS


def _is_header_flag(argument: str) -> bool:
    return argument == "-H" or argument.lower() == "--header"


def _redact_after(before: str, argument: str) -> str:
    """Return `argument` redacted; `before` is the argument that may take it as its value."""
    if _is_secret_flag(before):
        return REDACTED
    if _is_header_flag(before):
        return _redact_header_value(argument)
    if _takes_value(argument):
        return argument
    name, equals, value = argument.partition("=")
    if equals and _is_secret_flag(name):
        return f"{name}={REDACTED}"
    if equals and _is_header_flag(name):
        return f"{name}={_redact_header_value(value)}"
    return redact_text(argument)


def redact_text(text: str) -> str:
    """Return a string without the secrets of a URL or a header line in it."""
    name, colon, value = text.partition(":")
    if colon and name.strip().lower() in _HEADERS:
        space = value[: len(value) - len(value.lstrip())]
        return f"{name}:{space}{REDACTED}"
    text = _USERINFO.sub(rf"\g<1>{REDACTED}@", text)
    return _QUERY.sub(lambda query: "?" + _QUERY_PIECE.sub(_redact_secret_key, query[1]), text)


def _redact_header_value(text: str) -> str:
    name, colon, _ = text.partition(":")
    if colon and name.strip().lower() in _HEADERS:
        return f"{name}: {REDACTED}"
    return redact_text(text)


def _redact_secret_key(piece: re.Match[str]) -> str:
    return f"{piece[1]}={REDACTED}" if piece[1].strip().lower() in _QUERY_KEYS else piece[0]


def _redact_parameter(piece: re.Match[str]) -> str:
    name, equals, _ = piece[0].partition("=")
    return name + equals + REDACTED if equals else REDACTED
