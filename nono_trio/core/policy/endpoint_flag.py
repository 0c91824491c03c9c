"""The URL of a request in a sentence, and the flag that would allow the request, or be dropped.

Rules of this file: a flag is quoted for a shell, and is an entry that can be read; what is too long
for a sentence is cut there, and becomes `**` in a flag. A flag has no wildcard that the request
chose: no flag is for a path with a `*` of its own, and none is for a whole host where the request
was for one path.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.redaction import REDACTED
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.endpoint_rule import (
    ALLOW_ENDPOINT_FLAG,
    ANY_METHOD,
    DEFAULT_PORTS,
    parse_endpoint,
)
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.core.net.host import Host

MAX_SHOWN: Final = 256  # characters of a path in a sentence; the record has all of it


def shown_url(scheme: str, host: Host, port: int, path: str) -> str:
    """Return the URL of a request for a sentence, without its query; a long path is cut."""
    path = path if len(path) <= MAX_SHOWN else f"{path[:MAX_SHOWN]}..."
    return origin(scheme, host, port) + path


def drop_hint(flag: str, text: str, entry: str, source: Callable[[str, str], str] | None) -> str:
    """Return the hint for a request that a deny rule refuses. `source` returns the place of an
    entry, as for EndpointPolicy."""
    place = None if source is None else source("endpoint", entry)
    if place is None or place.startswith("--"):
        return f"drop {flag} {shlex.quote(text)}"
    return f"take it out of {place}"


def whole_port_flag(target: str, port: int) -> str | None:
    """Return the flag that allows every request to a port of a host, quoted for a shell; None if
    `target` is no host."""
    scheme = "http" if port == DEFAULT_PORTS["http"] else "https"
    try:
        return _flag(scheme, parse_host(target), port, ANY_METHOD, "/**")
    except BadHost:
        return None


def allow_endpoint_flag(scheme: str, host: Host, port: int, method: str, path: str) -> str | None:
    """Return the flag that allows a request with a canonical path, quoted for a shell.

    None if no rule is for this path alone: it has a `*`, or something was left out (redact_path),
    or its first segment is too long. The rest of a path becomes `**` from an empty segment
    on, or where a line would be too long.
    """
    pattern = path_pattern(path)
    return None if pattern is None else _flag(scheme, host, port, method, pattern)


def path_pattern(path: str, *, is_cut: bool = False) -> str | None:
    """Return the pattern for a canonical path, whose last segment may be cut; None if it would be
    for the whole host, or would have a part that is not the path's own."""
    if "*" in path or REDACTED in path:
        return None
    kept: list[str] = []
    segments = path[1:].split("/")
    for segment in segments[:-1]:
        if not segment or len("/".join(kept)) + len(segment) > MAX_SHOWN:
            break
        kept.append(segment)
    is_whole = len(kept) == len(segments) - 1 and len(segments[-1]) <= MAX_SHOWN and not is_cut
    if not is_whole and not kept:
        return None
    kept.append(segments[-1] if is_whole else "**")
    return "/" + "/".join(kept)


def _flag(scheme: str, host: Host, port: int, method: str, pattern: str) -> str:
    methods = method if method == method.upper() else ANY_METHOD
    url = origin(scheme, host, port) + pattern
    return f"{ALLOW_ENDPOINT_FLAG} {shlex.quote(f'{methods} {url}')}"


def suggested_flag(scheme: str, target: str, port: int, method: str, path: str) -> str | None:
    """Return the flag of a denial that is in a log; None if the log's text makes no rule.

    `path` is as `shown_url` has it: what was cut off becomes `**`.
    """
    pattern = path_pattern(path, is_cut=len(path) > MAX_SHOWN)
    if pattern is None:
        return None
    try:
        flag = _flag(scheme, parse_host(target), port, method, pattern)
        parse_endpoint(ALLOW_ENDPOINT_FLAG, shlex.split(flag)[1], "allow")
    except (BadHost, UsageError, ValueError):
        return None
    return flag


def origin(scheme: str, host: Host, port: int) -> str:
    """Return scheme, host, and the port unless it is the scheme's own."""
    authority = host.bracketed()
    if port != DEFAULT_PORTS.get(scheme):
        authority += f":{port}"
    return f"{scheme}://{authority}"
