"""What this machine can enforce: each thing tried as a run would do it, and how to get the rest.

Rules of this file: whether a cage can be built is found out by building one with the launcher, up
to the moment before "go", and ending it; nothing is concluded from a version number that can be
tried. Files of /proc and /sys only say *why* something was refused. Nothing here forks: the
launcher is a process of its own.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from nono_trio.errors import CageFailed
from nono_trio.posix.process_handle import ProcessHandle
from nono_trio.sandbox.build_plan import FIRST_NETWORK_ABI
from nono_trio.sandbox.cgroup import delegated
from nono_trio.sandbox.filesystem.code_places import linked_files
from nono_trio.sandbox.launcher.linux.namespaces import in_chroot
from nono_trio.sandbox.launcher.nono_py import why_no_landlock
from nono_trio.sandbox.seatbelt_plan import UNTESTED
from nono_trio.sandbox.spawn import ConnectBrokerRefused, LaunchFailed, await_ready, spawn

if TYPE_CHECKING:
    from types import ModuleType

    from nono_trio.sandbox.launcher.cage_plan import CagePlan

State: TypeAlias = Literal["ok", "missing", "unknown"]

# Landlock came with it; everything else that a cage needs of the kernel is older.
FIRST_KERNEL = (5, 13)
# Each tunnel takes two descriptors: below this a busy child meets refused connections.
FEW_FILES = 1024

FALLBACK = "seccomp, TCP rules"
SEATBELT = "Seatbelt"

_FEATURES = (
    ("has_refer", "renames"),
    ("has_truncate", "truncation"),
    ("has_network", "TCP"),
    ("has_ioctl_dev", "devices"),
    ("has_scoping", "signals and abstract sockets"),
)
_NAMESPACE_KINDS = ("user", "net", "mnt", "pid", "ipc")
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_PROC = Path("/proc")
_SECCOMP_FILTERED = "2"  # the mode of a process under a filter, in /proc/self/status


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `required` for full isolation, `fix` says how to get it."""

    name: str
    state: State
    found: str
    required: bool = True
    fix: str | None = None

    @property
    def degrades(self) -> bool:
        """Whether a run is less isolated, or impossible, because of it."""
        return self.required and self.state != "ok"


def try_cage(plan: CagePlan) -> CageFailed | None:
    """Build the cage of `plan` and end it before anything is executed; return what failed.

    Blocking for some 30 ms; main thread only.
    """
    launched = spawn(plan)
    try:
        for listener in await_ready(launched).values():
            listener.close()
    except CageFailed as failed:
        return failed
    finally:
        launched.abandon()
    return None


def check_kernel(release: str | None = None) -> Check:
    """The kernel's version, for the reader: what it can do is tried elsewhere."""
    text = release or os.uname().release
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in text.split(".")[:2]]
    if tuple(numbers) >= FIRST_KERNEL:
        return Check("kernel", "ok", f"Linux {text}")
    fix = f"Linux {FIRST_KERNEL[0]}.{FIRST_KERNEL[1]} or newer has Landlock"
    return Check("kernel", "missing", f"Linux {text}", fix=fix)


def check_landlock(library: ModuleType) -> Check:
    """The Landlock ABI that nono-py finds, with its features."""
    try:
        abi = library.detect_abi()
    except RuntimeError as error:
        fix = "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in the lsm= list"
        fix += " of the kernel's command line"
        return Check("Landlock", "missing", why_no_landlock(error), fix=fix)
    lacking = [words for flag, words in _FEATURES if not getattr(abi, flag)]
    found = [words for flag, words in _FEATURES if getattr(abi, flag)]
    text = f"ABI {abi.version}: {', '.join(['files', *found])}"
    return Check("Landlock", "ok", text + (f"; not {', '.join(lacking)}" if lacking else ""))


def check_namespaces(failed: CageFailed | None, *, inside_cage: bool = False) -> list[Check]:
    """What `try_cage` of a namespace plan says about namespaces and the mount view."""
    names = ("new namespaces", "network of its own", "mount view")
    if failed is None:
        found = (
            "user, network, mount, PID and IPC",
            "loopback only, the proxy's socket handed out",
            "only what is granted exists in it",
        )
        return [Check(name, "ok", text) for name, text in zip(names, found, strict=True)]
    stage = failed.stage if isinstance(failed, LaunchFailed) else ""
    text = failed.text if isinstance(failed, LaunchFailed) else failed.message
    at = {"namespaces": 0, "loopback": 1, "listener": 1, "file system view": 2}.get(stage)
    if at is None:  # not about namespaces: the caller has a line for what it is about
        return [Check(name, "unknown", f"not reached: {text}") for name in names]
    fix = view_fix() if at == 2 else "; ".join(namespace_fixes(inside_cage=inside_cage))
    before = [Check(name, "ok", "tried") for name in names[:at]]
    after = [Check(name, "unknown", "not reached") for name in names[at + 1 :]]
    return [*before, Check(names[at], "missing", text, fix=fix), *after]


