"""From resolved grants to what the launcher is told: one plan for each way to isolate.

`namespace` shuts the network off and shows only what is granted; `landlock` is what is left where
user namespaces are refused; `none` is a way out that has to be asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.sandbox.addresses import DNS_PORT, GATEWAY_IPV4
from nono_trio.sandbox.places import home_directory
from nono_trio.sandbox.plan import PRIVATE

if TYPE_CHECKING:
    from nono_trio.sandbox.plan import FilePlan
    from nono_trio.sandbox.spawn import CagePlan, Isolation

_DEVICES = [(f"/dev/{name}", "readwrite", True) for name in ("null", "zero", "full", "tty")]

# What the view makes new, and so is free to use.
_PRIVATE_GRANTS = [
    ("/proc", "read", False),
    ("/dev/pts", "readwrite", False),
    *((path, "readwrite", False) for path in PRIVATE),
    *_DEVICES,
]

# Without a view of its own the child sees the host's. Not its /tmp and /dev/shm, which are full of
# other programs' files: it gets a temporary directory of the session's own instead. Not /dev/pts,
# which has the user's other terminals: a program that makes terminals needs `--allow /dev/pts`.
_HOST_GRANTS = [
    ("/proc", "read", False),
    *_DEVICES,
]

# Landlock restricts TCP since ABI 4 (Linux 6.7).
FIRST_NETWORK_ABI = 4


# Ports that programs try often: listened on so that a denial is recorded with its port and can be
# shown, instead of a bare "connection refused" by the kernel. Short: each costs two sockets and two
# tasks of every run's start.
OFTEN_TRIED = (
    22, 25, 465, 587, 993, 1433, 3306, 5432, 5672, 6379, 8080, 8443, 9200, 9418, 27017,
)  # fmt: skip
# Two sockets a port, and one message hands them all over (see protocol.MAX_SOCKETS).
MOST_TRANSPARENT_PORTS = 110


@dataclass(frozen=True)
class CageFiles:
    """The file side of a cage plan."""

    grants: list[tuple[str, str, bool]]
    view: list[tuple[str, bool]]
    private: list[str]
    directories: list[str]
    covered: list[str]
    directory: str


def cage_files(
    files: FilePlan, isolation: Isolation, *, sandbox: bool, temporary: str | None
) -> CageFiles:
    """Return what is granted, shown and covered; everything is shown when `sandbox` is off.

    `temporary` is the session's own temporary directory, where there is no private /tmp.
    """
    granted = [(grant.path, str(grant.access), grant.is_file) for grant in files.grants]
    fresh = [*(_PRIVATE_GRANTS if isolation == "namespace" else _HOST_GRANTS)]
    if temporary is not None:
        fresh.append((temporary, "readwrite", False))
    if not sandbox:
        return CageFiles([], [("/", True)], [], [], [], files.start)
    by_name = {os.path.realpath(path) for path in files.user_paths}
    return CageFiles(
        grants=granted + fresh,
        view=[(grant.path, grant.access != "read") for grant in files.grants],
        private=[path for path in PRIVATE if path not in by_name],
        directories=[home_directory(), files.directory],
        covered=list(files.covered),
        directory=files.directory,
    )


def transparent_ports(named: frozenset[int]) -> list[int]:
    """Return the ports to listen on: the web's, the policy's, then the often tried."""
    wanted = dict.fromkeys((80, 443, *sorted(named), *OFTEN_TRIED))
    wanted.pop(DNS_PORT, None)  # DNS has its own
    return list(wanted)[:MOST_TRANSPARENT_PORTS]


def resolver_configuration() -> dict[str, str]:
    """Return the files that send name look-ups to the transparent network."""
    return {"/etc/resolv.conf": f"nameserver {GATEWAY_IPV4}\noptions timeout:2 attempts:2\n"}


def enforcement(plan: CagePlan, abi: str | None) -> list[str]:
    """Name what holds, for the log and for `audit show`."""
    held = []
    if plan.isolation == "namespace":
        held += [
            "network namespace: loopback only, the proxy's socket is the only way out",
            "mount namespace: only what is granted exists, /tmp and /dev/shm are private",
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
    if plan.landlock:
        held.append(f"Landlock ABI {abi}: files, signals and abstract sockets")
    if plan.isolation != "none":
        held.append("seccomp: no vsock, kernel keys, io_uring, or typing into the terminal")
    return [*held, "no new privileges"]


def left_open(plan: CagePlan) -> list[str]:
    """Name what this cage does not stop and a whole one would."""
    warnings = []
    if plan.isolation == "landlock":
        warnings.append(
            f"landlock isolation leaves open: TCP to port {plan.port} of any address, being called"
            " at a port that was not bound, sockets of other programs that have a path in the file"
            " system, and modes and times of your files (docs/escape-attempts.md)"
        )
    if plan.isolation == "none":
        warnings.append("--isolation none: the command can reach any network past the proxy")
    if not plan.landlock:
        warnings.append("--no-sandbox: the command can read and write any file that you can")
    return warnings
