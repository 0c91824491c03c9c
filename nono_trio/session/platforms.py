"""Which isolations this system has: what `auto` begins with, and a clear refusal of the others.

Linux: namespaces, else Landlock. macOS: Seatbelt, not tested on a Mac. No other system has a cage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.errors import CageFailed, UsageError
from nono_trio.posix.paths import ON_MACOS
from nono_trio.posix.process_handle import ProcessHandle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.launcher.cage_plan import Isolation

# By sys.platform: its name, and its isolations, the one that `auto` begins with first.
_SYSTEMS: Mapping[str, tuple[str, tuple[Isolation, ...]]] = {
    "linux": ("Linux", ("namespace", "landlock", "none")),
    "darwin": ("macOS", ("seatbelt", "none")),
}


def preferred_isolation(options: RunOptions) -> Isolation:
    """Return the isolation to try first: `auto` begins with the best that this system has.

    Raises CageFailed on a system without a cage, UsageError for another system's isolation.
    """
    name, isolations = _here()
    if options.isolation == "auto":
        return isolations[0]
    if options.isolation not in isolations:
        raise UsageError(
            f"--isolation {options.isolation} is not for {name}",
            hint=f"choose one of: auto, {', '.join(isolations)}",
        )
    return options.isolation


def require_process_control(proc: Path = Path("/proc")) -> None:
    """Raise CageFailed where this system lacks what every cage is seen and ended by.

    Without /proc we can't find what a command left running; without pidfds a signal could reach a
    stranger.
    """
    if ON_MACOS:
        return
    if not (proc / "self" / "stat").exists():
        raise CageFailed(
            "there is no /proc here, by which the processes of a cage are found",
            hint="mount it: mount -t proc proc /proc",
        )
    try:
        handle = ProcessHandle(os.getpid())
        try:
            handle.signal(0)
        finally:
            handle.close()
    except OSError as error:
        raise CageFailed(
            f"process handles (pidfd_open, pidfd_send_signal) are refused here: {error.strerror}",
            hint="they need Linux 5.3, and in a container a seccomp profile that knows them",
        ) from error


def system_word() -> str:
    """This system as nono's records name it."""
    return "macos" if ON_MACOS else sys.platform


def _here() -> tuple[str, tuple[Isolation, ...]]:
    found = _SYSTEMS.get(sys.platform)
    if found is None:
        raise CageFailed(
            f"the cage needs Linux or macOS, got {sys.platform}",
            hint="run it in a Linux container or virtual machine there",
        )
    return found
