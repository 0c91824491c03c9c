"""The macOS launcher runs for real, on Linux that simulates macOS (see pretend_macos).

This can't show that Seatbelt accepts nono-py's profile and that the profile works, how a Mac ends a
process group, and how its terminals behave.
"""

from __future__ import annotations

import json
import os
import signal

import pretend_macos
import pytest
from cage_plans import cage_plan
from harness import processes_with, sleep_marker, wait_until

from nono_trio.errors import CageFailed
from nono_trio.sandbox import spawn
from nono_trio.sandbox.cage import Cage, ChildEnded
from nono_trio.sandbox.launcher.cage_plan import CageGrant
from nono_trio.sandbox.launcher.macos import closing_rule
from nono_trio.sandbox.seatbelt_plan import closed_paths
from nono_trio.sandbox.spawn import LaunchFailed, await_ready


@pytest.fixture
def record(tmp_path):
    return tmp_path / "applied.json"


@pytest.fixture
def launch(monkeypatch, record):
    """Spawn the launcher as macOS would, with what it tells Seatbelt in `record`."""
    launched = []

    def start(*command, **changes):
        library = changes.pop("record", str(record))
        monkeypatch.setattr(spawn, "BOOTSTRAP", pretend_macos.launcher_program(library))
        launched.append(spawn.spawn(plan(command, **changes)))
        return launched[-1]

    yield start
    for one in launched:
        one.abandon()


def plan(command, **changes):
    usual = {
        "isolation": "seatbelt",
        "grants": [
            CageGrant("/usr", "read", is_file=False),
            CageGrant("/home/a/notes", "readwrite", is_file=True),
        ],
        "closed": ["/home/a/.ssh"], "executable": f"/bin/{command[0]}", "command": [*command],
        "environment": {"A": "b"}, "port": 4711, "listen_ports": [8000], "limits": {"NOFILE": 64},
    }  # fmt: skip
    return cage_plan(**usual | changes)


# -- the launcher ---------------------------------------------------------------------------------


async def test_what_seatbelt_is_told(launch, record):
    launched = launch("true")
    assert await_ready(launched) == {}
    assert json.loads(record.read_text()) == [
        ["allow_path", "/usr", "read"],
        ["allow_file", "/home/a/notes", "readwrite"],
        ["platform_rule", '(deny file-read* file-write* (subpath "/home/a/.ssh"))'],
        ["block_network"],
        ["allow_localhost_port", 4711],
    ]


async def test_without_isolation_the_network_is_left_alone(launch, record):
    await_ready(launch("true", isolation="none"))
    told = [call[0] for call in json.loads(record.read_text())]
    assert told == ["allow_path", "allow_file", "platform_rule"]


async def test_without_the_file_sandbox_only_the_network_is_closed(launch, record):
    await_ready(launch("true", landlock=False, closed=[]))
    told = json.loads(record.read_text())
    assert told[0] == ["allow_path", "/", "readwrite"]
    assert told[1:] == [["block_network"], ["allow_localhost_port", 4711]]


async def test_with_neither_nothing_is_applied(launch, record):
    await_ready(launch("true", landlock=False, isolation="none"))
    assert not record.exists()


async def test_a_refused_sandbox_is_told_by_its_step(launch):
    with pytest.raises(LaunchFailed, match=r"seatbelt: .*sandbox_init returned") as refused:
        await_ready(launch("true", record=""))
    assert refused.value.stage == "seatbelt"


async def test_it_runs_after_go_and_its_exit_code_is_told(launch, tmp_path):
    out = tmp_path / "out"
    shell = f"echo $A $(ls /proc/self/fd | wc -l) $(ulimit -n) >{out}; exit 7"
    launched = launch("sh", "-c", shell)
    await_ready(launched)
    assert not out.exists()
    async with Cage(launched) as cage:
        await cage.go("sh")
        assert await cage.next_event() == ChildEnded(7, None)
    assert out.read_text() == "b 4 64\n"  # the three standard streams, and that of ls
    assert launched.reaped


async def test_a_command_that_can_not_be_executed(launch):
    launched = launch("sh", executable="/bin/not-there")
    await_ready(launched)
    async with Cage(launched) as cage:
        with pytest.raises(CageFailed, match="No such file"):
            await cage.go("sh")


async def test_a_signal_reaches_the_whole_group(launch):
    marker = sleep_marker()
    launched = launch("sh", "-c", f"sleep {marker} & exec sleep {marker}")
    await_ready(launched)
    async with Cage(launched) as cage:
        await cage.go("sh")
        wait_until(lambda: len(processes_with(marker, "sleep")) == 2, "both sleep")
        await cage.signal(signal.SIGTERM)
        assert await cage.next_event() == ChildEnded(None, signal.SIGTERM)
    wait_until(lambda: not processes_with(marker, "sleep"), "both have ended")


async def test_what_the_child_leaves_in_its_group_ends_with_it(launch):
    marker = sleep_marker()
    launched = launch("sh", "-c", f"trap '' TERM HUP; sleep {marker} & exit 0")
    await_ready(launched)
    async with Cage(launched) as cage:
        await cage.go("sh")
        assert await cage.next_event() == ChildEnded(0, None)
    wait_until(lambda: not processes_with(marker, "sleep"), "it was killed")


async def test_leaving_the_cage_kills_a_child_that_ignores_everything(launch):
    marker = sleep_marker()
    launched = launch("sh", "-c", f"trap '' TERM HUP INT; sleep {marker}; sleep {marker}")
    await_ready(launched)
    async with Cage(launched) as cage:
        await cage.go("sh")
        wait_until(lambda: bool(processes_with(marker, "sleep")), "it sleeps")
    assert launched.reaped
    wait_until(lambda: not processes_with(marker, "s"), "it was killed")


@pytest.mark.parametrize("running", [False, True])
async def test_a_supervisor_that_is_gone_takes_the_tree_along(launch, tmp_path, running):
    """Its end of the socket closes, whatever ended it: there is no PR_SET_PDEATHSIG on macOS."""
    marker = sleep_marker()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    launched = launch("sh", "-c", f"sleep {marker} & sleep {marker}", temporary=str(temporary))
    await_ready(launched)
    if running:
        launched.control.setblocking(True)
        spawn.protocol.send(launched.control, {"go": True})
        wait_until(lambda: len(processes_with(marker, "sleep")) == 2, "both sleep")
    launched.control.close()
    wait_until(lambda: os.waitpid(launched.pid, os.WNOHANG)[0] != 0, "the launcher has ended")
    launched.reaped = True
    wait_until(lambda: not processes_with(marker), "its tree has ended")
    assert not temporary.exists()


# -- the rules -------------------------------------------------------------------------------------


def test_a_path_can_not_end_the_rule_it_stands_in():
    assert closing_rule('/a b/"\\') == '(deny file-read* file-write* (subpath "/a b/\\"\\\\"))'
    for path in ("/a\n(allow network*)", "/a\0", "/\udcff"):
        with pytest.raises(ValueError, match="can't be closed"):
            closing_rule(path)


def test_a_closed_path_is_closed_by_both_its_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert closed_paths([str(tmp_path / "link"), "/x"]) == [
        str(tmp_path / "link"), str(tmp_path / "real"), "/x",
    ]  # fmt: skip
