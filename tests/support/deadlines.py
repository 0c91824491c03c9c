"""Runs whose `--timeout` must come after their command has begun, however slow the machine is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from harness import Sessions

SECONDS = (4, 16, 64)  # a slow machine gets the longer ones


def run_past_begin(
    sessions: Sessions, run: Callable[[str], subprocess.CompletedProcess[str]], word: str
) -> subprocess.CompletedProcess[str]:
    """The run with the first value of --timeout that let the command say `word`; the sessions of
    the others are removed."""
    for seconds in SECONDS:
        done = run(str(seconds))
        if word in done.stdout:
            return done
        shutil.rmtree(sessions.state)
    pytest.fail(f"the command never said {word!r}: {done.stderr}")
