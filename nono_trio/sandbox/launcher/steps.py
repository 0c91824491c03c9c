"""The steps of a launch that Linux and macOS share, and the report of a failed step.

The fork here is safe only in a launcher, which has one thread and no event loop. Rules: the child
holds neither the control socket nor a listener; it gets "go" only after the supervisor knows that
it is confined; a failed step is reported by its name; no heavy module is imported (dataclasses
alone would cost a third of the launch).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from . import protocol
from .cage_plan import PlanError, decode
from .init import Init, give_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    from .cage_plan import CageGrant, CagePlan
    from .process_tree import Freezer

# The supervisor handles the terminal's and the user's signals: PID 1 and the process that waits for
# it must survive them, also if they are sent to a whole group or service. The child gets the
# default actions back; signals that the caller ignored (nohup) stay ignored, as in every program.
# Excepted: signals that can't be handled, SIGCHLD and SIGCONT, and those of a crash of our own.
_LEFT_ALONE = frozenset(
    (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT, signal.SIGSEGV,
        signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    )
)  # fmt: skip
SUPERVISOR_SIGNALS = tuple(sorted(signal.valid_signals() - _LEFT_ALONE))
_SHELL = "/bin/sh"  # as in execvp(3), for a script without an interpreter line
_LOOKED_AT = 256  # bytes, as the kernel reads
# Python itself ignores them.
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
    """Turn an exception of the body into a StageError with the name of the step."""
    try:
        yield
    except StageError:
        raise
    except Exception as cause:
        raise StageError(name, cause) from cause


def receive_plan(control: socket.socket) -> CagePlan:
    """Wait for the supervisor's first message; end this process if the supervisor has ended.

    Raises StageError for an invalid plan.
    """
    with stage("plan"):
        message = protocol.receive(control, protocol.Decoder())
        if message is None:
            os._exit(0)
        if message.keys() != {"start"}:
            raise PlanError(f"expected start, got {', '.join(sorted(message))!a}")
        return decode(message["start"])


def report_failure(control: socket.socket, failed: StageError) -> None:
    """Send a failed step to the supervisor; ignores that it may have ended."""
    failure = {"stage": failed.stage, "errno": failed.number, "text": failed.text}
    with contextlib.suppress(OSError):
        protocol.send(control, {"failed": failure})


def take_signals() -> frozenset[int]:
    """Ignore the signals that the supervisor handles; return those that were ignored before."""
    ignored = frozenset(
        number
        for number in SUPERVISOR_SIGNALS
        if number not in _PYTHONS_OWN and signal.getsignal(number) is signal.SIG_IGN
    )
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return ignored


class ChildSide:
    """The child's descriptors until it becomes the command."""

    def __init__(self, terminal: int | None, reporting: socket.socket, go: int) -> None:
        self.terminal = terminal
        self.reporting = reporting
        self.go = go

    def lead_group(self, ignored: frozenset[int]) -> None:
        """Become the leader of a process group, with the usual signal actions."""
        os.setpgid(0, 0)
        if self.terminal is not None:
            os.close(self.terminal)
        for number in SUPERVISOR_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    def refuse(self, failed: StageError) -> NoReturn:
        """Report the failed step, and end this process."""
        self.reporting.sendall(f"{failed.stage}\0{failed.text}".encode())
        os._exit(1)

    def execute(self, plan: CagePlan) -> NoReturn:
        """Wait for "go", then execute the command; report the errno of a failure."""
        if os.read(self.go, 1) != b"g":  # the parent has ended
            os._exit(1)
        try:
            os.chdir(plan.directory)
            os.umask(plan.umask)
            _execute(plan.executable, plan.command, plan.environment)
        except OSError as failed:
            self.reporting.sendall(str(failed.errno).encode())
        os._exit(126)


def _execute(path: str, command: list[str], environment: dict[str, str]) -> NoReturn:
    """Execute a program; like execvp, run a text file without an interpreter line by the shell.

    Raises OSError.
    """
    try:
        os.execve(path, command, environment)
    except OSError as failed:
        if failed.errno != errno.ENOEXEC or not _is_text(path):
            raise
    os.execve(_SHELL, [_SHELL, path, *command[1:]], environment)


def _is_text(path: str) -> bool:
    """Tell whether a file is a script: like a shell, look for a NUL in its first line."""
    with open(path, "rb") as file:
        beginning = file.read(_LOOKED_AT)
    return not beginning.startswith(b"\x7fELF") and b"\0" not in beginning.partition(b"\n")[0]


class ParentSide:
    """The child as its parent sees it: PID 1 of the cage, or the launcher without one."""

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
        """Hand over the sockets, pass on "go", serve until the child or the supervisor ends.

        `freezer`: stops the whole cage with the child. `told`: a pipe that gets a byte at "go".
        Raises StageError for a failed step of the child, OSError if the supervisor ends early.
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
        """Wait until the child is confined; return its notification descriptor, if it has one."""
        report, descriptors, _flags, _address = socket.recv_fds(self.caged, 1 << 16, 1)
        if report == b"caged":
            return descriptors
        name, _, text = report.decode("utf-8", "replace").partition("\0")
        cause = OSError(text or "ended before it was caged")
        raise StageError(name or "child", cause)

    def _await_exec(self, control: socket.socket) -> None:
        """Report the result of exec: success closes the socket, a failure sends its errno."""
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
    """Fork the child, which calls `become`; raises StageError.

    `foreground`: the child's group gets the terminal."""
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
    descriptors = [listener.fileno() for listener in sockets.values()]
    own = _own_handle()
    passed = [*notifications, *own]
    ready = {"sockets": names, "brokered": bool(notifications), "init": bool(own)}
    protocol.send(control, {"ready": ready}, descriptors + passed)
    for listener in sockets.values():
        listener.close()
    for descriptor in passed:
        os.close(descriptor)


if sys.platform == "linux":

    def _own_handle() -> list[int]:
        """Return a pidfd of this process, by which the supervisor waits for its end even if the
        launcher was killed."""
        return [os.pidfd_open(os.getpid())]

else:

    def _own_handle() -> list[int]:
        return []  # the launcher is its own child's parent


def set_limits(limits: Mapping[str, int], core: int) -> None:
    """Lower the named limits, soft and hard, so that the cage can't raise them again.

    `core`: the caller's soft limit on core dumps; the supervisor has lowered its own.
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
