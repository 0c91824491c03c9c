"""A file system of the log that stops answering: the command is ended, by its timeout or by the
watchdog over the appends, and what was recorded is sealed once it answers again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import (
    NONO_TRIO,
    RUN_SECONDS,
    Sessions,
    processes_with,
    sleep_marker,
    wait_until,
)

from nono_trio.audit.write import watchdog
from nono_trio.audit.write.watchdog import AppendWatchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIT_FAILED = 4
TIMED_OUT = 124


@contextmanager
def loop_mount(directory: Path) -> Iterator[Path]:
    """A small ext4 of the test's own; skips if the machine can't make one."""
    missing = [name for name in ("mkfs.ext4", "fsfreeze", "mount") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"freezing a file system needs root and {missing or 'its tools'}")
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mounted)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"no loop mounts here: {done.stderr.decode().strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@contextmanager
def frozen(mounted: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "--freeze", str(mounted)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(mounted)], check=True)


# The command with a shorter bound: the test waits less, and sees that the bound is what ends it.
STUCK_SECONDS = 4
SHORTLY_STUCK = f"""
from nono_trio import entry, startup
startup.begin()
from nono_trio.audit.write import watchdog
watchdog.STUCK_SECONDS = {STUCK_SECONDS}
entry.main()
"""
ASKING = "while :; do curl -s -o /dev/null http://denied.example.com/; sleep 0.2; done"


@pytest.mark.parametrize(
    ("program", "timeout", "code", "sentence"),
    [
        ([NONO_TRIO], ["--timeout", "5", "--grace", "1"], TIMED_OUT, ""),
        (
            [sys.executable, "-I", "-c", SHORTLY_STUCK], [], AUDIT_FAILED,
            f"the audit log could not be written for {STUCK_SECONDS} s",
        ),
    ],
    ids=["timeout", "watchdog"],
)  # fmt: skip
def test_a_frozen_log_ends_the_command(
    sessions: Sessions,
    tmp_path: Path,
    program: list[str],
    timeout: list[str],
    code: int,
    sentence: str,
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    marker = sleep_marker()
    with loop_mount(tmp_path) as mounted:
        sessions.state = mounted / "state"
        with sessions.started(
            "run", *timeout, "--", "sh", "-c", f"setsid sleep {marker} & echo ready; {ASKING}",
            program=program,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            wait_until(lambda: bool(processes_with(marker, "sleep")), "the command")
            with frozen(mounted):
                wait_until(
                    lambda: not processes_with(marker, "sleep"), "the command's end", RUN_SECONDS
                )
                assert process.poll() is None
            assert process.wait(RUN_SECONDS) == code
            assert process.stderr is not None
            assert sentence in process.stderr.read()
        assert sessions.verdict()[1]["verdict"] == "verified"


def test_the_watchdog_ends_what_it_was_told_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.002)
    ended: list[str] = []
    fired, released = threading.Event(), threading.Event()
    guard = AppendWatchdog()
    guard.ends += [lambda: ended.append("end"), fired.set]
    with guard.running():
        for _ in range(50):  # appends that return, however many
            with guard:
                pass
        assert not guard.stuck
        with guard:
            assert fired.wait(RUN_SECONDS)
            released.wait(0.05)
    assert guard.stuck
    assert ended == ["end"]
