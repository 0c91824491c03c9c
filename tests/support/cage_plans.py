"""A cage plan without grants and mounts, for tests of a part of a plan."""

from __future__ import annotations

from typing import Any

from nono_trio.sandbox.launcher.cage_plan import CagePlan

_EMPTY = CagePlan(
    isolation="none",
    library="",
    landlock=True,
    grants=[],
    identities={},
    mounts=[],
    answers_denied=False,
    closed=[],
    directory="/",
    executable="/bin/true",
    command=["true"],
    environment={},
    umask=0o022,
    foreground=False,
    port=1,
    open_ports=[],
    transparent_ports=[],
    asks_loopback=False,
    listen_ports=[],
    brokered=False,
    limits={},
    temporary=None,
    stops_whole=False,
    core_limit=0,
    deadline_seconds=None,
)


def cage_plan(**changes: Any) -> CagePlan:
    """The empty plan with some fields set."""
    return _EMPTY._replace(**changes)
