"""A machine with other files in /etc: the real command in a mount namespace with a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from harness import RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_MOUNT = 'mount --bind "$0" /etc && exec "$@"'


def no_other_etc() -> str | None:
    """The reason why this machine can't show another /etc; None if it can."""
    for program in ("unshare", "mount", "cp"):
        if shutil.which(program) is None:
            return f"there is no {program}(1)"
    tried = subprocess.run(_unshare(), capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


def _unshare() -> list[str]:
    return ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", "mount --bind /tmp /etc"]


def copy_of_etc(directory: Path) -> Path:
    """Copy /etc without the files that this user may not read."""
    directory.mkdir()
    subprocess.run(["cp", "-a", "/etc/.", str(directory)], capture_output=True, check=False)
    return directory


def run_with_etc(
    etc: Path, command: Sequence[str], environment: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end in a mount namespace where `etc` is /etc."""
    return subprocess.run(
        [*_unshare()[:-1], _MOUNT, str(etc), *command],
        env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
