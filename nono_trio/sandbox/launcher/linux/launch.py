"""The launch on Linux: a new interpreter builds the cage around itself, then becomes the child.

The steps in order: die with the supervisor; new namespaces; loopback up; the proxy's listening
socket, opened inside the new network and handed over; a fork, which becomes PID 1 of the new PID
namespace; the file system view; a second fork, which becomes the child: own process group,
terminal, capabilities dropped, Landlock, seccomp; "ready"; on "go", exec. The first process only
waits for PID 1, because the kernel ends the namespace with it.
"""

import contextlib
import os
import signal
import socket
import stat
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import NamedTuple, NoReturn

from .. import protocol
from ..cage_plan import CageGrant, CagePlan, Identity
from ..import_freeze import freeze_imports
from ..nono_py import load_library
from ..process_tree import Freezer, end_descendants
from ..steps import (
    ChildSide,
    StageError,
    fork_child,
    granted,
    report_failure,
    set_limits,
    stage,
)
from ..tempdir import remove_temporary
from . import call_rules, seccomp, syscalls
from .keeper import END_NOW, wait_for_init
from .mounts import build_view, changed, require_same
from .namespaces import (
    enter_namespaces,
    listen_on_both,
    listen_on_loopback,
    raise_loopback,
)
from .netlink import open_socket_diag
from .network import OuterNetwork, loopback_dns
from .packet_capture import LOOPBACK_CAPTURE, refused_loopback
from .signal_scope import enter_signal_scope
from .view_mount import AnsweringView

# The supervisor surveys the home within two seconds and then closes its end.
SUPERVISOR_SECONDS = 10.0


def detach(kept: int) -> None:
    """Die with the supervisor, and close all inherited descriptors except `kept`.

    The child gets the three standard streams only.
    """
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    syscalls.die_with_parent(signal.SIGKILL)


def launch(control: socket.socket, plan: CagePlan, ignored: frozenset[int]) -> NoReturn:
    """Build the cage of `plan` and stay until it has ended; raises StageError before that."""
    os.umask(0o022)  # what the cage is made of is entered by others than its maker
    isolated = plan.isolation == "namespace"
    view, sockets = _isolate(control, plan) if isolated else (None, {})
    # Later file look-ups may happen in the child's view, which has the child's files.
    freeze_imports()
    scoped = plan.isolation == "landlock" and enter_signal_scope()
    signal.pthread_sigmask(signal.SIG_BLOCK, [END_NOW])  # until there is a process to end
    with stage("fork"):
        started, start = os.pipe()
        first = os.fork()
    if first:
        control.close()
        os.close(start)
        for listener in sockets.values():  # an open copy would accept the child's connections
            listener.close()
        _wait_for(first, started, plan, view, scoped=scoped)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [END_NOW])
    os.close(started)
    if isolated:
        syscalls.die_with_parent(signal.SIGKILL)
    else:  # a PID namespace would do it: orphans become children of this process
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        scoped = scoped and enter_signal_scope()  # its own: it must not reach the launcher
    try:
        _become_init(control, plan, sockets, ignored, start, view, scoped=scoped)
    except StageError as failed:
        report_failure(control, failed)
    except OSError as failed:  # if the supervisor has ended, the report has no reader
        report_failure(control, StageError("launch", failed))
    _end_tree(plan, scoped=scoped)
    os._exit(1)


def _isolate(
    control: socket.socket, plan: CagePlan
) -> tuple[AnsweringView | None, dict[str, socket.socket]]:
    """Enter the cage's namespaces; return the file system view that answers, and the sockets that
    were opened inside the new network, by name."""
    sockets: dict[str, socket.socket] = {}
    view = AnsweringView(control, plan.watched) if plan.answers_denied else None
    with stage("namespaces"):
        _enter_namespaces(view)
    if plan.transparent_ports:
        with stage("transparent network"):
            outer = OuterNetwork(plan.transparent_ports, plan.every_port_networks)
            sockets |= outer.sockets
            outer.enter_inner()
            if plan.asks_loopback:
                sockets |= loopback_dns()
    else:
        with stage("loopback"):
            raise_loopback()
    with stage("listener"):
        sockets["proxy"] = listen_on_loopback(plan.port)
        for port in plan.open_ports:
            sockets |= listen_on_both(port)
    diag = open_socket_diag()
    if diag is not None:
        sockets["socket-diag"] = diag
    capture = refused_loopback()
    if capture is not None:
        sockets[LOOPBACK_CAPTURE] = capture
    return view, sockets


