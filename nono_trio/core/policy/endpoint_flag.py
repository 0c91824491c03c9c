"""The URL of a request in a sentence, and the flag that would allow the request.

Rules of this file: a flag is quoted for a shell, and is an entry that can be read; what is too long
for a sentence is cut there, and becomes `**` in a flag.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.endpoint_rule import (
    ALLOW_ENDPOINT_FLAG,
    ANY_METHOD,
    DEFAULT_PORTS,
    parse_endpoint,
)
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host

MAX_SHOWN: Final = 256  # characters of a path in a sentence; the record has all of it


def shown_url(scheme: str, host: Host, port: int, path: str) -> str:
    """Return the URL of a request for a sentence, without its query; a long path is cut."""
    path = path if len(path) <= MAX_SHOWN else f"{path[:MAX_SHOWN]}..."
    return _origin(scheme, host, port) + path


def allow_endpoint_flag(scheme: str, host: Host, port: int, method: str, path: str) -> str:
    """Return the flag that allows a request with a canonical path, quoted for a shell.

    The rest of a path becomes `**` from an empty segment on, or where a line would be too long.
    """
    kept: list[str] = []
    segments = path[1:].split("/")
    for segment in segments[:-1]:
        if not segment or len("/".join(kept)) + len(segment) > MAX_SHOWN:
            break
        kept.append(segment)
    is_whole = len(kept) == len(segments) - 1 and len(segments[-1]) <= MAX_SHOWN
    kept.append(segments[-1] if is_whole else "**")
    methods = method if method == method.upper() else ANY_METHOD
    url = _origin(scheme, host, port) + "/" + "/".join(kept)
    return f"{ALLOW_ENDPOINT_FLAG} {shlex.quote(f'{methods} {url}')}"


def suggested_flag(scheme: str, target: str, port: int, method: str, path: str) -> str | None:
    """Return the flag of a denial that is in a log; None if the log's text makes no rule.

    `path` is as `shown_url` has it: what was cut off becomes `**`.
    """
    if len(path) > MAX_SHOWN:
        path = f"{path.rpartition('/')[0]}/**"
    try:
        flag = allow_endpoint_flag(scheme, parse_host(target), port, method, path)
        parse_endpoint(ALLOW_ENDPOINT_FLAG, shlex.split(flag)[1], "allow")
    except (BadHost, UsageError, ValueError):
        return None
    return flag


def _origin(scheme: str, host: Host, port: int) -> str:
    authority = host.bracketed()
    if port != DEFAULT_PORTS.get(scheme):
        authority += f":{port}"
    return f"{scheme}://{authority}"
