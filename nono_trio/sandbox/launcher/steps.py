"""The steps of a launch that every system has in common, and how a failed one is told.

For both launchers, each of which is a process with one thread and no event loop: only there is the
fork here safe. Rules: the child holds neither the control socket nor a listener; it is told to go
only after the supervisor knows that it is shut in; a step that fails is told by its name; nothing
heavy is imported (dataclasses alone would cost a third of the launch).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from . import protocol
from .cage_plan import PlanError, decode
from .init import Init, give_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    from .cage_plan import CageGrant, CagePlan
    from .process_tree import Freezer

# The terminal's and the user's signals are the supervisor's to handle: PID 1 and the process that
# waits for it must outlive them, also those sent to a whole group or service. The child gets the
# default back, unless the caller ignored it (nohup), which is passed on as every program does.
# Left alone: what nobody can handle, the children's ends, and what a fault of our own ends us by.
_LEFT_ALONE = frozenset(
    (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT, signal.SIGSEGV,
        signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    )
)  # fmt: skip
SUPERVISOR_SIGNALS = tuple(sorted(signal.valid_signals() - _LEFT_ALONE))
_SHELL = "/bin/sh"  # what execvp(3) runs a script by that names no interpreter
_LOOKED_AT = 256  # bytes, as many as the kernel looks at
# Ignored by every interpreter, for itself.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)


class StageError(Exception):
    """A step of the launch that the kernel refused."""

    def __init__(self, stage: str, cause: BaseException) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage = stage
        self.number = cause.errno if isinstance(cause, OSError) else None
        self.text = str(cause)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the step that the body is: what it raises becomes a StageError."""
    try:
        yield
    except StageError:
        raise
    except Exception as cause:
        raise StageError(name, cause) from cause


def receive_plan(control: socket.socket) -> CagePlan:
    """Wait for the supervisor's first word; ends this process if the supervisor ended before.

    Raises StageError for what is no plan.
    """
    with stage("plan"):
        message = protocol.receive(control, protocol.Decoder())
        if message is None:
            os._exit(0)
        if message.keys() != {"start"}:
            raise PlanError(f"expected start, got {', '.join(sorted(message))!a}")
        return decode(message["start"])


def report_failure(control: socket.socket, failed: StageError) -> None:
    """Tell the supervisor, if it is still there."""
    failure = {"stage": failed.stage, "errno": failed.number, "text": failed.text}
    with contextlib.suppress(OSError):
        protocol.send(control, {"failed": failure})


def take_signals() -> frozenset[int]:
    """Ignore the supervisor's signals; return those that were ignored before."""
    ignored = frozenset(
        number
        for number in SUPERVISOR_SIGNALS
        if number not in _PYTHONS_OWN and signal.getsignal(number) is signal.SIG_IGN
    )
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return ignored


class ChildSide:
    """What the child holds until it becomes the command."""

    def __init__(self, terminal: int | None, reporting: socket.socket, go: int) -> None:
        self.terminal = terminal
        self.reporting = reporting
        self.go = go

    def lead_group(self, ignored: frozenset[int]) -> None:
        """Become the leader of a process group, with the signals that a program expects."""
        os.setpgid(0, 0)
        if self.terminal is not None:
            os.close(self.terminal)
        for number in SUPERVISOR_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    def refuse(self, failed: StageError) -> NoReturn:
        """Say which step failed, and end."""
        self.reporting.sendall(f"{failed.stage}\0{failed.text}".encode())
        os._exit(1)

    def execute(self, plan: CagePlan) -> NoReturn:
        """Wait for "go", then become the command; the errno of a failure is told."""
        if os.read(self.go, 1) != b"g":  # the parent has gone: nobody wants this child any more
            os._exit(1)
        try:
            os.chdir(plan.directory)
            os.umask(plan.umask)
            _execute(plan.executable, plan.command, plan.environment)
        except OSError as failed:
            self.reporting.sendall(str(failed.errno).encode())
        os._exit(126)


