"""Start a session: launch its cage, open its record, run it under trio.

The launcher is started first and trio imported after it, so that the two start-ups overlap.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.errors import AuditLost, CageFailed
from nono_trio.sandbox.cgroup import Cgroup
from nono_trio.sandbox.spawn import (
    ConnectBrokerRefused,
    NamespacesRefused,
    TransparentRefused,
    await_ready,
    spawn,
)
from nono_trio.session.descriptors import StandardStreams, make_room
from nono_trio.session.policy_facts import proxy_policy, run_policy

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import RunOptions, SessionOptions
    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.policy_json import SessionPolicy
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.sandbox.spawn import Launched, LaunchFailed
    from nono_trio.session.prepare import PreparedRun
    from nono_trio.session.supervisor import Outcome, Supervisor


@dataclass(frozen=True)
class Listeners:
    """Who is told what while a session lives: called on the loop, so they must not block."""

    warn: Callable[[str], None]
    observe: Sequence[Callable[[int, Payload], None]] = ()
    opened: Callable[[SessionRecord], None] = lambda _record: None
    built: Callable[[Sequence[str]], None] = lambda _enforcement: None  # after every fallback


@dataclass(frozen=True)
class Finished:
    """A session that has ended, and where its log is; `notes` are sentences about it for whoever
    started it."""

    outcome: Outcome
    record: SessionRecord
    notes: Sequence[str] = ()


def run_command(options: RunOptions, prepared: PreparedRun, listeners: Listeners) -> Finished:
    """Run a prepared command to its end and seal its log. Blocking; main thread only.

    Raises CageFailed or AuditLost when the cage or the session's files can't be made: then
    nothing was executed.
    """
    with (
        _limited(prepared, listeners.warn) as cgroup,
        _launched(options, prepared, cgroup, listeners) as started,
    ):
        from nono_trio.session.shutdown import outliving_signals

        with outliving_signals():
            finished = _supervise(options, started, listeners)
        if cgroup is not None and cgroup.out_of_memory():
            listeners.warn("the command ran out of the memory that --memory gave it")
        return finished


def _supervise(options: RunOptions, started: _Started, listeners: Listeners) -> Finished:
    """Open the record, let the command run under trio, seal."""
    import trio

    from nono_trio.session.services import ChildService

    record = _open_record(options.session, options.command, run_policy(options, started.run))
    listeners.built(started.run.enforcement)
    listeners.opened(record)
    make_room()
    supervisor = _supervisor(options.session, record, listeners)
    denials = started.run.denials
    if denials is not None:
        denials.session_id = record.session_id
        supervisor.writer.observers.append(denials.observe)
    front = ChildService(
        started.launched,
        started.sockets,
        started.run,
        record,
        supervisor.shutdown,
        supervisor.writer.watchdog,
        grace_seconds=options.session.grace_seconds,
        timeout_seconds=options.timeout_seconds,
    )
    # The child shares the terminal and can have it stop whoever writes from the background.
    # Only now: what is ignored when the launcher is started, the command ignores too.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    supervisor.writer.watchdog.ends.append(
        lambda: listeners.warn("the audit log can't be written: its file system does not answer")
    )
    streams = StandardStreams()
    outcome = trio.run(supervisor.run, front)
    started.run.terminal.settle()
    streams.put_back()
    if front.timed_out:
        listeners.warn(f"the command was ended after {options.timeout_seconds:g} s (--timeout)")
    return Finished(outcome, record, front.notes)


@dataclass(frozen=True)
class _Started:
    """A cage that is shut in and waits for "go", as it was built in the end."""

    launched: Launched
    sockets: dict[str, socket.socket]
    run: PreparedRun


@contextlib.contextmanager
def _launched(
    options: RunOptions, prepared: PreparedRun, cgroup: Cgroup | None, listeners: Listeners
) -> Iterator[_Started]:
    """Launch the cage, a weaker one where the machine refuses and the user leaves it to us."""
    launched = spawn(prepared.plan, cgroup)
    try:
        import trio  # noqa: F401  (imported here, while the launcher shuts itself in)

        from nono_trio.session.preload import preload

        preload(guarded=prepared.plan.brokered)
        while True:
            try:
                sockets = await_ready(launched)
                break
            except (NamespacesRefused, TransparentRefused, ConnectBrokerRefused) as refused:
                options = _weaker(options, refused)
                launched.abandon()
                prepared.home.take_back()
                prepared.close()
                prepared = _prepare_again(options, refused, listeners, said=prepared.warnings)
                launched = spawn(prepared.plan, cgroup)
                preload(guarded=prepared.plan.brokered)
        if prepared.listener is not None:
            sockets["proxy"] = prepared.listener
        yield _Started(launched, sockets, prepared)
    finally:
        launched.abandon()
        prepared.close()


@contextlib.contextmanager
def _limited(prepared: PreparedRun, warn: Callable[[str], None]) -> Iterator[Cgroup | None]:
    """Make the cgroup that the run's limits need, if they need one."""
    limits = prepared.limits
    if limits.cgroup_parent is None:
        yield None
        return
    try:
        cgroup = Cgroup(limits.cgroup_parent, limits.whole_cage)
    except OSError as error:
        if not limits.cgroup_required:
            warn(f"warning: the cage has no limit on processes: its cgroup can't be made: {error}")
            yield None
            return
        raise CageFailed(f"the cgroup for the limits can't be made: {error}") from error
    try:
        yield cgroup
    except CageFailed as failed:
        if cgroup.out_of_memory():
            raise CageFailed(
                "the cage ran out of memory before the command started",
                hint="give it more with --memory: the cage itself takes some 16M",
            ) from failed
        raise
    finally:
        cgroup.close()


