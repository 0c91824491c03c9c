"""Sessions as processes: which run, what became of the others, and how one is asked to end.

Loop-free: `ps`, `stop` and `inspect` must be quick. Rules of this file: a process is known by its
pid *and* its start time, and signalled through a handle that was opened before the two were
compared, so a pid that another process got meanwhile is never signalled; a pid of session.json
is believed only where that process belongs to the owner of the session's directory and holds
the lock of its log, because root reads directories that others fill; the supervisor is never
killed: it alone can seal the log, and it ends the whole tree of the child.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.audit import store
from nono_trio.audit.read.status import Status, status_of
from nono_trio.audit.read.status import status as bound_status
from nono_trio.audit.verify import bound_facts
from nono_trio.errors import AuditLost, LogUnreadable, NonoTrioError
from nono_trio.posix import process_info
from nono_trio.posix.process_handle import ProcessHandle
from nono_trio.posix.process_table import LAUNCHERS, ProcessTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from nono_trio.audit.stored_session import StoredSession

ChildState: TypeAlias = Literal["running", "ended", "gone", "none"]

# From the second signal to the end: the tree is killed and reaped (32 s), the queue drained (10 s),
# the log sealed (10 s), each by the supervisor's own deadlines; what is over that is a stuck disk.
HURRIED_SECONDS = 60.0
# A tree of this size says enough; a child that forks without end must not keep `ps` busy.
MAX_COUNTED = 10_000

_ROOT = 0

TOKEN_VARIABLE = "NONO_PROXY_TOKEN"  # set by every cage, and by nothing else of ours


class Running(msgspec.Struct, frozen=True):
    """One session with what the process table says of it.

    `child` is `gone` where the supervisor was lost: the kernel ends the tree with it. `processes`
    are those of the command; `child_pid` is the command's own, as the host numbers it.
    """

    session: StoredSession
    status: Status
    supervisor_pid: int | None
    child: ChildState
    child_pid: int | None
    processes: int


def require_outside(audit_root: Path, environ: Mapping[str, str]) -> None:
    """Raise LogUnreadable inside a cage, where the sessions of the host are out of reach."""
    if TOKEN_VARIABLE not in environ:
        return
    try:  # not os.access, which knows nothing of Landlock
        os.scandir(audit_root).close()
    except OSError as error:
        raise LogUnreadable(
            f"the sessions in {audit_root} can't be reached from inside a cage",
            hint="run it outside: a cage never shows the audit logs",
        ) from error


def look_at(session: StoredSession) -> Running:
    """Return the present state of one session that `glance.look` has read."""
    status = bound_status(session)
    pid = session.supervisor.pid if session.alive and session.supervisor is not None else None
    if pid is not None and not supervises(pid, session.directory, _ROOT):
        pid = None
    if pid is None:
        status = "crashed" if status == "running" else status
        child: ChildState = "ended" if session.sealed else "gone"
        return Running(session, status, None, child, None, 0)
    table = ProcessTable()
    cage = [pid]
    for _ in range(LAUNCHERS):
        cage = [process for above in cage for process in table.children(above)]
    commands = [command for init in cage for command in table.children(init)]
    if not commands:
        # A proxy without a command never has one, a run not while its log is being sealed.
        state: ChildState = "none" if _is_proxy(session) else "ended"
        return Running(session, status, pid, state, None, 0)
    return Running(session, status, pid, "running", commands[0], _count_below(table, cage))


def overview(audit_root: Path, *, every: bool) -> list[Running]:
    """Running and crashed sessions, newest first; `every` adds the sealed ones."""
    found = [look_at(session) for session in bound_facts.sessions(audit_root)]
    return [one for one in found if every or not one.session.sealed]


def supervises(pid: int, directory: Path, *others: int) -> bool:
    """Return whether a process is the supervisor of the session in `directory`.

    It belongs to the directory's owner alone (or to one of `others`, to be shown, never to be
    signalled: root may keep its log in a user's directory), and it holds the log's lock.
    """
    try:
        owner = directory.stat(follow_symlinks=False).st_uid
    except OSError:
        return False
    users = process_info.process_users(pid)
    if users != {owner} and users not in [{other} for other in others]:
        return False
    return process_info.holds_lock(pid, directory / store.LOG)


def stop(directory: Path, timeout_seconds: float) -> bool:
    """Ask a session to end, hurry it after the timeout; return whether it had to be hurried.

    The first SIGTERM makes the supervisor tell the child's group and seal after it; the second
    makes it kill the tree at once, and seal all the same. Raises AuditLost when it ended without a
    seal, NonoTrioError when it does not run, did not end or can't be signalled.
    """
    with _supervisor(directory) as supervisor:
        for hurried, seconds in ((False, timeout_seconds), (True, HURRIED_SECONDS)):
            _ask(supervisor, directory.name)
            if supervisor.ended_within(seconds):
                _require_sealed(directory)
                return hurried
    raise NonoTrioError(
        f"session {directory.name} did not end: its supervisor was asked twice and still runs",
        hint="its disk may be stuck; killing the supervisor would leave the log unsealed",
    )


def _recover_command(directory: Path) -> str:
    from nono_trio.audit.recovery.recover_command import recover_command  # late: rare

    return recover_command(directory)


def _require_sealed(directory: Path) -> None:
    if status_of(directory, store.read_summary(directory)) == "sealed":
        return
    raise AuditLost(
        f"session {directory.name} ended, but its log was not sealed",
        hint=f"`{_recover_command(directory)}` seals it",
    )


@contextmanager
def _supervisor(directory: Path) -> Iterator[ProcessHandle]:
    """A handle to the session's own supervisor; raises NonoTrioError when it is not there."""
    summary = store.read_summary(directory)
    pid = summary.facts.supervisor_pid if summary is not None else None
    try:
        handle = ProcessHandle(pid) if isinstance(pid, int) and pid > 0 else None
    except ProcessLookupError:
        handle = None
    except PermissionError as error:
        raise _not_ours(directory.name) from error
    except OSError as error:
        raise NonoTrioError(
            f"session {directory.name} can't be stopped from here: pidfd_open:"
            f" {(error.strerror or '').lower()}",
            hint=f"ask it yourself: kill -TERM {pid}",
        ) from error
    try:
        # After the handle is open: if its process is the right one, it stays that.
        if handle is None or summary is None or status_of(directory, summary) != "running":
            raise _not_running(directory)
        if not supervises(pid or 0, directory):
            raise NonoTrioError(
                f"session {directory.name} can't be stopped: process {pid} is not its supervisor",
                hint="see `nono-trio ps`",
            )
        yield handle
    finally:
        if handle is not None:
            handle.close()


