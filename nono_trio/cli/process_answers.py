"""The types of the answers of `ps`, `stop`, `inspect` and `doctor` with `--json` (docs/schemas).

The rules are those of answers.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nono_trio.audit.read.status import Counts, Status  # noqa: TC001  (these are for msgspec)
from nono_trio.audit.stored_session import FirstBad  # noqa: TC001
from nono_trio.core.log.policy_json import SessionPolicy  # noqa: TC001
from nono_trio.core.log.session_json import NonoTrioFacts  # noqa: TC001
from nono_trio.errors import JSON_SCHEMA
from nono_trio.sandbox.launcher.cage_plan import Isolation  # noqa: TC001
from nono_trio.sandbox.probe import Check  # noqa: TC001
from nono_trio.session.processes import ChildState  # noqa: TC001


class ProcessRow(msgspec.Struct, kw_only=True, frozen=True):
    """One session of `ps`; null: no record or process tells it.

    `child_pid` is the command's own, as the host numbers it; `processes` counts the command's.
    """

    session_id: str
    name: str | None
    status: Status
    supervisor_pid: int | None
    child: ChildState
    child_pid: int | None
    processes: int
    started: str | None
    ended: str | None
    exit_code: int | None
    run_exit_code: int | None
    isolation: str | None
    command: list[str] | None
    directory: str
    fault: FirstBad | None


class ProcessesAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `ps`, newest first."""

    schema: int = JSON_SCHEMA
    sessions: list[ProcessRow]


class InspectAnswer(ProcessRow, kw_only=True, frozen=True):
    """The answer of `inspect`: a row of `ps`, and what session.json and policy.json say.

    `counts_bound`: the log binds the counts.
    """

    schema: int = JSON_SCHEMA
    tracked_paths: list[str] | None
    nono_trio: NonoTrioFacts | None
    policy: SessionPolicy | None
    counts_bound: bool
    counts: Counts


class StopAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `stop`; `killed`: the command did not end within the timeout."""

    schema: int = JSON_SCHEMA
    status: Literal["sealed"] = "sealed"
    session_id: str
    exit_code: int | None
    killed: bool


class DoctorAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `doctor`: each check, and the isolation that runs get here (null: none)."""

    schema: int = JSON_SCHEMA
    isolation: Isolation | None
    checks: list[Check]