def _weaker(options: RunOptions, refused: LaunchFailed) -> RunOptions:
    """Return options for what is left without the refused part; raises it if it was asked for."""
    if isinstance(refused, TransparentRefused) and options.transparent is None:
        return replace(options, transparent=False)
    if isinstance(refused, NamespacesRefused) and options.isolation == "auto":
        return replace(options, isolation="landlock")
    if isinstance(refused, ConnectBrokerRefused):
        return replace(options, guarded=False)
    raise refused


def _prepare_again(
    options: RunOptions, refused: LaunchFailed, listeners: Listeners, said: Sequence[str]
) -> PreparedRun:
    """Prepare the run anew with weaker options, and say what that leaves open."""
    from nono_trio.session.prepare import prepare_run

    instead = {
        NamespacesRefused: f"to --isolation {options.isolation}",
        TransparentRefused: "to --transparent off",
        ConnectBrokerRefused: "to unguarded connections",
    }[type(refused)]
    listeners.warn(f"warning: {refused.message}: falling back {instead}")
    try:
        prepared = prepare_run(options, tell=listeners.warn)
    except CageFailed as failed:
        if isinstance(refused, NamespacesRefused):
            failed.hint = f"`nono-trio doctor` says what would allow namespaces; {failed.hint}"
        raise
    for warning in prepared.warnings:
        if warning not in said:
            listeners.warn(f"warning: {warning}")
    for note in prepared.home.notes:
        listeners.warn(note)
    return prepared


def run_proxy(
    options: SessionOptions,
    policy: Policy,
    token: str,
    listener: socket.socket,
    ready: Callable[[SessionRecord], None],
    listeners: Listeners,
) -> Finished:
    """Serve `listener` until the first signal and seal the log. Blocking; main thread only."""
    from nono_trio.session.shutdown import outliving_signals

    with outliving_signals():
        return _supervise_proxy(options, policy, token, listener, ready, listeners)


def _supervise_proxy(
    options: SessionOptions,
    policy: Policy,
    token: str,
    listener: socket.socket,
    ready: Callable[[SessionRecord], None],
    listeners: Listeners,
) -> Finished:
    import trio

    from nono_trio.session.services import ListenerService

    record = _open_record(options, ["nono-trio", "proxy"], proxy_policy(options))
    make_room()
    supervisor = _supervisor(options, record, listeners)
    front = ListenerService(
        listener,
        policy,
        token,
        supervisor.shutdown,
        lambda: ready(record),
        options.network.upstream_proxy,
    )
    return Finished(trio.run(supervisor.run, front), record)


def _supervisor(options: SessionOptions, record: SessionRecord, listeners: Listeners) -> Supervisor:
    from nono_trio.session.supervisor import AuditSettings, Supervisor

    audit = options.audit
    supervisor = Supervisor(
        record,
        AuditSettings(audit.mode, audit.sync, audit.queue),
        grace_seconds=options.grace_seconds,
        warn=listeners.warn,
    )
    supervisor.writer.observers += listeners.observe
    return supervisor


def _open_record(
    options: SessionOptions, command: Sequence[str], policy: SessionPolicy
) -> SessionRecord:
    from nono_trio.audit.write.session_record import SessionFacts, SessionRecord

    root = options.audit.state_root
    try:
        return SessionRecord(store.audit_root(root), SessionFacts(command, policy))
    except OSError as error:
        raise AuditLost(
            f"the audit log can't be created in {root}: {error.strerror or error}",
            hint="choose another place with --audit-dir",
        ) from error
