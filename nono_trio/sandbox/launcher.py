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
import errno
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from nono_trio.sandbox import filter as seccomp
from nono_trio.sandbox import protocol, system
from nono_trio.sandbox.init import Init, end_descendants, give_terminal
from nono_trio.sandbox.library import load_library
from nono_trio.sandbox.namespaces import enter_namespaces, listen_on_loopback, raise_loopback
from nono_trio.sandbox.transparent import OuterNetwork
from nono_trio.sandbox.view import build_view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# The terminal's and the user's signals are the supervisor's to handle: PID 1 and the process that
# waits for it must outlive them. The child gets the default back, unless the caller ignored it
# (nohup), which is passed on as every program does.
_SUPERVISOR_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


class _StageError(Exception):
    """A step of the launch that the kernel refused."""

    def __init__(self, stage: str, cause: BaseException) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage = stage
        self.number = cause.errno if isinstance(cause, OSError) else None
        self.text = str(cause)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except _StageError:
        raise
    except Exception as cause:
        raise _StageError(name, cause) from cause


def main(control_descriptor: int) -> NoReturn:
    """Run the launch with the supervisor at the other end of `control_descriptor`."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    _close_others(control_descriptor)
    ignored = _take_signals()
    system.die_with_parent(signal.SIGKILL)
    message = protocol.receive(control, protocol.Decoder())
    if message is None:  # the supervisor died before it said anything
        os._exit(0)
    plan: dict[str, Any] = message["start"]  # type: ignore[assignment]  # built by plan.CagePlan
    try:
        _launch(control, plan, ignored)
    except _StageError as failed:
        _report_failure(control, failed)
    os._exit(1)


def _close_others(kept: int) -> None:
    """Close what the caller's caller left open: the child gets the three standard streams only."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _report_failure(control: socket.socket, failed: _StageError) -> None:
    failure = {"stage": failed.stage, "errno": failed.number, "text": failed.text}
    with contextlib.suppress(OSError):
        protocol.send(control, {"failed": failure})


def _take_signals() -> frozenset[int]:
    ignored = frozenset(
        number for number in _SUPERVISOR_SIGNALS if signal.getsignal(number) is signal.SIG_IGN
    )
    for number in _SUPERVISOR_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return ignored


def _launch(control: socket.socket, plan: dict[str, Any], ignored: frozenset[int]) -> NoReturn:
    sockets: dict[str, socket.socket] = {}
    isolated = plan["isolation"] == "namespace"
    if isolated:
        with _stage("namespaces"):
            enter_namespaces()
        if plan["transparent_ports"]:
            with _stage("transparent network"):
                outer = OuterNetwork(plan["transparent_ports"])
                sockets |= outer.sockets
                outer.enter_inner()
        else:
            with _stage("loopback"):
                raise_loopback()
        with _stage("listener"):
            sockets["proxy"] = listen_on_loopback(plan["port"])
            for port in plan["open_ports"]:
                sockets[f"open:{port}"] = listen_on_loopback(port)
    with _stage("fork"):
        first = os.fork()
    if first:
        control.close()
        for listener in sockets.values():  # or the child's connects would be accepted by nobody
            listener.close()
        _wait_for(first, isolated=isolated)
    if isolated:
        system.die_with_parent(signal.SIGKILL)
    else:  # what the PID namespace does by itself: orphans come back to this process
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    try:
        _become_init(control, plan, sockets, ignored, isolated=isolated)
    except _StageError as failed:
        _report_failure(control, failed)
    except OSError:  # the supervisor went away in the middle of it: nobody is there to be told
        pass
    if not isolated:
        end_descendants()
    os._exit(1)


def _wait_for(pid: int, *, isolated: bool) -> NoReturn:
    if not isolated:  # should PID 1's stand-in be killed, its children come here
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    os.waitpid(pid, 0)
    if not isolated:
        end_descendants()
    os._exit(0)


def _become_init(
    control: socket.socket,
    plan: dict[str, Any],
    sockets: dict[str, socket.socket],
    ignored: frozenset[int],
    *,
    isolated: bool,
) -> NoReturn:
    with _stage("sandbox library"):
        library = load_library(plan["library"])
    if isolated:
        with _stage("file system view"):
            build_view(
                plan["view"],
                plan["private"],
                plan["directories"],
                plan["covered"],
                plan["replaced"],
            )
    # Nobody in the cage may read this process' memory or descriptors, whatever its uid.
    system.prctl(system.PR_SET_DUMPABLE, 0)
    terminal = _open_terminal() if plan["foreground"] else None
    caged_read, caged_write = os.pipe2(os.O_CLOEXEC)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    with _stage("fork"):
        child = os.fork()
    if child == 0:
        control.close()
        os.close(caged_read)
        os.close(go_write)
        for listener in sockets.values():
            listener.close()
        _become_child(plan, library, terminal, ignored, caged_write, go_read)
    os.close(caged_write)
    os.close(go_read)
    _await_caged(caged_read)
    _hand_over(control, sockets)
    _await_go(control)
    if terminal is not None:
        give_terminal(terminal, child)
    os.write(go_write, b"g")
    os.close(go_write)
    _await_exec(control, caged_read)
    Init(control, child, terminal).run()
    if not isolated:
        end_descendants()
    os._exit(0)


