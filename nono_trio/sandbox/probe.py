"""Checks of this machine for `doctor`: each feature is tried as in a run, with fixes.

Rules of this file: a cage is checked by building one with the launcher up to "go", and ending it. A
feature that can be tried is not concluded from a version number. Files of /proc and /sys only
explain a refusal. This file does not fork: the launcher is a process of its own.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.core.net.fake_ip import EVERY_PORT_NETWORKS
from nono_trio.errors import CageFailed
from nono_trio.posix.process_handle import ProcessHandle
from nono_trio.sandbox.attribution.self_check import why_not
from nono_trio.sandbox.build_plan import FIRST_NETWORK_ABI
from nono_trio.sandbox.cgroup import delegated
from nono_trio.sandbox.filesystem.code_places import linked_files
from nono_trio.sandbox.launcher.linux.namespaces import in_chroot
from nono_trio.sandbox.launcher.linux.packet_capture import CAPTURE, LOOPBACK_CAPTURE
from nono_trio.sandbox.launcher.linux.tproxy import EVERY_PORT
from nono_trio.sandbox.launcher.nono_py import why_no_landlock
from nono_trio.sandbox.seatbelt_plan import UNTESTED
from nono_trio.sandbox.spawn import ConnectBrokerRefused, LaunchFailed, await_ready, spawn

if TYPE_CHECKING:
    from types import ModuleType

    from nono_trio.sandbox.launcher.cage_plan import CagePlan

State: TypeAlias = Literal["ok", "missing", "unknown"]

# The first kernel with Landlock; all other features that a cage needs are older.
FIRST_KERNEL = (5, 13)
_DECIDES_EVERY_PORT = "HOST:* opens every port (tproxy)"
_NO_TPROXY = "the kernel has no tproxy, so HOST:* opens only often used and named ports"
# Each tunnel takes two descriptors; with fewer, a busy child gets refused connections.
FEW_FILES = 1024

FALLBACK = "seccomp, TCP rules"
SEATBELT = "Seatbelt"

FEATURES = (
    ("has_refer", "renames"),
    ("has_truncate", "truncation"),
    ("has_network", "TCP"),
    ("has_ioctl_dev", "devices"),
    ("has_scoping", "signals and abstract sockets"),
)
_NAMESPACE_KINDS = ("user", "net", "mnt", "pid", "ipc")
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_PROC = Path("/proc")
_SECCOMP_FILTERED = "2"  # the mode of a process under a filter, in /proc/self/status


class Check(msgspec.Struct, frozen=True):
    """The result of one check; `required` for full isolation, `fix` says how to get it."""

    name: str
    state: State
    found: str
    required: bool = True
    fix: str | None = None

    @property
    def degrades(self) -> bool:
        """Tell whether the missing feature makes runs less isolated or impossible."""
        return self.required and self.state != "ok"


def try_cage(plan: CagePlan) -> CageFailed | None:
    """Build the cage of `plan`, end it before "go", and return the failure.

    Blocks for some 30 ms; main thread only.
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


def check_denied_files(plan: CagePlan) -> Check:
    """Report whether the cage of `plan` shows look-ups of files that are not granted.

    Blocking as `try_cage`.
    """
    name = "denied files"
    if plan.isolation != "namespace":
        found = f"{plan.isolation} isolation does not see look-ups of files that are not granted"
        return Check(name, "missing", found, required=False)
    launched = spawn(plan)
    try:
        for listener in await_ready(launched).values():
            listener.close()
    except CageFailed as failed:
        return Check(name, "unknown", failed.message, required=False)
    finally:
        launched.abandon()
    if launched.why_no_view is None:
        found = "look-ups of files that are not granted are recorded; not seen: writes into what is"
        found += " granted for reading, into /etc and into /usr; /tmp"
        return Check(name, "ok", found, required=False)
    fix = "let the user open /dev/fuse (chmod 666 /dev/fuse; in a container --device /dev/fuse)"
    return Check(name, "missing", launched.seen_files, required=False, fix=fix)


def check_refused_attempts(plan: CagePlan) -> Check:
    """Report whether the cage of `plan` records attempts that the kernel refuses, and whether
    `HOST:*` opens every port to programs without the proxy.

    Blocking as `try_cage`.
    """
    name = "refused attempts"
    if plan.isolation != "namespace":
        found = f"{plan.isolation} isolation records refused connections, not datagrams"
        return Check(name, "missing", found, required=False)
    launched = spawn(plan._replace(every_port_networks=[*EVERY_PORT_NETWORKS]))
    try:
        sockets = await_ready(launched)
        for listener in sockets.values():
            listener.close()
    except CageFailed as failed:
        return Check(name, "unknown", failed.message, required=False)
    finally:
        launched.abandon()
    wanted = {LOOPBACK_CAPTURE, *([CAPTURE] if plan.transparent_ports else [])}
    if wanted <= sockets.keys():
        found = "packet sockets see connections to ports without a listener, and datagrams"
        every_port = _DECIDES_EVERY_PORT if sockets.keys() >= {*EVERY_PORT} else _NO_TPROXY
        seen = f"{found}; not seen: raw, ICMP"
        if plan.transparent_ports:
            seen += f"; {every_port}"
        return Check(name, "ok", seen, required=False)
    return Check(
        name, "missing", "the kernel has no packet sockets", required=False,
        fix="a kernel with CONFIG_PACKET",
    )  # fmt: skip


def check_kernel(release: str | None = None) -> Check:
    """Report the kernel's version, for information: other checks try its features."""
    text = release or os.uname().release
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in text.split(".")[:2]]
    if tuple(numbers) >= FIRST_KERNEL:
        return Check("kernel", "ok", f"Linux {text}")
    fix = f"Linux {FIRST_KERNEL[0]}.{FIRST_KERNEL[1]} or newer has Landlock"
    return Check("kernel", "missing", f"Linux {text}", fix=fix)


