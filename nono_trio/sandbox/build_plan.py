"""The file side of a cage plan from resolved grants, and the texts about its protection.

`namespace` isolation has a network of its own and shows only granted paths; `landlock` is the
fallback where user namespaces are refused; `none` must be requested. macOS has `seatbelt`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import msgspec

from nono_trio.posix.memory import memory_bytes
from nono_trio.posix.paths import ON_MACOS, could_be_directory, home_directory, is_in
from nono_trio.sandbox import seatbelt_plan
from nono_trio.sandbox.filesystem.plan import PRIVATE
from nono_trio.sandbox.filesystem.streams import CONSOLE, DEVICES, handed_over, named
from nono_trio.sandbox.launcher.addresses import DNS_PORT
from nono_trio.sandbox.launcher.cage_plan import CageGrant, MountOp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.sandbox.filesystem.grant import Access
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.filesystem.streams import Stream
    from nono_trio.sandbox.launcher.cage_plan import CagePlan, FileAccess, Identity, Isolation

_DEVICES = [
    CageGrant(f"/dev/{name}", "readwrite", is_file=True) for name in ("null", "zero", "full", "tty")
]

# The view's own files and directories.
_PRIVATE_GRANTS = [
    CageGrant("/proc", "read", is_file=False),
    CageGrant("/dev/pts", "readwrite", is_file=False),
    CageGrant("/dev/ptmx", "readwrite", is_file=True),
    *(CageGrant(path, "readwrite", is_file=False) for path in PRIVATE),
    *_DEVICES,
]

# Without a view the child sees the host's files. Not granted are /tmp and /dev/shm, which have
# files of other programs: the session has its own temporary directory. Nor is /dev/pts, which has
# the user's other terminals: a program that makes terminals needs `--allow /dev/pts`.
_HOST_GRANTS = [
    CageGrant("/proc", "read", is_file=False),
    *_DEVICES,
]

# Landlock restricts TCP since ABI 4 (Linux 6.7).
FIRST_NETWORK_ABI = 4
# Truncation is a right of its own since ABI 3 (Linux 6.2). Before, a command can empty files that
# it may read, unless they are on a read-only mount.
_FIRST_TRUNCATION_ABI = 3
# Landlock covers signals and abstract sockets since ABI 6 (Linux 6.12).
FIRST_SCOPING_ABI = 6


# Ports that programs often try. We listen on them, so that a denial with its port is recorded,
# instead of a plain "connection refused" by the kernel. The list is short: each port takes two
# sockets and two tasks at the start of every run.
OFTEN_TRIED = (
    22, 25, 465, 587, 993, 1433, 3306, 5432, 5672, 6379, 8080, 8443, 9200, 9418, 27017,
)  # fmt: skip
# Two sockets a port.
MOST_TRANSPARENT_PORTS = 110


# The shares of memory for these mounts. Half for /tmp is the kernel's default, and builds need it;
# a quarter for /dev/shm, which has small files. With both full a quarter is left. A file takes
# about a KiB of kernel memory that no size limit counts, so the number of files is limited too.
_PRIVATE_SHARES = {"/tmp": 2, "/dev/shm": 4}
_BYTES_PER_FILE = 16 << 10
_FEWEST_FILES = 65_536


class CageFiles(msgspec.Struct, frozen=True):
    """The file side of a cage plan, as its fields of the same names."""

    directory: str
    grants: list[CageGrant]
    mounts: list[MountOp]
    identities: dict[str, Identity] = msgspec.field(default_factory=dict)
    closed: list[str] = msgspec.field(default_factory=list)


def cage_files(
    files: FilePlan,
    isolation: Isolation,
    *,
    sandbox: bool,
    temporary: str | None,
    memory: int | None = None,
    home: str | None = None,
) -> CageFiles:
    """Return the grants and mounts of a cage; with `sandbox` off, all files are shown.

    `temporary`: the session's own temporary directory, for a cage without a private /tmp. `memory`:
    the limit of the cage in bytes. `home`: the path of the cage's own home.
    """
    streams = handed_over(files)
    if isolation == "namespace":
        places = named(streams)
        shown = [one.shown_at(place) for place, one in places.items()]
        if not sandbox:
            return CageFiles(files.start, [], [MountOp("bind", "/", writable=True), *shown])
        grants = _grants(files, isolation, [*places.items()], temporary, home)
        if CONSOLE in places:  # `ttyname` lists the directory, which is the cage's own
            grants.append(CageGrant(DEVICES, "read", is_file=False))
        return CageFiles(files.directory, grants, [*_mounts(files, memory, home), *shown])
    if not sandbox:
        return CageFiles(files.start, [], [])
    return CageFiles(
        files.directory,
        grants=_grants(files, isolation, [(one.path, one) for one in streams], temporary, home),
        mounts=[],
        identities={**files.identities, **{one.path: one.identity for one in streams}},
        closed=seatbelt_plan.closed_paths(files.denied) if ON_MACOS else [],
    )


def _grants(
    files: FilePlan,
    isolation: Isolation,
    streams: Sequence[tuple[str, Stream]],
    temporary: str | None,
    home: str | None,
) -> list[CageGrant]:
    """Return the user's grants, then the cage's own; `streams` with their paths in the cage."""
    granted = [cage_grant(one.path, one.access, is_file=one.is_file) for one in files.grants]
    granted += _own_grants(isolation)
    own = (path for path in (temporary, home) if path is not None)
    granted += [CageGrant(path, "readwrite", is_file=False) for path in own]
    granted += [cage_grant(place, one.access, is_file=True) for place, one in streams]
    return granted


def _mounts(files: FilePlan, memory: int | None, home: str | None) -> list[MountOp]:
    """Return the mounts of the view, except for streams and the home."""
    by_name = {grant.real for grant in files.grants if grant.asked_for}
    return [
        *(MountOp("bind", grant.path, writable=grant.may_write, identity=grant.identity)
          for grant in (*files.grants, *files.sockets)),
        *_private(by_name, memory),
        *(MountOp("directory", path) for path in (*_own_home(home), files.directory)),
        *(MountOp("read_only", path) for path in files.kept),
        *(MountOp("cover", path) for path in files.covered),
    ]  # fmt: skip


def cage_grant(path: str, access: Access, *, is_file: bool) -> CageGrant:
    """Return a grant in the launcher's form."""
    return CageGrant(
        path, cast("FileAccess", access), is_file
    )  # sockets are not among these grants