def _await_caged(caged: int) -> None:
    """Wait until the child is shut in, or raise what it could not do."""
    report = os.read(caged, 1 << 16)
    if report == b"caged":
        return
    stage, _, text = report.decode("utf-8", "replace").partition("\0")
    raise _StageError(stage or "child", OSError(errno.EPERM, text or "ended before it was caged"))


def _hand_over(control: socket.socket, sockets: dict[str, socket.socket]) -> None:
    names = {name: listener.getsockname()[1] for name, listener in sockets.items()}
    descriptors = [listener.fileno() for listener in sockets.values()]
    protocol.send(control, {"ready": {"sockets": names}}, descriptors)
    for listener in sockets.values():
        listener.close()


def _await_go(control: socket.socket) -> None:
    message = protocol.receive(control, protocol.Decoder())
    if message is None or not message.get("go"):
        os._exit(0)


def _await_exec(control: socket.socket, caged: int) -> None:
    """The pipe closes with the exec; before that it can only carry the errno of a failed one."""
    failure = os.read(caged, 16)
    os.close(caged)
    if failure:
        protocol.send(control, {"exec_failed": {"errno": int(failure)}})
    else:
        protocol.send(control, {"started": True})


def _become_child(
    plan: dict[str, Any],
    library: ModuleType,
    terminal: int | None,
    ignored: frozenset[int],
    caged: int,
    go: int,
) -> NoReturn:
    try:
        os.setpgid(0, 0)
        if terminal is not None:
            os.close(terminal)
        for number in _SUPERVISOR_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with _stage("limits"):
            _set_limits(plan["limits"])
        system.leave_session_keyring()
        with _stage("capabilities"):
            if plan["isolation"] != "none":
                system.drop_capabilities()
            if plan["isolation"] != "namespace":
                system.die_with_parent(signal.SIGKILL)
            system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
        with _stage("landlock"):
            _apply_landlock(library, plan)
        with _stage("system call filter"):
            _apply_filter(plan["isolation"])
        os.write(caged, b"caged")
    except _StageError as failed:
        os.write(caged, f"{failed.stage}\0{failed.text}".encode())
        os._exit(1)
    if os.read(go, 1) != b"g":  # PID 1 has gone: nobody wants this child any more
        os._exit(1)
    try:
        os.chdir(plan["directory"])
        os.execve(plan["executable"], plan["command"], plan["environment"])
    except OSError as failed:
        os.write(caged, str(failed.errno).encode())
    os._exit(126)


def _set_limits(limits: dict[str, int]) -> None:
    """Lower the named limits, soft and hard, so that nothing in the cage can raise them again."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))


def _apply_landlock(library: ModuleType, plan: dict[str, Any]) -> None:
    """Confine this process to the plan's grants, and where it is asked for, to the proxy's port.

    A grant is [path, "read" | "write" | "readwrite", is_file].
    """
    isolated = plan["isolation"] == "landlock"
    if not plan["landlock"] and not isolated:
        return
    modes = {
        "read": library.AccessMode.READ,
        "write": library.AccessMode.WRITE,
        "readwrite": library.AccessMode.READ_WRITE,
    }
    grants: list[Any] = plan["grants"] if plan["landlock"] else [["/", "readwrite", False]]
    capabilities = library.CapabilitySet()
    for path, access, is_file in grants:
        grant = capabilities.allow_file if is_file else capabilities.allow_path
        with contextlib.suppress(FileNotFoundError):  # gone since the plan was made
            grant(path, modes[access])
    if not isolated:
        library.apply_landlock(capabilities)
        return
    capabilities.block_network()
    capabilities.allow_tcp_connect_port(plan["port"])
    for port in plan["listen_ports"]:
        capabilities.allow_bind_port(port)
    # Landlock knows TCP only; nono-py's filter refuses every other kind of socket and io_uring.
    library.apply_seccomp(capabilities)


def _apply_filter(isolation: str) -> None:
    if isolation != "none":
        seccomp.refuse_calls(seccomp.COMMON)
    if isolation == "landlock":
        seccomp.refuse_calls(seccomp.SHARED_HOST)


def _open_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
