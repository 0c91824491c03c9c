"""Start the launcher: one posix_spawn from the main thread, before the event loop is imported.

PR_SET_PDEATHSIG refers to the *thread* that made a process. trio starts processes from short-lived
worker threads, so a launcher started there would be killed with its thread. An early start also
lets the launcher build the cage while the supervisor imports trio.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nono_trio.errors import CageFailed
from nono_trio.sandbox.launcher import protocol
from nono_trio.sandbox.launcher.cage_plan import encode
from nono_trio.startup import library_environment

if TYPE_CHECKING:
    from nono_trio.sandbox.cgroup import Cgroup
    from nono_trio.sandbox.launcher.cage_plan import CagePlan

# It takes 25 ms on an idle machine and seconds on one that swaps. After ten seconds it hangs.
LAUNCH_SECONDS = 10.0
# Steps that a kernel, a container or a hardened distribution may refuse; then `auto` falls back.
NAMESPACE_STAGES = frozenset({"namespaces", "loopback", "listener", "file system view"})
TRANSPARENT_STAGE = "transparent network"
CONNECT_BROKER_STAGE = "connect broker"

# The program of the interpreter, isolated from environment and site-packages (-I -S). It makes the
# launcher a package of its own from one directory. sys.path keeps only the standard library, so
# modules beside nono_trio, in a project or in site-packages, are never found.
LOAD_LAUNCHER = (
    "import sys, importlib.util as util;"
    " spec = util.spec_from_file_location('nono_trio_launcher', sys.argv[2] + '/__init__.py',"
    " submodule_search_locations=[sys.argv[2]]);"
    " package = sys.modules[spec.name] = util.module_from_spec(spec);"
    " spec.loader.exec_module(package)"
)
RUN_LAUNCHER = "from nono_trio_launcher.main import main; main(int(sys.argv[1]))"
# `main` collects again. Modules are no garbage, and each of the launcher's forks would copy what a
# collection touches.
BOOTSTRAP = f"import gc; gc.disable(); {LOAD_LAUNCHER}; {RUN_LAUNCHER}"
LAUNCHER_DIRECTORY = str(Path(__file__).resolve().parent / "launcher")


class LaunchFailed(CageFailed):
    """A failed step of the launch; `stage` is its name."""

    def __init__(self, stage: str, text: str, *, hint: str | None = None) -> None:
        super().__init__(f"the cage could not be built: {stage}: {text}", hint=hint)
        self.stage = stage
        self.text = text


class NamespacesRefused(LaunchFailed):
    """This machine refuses a step of namespace isolation."""


class TransparentRefused(LaunchFailed):
    """This machine has namespaces, but refuses the transparent network."""


class ConnectBrokerRefused(LaunchFailed):
    """This machine has Landlock, but refuses the connect broker."""


class Launched(msgspec.Struct):
    """A running launcher: its pid and our end of the control socket.

    `init`: on Linux, a pidfd of PID 1 of the cage.
    `notifications`: the descriptor at which the child's calls wait for the broker, if it has one.
    `home`: the directory of a home that ends with the session.
    `view`: the socket at which the view's server tells of look-ups, or `why_no_view`; `home_seen`:
    those in the home too.
    """

    pid: int
    control: socket.socket
    isolated: bool
    reaped: bool = False
    init: int | None = None
    notifications: int | None = None
    home: int | None = None
    view: socket.socket | None = None
    why_no_view: str | None = None
    home_seen: bool = False

    @property
    def seen_files(self) -> str:
        """Return a line about look-ups of files that are not granted."""
        if self.why_no_view is not None:
            return f"look-ups of files that are not granted are not recorded ({self.why_no_view})"
        where = "" if self.home_seen else ", outside the home"
        return f"look-ups of files that are not granted are recorded{where}"

    def abandon(self) -> None:
        """End a launcher whose session never began; does nothing after its cage has reaped it."""
        if self.home is not None:
            os.close(self.home)
            self.home = None
        if self.init is not None:
            os.close(self.init)
            self.init = None
        if self.notifications is not None:
            os.close(self.notifications)
            self.notifications = None
        if self.view is not None:
            self.view.close()
        if self.reaped:
            return
        self.reaped = True
        self.control.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def spawn(plan: CagePlan, cgroup: Cgroup | None = None) -> Launched:
    """Start the launcher and send it `plan`. Blocks for a few milliseconds; main thread only.

    `cgroup`: the launcher is moved there before it starts a process. Raises OSError, CageFailed.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", BOOTSTRAP]
        argv += [str(theirs.fileno()), LAUNCHER_DIRECTORY]
        pid = os.posix_spawn(sys.executable, argv, library_environment())
    launched = Launched(pid, ours, isolated=plan.isolation == "namespace")
    if cgroup is not None:
        try:
            cgroup.add(pid)
        except CageFailed:
            launched.abandon()
            raise
    with suppress(BrokenPipeError):  # the launcher has ended: `await_ready` reports it
        protocol.send(ours, {"start": encode(plan)})
    return launched


def await_ready(launched: Launched) -> dict[str, socket.socket]:
    """Wait until the child is confined; return the listening sockets by name.

    Blocks, before the event loop starts: a session is recorded only after this machine has built
    the cage. Raises CageFailed with the failed step.
    """
    launched.control.settimeout(LAUNCH_SECONDS)
    decoder = protocol.Decoder()
    try:
        message, descriptors = _next_message(launched, decoder)
        if "view" in message:
            launched.view = socket.socket(fileno=descriptors[0]) if descriptors else None
            launched.why_no_view = None if descriptors else str(message["view"])
            launched.home_seen = bool(message.get("home_seen"))
            message, descriptors = _next_message(launched, decoder)
        if "home" in message:
            (launched.home,) = descriptors
            message, descriptors = _next_message(launched, decoder)
    except TimeoutError:
        raise CageFailed(f"the cage was not ready within {LAUNCH_SECONDS:.0f} s") from None
    ready = message.get("ready")
    if not isinstance(ready, dict):
        raise launch_error(message)
    if ready["init"]:
        launched.init = descriptors.pop()
    if ready["brokered"]:
        launched.notifications = descriptors.pop()
    return {
        name: socket.socket(fileno=descriptor)
        for name, descriptor in zip(ready["sockets"], descriptors, strict=True)
    }


def _next_message(
    launched: Launched, decoder: protocol.Decoder
) -> tuple[dict[str, object], list[int]]:
    while (found := decoder.next()) is None:
        if not protocol.read_once(launched.control, decoder):
            raise CageFailed("the cage's launcher ended before it said why")
    return found


def launch_error(message: dict[str, object]) -> CageFailed:
    """Turn the launcher's message instead of "ready" into an error for the user."""
    failed = message.get("failed")
    if not isinstance(failed, dict):
        return CageFailed(f"unexpected word from the cage's launcher: {sorted(message)}")
    stage, text = str(failed.get("stage")), str(failed.get("text"))
    if stage == TRANSPARENT_STAGE:
        return TransparentRefused(stage, text, hint="run with --transparent off")
    if stage == CONNECT_BROKER_STAGE:
        return ConnectBrokerRefused(stage, text)
    if stage in NAMESPACE_STAGES:
        hint = "see `nono-trio doctor`, or use --isolation landlock"
        return NamespacesRefused(stage, text, hint=hint)
    return LaunchFailed(stage, text)
