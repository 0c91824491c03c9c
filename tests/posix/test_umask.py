"""A umask without the owner's bits: the command has it, and nothing of ours depends on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import RUN_SECONDS, as_user, landlock_isolation

if TYPE_CHECKING:
    pass

USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("mask", ["0177", "0777"])
def test_the_command_has_it_and_the_cage_has_not(
    open_place: Path, isolation: str, user: str, mask: str
) -> None:
    prefix, variables = as_user("root" if user == "root" else "nobody", Path(__file__))
    place = open_place / "place"
    place.mkdir()
    place.chmod(0o777)
    state = open_place / "state"
    state.mkdir()
    state.chmod(0o777)
    words = ["-m", "nono_trio", "run", "-s", "--isolation", isolation]
    words += ["--allow", str(place), "--", "sh", "-c", f"umask; touch {place}/made"]
    done = subprocess.run(
        ["sh", "-c", f'umask {mask}; exec "$@"', "sh", *prefix, *words],
        env={"PATH": os.environ["PATH"], "HOME": "/",
             "NONO_TRIO_STATE_DIR": str(state / "own"), **variables},
        cwd="/", capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == (mask, 0), done.stderr
    assert (place / "made").stat().st_mode & 0o777 == 0o666 & ~int(mask, 8)