def _not_running(directory: Path) -> NonoTrioError:
    status = status_of(directory, store.read_summary(directory))
    name = directory.name
    if status == "crashed":
        return NonoTrioError(
            f"session {name} is not running: its supervisor is gone, its command with it",
            hint=f"`{_recover_command(directory)}` seals its log",
        )
    return NonoTrioError(f"session {name} is not running: {status}", hint="see `nono-trio ps`")


def _ask(supervisor: ProcessHandle, session_id: str) -> None:
    """Send SIGTERM; a supervisor that was stopped (Ctrl-Z) is let go on, or it never sees it."""
    try:
        with suppress(ProcessLookupError):
            supervisor.signal(signal.SIGTERM)
            supervisor.signal(signal.SIGCONT)
    except PermissionError as error:
        raise _not_ours(session_id) from error


def _not_ours(session_id: str) -> NonoTrioError:
    return NonoTrioError(
        f"session {session_id} can't be signalled: it belongs to another user",
        hint="stop it as that user, or as root",
    )


# -- the tree below a supervisor ------------------------------------------------------------------


def _is_proxy(session: StoredSession) -> bool:
    return session.summary is not None and session.summary.command == ["nono-trio", "proxy"]


def _count_below(table: ProcessTable, roots: list[int]) -> int:
    seen, pending = 0, [*roots]
    while pending and seen < MAX_COUNTED:
        children = table.children(pending.pop())
        seen += len(children)
        pending += children
    return seen
