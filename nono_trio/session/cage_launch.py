"""Launch the cage of a prepared run: its cgroup, its launcher, a weaker cage where one is refused.

Rules of this file: the launcher is started first and trio imported after it, so that the two
start-ups overlap; a weaker cage is taken only if the user left the choice to us, with a warning.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from nono_trio.errors import CageFailed
from nono_trio.sandbox.cgroup import Cgroup
from nono_trio.sandbox.spawn import (
    ConnectBrokerRefused,
    NamespacesRefused,
    TransparentRefused,
    await_ready,
    spawn,
)
from nono_trio.session.trio_import import import_trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import RunOptions
    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.processes import Found
    from nono_trio.sandbox.spawn import Launched, LaunchFailed
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.prepare import PreparedRun


class Listeners(msgspec.Struct, frozen=True):
    """Callbacks of a session, called on the loop, so they must not block."""

    warn: Callable[[str], None]
    observe: Sequence[Callable[[int, Payload], None]] = ()
    programs: Sequence[Callable[[int, Found], None]] = ()
    opened: Callable[[SessionRecord], None] = lambda _record: None
    built: Callable[[Sequence[str]], None] = lambda _enforcement: None  # after every fallback


class Started(msgspec.Struct, frozen=True):
    """A cage that is shut in and waits for "go", after every fallback."""

    launched: Launched
    sockets: dict[str, socket.socket]
    run: PreparedRun


@contextlib.contextmanager
def launched_cage(
    options: RunOptions, prepared: PreparedRun, cgroup: Cgroup | None, listeners: Listeners
) -> Iterator[Started]:
    """Launch the cage, a weaker one where the machine refuses and the user leaves it to us."""
    launched = spawn(prepared.plan, cgroup)
    try:
        import_trio()  # here, while the launcher shuts itself in
        _preload(prepared)
        while True:
            try:
                sockets = await_ready(launched)
                break
            except (NamespacesRefused, TransparentRefused, ConnectBrokerRefused) as refused:
                options = _weaker(options, refused)
                launched.abandon()
                prepared.resources.home.take_back()
                prepared.resources.close()
                prepared = prepare_again(
                    options, refused, listeners, prepared.warnings, prepared.credentials
                )
                launched = spawn(prepared.plan, cgroup)
                _preload(prepared)
        if prepared.resources.listener is not None:
            sockets["proxy"] = prepared.resources.listener
        if prepared.plan.answers_denied:
            prepared.enforcement.append(launched.seen_files)
        yield Started(launched, sockets, prepared)
    finally:
        with contextlib.ExitStack() as last:  # in the other order, also after one that fails
            if prepared.credentials is not None:
                last.callback(prepared.credentials.close)
            last.callback(prepared.resources.close)
            last.callback(launched.abandon)


def _preload(prepared: PreparedRun) -> None:
    from nono_trio.session.preload import preload

    preload(
        brokered=prepared.plan.brokered,
        answers=prepared.plan.answers_denied,
        intercepts=prepared.resources.trust is not None,
        credentials=prepared.credentials is not None,
    )


@contextlib.contextmanager
def limited(prepared: PreparedRun, warn: Callable[[str], None]) -> Iterator[Cgroup | None]:
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
        return replace(options, brokered=False)
    raise refused


def prepare_again(
    options: RunOptions,
    refused: LaunchFailed,
    listeners: Listeners,
    said: Sequence[str],
    credentials: SessionCredentials | None = None,
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
        prepared = prepare_run(options, tell=listeners.warn, credentials=credentials)
    except CageFailed as failed:
        if isinstance(refused, NamespacesRefused):
            failed.hint = f"`nono-trio doctor` says what would allow namespaces; {failed.hint}"
        raise
    for warning in prepared.warnings:
        if warning not in said:
            listeners.warn(f"warning: {warning}")
    for note in prepared.resources.home.notes:
        listeners.warn(note)
    return prepared
