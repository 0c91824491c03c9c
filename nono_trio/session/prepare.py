"""From options to a cage that is ready to start; runs before the event loop is imported.

Everything that can be refused is refused here, before a process or a file of the session exists:
rules, grants, a command that is missing or that the cage could not read.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.core.policy import Policy
from nono_trio.errors import CageFailed, CommandNotFound, UsageError
from nono_trio.sandbox.library import library_path, load_library
from nono_trio.sandbox.plan import PRIVATE, FilePlan, plan_files
from nono_trio.sandbox.spawn import CagePlan
from nono_trio.session.environment import child_environment
from nono_trio.session.terminal import Terminal

if TYPE_CHECKING:
    from types import ModuleType

    from nono_trio.sandbox.spawn import Isolation
    from nono_trio.session.options import NetworkOptions, RunOptions

# In a network of its own every port is free; a random one keeps programs from relying on it.
_PORTS = range(20_000, 60_000)

# Landlock's and the view's grants for what the view makes new: private, so free to use.
_PRIVATE_GRANTS = [
    ("/proc", "read", False),
    ("/dev/pts", "readwrite", False),
    *((path, "readwrite", False) for path in PRIVATE),
    *((f"/dev/{name}", "readwrite", True) for name in ("null", "zero", "full", "tty")),
]


@dataclass
class PreparedRun:
    """A run whose every part was accepted; `listener` is the host's, when nothing isolates."""

    plan: CagePlan
    files: FilePlan
    policy: Policy
    token: str
    terminal: Terminal
    executable: str
    enforcement: list[str]
    landlock_abi: str | None
    warnings: list[str]
    listener: socket.socket | None


def new_token() -> str:
    """32 random bytes as 64 hex digits, new for every session."""
    return secrets.token_hex(32)


def build_policy(network: NetworkOptions) -> Policy:
    """Turn host rules into a policy; raises UsageError for a rule that can't be meant."""
    return Policy.build(
        allow=network.allow, deny=network.deny, resolve=network.resolve, block=network.block
    )


def prepare_run(options: RunOptions) -> PreparedRun:
    """Resolve everything; raises UsageError, CommandNotFound or CageFailed."""
    if not sys.platform.startswith("linux"):
        raise CageFailed(
            f"the cage needs Linux (namespaces, Landlock), got {sys.platform}",
            hint="`nono-trio proxy` runs the same proxy and log without a cage",
        )
    network = options.session.network
    policy = build_policy(network)
    library_file = _library_path()
    library = load_library(library_file)
    files = plan_files(options.files, options.session.audit.state_root, library)
    isolation: Isolation = "none" if options.isolation == "none" else "namespace"
    sandbox = options.sandbox
    command = [*options.command]
    executable = _find_executable(command[0], options.files.workdir or os.getcwd())
    if sandbox:
        _require_covered(command[0], executable, files, isolated=isolation == "namespace")
    listener = listen(network.proxy_port) if isolation == "none" else None
    port = listener.getsockname()[1] if listener else network.proxy_port or _any_port()
    terminal = Terminal()
    token = new_token()
    abi = _landlock_abi(library) if sandbox else None
    plan = CagePlan(
        isolation=isolation,
        library=library_file,
        landlock=sandbox,
        grants=_landlock_grants(files, isolated=isolation == "namespace"),
        view=_view(files) if sandbox else [("/", True)],
        private=_private(files) if sandbox else [],
        directories=[path for path in (os.environ.get("HOME", ""), files.directory) if path],
        directory=files.directory if sandbox else os.getcwd(),
        executable=executable,
        command=command,
        environment=child_environment(
            options.environment, token=token, port=port, allowed=network.allow
        ),
        foreground=terminal.is_ours,
        port=port,
    )
    return PreparedRun(
        plan=plan,
        files=files,
        policy=policy,
        token=token,
        terminal=terminal,
        executable=executable,
        enforcement=_enforcement(plan, abi),
        landlock_abi=abi,
        warnings=[*files.warnings, *_ways_out(plan)],
        listener=listener,
    )