def namespace_fixes(proc: Path = _PROC, *, inside_cage: bool = False) -> list[str]:
    """Why new namespaces are refused here, as what to do about it; never empty."""
    fixes = [
        f"sysctl -w user.max_{kind}_namespaces=15000 (it is 0)"
        for kind in _NAMESPACE_KINDS
        if _read(proc / f"sys/user/max_{kind}_namespaces") == "0"
    ]
    if _read(proc / "sys/kernel/unprivileged_userns_clone") == "0":
        fixes.append("sysctl -w kernel.unprivileged_userns_clone=1")
    if _read(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        fixes.append(
            "an AppArmor profile with `userns,` for this Python, or"
            " sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if fixes:
        return fixes
    if in_chroot():
        return ["in a chroot the kernel allows none: start it outside, or in a container"]
    if inside_cage:
        return ["this runs inside a cage already: ask outside of it"]
    if _is_filtered(proc) or any(mark.exists() for mark in _CONTAINER_MARKS):
        return [
            "in a container: a seccomp profile that allows unshare, mount and pivot_root"
            " (Docker: --security-opt seccomp=unconfined)"
        ]
    return ["a security module refuses them: see the kernel's log (dmesg)"]


def view_fix() -> str:
    """What usually keeps a private /proc from being mounted."""
    return (
        "in a container: leave /proc unmasked and mounts allowed"
        " (Docker: --security-opt systempaths=unconfined --security-opt apparmor=unconfined)"
    )


def check_fallback(failed: CageFailed | None, library: ModuleType) -> Check:
    """What `try_cage` of a landlock plan says: TCP rules and the seccomp filter, really applied."""
    name = FALLBACK
    if failed is None:
        return Check(name, "ok", "the fallback, --isolation landlock, works too", required=False)
    version = "none"
    with suppress(RuntimeError):
        version = library.detect_abi().version
    fix = f"Landlock ABI {FIRST_NETWORK_ABI} (Linux 6.7) and seccomp filters; here: ABI {version}"
    return Check(name, "missing", failed.message, required=False, fix=fix)


def check_seatbelt(failed: CageFailed | None) -> list[Check]:
    """What `try_cage` of a seatbelt plan says, on macOS; and that nobody has looked behind it."""
    untested = Check("tried by its authors", "missing", UNTESTED, fix="see docs/macos.md")
    if failed is None:
        held = "files as granted, the network but the proxy's port closed"
        return [Check(SEATBELT, "ok", f"applied to a process: {held}"), untested]
    return [Check(SEATBELT, "missing", failed.message, fix=failed.hint), untested]


def check_connect_broker(failed: CageFailed | None, proc: Path = _PROC) -> Check:
    """Whether the fallback's connections are guarded; `failed` is what `try_cage` said of it."""
    from nono_trio.sandbox.broker.seccomp_notify import refused_by  # Linux only

    name = "guarded connections"
    refused = failed.text if isinstance(failed, ConnectBrokerRefused) else refused_by(proc)
    if refused is None:
        found = "in the fallback, the supervisor makes each connection itself"
        return Check(name, "ok", found, required=False)
    fix = (
        "kernel.yama.ptrace_scope below 2; in a container, a seccomp profile with pidfd_getfd, and"
        " nobody else who is asked about system calls"
    )
    return Check(name, "missing", refused, required=False, fix=fix)


def check_pidfd() -> Check:
    """pidfds: without them a supervisor could signal a process that took the pid over."""
    try:
        ProcessHandle(os.getpid()).close()
    except OSError as error:
        fix = "Linux 5.3 or newer, and no seccomp filter that refuses pidfd_open"
        return Check("pidfd", "missing", error.strerror or str(error), fix=fix)
    return Check("pidfd", "ok", "processes are signalled by handle, not by number")


def check_cgroup() -> Check:
    """Whether --memory and --max-processes can count the whole cage."""
    parent = delegated({"memory", "pids"})
    if parent is not None:
        found = f"memory and pids delegated in {parent.path}"
        return Check("cgroup v2", "ok", found, required=False)
    return Check(
        "cgroup v2", "missing",
        "not delegated: --memory counts each process, --max-processes needs an ordinary user",
        required=False,
        fix="a systemd user session, or systemd-run --user --scope -p Delegate=yes nono-trio ...",
    )  # fmt: skip


def check_own_code() -> Check:
    """Whether files of ours have a second name, by which somebody else may write them."""
    linked = linked_files()
    if not linked:
        return Check("own code", "ok", "no file of it has a second name", required=False)
    found = f"{len(linked)} files are hard links of files elsewhere, as {linked[0]} is: a command"
    found += " that may write those changes nono-trio"
    fix = "copies: uv tool install --reinstall --link-mode copy nono-trio"
    return Check("own code", "missing", found, required=False, fix=fix)


def check_limits() -> Check:
    """How many descriptors the supervisor may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"open files: {_limit(soft)}, at most {_limit(hard)}"
    if hard != resource.RLIM_INFINITY and hard <= FEW_FILES:
        fix = "raise it: ulimit -Hn 8192, or LimitNOFILE= of the service"
        return Check("limits", "missing", text, required=False, fix=fix)
    return Check("limits", "ok", text, required=False)


def _limit(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else f"{value}"


def _is_filtered(proc: Path) -> bool:
    lines = _read(proc / "self/status").splitlines()
    return f"Seccomp:\t{_SECCOMP_FILTERED}" in lines


def _read(path: Path) -> str:
    """The text of a file of /proc; empty where this kernel does not have it."""
    with suppress(OSError, UnicodeError):
        return path.read_text().strip()
    return ""