def _execute(path: str, command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program; what is none, but text, becomes a shell's script, as with execvp and in a
    shell. Raises OSError."""
    try:
        os.execve(path, command, environment)
    except OSError as failed:
        if failed.errno != errno.ENOEXEC or not _is_text(path):
            raise
    os.execve(_SHELL, [_SHELL, path, *command[1:]], environment)


def _is_text(path: str) -> bool:
    """Whether a file is taken for a script: a shell looks for a NUL in its first line."""
    with open(path, "rb") as file:
        beginning = file.read(_LOOKED_AT)
    return not beginning.startswith(b"\x7fELF") and b"\0" not in beginning.partition(b"\n")[0]


class ParentSide:
    """The child, seen from its parent: PID 1 of the cage, or what stands in for it."""

    def __init__(self, pid: int, terminal: int | None, caged: socket.socket, go: int) -> None:
        self.pid = pid
        self.terminal = terminal
        self.caged = caged
        self.go = go

    def conduct(
        self,
        control: socket.socket,
        sockets: Mapping[str, socket.socket],
        freezer: Freezer | None = None,
        told: int | None = None,
    ) -> None:
        """Hand over, let the child go, serve until it ends or the supervisor has gone.

        `freezer`: how the cage is stopped with the child. `told`: a pipe that gets a byte as the
        child is let go. Raises StageError for what the child could not do, OSError when the
        supervisor goes early.
        """
        _hand_over(control, sockets, self._await_caged())
        message = protocol.receive(control, protocol.Decoder())
        if message is None or not message.get("go"):
            raise ConnectionAbortedError("the supervisor ended before it said go")
        if self.terminal is not None:
            give_terminal(self.terminal, self.pid)
        for pipe in (told, self.go):
            if pipe is not None:
                os.write(pipe, b"g")
                os.close(pipe)
        self._await_exec(control)
        Init(control, self.pid, self.terminal, freezer).run()

    def _await_caged(self) -> list[int]:
        """Wait until the child is shut in; return the descriptor of its calls' notifications, if
        there are any."""
        report, descriptors, _flags, _address = socket.recv_fds(self.caged, 1 << 16, 1)
        if report == b"caged":
            return descriptors
        name, _, text = report.decode("utf-8", "replace").partition("\0")
        cause = OSError(text or "ended before it was caged")
        raise StageError(name or "child", cause)

    def _await_exec(self, control: socket.socket) -> None:
        """It closes with the exec; before that it can only carry the errno of a failed one."""
        failure = self.caged.recv(16)
        self.caged.close()
        if failure:
            protocol.send(control, {"exec_failed": {"errno": int(failure)}})
        else:
            protocol.send(control, {"started": True})


def fork_child(
    control: socket.socket,
    sockets: Mapping[str, socket.socket],
    become: Callable[[ChildSide], NoReturn],
    *,
    foreground: bool,
) -> ParentSide:
    """Fork the child, which does `become`; raises StageError. `foreground`: the terminal is its."""
    terminal = _open_terminal() if foreground else None
    caged, reporting = socket.socketpair()
    go_read, go_write = os.pipe()
    with stage("fork"):
        pid = os.fork()
    if pid == 0:
        control.close()
        caged.close()
        os.close(go_write)
        for listener in sockets.values():
            listener.close()
        become(ChildSide(terminal, reporting, go_read))
    reporting.close()
    os.close(go_read)
    return ParentSide(pid, terminal, caged, go_write)


def _hand_over(
    control: socket.socket, sockets: Mapping[str, socket.socket], notifications: list[int]
) -> None:
    names = {name: listener.getsockname()[1] for name, listener in sockets.items()}
    descriptors = [listener.fileno() for listener in sockets.values()] + notifications
    ready = {"sockets": names, "brokered": bool(notifications)}
    protocol.send(control, {"ready": ready}, descriptors)
    for listener in sockets.values():
        listener.close()
    for descriptor in notifications:
        os.close(descriptor)


def set_limits(limits: Mapping[str, int], core: int) -> None:
    """Lower the named limits, soft and hard, so that nothing in the cage can raise them again.

    `core`: the caller's soft limit on core dumps, which the supervisor has lowered for itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (core, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))


def granted(library: ModuleType, grants: Iterable[CageGrant]) -> Any:  # noqa: ANN401  (nono-py's own)
    """Return a CapabilitySet with `grants`."""
    modes = {
        "read": library.AccessMode.READ,
        "write": library.AccessMode.WRITE,
        "readwrite": library.AccessMode.READ_WRITE,
    }
    capabilities = library.CapabilitySet()
    for path, access, is_file in grants:
        grant = capabilities.allow_file if is_file else capabilities.allow_path
        with contextlib.suppress(FileNotFoundError):  # gone since the plan was made
            grant(path, modes[access])
    return capabilities


def _open_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
