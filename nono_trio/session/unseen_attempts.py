"""Warns of attempts that can't fail a run, because its verdict can't see them in this cage.

Rules of this file: it is called once the cage is built, after every fallback. It warns only if a
flag has the run judged.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nono_trio.core.policy.judging import PATH_FLAG
from nono_trio.posix.paths import is_below, is_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.policy.judging import Judging
    from nono_trio.session.cage_launch import Started


def unseen_warnings(judging: Judging, started: Started) -> Iterator[str]:
    """Yield a sentence for each kind of attempt that the verdict can't see."""
    plan = started.run.plan
    if plan.isolation == "namespace":
        unseen = "" if plan.transparent_ports else "attempts without the proxy"
    elif plan.isolation == "landlock" and started.launched.notifications is not None:
        unseen = "datagrams and look-ups of names"
    else:  # other programs of the machine can reach the proxy, too
        unseen = "attempts without the proxy, or without its password,"
    if judging.fail_on is not None and unseen:
        yield f"{judging.flag} sees no {unseen} here, so they can't fail the run"
    if not judging.needs_files:
        return
    if started.launched.view is None:
        yield (
            f"{judging.flag} sees no look-ups of files here (`nono-trio doctor` says why), so they"
            " can't fail the run"
        )
        return
    for path in judging.paths:
        shown = _shown_around(path, started)
        if shown is not None:
            yield (
                f"{PATH_FLAG} {path} can't fail the run: the cage shows {shown}, where no"
                " look-up is seen"
            )


def _shown_around(path: str, started: Started) -> str | None:
    """Return what the cage shows at `path`, so that no look-up of it is seen; None if one is."""
    mounts = [mount for mount in started.run.plan.mounts if mount.kind != "directory"]
    if started.launched.home_seen:
        for home in started.run.plan.mounted("empty_home", "kept_home"):
            if is_below(path, home.path):  # not /tmp around it either
                mounts = [mount for mount in mounts if is_below(mount.path, home.path)]
                own = _own_file(home.source, os.path.relpath(path, home.path))
                if own is not None:
                    return own
    return next((mount.path for mount in mounts if is_in(path, mount.path)), None)


def _own_file(home: str, path: str) -> str | None:
    """Return the file of a kept home at or above `path` in it: then the real home is not asked."""
    here = home
    names = path.split("/") if home else []
    for name in names:
        here = os.path.join(here, name)
        try:
            mode = os.lstat(here).st_mode
        except OSError:
            return None
        if not stat.S_ISDIR(mode):
            return here
    return here if names else None