def _enter_namespaces(view: AnsweringView | None) -> None:
    """Enter them, and make the file system of `view` on the side where it can be."""
    outside = os.geteuid() == 0
    if view is not None and outside:
        view.mount(outside=True)
    enter_namespaces()
    if view is not None and not outside:
        view.mount(outside=False)


def _wait_for(
    first: int, started: int, plan: CagePlan, view: AnsweringView | None, *, scoped: bool
) -> NoReturn:
    if view is not None:
        view.release()
    if plan.isolation != "namespace":  # if PID 1 is killed, its children become ours
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    wait_for_init(first, started, plan.deadline_seconds, None if view is None else view.handle)
    if view is not None:
        view.end()
    _end_tree(plan, scoped=scoped)
    os._exit(0)


def _end_tree(plan: CagePlan, *, scoped: bool) -> None:
    """End every process of a cage without a PID namespace, then remove its temporary directory.

    `scoped`: signals of this process reach that tree alone. The supervisor removes the directory
    too, unless it was killed.
    """
    if plan.isolation != "namespace":
        end_descendants(scoped=scoped)
    if plan.temporary is not None:
        remove_temporary(plan.temporary)


def _become_init(
    control: socket.socket,
    plan: CagePlan,
    sockets: dict[str, socket.socket],
    ignored: frozenset[int],
    start: int,
    view: AnsweringView | None,
    *,
    scoped: bool,
) -> NoReturn:
    isolated = plan.isolation == "namespace"
    with stage("sandbox library"):
        library = load_library(plan.library)
    if isolated:
        with stage("file system view"):
            build_view(plan.mounts, view)
        if view is not None:
            _hand_over_view(control, view)
        _hand_over_home(control, plan, None if view is None else view.home)
    # No process of the cage may read this process' memory or descriptors, even as root.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    child = fork_child(
        control,
        sockets,
        lambda side: _become_child(side, plan, library, ignored),
        foreground=plan.foreground,
    )
    freezer = Freezer(isolated=isolated) if plan.stops_whole else None
    child.conduct(control, sockets, freezer, told=start)
    if not isolated:
        end_descendants(scoped=scoped)
        _await_supervisor(control)
    _end_tree(plan, scoped=scoped)
    os._exit(0)


def _await_supervisor(control: socket.socket) -> None:
    """Wait until the supervisor has surveyed the home or ended; SUPERVISOR_SECONDS at most."""
    control.settimeout(SUPERVISOR_SECONDS)
    with contextlib.suppress(OSError):
        while control.recv(1 << 16):
            pass


def _hand_over_view(control: socket.socket, view: AnsweringView) -> None:
    """Send the supervisor the socket of the reports of look-ups, or why there are no reports."""
    view.leave()
    if view.why_not is not None:
        protocol.send(control, {"view": view.why_not})
        return
    protocol.send(control, {"view": None, "home_seen": view.home_seen}, [view.told.fileno()])
    view.told.close()


def _hand_over_home(control: socket.socket, plan: CagePlan, upper: int | None) -> None:
    """Send the supervisor the directory of an empty home; it reports the content at the end.

    `upper`: a descriptor of that directory, if the view is an overlay there.
    """
    for home in plan.mounted("empty_home"):
        with stage("home"):
            descriptor = upper
            if descriptor is None:
                descriptor = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        protocol.send(control, {"home": True}, [descriptor])
        os.close(descriptor)


def _become_child(
    side: ChildSide, plan: CagePlan, library: ModuleType, ignored: frozenset[int]
) -> NoReturn:
    try:
        side.lead_group(ignored)
        with stage("limits"):
            set_limits(plan.limits, plan.core_limit)
        syscalls.leave_session_keyring()
        with stage("capabilities"):
            if plan.isolation != "none":
                syscalls.drop_capabilities()
            if plan.isolation != "namespace":
                syscalls.die_with_parent(signal.SIGKILL)
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        with stage("landlock"):
            _apply_landlock(library, plan)
        with stage("system call filter"):
            _apply_filter(plan.isolation)
        notifications = _notify_calls(plan)
        socket.send_fds(side.reporting, [b"caged"], notifications)
    except StageError as failed:
        side.refuse(failed)
    side.execute(plan)


