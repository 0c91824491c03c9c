"""Limits: sizes as written, which mechanism carries them, and that they hold in the cage.

The choice of a cgroup is tested on a tree of plain files laid out as the kernel's; that the kernel
obeys it, only where a cgroup v2 is delegated to the user of the tests (see
docs/virtual-machine.md for a machine that does).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PYTHON_GRANTS, Sessions

from nono_trio.config.options import Limits
from nono_trio.core.profile.size import parse_size
from nono_trio.errors import UsageError
from nono_trio.sandbox.cgroup import Cgroup, Delegated, delegated
from nono_trio.session import resource_limits
from nono_trio.session.resource_limits import plan_limits


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
        (path / "cgroup.controllers").write_text("memory pids\n")
        (path / "cgroup.procs").write_text("")
        if path != root:
            (path / "cgroup.type").write_text("domain\n")
    (tmp_path / "mountinfo").write_text(
        f"30 1 0:26 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/session/scope\n")
    return tmp_path


def find(tree: Path, *controllers: str) -> Delegated | None:
    return delegated(set(controllers), tree / "mountinfo", tree / "own")


def test_the_nearest_delegated_cgroup_is_taken(tree: Path) -> None:
    assert find(tree, "memory") == Delegated(tree / "cgroup" / "session")
    assert find(tree, "memory", "pids") == Delegated(tree / "cgroup" / "session")
    assert find(tree, "cpu") == Delegated(tree / "cgroup")
    assert find(tree, "io") is None
    assert delegated({"memory"}, tree / "missing", tree / "own") is None
    assert delegated({"memory"}, tree / "mountinfo", tree / "missing") is None


def test_a_leaf_gets_its_limits_and_the_launcher(tree: Path) -> None:
    parent = tree / "cgroup" / "session"
    leaf = Cgroup(Delegated(parent), {"memory.max": "1048576"})
    assert leaf.path == parent / f"nono-trio-{os.getpid()}"
    leaf.add(42)
    assert (leaf.path / "memory.max").read_text() == "1048576"
    assert (leaf.path / "cgroup.procs").read_text() == "42"
    assert not leaf.out_of_memory()
    (leaf.path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert leaf.out_of_memory()
    with pytest.raises(OSError, match="exists"):
        Cgroup(Delegated(parent), {})
    leaf.close()
    assert (leaf.path / "cgroup.kill").read_text() == "1"


def test_ours_is_taken_when_nobody_else_is_in_it(tree: Path) -> None:
    scope = tree / "cgroup" / "session" / "scope"
    (tree / "cgroup" / "session" / "cgroup.subtree_control").write_text("")
    (tree / "cgroup" / "cgroup.subtree_control").write_text("")
    (scope / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert find(tree, "memory") == Delegated(scope, frozenset({"memory"}))
    assert find(tree, "io") is None  # which the kernel has not given it
    (scope / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    assert find(tree, "memory") is None


def test_the_root_hands_down_with_processes_in_it(tree: Path) -> None:
    root = tree / "cgroup"
    (root / "cgroup.subtree_control").write_text("")
    (root / "cgroup.procs").write_text("1\n2\n")
    (tree / "own").write_text("0::/\n")
    assert find(tree, "pids") == Delegated(root, frozenset({"pids"}))


def test_outside_of_what_is_mounted_nothing_is_delegated(tree: Path) -> None:
    (tree / "own").write_text("0::/../scope\n")
    assert find(tree, "memory") is None


def test_we_move_aside_to_hand_controllers_down(tree: Path) -> None:
    scope = tree / "cgroup" / "session" / "scope"
    leaf = Cgroup(Delegated(scope, frozenset({"pids", "memory"})), {"pids.max": "9"})
    aside = scope / "nono-trio-supervisor"
    assert (aside / "cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert leaf.path.parent == scope


def test_what_killed_supervisors_left_is_removed(tree: Path) -> None:
    parent = tree / "cgroup" / "session"
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = parent / f"nono-trio-{ended.pid}"
    of_a_living = parent / f"nono-trio-{os.getppid()}"
    in_use = parent / "nono-trio-0"
    for path in (left, of_a_living, in_use):
        path.mkdir()
    (in_use / "child").mkdir()  # keeps it, as processes keep a real one
    Cgroup(Delegated(parent), {})
    assert not left.exists()
    assert of_a_living.exists()
    assert in_use.exists()


@pytest.fixture
def real_cgroup() -> Path:
    """The cgroup in which a run makes its leaf."""
    parent = delegated({"memory", "pids"})
    if parent is None:
        pytest.skip("no cgroup v2 with memory and pids is delegated to us here")
    return parent.path


def leaves(parent: Path) -> list[str]:
    return [path.name for path in parent.glob("nono-trio-[0-9]*")]


# 200 MB in all, of which no process has more than a tenth.
CHILDREN = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        kept = bytearray(20_000_000)
        time.sleep(20)
        os._exit(0)
print("forked", flush=True)
time.sleep(20)
"""


