"""The part of a learned profile that comes from the session's policy: grants and what is closed.

Rules of this file: a run with the profile may do no more than the session could. So what the
session closed is closed again, also where a group or a profile did it. What a profile has no field
for (the flags of the verdict) is returned as words for a comment. Use inside a grant is not seen,
so a grant keeps the access that it had.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from nono_trio.core.policy.judging import EXPECT_FLAG, PATH_FLAG
from nono_trio.core.policy.rule import MCP

DENY: Final = "deny "  # the action before an endpoint rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.core.log.policy_json import GrantedPath, SessionPolicy


def learned_files(policy: SessionPolicy | None) -> dict[str, Any]:
    """Return the keys of `filesystem`: the user's grants, the paths that the user closed, the home;
    {} for a session without a cage."""
    if policy is None or policy.files is None:
        return {}
    found: dict[str, Any] = {}
    for grant in policy.files.grants:
        if grant.asked_for:
            found.setdefault(_key(grant), []).append(grant.path)
    found["deny"] = policy.files.closed
    found["bypass_protection"] = policy.files.bypasses
    kind, _, name = (policy.home or "").partition(" ")
    found["home"] = f"{kind}={name.partition('.')[0]}" if name else kind  # without its isolation
    return {key: _once(value) for key, value in found.items() if value and value != "private"}


def learned_network(policy: SessionPolicy | None) -> dict[str, Any]:
    """Return the keys of `network` beside what was reached."""
    if policy is None:
        return {}
    network = policy.network
    entries = [one.entry for one in network.endpoints]
    denied = [one.removeprefix(DENY) for one in entries if one.startswith(DENY)]
    found: dict[str, Any] = {
        "deny_domain": [one.entry for one in network.deny],
        "intercept": [one.entry for one in network.intercept],
        "no_intercept": [one.entry for one in network.no_intercept],
        "deny_endpoint": [one for one in denied if not one.startswith(MCP)],
        "deny_mcp_tool": [one.removeprefix(MCP) for one in denied if one.startswith(MCP)],
        "resolve": [one.entry for one in network.pins],
        "listen_port": network.listen_ports,
    }
    return {key: _once(value) for key, value in found.items() if value}


def learned_variables(policy: SessionPolicy | None) -> dict[str, Any]:
    """Return the keys of `environment`: the patterns of the session."""
    if policy is None or policy.variables is None:
        return {}
    patterns = {"allow": policy.variables.allow, "deny": policy.variables.deny}
    return {key: _once(value) for key, value in patterns.items() if value}


def judging_flags(policy: SessionPolicy | None) -> str:
    """Return the flags of the verdict, to be pasted; "" for none."""
    judging = policy.judging if policy is not None else None
    if judging is None:
        return ""
    words = [] if judging.fail_on is None else ["--fail-on", judging.fail_on]
    for flag, values in ((EXPECT_FLAG, judging.expected), (PATH_FLAG, judging.paths)):
        words += [word for value in values for word in (flag, value)]
    return shlex.join(words)


def _key(grant: GrantedPath) -> str:
    """The key of a profile that grants a path as it was granted."""
    if grant.access == "socket":
        return "allow_unix_socket"
    key = "allow" if grant.access == "readwrite" else grant.access
    return f"{key}_file" if grant.is_file else key


def _once(value: Any) -> Any:  # noqa: ANN401  (a list, or a value as it is)
    return _unique(value) if isinstance(value, list) else value


def _unique(values: Iterable[Any]) -> list[Any]:
    return [*dict.fromkeys(values)]
