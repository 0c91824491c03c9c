"""The holder of a log's lock is found while other processes lock and unlock files."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

from nono_trio.posix.process_info import holds_lock

pytestmark = pytest.mark.skipif(
    sys.platform == "darwin" or not Path("/proc/locks").exists(), reason="no /proc/locks here"
)


@pytest.mark.parametrize("missed", range(3))
def test_a_lock_that_moved_between_two_pieces_of_the_list_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    """Before: with many locks on the machine, a running session was now and then `crashed`."""
    read, told = Path.read_bytes, []

    def read_bytes(path: Path) -> bytes:
        data = read(path)
        if path != Path("/proc/locks"):
            return data
        told.append(path)
        others = data if len(told) > missed else b""
        return b"1: FLOCK ADVISORY WRITE 1 fe:00:1 0 EOF\n" * 200 + others

    with (tmp_path / "log").open("w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        assert holds_lock(os.getpid(), tmp_path / "log")
        assert len(told) == missed + 1
        assert not holds_lock(os.getppid(), tmp_path / "log")
    assert not holds_lock(os.getpid(), tmp_path / "log")
    assert len(told) < 20
