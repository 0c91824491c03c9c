"""The files that a cage with a network of its own has instead of the host's: hosts, resolv.conf.

Rules of this file: what the host has at such a path never decides over whether there is a cage: it
may be missing, a directory, a symlink that leads nowhere or in a circle. A file that can't be shown
is left to the name service, which answers for both.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nono_trio.posix.paths import follow, is_in
from nono_trio.sandbox.launcher.addresses import GATEWAY_IPV4

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
    grants = [(path, "read", True) if path in shown else (path, access, is_file)
              for path, access, is_file in caged.grants]  # fmt: skip
    known = {path for path, _, _ in grants}
    if caged.grants:  # none where the file sandbox is off
        grants += [(path, "read", True) for path in shown if path not in known]
    return replace(
        caged,
        grants=grants,
        view=[one for one in caged.view if one[0] not in shown],
        identities={path: one for path, one in caged.identities.items() if path not in shown},
        replaced=shown,
    )


def asks_loopback(caged: CageFiles, *, transparent: bool) -> bool:
    """Whether look-ups go to 127.0.0.1, which resolvers take where there is no resolv.conf."""
    return transparent and RESOLVER not in caged.replaced


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
    return any(is_in(real, os.path.realpath(path)) for path, _ in caged.view)
