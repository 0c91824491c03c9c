"""The macOS cage: its grants, its protection and its gaps. Not tested on a Mac.

The texts describe nono-py's Seatbelt profile: `(deny default)`; allowed are granted files, signals
and process information within the cage, Mach services except the keychain's, TCP to one port of
this machine, listening on any port, and the system's resolver.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nono_trio.sandbox.launcher.cage_plan import CageGrant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.sandbox.launcher.cage_plan import CagePlan

UNTESTED: Final = "the macOS cage was written without a Mac at hand and never run on one"

# In addition to the session's own temporary directory. Not all of /dev: it has the user's other
# terminals. The command's own terminal is already open at its start.
OWN_GRANTS: Final = (
    *(CageGrant(f"/dev/{name}", "readwrite", is_file=True) for name in ("null", "zero", "tty")),
    *(CageGrant(f"/dev/{name}", "read", is_file=True) for name in ("random", "urandom")),
    CageGrant("/dev/fd", "read", is_file=False),
)


def closed_paths(denied: Iterable[str]) -> list[str]:
    """Return the paths that are closed inside grants: each as given and without symlinks."""
    return list(dict.fromkeys(path for one in denied for path in (one, os.path.realpath(one))))


def enforcement(plan: CagePlan) -> list[str]:
    """Describe the protection, for the log and `audit show`."""
    held = []
    if plan.isolation == "seatbelt":
        held += [
            f"Seatbelt: connections to TCP port {plan.port} of this machine only, nothing by UDP",
            "the command's process group ends with the session",
        ]
    if plan.landlock:
        held.append("Seatbelt: files, signals, processes outside of the cage, the keychain")
    return held


def left_open(plan: CagePlan) -> list[str]:
    """Describe the gaps of this cage compared with full isolation."""
    warnings = [f"{UNTESTED}: do not rely on it yet (docs/macos.md)"]
    if plan.isolation == "seatbelt":
        warnings.append(
            "seatbelt isolation leaves open: names looked up by the system's resolver past the"
            " log, being called at any port, the system's Mach services (the clipboard, background"
            " downloads), and processes that leave the group, which outlive the session"
        )
    if plan.isolation == "none":
        warnings.append("--isolation none: the command can reach any network past the proxy")
    if not plan.landlock:
        warnings.append("--no-sandbox: the command can read and write any file that you can")
    return warnings
