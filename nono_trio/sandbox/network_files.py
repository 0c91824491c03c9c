"""A cage's own /etc/hosts and /etc/resolv.conf, for a cage with a network of its own.

Rules of this file: the host's files never prevent a cage: they may be missing, directories, or
symlinks that are broken or circular. If a file can't be shown, our DNS service answers instead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.posix.paths import is_in
from nono_trio.sandbox.launcher.addresses import GATEWAY_IPV4
from nono_trio.sandbox.launcher.cage_plan import CageGrant, MountOp
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nono_trio.sandbox.build_plan import CageFiles
    from nono_trio.sandbox.filesystem.plan import FilePlan

HOSTS: Final = "/etc/hosts"
RESOLVER: Final = "/etc/resolv.conf"

# No query is lost on the way, so asking again is no use: a busy machine only needs time.
_ASK_US: Final = f"nameserver {GATEWAY_IPV4}\noptions timeout:10 attempts:2\n"


def network_texts(hosts: str, *, transparent: bool, granted: Iterable[str]) -> dict[str, str]:
    """Return the texts by path; `hosts` is the text of the hosts file.

    If the user granted the hosts file by name (`granted`), the cage shows the host's. Not so
    resolv.conf: the host's servers can't be reached.
    """
    texts = {} if HOSTS in granted else {HOSTS: hosts}
    if transparent:
        texts[RESOLVER] = _ASK_US
    return texts


def with_network_texts(caged: CageFiles, texts: Mapping[str, str]) -> CageFiles:
    """Return `caged` with the `texts` that can be shown, in place of the host's files."""
    binds = [os.path.realpath(one.path) for one in caged.mounts if one.kind == "bind"]
    shown = {path: text for path, text in texts.items() if _can_show(path, binds)}
    own = {path: CageGrant(path, "read", is_file=True) for path in shown}
    grants = [own.get(grant.path, grant) for grant in caged.grants]
    known = {grant.path for grant in grants}
    if caged.grants:  # empty if the file sandbox is off
        grants += [grant for path, grant in own.items() if path not in known]
    mounts = [one for one in caged.mounts if one.kind != "bind" or one.path not in shown]
    mounts += [MountOp("text", path, text=text) for path, text in shown.items()]
    return replace(caged, grants=grants, mounts=mounts)


def asks_loopback(caged: CageFiles, *, transparent: bool) -> bool:
    """Tell whether resolvers ask 127.0.0.1, their default without resolv.conf."""
    shown = {one.path for one in caged.mounts if one.kind == "text"}
    return transparent and RESOLVER not in shown


def hides(files: FilePlan, path: str) -> bool:
    """Tell whether the cage has its own file at `path` instead of the host's."""
    return path == RESOLVER or (path == HOSTS and HOSTS not in files.user_paths)


def names_warnings(*, asks_loopback: bool) -> list[str]:
    """Warn if names can't be looked up: a directory at resolv.conf stops resolvers."""
    if not asks_loopback or not os.path.isdir(RESOLVER):
        return []
    return [
        f"{RESOLVER} is a directory and granted, so only programs that use the proxy find names"
    ]


def _can_show(path: str, binds: Sequence[str]) -> bool:
    """Tell whether a file to mount on exists or can be made; never in a directory of the host,
    which the cage has at `binds`."""
    if not _is_shown(os.path.dirname(path), binds) or os.path.isfile(path):
        return True
    real = follow(path).real
    return not os.path.lexists(real) and not _is_shown(os.path.dirname(real), binds)


def _is_shown(directory: str, binds: Sequence[str]) -> bool:
    """Tell whether the cage shows a directory of the host."""
    real = os.path.realpath(directory)
    return any(is_in(real, path) for path in binds)