def _apply_landlock(library: ModuleType, plan: CagePlan) -> None:
    """Confine this process to the plan's grants, and in landlock isolation to the proxy's port."""
    isolated = plan.isolation == "landlock"
    if not plan.landlock and not isolated:
        return
    held = []
    if plan.isolation != "namespace":  # there the view checks identities
        held = hold_grants(plan.grants, plan.identities)
    capabilities = granted(library, plan.allowed)
    if not isolated:
        library.apply_landlock(capabilities)
        require_same_grants(held, plan.identities)
        return
    capabilities.block_network()
    capabilities.allow_tcp_connect_port(plan.port)
    for port in plan.listen_ports:
        capabilities.allow_bind_port(port)
    # Landlock covers TCP only; nono-py's filter refuses all other sockets and io_uring.
    library.apply_seccomp(capabilities)
    require_same_grants(held, plan.identities)


class _HeldGrant(NamedTuple):
    path: str
    descriptor: int
    readable: bool  # by its grant and its mode


def hold_grants(
    grants: Iterable[CageGrant], identities: Mapping[str, Identity]
) -> list[_HeldGrant]:
    """Open each granted path; raise StageError if its file has changed since the plan was made."""
    to_read = {grant.path for grant in grants if grant.access != "write"}
    held = []
    for path, expected in identities.items():
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            require_same(descriptor, path, expected)
            held.append(_HeldGrant(path, descriptor, path in to_read and _may_read(descriptor)))
    return held


def require_same_grants(held: list[_HeldGrant], identities: Mapping[str, Identity]) -> None:
    """Raise StageError if Landlock was given another file than the held one.

    Landlock's library takes paths, and another cage may swap a path for just that moment. So the
    path must lead to the held file again, and the held file must be readable.
    """
    for grant in held:
        with contextlib.suppress(FileNotFoundError):
            require_same(grant.path, grant.path, identities[grant.path])
        if grant.readable and not _may_read(grant.descriptor):
            raise changed(grant.path)
        os.close(grant.descriptor)


def _may_read(descriptor: int) -> bool:
    """Tell whether a held directory or file can be opened for reading."""
    if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
        return False
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:  # leased, or too large: the grant is not the reason
        return True
    return True


def _apply_filter(isolation: str) -> None:
    user, group = os.geteuid(), os.getegid()
    common = [*call_rules.COMMON, *(call_rules.READABLE if user != 0 else ())]
    if isolation == "namespace":
        ids = call_rules.only_own_ids(user, group) if user != 0 else ()
        seccomp.refuse_calls([*common, *call_rules.OWN_PROCESSES, *ids])
    elif isolation == "landlock":
        seccomp.refuse_calls([*common, *call_rules.SHARED_HOST])


def _notify_calls(plan: CagePlan) -> list[int]:
    """Send calls that a filter can't judge to the supervisor; without a broker, refuse them.

    Returns the notification descriptor, or an empty list.
    """
    if plan.isolation == "landlock":
        if plan.brokered:
            with stage("connect broker"):
                return [seccomp.notify_calls(call_rules.NOTIFY_HOST, connections=True)]
        seccomp.refuse_calls([*call_rules.OWN_ONLY, *_refused_modes()])
    elif plan.isolation == "namespace":
        if plan.brokered:
            with contextlib.suppress(OSError):  # another process already handles notifications
                return [seccomp.notify_calls(call_rules.NOTIFY_MODES, connections=False)]
        seccomp.refuse_calls(_refused_modes())
    return []


def _refused_modes() -> tuple[seccomp.CallRule, ...]:
    """Return the mode rules: an ordinary user's set-group-id files grant only own groups."""
    return call_rules.NO_SET_BITS if os.geteuid() == 0 else call_rules.NO_SET_USER