def check_landlock(library: ModuleType) -> Check:
    """Report the Landlock ABI that nono-py finds, with its features."""
    try:
        abi = library.detect_abi()
    except RuntimeError as error:
        fix = "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in the lsm= list"
        fix += " of the kernel's command line"
        return Check("Landlock", "missing", why_no_landlock(error), fix=fix)
    lacking = [words for flag, words in FEATURES if not getattr(abi, flag)]
    found = [words for flag, words in FEATURES if getattr(abi, flag)]
    text = f"ABI {abi.version}: {', '.join(['files', *found])}"
    return Check("Landlock", "ok", text + (f"; not {', '.join(lacking)}" if lacking else ""))


def check_namespaces(failed: CageFailed | None, *, inside_cage: bool = False) -> list[Check]:
    """Report on namespaces and the mount view, from `try_cage` of a namespace plan."""
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
    if at is None:  # not about namespaces: another check reports it
        return [Check(name, "unknown", f"not reached: {text}") for name in names]
    fix = view_fix() if at == 2 else "; ".join(namespace_fixes(inside_cage=inside_cage))
    before = [Check(name, "ok", "tried") for name in names[:at]]
    after = [Check(name, "unknown", "not reached") for name in names[at + 1 :]]
    return [*before, Check(names[at], "missing", text, fix=fix), *after]


def namespace_fixes(proc: Path = _PROC, *, inside_cage: bool = False) -> list[str]:
    """Return fixes for refused namespaces; never empty."""
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
    if _is_filtered(proc) or any(mark.exists() for mark in CONTAINER_MARKS):
        return [
            "in a container: a seccomp profile that allows unshare, mount and pivot_root"
            " (Docker: --security-opt seccomp=unconfined)"
        ]
    return ["a security module refuses them: see the kernel's log (dmesg)"]


def view_fix() -> str:
    """Return the usual fix for a refused mount of a private /proc."""
    return (
        "in a container: leave /proc unmasked and mounts allowed"
        " (Docker: --security-opt systempaths=unconfined --security-opt apparmor=unconfined)"
    )


def check_fallback(failed: CageFailed | None, library: ModuleType) -> Check:
    """Report on TCP rules and the seccomp filter, from `try_cage` of a landlock plan."""
    name = FALLBACK
    if failed is None:
        return Check(name, "ok", "the fallback, --isolation landlock, works too", required=False)
    version = "none"
    with suppress(RuntimeError):
        version = library.detect_abi().version
    fix = f"Landlock ABI {FIRST_NETWORK_ABI} (Linux 6.7) and seccomp filters; here: ABI {version}"
    return Check(name, "missing", failed.message, required=False, fix=fix)


def check_seatbelt(failed: CageFailed | None) -> list[Check]:
    """Report on Seatbelt, from `try_cage` of a seatbelt plan on macOS, which is untested."""
    untested = Check("tried by its authors", "missing", UNTESTED, fix="see docs/macos.md")
    if failed is None:
        held = "files as granted, the network but the proxy's port closed"
        return [Check(SEATBELT, "ok", f"applied to a process: {held}"), untested]
    return [Check(SEATBELT, "missing", failed.message, fix=failed.hint), untested]


def check_connect_broker(failed: CageFailed | None, proc: Path = _PROC) -> Check:
    """Report on the connect broker of the fallback, from `try_cage` of its plan."""
    from nono_trio.sandbox.broker.seccomp_notify import refused_by  # Linux only

    name = "guarded connections"
    refused = failed.text if isinstance(failed, ConnectBrokerRefused) else refused_by(proc)
    if refused is None:
        found = "in the fallback, the supervisor makes each connection itself"
        return Check(name, "ok", found, required=False)
    fix = (
        "kernel.yama.ptrace_scope below 2; in a container, a seccomp profile with pidfd_getfd, and"
        " no other process that handles seccomp notifications"
    )
    return Check(name, "missing", refused, required=False, fix=fix)


def check_attribution() -> Check:
    """Return whether the program behind a record can be found in namespace isolation."""
    name = "attribution"
    reason = why_not()
    if reason is None:
        found = "each network record names its program, found by its socket"
        return Check(name, "ok", found, required=False)
    fix = "namespace isolation works without it; records then name no program"
    return Check(name, "missing", reason, required=False, fix=fix)


def check_pidfd() -> Check:
    """Report on pidfds: without them a signal could reach a process that has reused a pid."""
    try:
        ProcessHandle(os.getpid()).close()
    except OSError as error:
        fix = "Linux 5.3 or newer, and no seccomp filter that refuses pidfd_open"
        return Check("pidfd", "missing", error.strerror or str(error), fix=fix)
    return Check("pidfd", "ok", "processes are signalled by handle, not by number")


def check_cgroup() -> Check:
    """Report whether --memory and --max-processes can limit the whole cage."""
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
    """Report hard links of our own files: a command could write them by the other name."""
    linked = linked_files()
    if not linked:
        return Check("own code", "ok", "no file of it has a second name", required=False)
    found = f"hard links of files elsewhere: {len(linked)} ({linked[0]}, for example): a command"
    found += " that may write those changes nono-trio"
    fix = "copies: uv tool install --reinstall --link-mode copy nono-trio"
    return Check("own code", "missing", found, required=False, fix=fix)


def check_limits() -> Check:
    """Report how many descriptors the supervisor may open."""
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
    """Return the text of a file of /proc; empty if this kernel lacks it."""
    with suppress(OSError, UnicodeError):
        return path.read_text().strip()
    return ""
