"""`nono-trio ps`, `stop` and `inspect`: sessions as processes. Nothing here imports the loop."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from nono_trio.audit import store
from nono_trio.audit.verify import bound_facts
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.parameters import Seconds
from nono_trio.cli.parts import Column
from nono_trio.cli.session_rows import (
    NOT_BOUND,
    TAMPERED,
    fault_rows,
    no_command_text,
    run_exit_code,
)
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.tables import print_facts, print_table
from nono_trio.cli.text import (
    MIN_LAST,
    clean,
    command_text,
    counted,
    duration_text,
    local_time,
    numbers_text,
)
from nono_trio.core.log.events import LOST_EXIT_CODE
from nono_trio.session import processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.session.processes import Running

# Longer than a session's own grace (5 s by default), so that the first signal is given its chance.
STOP_SECONDS = 10.0
LABEL_WIDTH = 13
_HINT = "see `nono-trio ps --all`"
_COLUMNS = (
    Column("ID"),
    Column("NAME", flexible="cut", leaves=4),
    Column("STATUS", states=True),
    Column("PID", right=True, leaves=3),
    Column("UPTIME", right=True, leaves=2),
    Column("ISOLATION", leaves=1),
    Column("COMMAND", flexible="cut", least=MIN_LAST),
)


@click.command(epilog="Example: nono-trio ps --all")
@click.option("--all", "every", is_flag=True, help="Sealed sessions too.")
@json_option
@audit_dir_option
def ps(every: bool, as_json: bool, audit_dir: str | None) -> None:
    """List the sessions that run, and those whose supervisor was lost, newest first.

    A crashed session's command is gone with its supervisor; `nono-trio audit recover` seals its
    log. PID is the supervisor's.
    """
    root = _root(audit_dir)
    found = processes.overview(root, every=every)
    if as_json:
        from nono_trio.cli.process_answers import ProcessesAnswer, ProcessRow

        print_json(ProcessesAnswer(sessions=[ProcessRow(**_fields(one)) for one in found]))
        return
    if not found:
        say(f"no {'' if every else 'running '}session in {clean(str(root))}")
        return
    print_table(_COLUMNS, [*map(_row, found)])


@click.command(epilog="Example: nono-trio stop latest --timeout 30")
@click.argument("session", shell_complete=complete_sessions)
@click.option(
    "--timeout",
    type=Seconds(0, 86_400),
    default=STOP_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait before the command's whole tree is killed.",
)
@json_option
@audit_dir_option
def stop(session: str, timeout: float, as_json: bool, audit_dir: str | None) -> None:
    """End a running session: its command is asked, after the timeout killed, and its log sealed.

    The supervisor itself is never killed: only it can seal the log. Exit code: ended and
    sealed 0; not running, another user's, or still running at last 1; no such session 2; ended
    without a seal 4.
    """
    directory = session_directory(_root(audit_dir), session, hint=_HINT)
    hurried = processes.stop(directory, timeout)
    summary = bound_facts.look(directory).summary
    if as_json:
        from nono_trio.cli.process_answers import StopAnswer

        exit_code = summary.exit_code if summary is not None else None
        print_json(StopAnswer(session_id=directory.name, exit_code=exit_code, killed=hurried))
        return
    code = f", exit code {summary.exit_code}" if summary is not None else ""
    how = f"its command was killed after {timeout:g} s, " if hurried else ""
    say(f"session {directory.name} has ended: {how}its log is sealed{code}")


@click.command(epilog="Example: nono-trio inspect latest")
@click.argument("session", default=store.LATEST, shell_complete=complete_sessions)
@json_option
@audit_dir_option
def inspect(session: str, as_json: bool, audit_dir: str | None) -> None:
    """Show one session as it is now: its processes, its cage, its log (default: the newest).

    `nono-trio audit show` shows what it did.
    """
    from nono_trio.audit.read.status import counts_of

    directory = session_directory(_root(audit_dir), session, hint=_HINT)
    stored = bound_facts.look(directory)
    one = processes.look_at(stored)
    counts = counts_of(stored)
    if as_json:
        from nono_trio.cli.process_answers import InspectAnswer

        print_json(InspectAnswer(**_fields(one), **_more_fields(one), counts=counts))
        return
    unbound = "" if one.status == "sealed" else NOT_BOUND
    decided = f"{numbers_text(counts)} in {counted(counts.events, 'record')}{unbound}"
    print_facts("Session", [*_inspect_rows(one), ("network", decided)], LABEL_WIDTH)


def _row(one: Running) -> tuple[str, ...]:
    return (
        one.session.session_id,
        clean(one.session.name or "-"),
        one.status,
        str(one.supervisor_pid or ("gone" if one.child == "gone" else "-")),
        _uptime(one) or "-",
        clean(_isolation(one) or "-"),
        command_text(one.session.summary.command if one.session.summary else [])
        or no_command_text(one.session),
    )


def _uptime(one: Running) -> str | None:
    if one.status != "running":
        return None
    return duration_text((datetime.now(UTC) - one.session.started).total_seconds())


def _isolation(one: Running) -> str | None:
    isolation = one.session.facts.isolation
    return isolation if isinstance(isolation, str) else None


def _fields(one: Running) -> dict[str, Any]:
    summary = one.session.summary
    return {
        "session_id": one.session.session_id,
        "name": one.session.name,
        "status": one.status,
        "supervisor_pid": one.supervisor_pid,
        "child": one.child,
        "child_pid": one.child_pid,
        "processes": one.processes,
        "started": summary.started if summary else None,
        "ended": summary.ended if summary else None,
        "exit_code": summary.exit_code if summary else None,
        "run_exit_code": run_exit_code(one.session),
        "isolation": _isolation(one),
        "command": summary.command if summary else None,
        "directory": str(one.session.directory),
        "fault": one.session.fault,
    }


def _more_fields(one: Running) -> dict[str, Any]:
    summary = one.session.summary
    return {
        "tracked_paths": summary.tracked_paths if summary else None,
        "nono_trio": summary.facts if summary and summary.is_ours else None,
        "policy": one.session.policy,
        "counts_bound": one.status == "sealed",
    }


def _inspect_rows(one: Running) -> Iterator[tuple[str, str]]:
    summary = one.session.summary
    yield "session", one.session.session_id
    if one.session.name:
        yield "name", one.session.name
    yield "status", _status_text(one)
    yield from fault_rows(one.session)
    yield from _process_rows(one)
    if summary is not None:
        yield "command", command_text(summary.command)
        uptime = _uptime(one)
        yield "started", local_time(one.session.started) + (f", {uptime} ago" if uptime else "")
    yield from _cage_rows(one)
    yield "log", str(one.session.directory)


def _status_text(one: Running) -> str:
    summary = one.session.summary
    if one.status == "crashed":
        return "crashed: its supervisor is gone, its log was never sealed (`audit recover` does)"
    if one.status == "tampered":
        return TAMPERED
    if one.status == "running" or summary is None:
        return one.status
    if summary.exit_code == LOST_EXIT_CODE:
        return "sealed by `audit recover`: how the command ended is not known"
    own = run_exit_code(one.session)
    if own is None or own == summary.exit_code:
        return f"{one.status}, exit code {summary.exit_code}"
    return f"{one.status}, exit code {own} (the command's own was {summary.exit_code})"


def _process_rows(one: Running) -> Iterator[tuple[str, str]]:
    if one.supervisor_pid is not None:
        yield "supervisor", f"pid {one.supervisor_pid}"
    if one.child == "running":
        others = one.processes - 1
        yield "child", f"pid {one.child_pid}" + (f" and {others} more" if others else "")
    elif one.child == "gone":
        yield "child", "gone: the cage ends with its supervisor"
    elif one.child == "ended" and one.supervisor_pid is not None:
        yield "child", "ended: the session is being sealed"


def _cage_rows(one: Running) -> Iterator[tuple[str, str]]:
    facts, summary = one.session.facts, one.session.summary
    if summary is not None and summary.is_ours:
        yield "isolation", _isolation(one) or "not recorded"
        for line in facts.enforcement if isinstance(facts.enforcement, list) else ():
            yield "cage", line
        yield "audit", f"{facts.audit_mode or '?'}, sync {facts.audit_sync or '?'}"
        if facts.working_directory:
            yield "directory", facts.working_directory
    if summary is not None and summary.tracked_paths:
        yield "granted", ", ".join(summary.tracked_paths)


def _root(audit_dir: str | None) -> Path:
    root = audit_root(audit_dir)
    processes.require_outside(root, os.environ)
    return root
