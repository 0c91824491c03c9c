"""From resolved grants to what the launcher is told: one plan for each way to isolate.

`namespace` shuts the network off and shows only what is granted; `landlock` is what is left where
user namespaces are refused; `none` is a way out that has to be asked for. macOS has `seatbelt`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

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

# What the view makes new, and so is free to use.
_PRIVATE_GRANTS = [
    CageGrant("/proc", "read", is_file=False),
    CageGrant("/dev/pts", "readwrite", is_file=False),
    CageGrant("/dev/ptmx", "readwrite", is_file=True),
    *(CageGrant(path, "readwrite", is_file=False) for path in PRIVATE),
    *_DEVICES,
]

# Without a view of its own the child sees the host's. Not its /tmp and /dev/shm, which are full of
# other programs' files: it gets a temporary directory of the session's own instead. Not /dev/pts,
# which has the user's other terminals: a program that makes terminals needs `--allow /dev/pts`.
_HOST_GRANTS = [
    CageGrant("/proc", "read", is_file=False),
    *_DEVICES,
]

# Landlock restricts TCP since ABI 4 (Linux 6.7).
FIRST_NETWORK_ABI = 4
# Truncating is a right of its own since ABI 3 (Linux 6.2): before, what may be read can be emptied
# unless a read-only mount is in the way.
_FIRST_TRUNCATION_ABI = 3
# Signals and abstract sockets of processes outside are out of reach since ABI 6 (Linux 6.12).
FIRST_SCOPING_ABI = 6


# Ports that programs try often: listened on so that a denial is recorded with its port and can be
# shown, instead of a bare "connection refused" by the kernel. Short: each costs two sockets and two
# tasks of every run's start.
OFTEN_TRIED = (
    22, 25, 465, 587, 993, 1433, 3306, 5432, 5672, 6379, 8080, 8443, 9200, 9418, 27017,
)  # fmt: skip
# Two sockets a port.
MOST_TRANSPARENT_PORTS = 110


# What is written there is memory. Half of it for /tmp is what the kernel gives one such mount, and
# builds need it; with a quarter for /dev/shm, where nothing large belongs, both can be full and a
# quarter is left. A file costs the kernel about a KiB that no size counts: one for 16 KiB.
_PRIVATE_SHARES = {"/tmp": 2, "/dev/shm": 4}
_BYTES_PER_FILE = 16 << 10
_FEWEST_FILES = 65_536


@dataclass(frozen=True)
class CageFiles:
    """The file side of a cage plan, as its fields of the same names."""

    directory: str
    grants: list[CageGrant]
    mounts: list[MountOp]
    identities: dict[str, Identity] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)


def cage_files(
    files: FilePlan,
    isolation: Isolation,
    *,
    sandbox: bool,
    temporary: str | None,
    memory: int | None = None,
    home: str | None = None,
) -> CageFiles:
    """Return what is granted, shown and covered; everything is shown when `sandbox` is off.

    `temporary` is the session's own temporary directory, where there is no private /tmp; `memory`
    is the limit of the cage in bytes; `home` the path of the cage's own home.
    """
    streams = handed_over(files)
    if isolation == "namespace":
        places = named(streams)
        shown = [one.shown_at(place) for place, one in places.items()]
        if not sandbox:
            return CageFiles(files.start, [], [MountOp("bind", "/", writable=True), *shown])
        grants = _grants(files, isolation, [*places.items()], temporary, home)
        if CONSOLE in places:  # `ttyname` looks through the directory, which is the cage's own
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
    """The user's grants, then the cage's own; `streams` by the path at which it has them."""
    granted = [cage_grant(one.path, one.access, is_file=one.is_file) for one in files.grants]
    granted += _own_grants(isolation)
    own = (path for path in (temporary, home) if path is not None)
    granted += [CageGrant(path, "readwrite", is_file=False) for path in own]
    granted += [cage_grant(place, one.access, is_file=True) for place, one in streams]
    return granted


def _mounts(files: FilePlan, memory: int | None, home: str | None) -> list[MountOp]:
    """What the view has of the host and of its own, but for streams and the home itself."""
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
    """Return a grant of files as the launcher knows it."""
    return CageGrant(path, cast("FileAccess", access), is_file)  # a socket's is no file's


def _private(granted: set[str], memory: int | None) -> list[MountOp]:
    """The cage's own temporary directories with their sizes, without those granted by name."""
    whole = memory_bytes()
    sized = []
    for path in PRIVATE:
        if path not in granted:
            size = min(whole, memory or whole) // _PRIVATE_SHARES[path]
            files = max(size // _BYTES_PER_FILE, _FEWEST_FILES)
            sized.append(MountOp("private", path, size=size, files=files))
    return sized


def _own_home(home: str | None) -> list[str]:
    """The user's home as a directory without anything in it, where the cage has none of its own."""
    own = home_directory()
    return [own] if home is None and could_be_directory(own) else []


def _own_grants(isolation: Isolation) -> Sequence[CageGrant]:
    if ON_MACOS:
        return seatbelt_plan.OWN_GRANTS
    return _PRIVATE_GRANTS if isolation == "namespace" else _HOST_GRANTS


def transparent_ports(named: frozenset[int]) -> list[int]:
    """Return the ports to listen on: the web's, the policy's, then the often tried."""
    wanted = dict.fromkeys((80, 443, *sorted(named), *OFTEN_TRIED))
    wanted.pop(DNS_PORT, None)  # DNS has its own
    return list(wanted)[:MOST_TRANSPARENT_PORTS]


def enforcement(plan: CagePlan, abi: str | None, sockets: Iterable[str] = ()) -> list[str]:
    """Name what holds, for the log and for `audit show`; `sockets` are the host's, by path."""
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
    return "files"  # the others are up to the namespaces, or open: see `left_open`


def _left_open_by_landlock(abi: str) -> list[str]:
    """Name what an older ABI lets through where no namespace is in the way."""
    number = abi_number(abi)
    missing = [
        *(["emptying files that it may only read"] if number < _FIRST_TRUNCATION_ABI else []),
        *(["signals to your processes, abstract sockets"] if number < FIRST_SCOPING_ABI else []),
    ]
    return [f"Landlock ABI {abi} leaves open: {', '.join(missing)}"] if missing else []


def _closed_memory(plan: CagePlan) -> str:
    """Say how shared memory is had where /dev/shm is the host's, unless it was granted."""
    granted = [grant.path for grant in plan.grants if grant.access != "read"]
    if not plan.landlock or any(is_in("/dev/shm", path) for path in granted):
        return ""
    return (
        "; shared memory (multiprocessing.Lock) needs --allow /dev/shm, where other programs have"
        " theirs"
    )


def abi_number(abi: str) -> int:
    """The number of an ABI as nono-py names it: 6 of "V6"."""
    return int(abi.removeprefix("V"))


def left_open(plan: CagePlan, abi: str | None, unguarded: str | None) -> list[str]:
    """Name what this cage does not stop and a whole one would; `unguarded`: why its connections
    can't be guarded."""
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
        where = "at 127.0.0.1 by itself" if plan.brokered else "by itself, at any address it likes"
        warnings.append(
            f"--listen-port: the command listens {where}, and who connects to it is not recorded"
            " (landlock isolation)"
        )
    if unguarded is not None and plan.isolation == "namespace" and os.geteuid() == 0:
        warnings.append(
            f"system calls can't be judged here ({unguarded}), so no directory can be made"
            " set-group-id (git init --shared, tar -xp)"
        )
    if unguarded is not None and plan.isolation == "landlock":
        warnings.append(
            f"connections can't be guarded here ({unguarded}), which leaves open: other programs'"
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