def _private(granted: set[str], memory: int | None) -> list[MountOp]:
    """Return the cage's own temporary directories, except those granted by name."""
    whole = memory_bytes()
    sized = []
    for path in PRIVATE:
        if path not in granted:
            size = min(whole, memory or whole) // _PRIVATE_SHARES[path]
            files = max(size // _BYTES_PER_FILE, _FEWEST_FILES)
            sized.append(MountOp("private", path, size=size, files=files))
    return sized


def _own_home(home: str | None) -> list[str]:
    """Return the user's home, to be shown empty, if the cage has no home of its own."""
    own = home_directory()
    return [own] if home is None and could_be_directory(own) else []


def _own_grants(isolation: Isolation) -> Sequence[CageGrant]:
    if ON_MACOS:
        return seatbelt_plan.OWN_GRANTS
    return _PRIVATE_GRANTS if isolation == "namespace" else _HOST_GRANTS


def transparent_ports(named: frozenset[int]) -> list[int]:
    """Return the ports to listen on: the web's, the policy's, then OFTEN_TRIED."""
    wanted = dict.fromkeys((80, 443, *sorted(named), *OFTEN_TRIED))
    wanted.pop(DNS_PORT, None)  # DNS has its own
    return list(wanted)[:MOST_TRANSPARENT_PORTS]


def enforcement(plan: CagePlan, abi: str | None, sockets: Iterable[str] = ()) -> list[str]:
    """Describe the protection, in the log and `audit show`; `sockets` are granted paths."""
    if ON_MACOS:
        return seatbelt_plan.enforcement(plan)
    held = []
    if plan.isolation == "namespace":
        held += [
            "network namespace: loopback only, the proxy's socket is the only way out",
            "mount namespace: only what is granted exists, /tmp and /dev/shm are private"
            if plan.landlock
            else "mount namespace: a private /proc, all else is the host's",
            "PID, IPC and user namespaces, capabilities dropped",
        ]
    if plan.transparent_ports:
        held.append("every address and name answers to the proxy, for programs that know of none")
    if plan.isolation == "landlock":
        held += [
            f"Landlock TCP rules: connect to port {plan.port} only",
            "seccomp: no UDP, raw, packet, vsock, netlink or io_uring",
            "capabilities dropped, the tree ends with the session",
        ]
    held += [f"may connect to the host's sockets at {path}" for path in sockets]
    if plan.brokered and plan.isolation == "landlock":
        held.append("connections are made by the supervisor: to the proxy and to granted sockets")
    if plan.landlock and abi is not None:
        held.append(f"Landlock ABI {abi}: {_held_by_landlock(abi)}")
    if plan.isolation != "none":
        held.append("seccomp: no vsock, kernel keys, io_uring, or typing into the terminal")
    return [*held, "no new privileges"]


def _held_by_landlock(abi: str) -> str:
    if abi_number(abi) >= FIRST_SCOPING_ABI:
        return "files, signals and abstract sockets"
    return "files"  # namespaces cover the others, or `left_open` names them


def _left_open_by_landlock(abi: str) -> list[str]:
    """Describe the gaps of an older ABI without namespaces."""
    number = abi_number(abi)
    missing = [
        *(["emptying files that it may only read"] if number < _FIRST_TRUNCATION_ABI else []),
        *(["signals to your processes, abstract sockets"] if number < FIRST_SCOPING_ABI else []),
    ]
    return [f"Landlock ABI {abi} leaves open: {', '.join(missing)}"] if missing else []


def _closed_memory(plan: CagePlan) -> str:
    """Return a hint about shared memory if /dev/shm is the host's and not granted."""
    granted = [grant.path for grant in plan.grants if grant.access != "read"]
    if not plan.landlock or any(is_in("/dev/shm", path) for path in granted):
        return ""
    return (
        "; shared memory (multiprocessing.Lock) needs --allow /dev/shm, where other programs have"
        " theirs"
    )


def abi_number(abi: str) -> int:
    """Return the number of an ABI in nono-py's form: 6 for "V6"."""
    return int(abi.removeprefix("V"))


def left_open(plan: CagePlan, abi: str | None, unbrokered: str | None) -> list[str]:
    """Describe the gaps of this cage; `unbrokered`: why it has no connect broker."""
    if ON_MACOS:
        return seatbelt_plan.left_open(plan)
    warnings = []
    if plan.isolation == "landlock":
        warnings.append(
            "landlock isolation leaves open: seeing names, sizes, modes and times of your files,"
            " and what /proc shows of other processes (docs/escape-attempts.md); programs that do"
            " not use the proxy reach nothing, not even DNS"
            f"{_closed_memory(plan)}"
        )
    if plan.isolation == "landlock" and plan.listen_ports:
        where = "127.0.0.1" if plan.brokered else "any address"
        warnings.append(
            f"--listen-port: the command itself listens at {where}, and connections to it are not"
            " recorded (landlock isolation)"
        )
    if unbrokered is not None and plan.isolation == "namespace" and os.geteuid() == 0:
        warnings.append(
            f"system calls can't be judged here ({unbrokered}), so no directory can be made"
            " set-group-id (git init --shared, tar -xp)"
        )
    if unbrokered is not None and plan.isolation == "landlock":
        warnings.append(
            f"connections can't be guarded here ({unbrokered}), which leaves open: other programs'"
            f" sockets that have a path, TCP to port {plan.port} of any address, being called at a"
            " port that was not bound, abstract names, modes, owners and times of your files, and"
            " the proxy to other users of this machine, who lack its token only"
        )
    if plan.isolation == "none":
        warnings.append("--isolation none: the command can reach any network past the proxy")
    if plan.landlock and abi is not None and plan.isolation != "namespace":
        warnings += _left_open_by_landlock(abi)
    if not plan.landlock:
        warnings.append("--no-sandbox: the command can read and write any file that you can")
    return warnings
