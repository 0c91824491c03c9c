"""The child's environment: what is passed on, what never is, and how programs find the proxy.

What is passed on is decided in core/variables.py. Rules: our own names are set by us alone, last;
values are passed as they are, in memory only (the launcher gets them over its socket, never through
argv), and no message has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.rules import parse_allow
from nono_trio.core.variables import PROXY_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.core.variables import Inherited

# Names of held-back variables in one warning; a CI job may have fifty, and the first ones do.
_MAX_NAMED = 8

# The child's own servers on its own loopback. One that a rule allows is a service of the host
# instead, and the host's loopback is reached through the proxy only.
_OWN_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def child_environment(
    inherited: Inherited,
    *,
    given: Mapping[str, str],
    token: str,
    port: int,
    allowed: Sequence[str],
) -> dict[str, str]:
    """Return the child's environment: what is passed on, `given` over it, and the proxy.

    `allowed` are the host rules as given: a loopback name among them goes through the proxy.
    """
    environment = {**inherited.passed, **given}
    url = proxy_url(token, port)
    for name in PROXY_NAMES:
        environment[name] = environment[name.lower()] = url
    environment["NO_PROXY"] = environment["no_proxy"] = _no_proxy(allowed)
    environment["NODE_USE_ENV_PROXY"] = "1"
    environment["NONO_PROXY_TOKEN"] = token
    return environment


def held_back_warnings(names: Sequence[str]) -> list[str]:
    """Say which variables were not passed on, without their values."""
    if not names:
        return []
    named = ", ".join(names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return [
        f"held back from the command, as they look like secrets: {named}{more}"
        " (pass one on with --env-allow NAME)"
    ]


def _no_proxy(allowed: Sequence[str]) -> str:
    """Return the names that programs reach without the proxy."""
    hosts = {parse_allow(entry).host.name for entry in allowed}
    return ",".join(name for name in _OWN_LOOPBACK if name not in hosts)


def proxy_url(token: str, port: int, host: str = "127.0.0.1") -> str:
    """Return the URL that clients take from HTTP_PROXY."""
    return f"http://nono:{token}@{host}:{port}"