def listen(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Open a listening socket on the host; raises UsageError when the port can't be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"can't listen on {address}:{port}: {error.strerror}",
            hint="choose another port, or 0 for any free one",
        ) from error
    return listener


def _library_path() -> str:
    try:
        return library_path()
    except ImportError as error:
        raise CageFailed(str(error), hint="pip install nono-py") from error


def _any_port() -> int:
    return _PORTS[secrets.randbelow(len(_PORTS))]


def _landlock_abi(library: ModuleType) -> str:
    try:
        version: str = library.detect_abi().version
    except RuntimeError as error:
        raise CageFailed(
            f"this kernel has no Landlock: {error}",
            hint="`--no-sandbox` runs without the file sandbox (recorded in the log)",
        ) from error
    return version


def _landlock_grants(files: FilePlan, *, isolated: bool) -> list[tuple[str, str, bool]]:
    grants = [(grant.path, str(grant.access), grant.is_file) for grant in files.grants]
    return grants + _PRIVATE_GRANTS if isolated else grants + _HOST_GRANTS


# Without a view of its own the child sees the host's: what the groups grant there.
_HOST_GRANTS = [
    ("/proc", "read", False),
    ("/tmp", "readwrite", False),
    ("/dev/shm", "readwrite", False),
    ("/dev/pts", "readwrite", False),
    ("/dev/ptmx", "readwrite", True),
    *((f"/dev/{name}", "readwrite", True) for name in ("null", "zero", "full", "tty")),
]


def _view(files: FilePlan) -> list[tuple[str, bool]]:
    return [(grant.path, grant.access != "read") for grant in files.grants]


def _private(files: FilePlan) -> list[str]:
    granted = {os.path.realpath(path) for path in files.user_paths}
    return [path for path in PRIVATE if path not in granted]


def _find_executable(command: str, directory: str) -> str:
    """Return the absolute path of `command`, as execvp would find it from `directory`."""
    if "/" in command:
        path = os.path.abspath(os.path.join(directory, command))
        if not os.path.exists(path):
            raise CommandNotFound(f"no such command: {command}")
    else:
        found = shutil.which(command)
        if found is None:
            raise CommandNotFound(f"no such command on PATH: {command}")
        path = os.path.abspath(found)
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise CageFailed(f"{command} is not executable: {path}")
    return os.path.normpath(path)


def _require_covered(command: str, executable: str, files: FilePlan, *, isolated: bool) -> None:
    """The program, and the directory that its name stands in, must be inside the cage."""
    if files.covers(executable, "read") is None:
        outside = os.path.realpath(executable)
    elif (
        isolated
        and files.covers(os.path.dirname(executable), "read") is None
        and (os.path.islink(executable))
    ):
        outside = executable
    else:
        return
    raise CageFailed(
        f"{command} is outside what the cage may read: {outside}",
        hint=f"grant it with --read {os.path.dirname(outside)}",
    )


def _enforcement(plan: CagePlan, abi: str | None) -> list[str]:
    """Name what holds, for the log and for `audit show`."""
    held = []
    if plan.isolation == "namespace":
        held += [
            "network namespace: loopback only, the proxy's socket is the only way out",
            "mount namespace: only what is granted exists, /tmp and /dev/shm are private",
            "PID, IPC and user namespaces, capabilities dropped",
        ]
    if plan.landlock:
        held.append(f"Landlock ABI {abi}: files, signals and abstract sockets")
    return [*held, "no new privileges"]


def _ways_out(plan: CagePlan) -> list[str]:
    warnings = []
    if plan.isolation == "none":
        warnings.append("--isolation none: the command can reach any network past the proxy")
    if not plan.landlock:
        warnings.append("--no-sandbox: the command can read and write any file that you can")
    return warnings
