"""The files that a cage with a network of its own has instead of the host's: hosts, resolv.conf.

Rules of this file: what the host has at such a path never decides over whether there is a cage: it
may be missing, a directory, a symlink that leads nowhere or in a circle. A file that can't be shown
is left to the name service, which answers for both.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nono_trio.posix.paths import is_in
from nono_trio.sandbox.launcher.addresses import GATEWAY_IPV4
from nono_trio.sandbox.launcher.cage_plan import CageGrant, MountOp
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nono_trio.sandbox.build_plan import CageFiles
    from nono_trio.sandbox.filesystem.plan import FilePlan

HOSTS: Final = "/etc/hosts"
RESOLVER: Final = "/etc/resolv.conf"

_ASK_US: Final = f"nameserver {GATEWAY_IPV4}\noptions timeout:2 attempts:2\n"


def own_files(hosts: str, *, transparent: bool, granted: Iterable[str]) -> dict[str, str]:
    """The texts by their paths; `hosts` is that of the hosts file.

    One that the user granted by name (`granted`) is the host's; resolv.conf is not, as the host's
    servers can't be reached.
    """
    texts = {} if HOSTS in granted else {HOSTS: hosts}
    if transparent:
        texts[RESOLVER] = _ASK_US
    return texts


def with_own_files(caged: CageFiles, texts: Mapping[str, str]) -> CageFiles:
    """`caged` with those of `texts` that can be shown; the host's are neither shown nor granted."""
    shown = {path: text for path, text in texts.items() if _can_show(path, caged)}
    own = {path: CageGrant(path, "read", is_file=True) for path in shown}
    grants = [own.get(grant.path, grant) for grant in caged.grants]
    known = {grant.path for grant in grants}
    if caged.grants:  # none where the file sandbox is off
        grants += [grant for path, grant in own.items() if path not in known]
    mounts = [one for one in caged.mounts if one.kind != "bind" or one.path not in shown]
    mounts += [MountOp("text", path, text=text) for path, text in shown.items()]
    return replace(caged, grants=grants, mounts=mounts)


def asks_loopback(caged: CageFiles, *, transparent: bool) -> bool:
    """Whether look-ups go to 127.0.0.1, which resolvers take where there is no resolv.conf."""
    shown = {one.path for one in caged.mounts if one.kind == "text"}
    return transparent and RESOLVER not in shown


def hides(files: FilePlan, path: str) -> bool:
    """Whether the cage has a file of its own at `path`, and not the host's."""
    return path == RESOLVER or (path == HOSTS and HOSTS not in files.user_paths)


def names_warnings(*, asks_loopback: bool) -> list[str]:
    """Say where no name can be looked up: resolvers take a directory for no missing file."""
    if not asks_loopback or not os.path.isdir(RESOLVER):
        return []
    return [
        f"{RESOLVER} is a directory and granted, so only programs that use the proxy find names"
    ]


def _can_show(path: str, caged: CageFiles) -> bool:
    """Whether there is, or can be made, a file to show it on: never in a directory of the host."""
    if not _is_shown(os.path.dirname(path), caged) or os.path.isfile(path):
        return True
    real = follow(path).real
    return not os.path.lexists(real) and not _is_shown(os.path.dirname(real), caged)


def _is_shown(directory: str, caged: CageFiles) -> bool:
    """Whether a directory of the host lies in what the cage shows of it."""
    real = os.path.realpath(directory)
    return any(
        one.kind == "bind" and is_in(real, os.path.realpath(one.path)) for one in caged.mounts
    )