def test_a_real_cgroup_counts_the_memory_of_the_whole_cage(
    sessions: Sessions, real_cgroup: Path
) -> None:
    done = sessions.run(*PYTHON_GRANTS, "--memory", "96M", "--", sys.executable, "-c", CHILDREN)
    assert done.returncode == 137
    assert "ran out of the memory that --memory gave it" in done.stderr
    assert not leaves(real_cgroup)


def test_a_real_cgroup_counts_the_processes(sessions: Sessions, real_cgroup: Path) -> None:
    shell = ["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 2 & done; echo all"]
    assert sessions.run("--max-processes", "7", "--", *shell).stdout == "all\n"
    done = sessions.run("--max-processes", "6", "--", *shell)
    assert (done.returncode, done.stdout) == (2, "")
    assert "fork" in done.stderr
    assert not leaves(real_cgroup)


def test_too_little_for_the_cage_itself(sessions: Sessions, real_cgroup: Path) -> None:
    done = sessions.run("--memory", "1M", "--", "true")
    assert done.returncode == 126
    assert "the cage ran out of memory before the command started" in done.stderr
    assert not leaves(real_cgroup)


def test_what_a_killed_supervisor_left_goes_with_the_next_run(
    sessions: Sessions, real_cgroup: Path
) -> None:
    command = ["run", "-s", "--memory", "96M", "--", "sh", "-c", "echo here; sleep 30"]
    with sessions.started(*command) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "here\n"
        supervisor.kill()
        supervisor.wait()
    assert leaves(real_cgroup) == [f"nono-trio-{supervisor.pid}"]
    assert sessions.run("--memory", "96M", "--", "true").returncode == 0
    assert not leaves(real_cgroup)


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
    done = sessions.run("--dry-run", "--memory", "lots", "--", "true")
    assert done.returncode == 2
    assert "expected a size like 512M" in done.stderr


@pytest.mark.parametrize(("own_users", "warnings"), [(True, 0), (False, 1)])
def test_whose_processes_are_counted(monkeypatch, own_users: bool, warnings: int) -> None:
    monkeypatch.setattr("nono_trio.session.resource_limits.delegated", lambda _controllers: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    planned = plan_limits(Limits(max_processes=9), own_users=own_users)
    assert planned.per_process == {"NPROC": 9}
    assert len([text for text in planned.warnings if "every process of yours" in text]) == warnings


# -- the limit without an option for it ----------------------------------------------------------


def test_a_default_as_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_limits.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource_limits, "delegated", lambda _controllers: None)
    monkeypatch.setattr(resource_limits, "tasks_of", lambda _user, _proc: 700)
    monkeypatch.setattr(resource_limits.resource, "getrlimit", lambda _number: (90_000, 90_000))
    monkeypatch.setattr(resource_limits, "counts_by_namespace", lambda _release: True)
    assert plan_limits(Limits(), own_users=True).per_process == {"NPROC": 4096}
    assert plan_limits(Limits(), own_users=False).per_process == {"NPROC": 4796}
    monkeypatch.setattr(resource_limits, "counts_by_namespace", lambda _release: False)
    assert plan_limits(Limits(), own_users=True).per_process == {"NPROC": 4796}
    monkeypatch.setattr(resource_limits.resource, "getrlimit", lambda _number: (500, 90_000))
    assert plan_limits(Limits(), own_users=True).per_process == {"NPROC": 500}
    assert plan_limits(Limits(max_processes=9), own_users=True).per_process == {"NPROC": 9}


def test_a_default_as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource_limits.os, "geteuid", lambda: 0)
    monkeypatch.setattr(resource_limits, "delegated", lambda _controllers: None)
    planned = plan_limits(Limits(), own_users=True)
    assert planned.per_process == {}
    assert planned.enforcement[0].startswith("no limit on processes")
    found = Delegated(tmp_path)
    monkeypatch.setattr(resource_limits, "delegated", lambda _controllers: found)
    planned = plan_limits(Limits(), own_users=True)
    assert planned.whole_cage == {"pids.max": "4098"}
    assert not planned.cgroup_required
    assert planned.enforcement == ("at most 4096 processes",)
    # No process is moved for a limit without an option for it.
    found = Delegated(tmp_path, frozenset({"pids"}))
    assert plan_limits(Limits(), own_users=True).whole_cage == {}


@pytest.mark.parametrize(
    ("release", "counts"),
    [("5.14.0-rc1", True), ("5.13.19", False), ("6.1", True), ("4.18.0-x", False), ("x", False)],
)
def test_kernels_that_count_by_namespace(release: str, counts: bool) -> None:
    assert resource_limits.counts_by_namespace(release) is counts


def test_threads_count_as_processes(tmp_path: Path) -> None:
    for pid, user, threads in ((1, 0, 3), (20, 1000, 5), (21, 1000, 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(
            f"Name:\tx: y\nUid:\t{user}\t0\t0\t0\nThreads:\t{threads}\n"
        )
    (tmp_path / "30").mkdir()  # gone meanwhile
    (tmp_path / "self").mkdir()
    assert resource_limits.tasks_of(1000, tmp_path) == 6
