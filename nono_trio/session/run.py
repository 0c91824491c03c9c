"""Run a session: open its record, run its service under trio, return how it ended.

`run_command` runs a command in its cage (launch.py), `run_proxy` a listener alone.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit import store
from nono_trio.errors import AuditLost
from nono_trio.session.cage_launch import launched_cage, limited
from nono_trio.session.descriptors import StandardStreams, make_room, max_connections
from nono_trio.session.policy_facts import proxy_policy, run_policy
from nono_trio.session.unseen_attempts import unseen_warnings
from nono_trio.startup import collect_as_usual

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.ledger_signer import Follower
    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import RunOptions, SessionOptions
    from nono_trio.core.log.policy_json import SessionPolicy
    from nono_trio.core.policy.attempts import AttemptTally
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.session.cage_launch import Listeners, Started
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.prepare import PreparedRun
    from nono_trio.session.supervisor import Outcome, Supervisor
    from nono_trio.session.tokens.captured_logins import SessionLogins
    from nono_trio.session.trust.session_trust import SessionTrust


class Finished(msgspec.Struct, frozen=True):
    """A session that has ended, and its log; `attempts` are what it tried, `notes` are sentences
    about it for the user."""

    outcome: Outcome
    record: SessionRecord
    attempts: AttemptTally
    notes: Sequence[str] = ()


def run_command(options: RunOptions, prepared: PreparedRun, listeners: Listeners) -> Finished:
    """Run a prepared command to its end and seal its log. Blocking; main thread only.

    Raises CageFailed or AuditLost when the cage or the session's files can't be made: then
    nothing was executed.
    """
    with (
        limited(prepared, listeners.warn) as cgroup,
        launched_cage(options, prepared, cgroup, listeners) as started,
    ):
        from nono_trio.session.shutdown import outliving_signals

        with outliving_signals():
            finished = _supervise(options, started, listeners)
        if cgroup is not None and cgroup.out_of_memory():
            listeners.warn("the command ran out of the memory that --memory gave it")
        return finished


def _supervise(options: RunOptions, started: Started, listeners: Listeners) -> Finished:
    """Open the record, let the command run under trio, seal."""
    import trio

    from nono_trio.session.child_service import ChildService

    policy = run_policy(options, started.run)
    record = open_record(options.session, options.command, policy, started.run.signer)
    if record.ledger_signer is not None:
        record.ledger_signer.followers += started.run.followers
    listeners.built(started.run.enforcement)
    listeners.opened(record)
    make_room(started.run.max_connections)
    record.judging = options.judging
    for warning in unseen_warnings(options.judging, started):
        listeners.warn(f"warning: {warning}")
    supervisor = make_supervisor(options.session, record, listeners)
    denials = started.run.resources.denials
    if denials is not None:
        denials.session_id = record.session_id
        supervisor.writer.observers.append(denials.observe)
    service = ChildService(
        started.launched,
        started.sockets,
        started.run,
        record,
        supervisor.shutdown,
        supervisor.writer.watchdog,
        grace_seconds=options.session.grace_seconds,
        timeout_seconds=options.timeout_seconds,
        attribution=options.attribution,
    )
    # The child shares the terminal and can have it stop us when we write from the background.
    # Only now: what is ignored when the launcher is started, the command ignores too.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    supervisor.writer.watchdog.ends.append(
        lambda: listeners.warn("the audit log can't be written: its file system does not answer")
    )
    streams = StandardStreams()
    collect_as_usual()
    outcome = trio.run(supervisor.run, service)
    started.run.resources.terminal.settle()
    streams.put_back()
    if service.timed_out:
        listeners.warn(f"the command was ended after {options.timeout_seconds:g} s (--timeout)")
    return Finished(outcome, record, supervisor.writer.totals.attempts, service.notes)


def run_proxy(
    options: SessionOptions,
    policy: Policy,
    token: str,
    listener: socket.socket,
    ready: Callable[[SessionRecord], None],
    listeners: Listeners,
    trust: SessionTrust | None = None,
    credentials: SessionCredentials | None = None,
) -> Finished:
    """Serve `listener` until the first signal and seal the log. Blocking; main thread only.

    `trust` is needed if the policy has intercepted hosts.
    """
    import trio

    from nono_trio.session.listener_service import ListenerService
    from nono_trio.session.shutdown import outliving_signals

    connections = max_connections(options.max_connections)
    signer, followers = None, list["Follower"]()
    if options.audit.sign_key is not None:
        from nono_trio.session.signing import (  # late: cryptography takes 40 ms
            proxy_followers,
            proxy_signer,
        )

        followers = proxy_followers(options, policy)
        signer = proxy_signer(options)
    with outliving_signals():
        policy_record = proxy_policy(options, credentials)
        record = open_record(options, ["nono-trio", "proxy"], policy_record, signer)
        if record.ledger_signer is not None:
            record.ledger_signer.followers += followers
        make_room(connections)
        supervisor = make_supervisor(options, record, listeners)
        service = ListenerService(
            listener,
            policy,
            token,
            supervisor.shutdown,
            lambda: ready(record),
            options.network.upstream_proxy,
            trust,
            credentials,
            _logins_of(options),
            connections,
        )
        collect_as_usual()
        outcome = trio.run(supervisor.run, service)
        return Finished(outcome, record, supervisor.writer.totals.attempts)


def _logins_of(options: SessionOptions) -> SessionLogins | None:
    """The captured logins of a proxy alone, which end with it."""
    if all(one.login is None for one in options.network.credentials):
        return None
    from nono_trio.session.tokens.captured_logins import SessionLogins  # late: few have any

    return SessionLogins(options.network.credentials, None)


def make_supervisor(
    options: SessionOptions, record: SessionRecord, listeners: Listeners
) -> Supervisor:
    """Return the supervisor of a session, with who listens to it."""
    from nono_trio.session.supervisor import Supervisor

    supervisor = Supervisor(
        record, options.audit, grace_seconds=options.grace_seconds, warn=listeners.warn
    )
    if record.files.signer is not None:
        record.files.signer.warn = listeners.warn
    supervisor.writer.observers += listeners.observe
    supervisor.writer.program_observers += listeners.programs
    return supervisor


def open_record(
    options: SessionOptions,
    command: Sequence[str],
    policy: SessionPolicy,
    signer: Signer | None,
) -> SessionRecord:
    """Make the files of a session. Blocking; raises AuditLost."""
    from nono_trio.audit.write.session_record import SessionFacts, SessionRecord

    root = options.audit.state_root
    try:
        return SessionRecord(store.audit_root(root), SessionFacts(command, policy), signer)
    except OSError as error:
        raise AuditLost(
            f"the audit log can't be created in {root}: {error.strerror or error}",
            hint="choose another place with --audit-dir",
        ) from error
