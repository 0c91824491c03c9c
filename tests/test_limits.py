"""Limits: sizes as written, which mechanism carries them, and that they hold in the cage.

No machine of the suite delegates a cgroup v2 with the memory controller, so the cgroup side is
tested on a tree of plain files laid out as the kernel's; that the kernel obeys it is not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness import PYTHON_GRANTS, Sessions

from nono_trio.core.size import parse_size
from nono_trio.errors import UsageError
from nono_trio.sandbox.cgroup import Cgroup, delegated


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20), ("1M", 1 << 20), ("1MiB", 1 << 20), ("1mi", 1 << 20), ("2G", 2 << 30),
        ("2 gib", 2 << 30), ("5MB", 5_000_000), ("1024k", 1 << 20), ("1T", 1 << 40),
        ("3000KB", 3_000_000),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "1", "512K", "1.5G", "-1M", "M", "1X", "1MM", "٣M", "9" * 30]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size"):
        parse_size(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A cgroup v2 with user.slice/session/scope, delegated at `session`."""
    root = tmp_path / "cgroup"
    for path, controllers in (
        (root, "cpu memory pids"),
        (root / "session", "memory pids"),
        (root / "session" / "scope", ""),
    ):
        path.mkdir()
        (path / "cgroup.subtree_control").write_text(controllers + "\n")
        (path / "cgroup.procs").write_text("")
    (tmp_path / "mountinfo").write_text(
        f"30 1 0:26 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/session/scope\n")
    return tmp_path


def test_the_nearest_delegated_cgroup_is_taken(tree: Path) -> None:
    def find(*controllers: str) -> Path | None:
        return delegated(set(controllers), tree / "mountinfo", tree / "own")

    assert find("memory") == tree / "cgroup" / "session"
    assert find("memory", "pids") == tree / "cgroup" / "session"
    assert find("cpu") == tree / "cgroup"
    assert find("io") is None
    assert delegated({"memory"}, tree / "missing", tree / "own") is None
    assert delegated({"memory"}, tree / "mountinfo", tree / "missing") is None


def test_a_leaf_gets_its_limits_and_the_launcher(tree: Path) -> None:
    parent = tree / "cgroup" / "session"
    leaf = Cgroup(parent, "nono-trio-1", {"memory.max": "1048576"})
    leaf.add(42)
    assert (leaf.path / "memory.max").read_text() == "1048576"
    assert (leaf.path / "cgroup.procs").read_text() == "42"
    assert not leaf.out_of_memory()
    (leaf.path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert leaf.out_of_memory()
    with pytest.raises(OSError, match="exists"):
        Cgroup(parent, "nono-trio-1", {})
    leaf.close()
    assert (leaf.path / "cgroup.kill").read_text() == "1"


def test_memory_holds(sessions: Sessions) -> None:
    program = "x = bytearray(800_000_000); print(len(x))"
    command = ["-s", *PYTHON_GRANTS, "--memory", "600M", "--", sys.executable, "-c", program]
    done = sessions.run(*command)
    assert done.returncode in (1, 137)
    assert not done.stdout
    assert sessions.run(*command[:-1], "print('small')").stdout == "small\n"


def test_descriptors_hold(sessions: Sessions) -> None:
    done = sessions.run("--max-open-files", "64", "--", "sh", "-c", "ulimit -n; ulimit -Hn")
    assert done.stdout.split() == ["64", "64"]


def test_processes_hold_or_are_refused(sessions: Sessions) -> None:
    done = sessions.run(
        "--max-processes", "6", "--", "bash", "-c",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait; echo started all",
    )  # fmt: skip
    if os.geteuid() == 0 and delegated({"pids"}) is None:
        assert done.returncode == 2
        assert "not enforced by the kernel for root" in done.stderr
    else:
        assert "fork" in done.stderr


def test_a_size_that_is_none_is_a_usage_error(sessions: Sessions) -> None:
    done = sessions.run("--memory", "lots", "--", "true")
    assert done.returncode == 2
    assert "expected a size like 512M" in done.stderr
