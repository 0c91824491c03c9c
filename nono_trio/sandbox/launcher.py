"""The child's side of the cage: a fresh interpreter that shuts itself in, then becomes the child.

Order, each step before the next: die with the supervisor; new namespaces; loopback up; the
proxy's listening socket, opened inside the new network and handed over; a fork, which is PID 1
of the new PID namespace; the file system view; a second fork, which is the child: own process
group, terminal, capabilities dropped, Landlock, seccomp; "ready"; on "go", exec. The first process
only waits for PID 1, as the kernel ties the namespace's life to it.

Run as `python -I -S -c "... main(fd)"`: no site-packages, no environment, so that nothing that a
user or a previous child left lying about is imported here. Fork is safe in this process: it has
one thread and no event loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from nono_trio.late_imports import refuse_late_imports
from nono_trio.sandbox import call_rules, protocol, system
from nono_trio.sandbox import filter as seccomp
from nono_trio.sandbox.keeper import END_NOW, wait_for_init
from nono_trio.sandbox.launch_steps import (
    StageError,
    fork_child,
    granted,
    receive_plan,
    report_failure,
    set_limits,
    stage,
    take_signals,
)
from nono_trio.sandbox.library import load_library
from nono_trio.sandbox.namespaces import (
    enter_namespaces,
    listen_on_both,
    listen_on_loopback,
    raise_loopback,
)
from nono_trio.sandbox.temporary import remove_temporary
from nono_trio.sandbox.transparent import OuterNetwork, loopback_dns
from nono_trio.sandbox.tree import Freezer, end_descendants
from nono_trio.sandbox.view import build_view, changed, require_same

if TYPE_CHECKING:
    from types import ModuleType

    from nono_trio.sandbox.launch_steps import ChildSide


# The supervisor looks at what it is about to lose within two seconds, and then closes its end.
SUPERVISOR_SECONDS = 10.0


def main(control_descriptor: int) -> NoReturn:
    """Run the launch with the supervisor at the other end of `control_descriptor`."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    _close_others(control_descriptor)
    ignored = take_signals()
    system.die_with_parent(signal.SIGKILL)
    plan = receive_plan(control)
    os.umask(0o022)  # what the cage is made of is entered by others than its maker
    try:
        _launch(control, plan, ignored)
    except StageError as failed:
        report_failure(control, failed)
    except OSError as failed:
        report_failure(control, StageError("launch", failed))
    os._exit(1)


