"""The child's environment: what is passed on, what never is, and how programs find the proxy.

core/policy/variables.py decides what is passed on. Rules: our own names are set by us alone,
last; values are passed as they are, in memory only (the launcher gets them over its socket, never
through argv), and no message has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.policy.variables import PROXY_NAMES, SOCKETS, socket_path
from nono_trio.sandbox.filesystem.streams import CONSOLE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from nono_trio.core.policy.variables import Inherited, VariableRules
    from nono_trio.sandbox.filesystem.plan import FilePlan

LOOPBACK = "127.0.0.1"  # where the command reaches the proxy
# Names of held-back variables in one warning; a CI job may have fifty, and the first ones do.
_MAX_NAMED = 8


def child_environment(
    inherited: Inherited,
    *,
    given: Mapping[str, str],
    token: str,
    port: int,
    direct: str,
) -> dict[str, str]:
    """Return the child's environment: what is passed on, `given` over it, and the proxy.

    `direct` is the value of NO_PROXY: what programs reach without the proxy.
    """
    environment = {**inherited.passed, **given}
    url = proxy_url(token, port)
    for name in PROXY_NAMES:
        environment[name] = environment[name.lower()] = url
    environment["NO_PROXY"] = environment["no_proxy"] = direct
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


def socket_variables(
    environment: Mapping[str, str], rules: VariableRules, files: FilePlan
) -> dict[str, str]:
    """Return the variables that lead to sockets which were granted; a deny of one holds."""
    found = {}
    for name in SOCKETS:
        path = socket_path(name, environment)
        if path is not None and name not in rules.deny and files.connects(path) is not None:
            found[name] = environment[name]
    return found


def terminal_variables(passed: Mapping[str, str], streams: Collection[str]) -> dict[str, str]:
    """Return the variables that name the terminal, where the cage has it by another name."""
    return {"GPG_TTY": CONSOLE} if "GPG_TTY" in passed and CONSOLE in streams else {}


def proxy_url(token: str, port: int, host: str = LOOPBACK) -> str:
    """Return the URL that clients take from HTTP_PROXY."""
    return f"http://nono:{token}@{host}:{port}"