def _close_others(kept: int) -> None:
    """Close what the caller's caller left open: the child gets the three standard streams only."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _launch(control: socket.socket, plan: dict[str, Any], ignored: frozenset[int]) -> NoReturn:
    sockets: dict[str, socket.socket] = {}
    isolated = plan["isolation"] == "namespace"
    if isolated:
        with stage("namespaces"):
            enter_namespaces()
        if plan["transparent_ports"]:
            with stage("transparent network"):
                outer = OuterNetwork(plan["transparent_ports"])
                sockets |= outer.sockets
                outer.enter_inner()
                if plan["asks_loopback"]:
                    sockets |= loopback_dns()
        else:
            with stage("loopback"):
                raise_loopback()
        with stage("listener"):
            sockets["proxy"] = listen_on_loopback(plan["port"])
            for port in plan["open_ports"]:
                sockets |= listen_on_both(port)
    # The next step that looks for files may do so in the child's view, where it finds the child's.
    refuse_late_imports()
    started, start = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [END_NOW])  # until there is somebody to end
    with stage("fork"):
        first = os.fork()
    if first:
        control.close()
        os.close(start)
        for listener in sockets.values():  # or the child's connects would be accepted by nobody
            listener.close()
        _wait_for(first, started, plan)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [END_NOW])
    os.close(started)
    if isolated:
        system.die_with_parent(signal.SIGKILL)
    else:  # what the PID namespace does by itself: orphans come back to this process
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    try:
        _become_init(control, plan, sockets, ignored, start)
    except StageError as failed:
        report_failure(control, failed)
    except OSError as failed:  # often because the supervisor went away: nobody is told then
        report_failure(control, StageError("launch", failed))
    _end_tree(plan)
    os._exit(1)


def _wait_for(first: int, started: int, plan: dict[str, Any]) -> NoReturn:
    if plan["isolation"] != "namespace":  # should the other be killed, its children come here
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    wait_for_init(first, started, plan["deadline_seconds"])
    _end_tree(plan)
    os._exit(0)


def _end_tree(plan: dict[str, Any]) -> None:
    """End every process of the cage where no PID namespace does it, then remove what was theirs.

    The supervisor removes it too; only this process is left to do it when that one was killed.
    """
    if plan["isolation"] != "namespace":
        end_descendants()
    if plan["temporary"] is not None:
        remove_temporary(plan["temporary"])


def _become_init(
    control: socket.socket,
    plan: dict[str, Any],
    sockets: dict[str, socket.socket],
    ignored: frozenset[int],
    start: int,
) -> NoReturn:
    isolated = plan["isolation"] == "namespace"
    with stage("sandbox library"):
        library = load_library(plan["library"])
    if isolated:
        with stage("file system view"):
            build_view(
                plan["view"],
                plan["identities"],
                plan["private"],
                plan["directories"],
                plan["covered"],
                plan["kept"],
                plan["replaced"],
                plan["streams"],
                plan["home"],
                plan["denials"],
            )
        _hand_over_home(control, plan)
    # Nobody in the cage may read this process' memory or descriptors, whatever its uid.
    system.prctl(system.PR_SET_DUMPABLE, 0)
    child = fork_child(
        control,
        sockets,
        lambda side: _become_child(side, plan, library, ignored),
        foreground=plan["foreground"],
    )
    freezer = Freezer(isolated=isolated) if plan["stops_whole"] else None
    child.conduct(control, sockets, freezer, told=start)
    if not isolated:
        end_descendants()
        _await_supervisor(control)
    _end_tree(plan)
    os._exit(0)


def _await_supervisor(control: socket.socket) -> None:
    """Wait until it has seen what the command left in its home, or has gone; not for ever."""
    control.settimeout(SUPERVISOR_SECONDS)
    with contextlib.suppress(OSError):
        while control.recv(1 << 16):
            pass


def _hand_over_home(control: socket.socket, plan: dict[str, Any]) -> None:
    """Show the supervisor an empty home's directory: what it held is told at the end."""
    home = plan["home"]
    if home is not None and home["kept"] is None:
        with stage("home"):
            descriptor = os.open(home["path"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        protocol.send(control, {"home": True}, [descriptor])
        os.close(descriptor)


def _become_child(
    side: ChildSide, plan: dict[str, Any], library: ModuleType, ignored: frozenset[int]
) -> NoReturn:
    try:
        side.lead_group(ignored)
        with stage("limits"):
            set_limits(plan["limits"], plan["core_limit"])
        system.leave_session_keyring()
        with stage("capabilities"):
            if plan["isolation"] != "none":
                system.drop_capabilities()
            if plan["isolation"] != "namespace":
                system.die_with_parent(signal.SIGKILL)
            system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
        with stage("landlock"):
            _apply_landlock(library, plan)
        with stage("system call filter"):
            _apply_filter(plan["isolation"])
        guard = _ask_about_calls(plan)
        socket.send_fds(side.reporting, [b"caged"], guard)
    except StageError as failed:
        side.refuse(failed)
    side.execute(plan)


def _apply_landlock(library: ModuleType, plan: dict[str, Any]) -> None:
    """Confine this process to the plan's grants, and where it is asked for, to the proxy's port."""
    isolated = plan["isolation"] == "landlock"
    if not plan["landlock"] and not isolated:
        return
    held = []
    if plan["isolation"] != "namespace":  # there the view has looked
        held = _hold_grants(plan)
    capabilities = granted(library, plan)
    if not isolated:
        library.apply_landlock(capabilities)
        _require_same_grants(plan, held)
        return
    capabilities.block_network()
    capabilities.allow_tcp_connect_port(plan["port"])
    for port in plan["listen_ports"]:
        capabilities.allow_bind_port(port)
    # Landlock knows TCP only; nono-py's filter refuses every other kind of socket and io_uring.
    library.apply_seccomp(capabilities)
    _require_same_grants(plan, held)


class _HeldGrant(NamedTuple):
    path: str
    descriptor: int
    readable: bool  # by a grant, and by its mode


def _hold_grants(plan: dict[str, Any]) -> list[_HeldGrant]:
    """Hold each grant; raise StageError for one that is not what it was when the plan was made."""
    to_read = {path for path, access, _ in plan["grants"] if access != "write"}
    held = []
    for path, expected in plan["identities"].items():
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            require_same(descriptor, path, expected)
            held.append(_HeldGrant(path, descriptor, path in to_read and _may_read(descriptor)))
    return held


def _require_same_grants(plan: dict[str, Any], held: list[_HeldGrant]) -> None:
    """Raise StageError if something else was granted than what is held.

    Landlock's library takes paths, and another cage that may write above one can put something else
    there for just that moment: so what is held has to be what can be opened now.
    """
    for grant in held:
        with contextlib.suppress(FileNotFoundError):
            require_same(grant.path, grant.path, plan["identities"][grant.path])
        if grant.readable and not _may_read(grant.descriptor):
            raise changed(grant.path)
        os.close(grant.descriptor)


def _may_read(descriptor: int) -> bool:
    """Whether a directory or file that is held can be opened for reading."""
    if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
        return False
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:  # leased, too large: whatever it is, its grant is not why
        return True
    return True


def _apply_filter(isolation: str) -> None:
    if isolation == "namespace":
        user, group = os.geteuid(), os.getegid()
        ids = call_rules.only_own_ids(user, group) if user != 0 else ()
        seccomp.refuse_calls([*call_rules.COMMON, *call_rules.OWN_PROCESSES, *ids])
    elif isolation == "landlock":
        seccomp.refuse_calls([*call_rules.COMMON, *call_rules.SHARED_HOST])


def _ask_about_calls(plan: dict[str, Any]) -> list[int]:
    """Have the supervisor asked about what a filter can't judge; where it can't be, refuse what
    can be done without. Return the descriptor at which it is asked, if it is."""
    if plan["isolation"] == "landlock":
        if plan["guarded"]:
            with stage("guard of connections"):
                return [seccomp.ask_about_calls(call_rules.ASKED_OF_HOST, connections=True)]
        seccomp.refuse_calls([*call_rules.OWN_ONLY, *_refused_modes()])
    elif plan["isolation"] == "namespace":
        if plan["guarded"]:
            with contextlib.suppress(OSError):  # somebody else is asked already
                return [seccomp.ask_about_calls(call_rules.ASKED_OF_MODES, connections=False)]
        seccomp.refuse_calls(_refused_modes())
    return []


def _refused_modes() -> tuple[seccomp.Rule, ...]:
    """An ordinary user's set-group-id files give nobody more than that user's own groups have."""
    return call_rules.NO_SET_BITS if os.geteuid() == 0 else call_rules.NO_SET_USER
