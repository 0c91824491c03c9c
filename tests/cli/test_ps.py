"""`ps`, `stop` and `inspect`: real sessions, and pids that are no longer what they were."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sealed_session as made
from harness import NONO_TRIO, PYTHON_GRANTS, processes_with, sleep_marker, wait_until

from nono_trio.audit import store
from nono_trio.cli import main as command_line
from nono_trio.errors import AuditLost, NonoTrioError
from nono_trio.posix import process_info
from nono_trio.session import processes

ID = "0123456789abcdef"
# Ignores SIGTERM, so that only the kill of the whole tree ends it.
STUBBORN = ["sh", "-c", 'trap "" TERM; sleep 61; sleep 62']


# Holds the lock of the log that its stdin names, as a supervisor does; SIGTERM ends it.
SUPERVISOR = """
import fcntl, signal, sys, time
held = open(sys.stdin.readline()[:-1], "rb+")
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def standing_in(code=SUPERVISOR):
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def sleeper():
    """A process in the place of a supervisor; SIGTERM ends it."""
    with standing_in() as process:
        yield process


def supervised(root, process, **facts):
    """A session whose supervisor is `process`."""
    directory = made.unsealed(root, **(facts_of(process.pid) | facts))
    process.stdin.write(f"{directory / store.LOG}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    return directory


def facts_of(pid):
    return {
        "supervisor_pid": pid,
        "supervisor_start_ticks": process_info.process_start_ticks(pid),
        "boot_id": process_info.boot_id(),
    }


def listed(sessions, *arguments):
    done = sessions.call("ps", "--json", *arguments)
    assert done.returncode == 0
    return json.loads(done.stdout)["sessions"]


def await_child(sessions):
    wait_until(
        lambda: any(one["child"] == "running" for one in listed(sessions)), "the command started"
    )
    (one,) = listed(sessions)
    return one


# -- ps -------------------------------------------------------------------------------------------


def test_columns(run, root):
    alive = made.unsealed(root, "alive00000000000", name="web", **made.alive_facts())
    held = (alive / store.LOG).open("rb")
    fcntl.flock(held, fcntl.LOCK_EX)
    made.unsealed(root, "crashed000000000")
    made.build(root, "sealed0000000000")
    code, out, err = run("ps")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0] == ["ID", "NAME", "STATUS", "PID", "UPTIME", "ISOLATION", "COMMAND"]
    rows = {line[0]: line[1:] for line in lines[1:]}
    assert rows.keys() == {"alive00000000000", "crashed000000000"}
    assert rows["alive00000000000"][:3] == ["web", "running", str(os.getpid())]
    assert rows["crashed000000000"][:4] == ["-", "crashed", "gone", "-"]
    assert rows["crashed000000000"][4:] == ["namespace", "agent", "--token", "'[REDACTED]'"]
    held.close()
    assert run("ps")[1].count("running") == 0  # without the log's lock it is no supervisor


def test_all_shows_sealed_ones(run, root):
    made.build(root, "sealed0000000000")
    assert "sealed0000000000" not in run("ps")[1]
    _, out, _ = run("ps", "--all")
    assert out.splitlines()[1].split()[:5] == ["sealed0000000000", "-", "sealed", "-", "-"]


def test_json(run, root):
    made.unsealed(root)
    _, out, _ = run("ps", "--json")
    answer = json.loads(out)
    assert answer["schema"] == 1
    (one,) = answer["sessions"]
    assert (one["session_id"], one["status"], one["child"]) == (ID, "crashed", "gone")
    assert (one["supervisor_pid"], one["child_pid"], one["processes"]) == (None, None, 0)


def test_no_session(run):
    code, out, err = run("ps")
    assert (code, out) == (0, "")
    assert err.startswith("nono-trio: no running session in ")
    assert json.loads(run("ps", "--json")[1]) == {"schema": 1, "sessions": []}


def test_a_session_without_session_json_is_crashed(run, root):
    directory = made.unsealed(root)
    (directory / store.SESSION).unlink()
    _, out, _ = run("ps")
    assert out.splitlines()[1].split()[:4] == [ID, "-", "crashed", "gone"]
    assert "agent --token" in out  # the log and the policy that it binds say so
    (directory / store.LOG).write_bytes(b"")
    _, out, _ = run("ps")
    assert "(no session.json)" in out


def test_a_name_reaches_no_terminal_unescaped(run, root):
    made.running(root, name="\x1b[2Jevil")
    _, out, _ = run("ps")
    assert "\\x1b[2Jevil" in out
    assert "\x1b" not in out


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_says_what_became_of_a_crashed_one(run, root):
    made.unsealed(root, name="web")
    code, out, _ = run("inspect", "web")
    assert code == 0
    for text in (
        "status       crashed: its supervisor is gone",
        "child        gone: the cage ends with its supervisor",
        "isolation    namespace",
        "cage         network namespace",
        "granted      /home/a/project",
        "network      1 denied, 0 failed, 1 allowed in 5 records",
    ):
        assert f"  {text}" in out


def test_inspect_json(run, root):
    made.build(root)
    _, out, _ = run("inspect", "--json")
    answer = json.loads(out)
    assert (answer["schema"], answer["status"], answer["exit_code"]) == (1, "sealed", 0)
    assert answer["nono_trio"]["audit_mode"] == "strict"
    assert answer["counts"]["events"] == 7


# -- stop -----------------------------------------------------------------------------------------


def test_what_does_not_run_is_refused(run, root):
    made.build(root, "sealed0000000000")
    made.unsealed(root, "crashed000000000")
    assert run("stop", "sealed0000000000") == (
        1, "",
        "nono-trio: error: session sealed0000000000 is not running: sealed\n"
        "hint: see `nono-trio ps`\n",
    )  # fmt: skip
    code, _, err = run("stop", "crashed000000000")
    assert code == 1
    assert "hint: `nono-trio audit recover crashed000000000` seals its log" in err
    assert run("stop", "nobody")[0] == 2


def test_a_reused_pid_is_never_signalled(root, sleeper):
    """The pid is alive, but it is another process than the one that wrote session.json."""
    began = facts_of(sleeper.pid)["supervisor_start_ticks"]
    directory = supervised(root, sleeper, supervisor_start_ticks=began - 1)
    with pytest.raises(NonoTrioError, match="its supervisor is gone"):
        processes.stop(directory, 0.1)
    assert sleeper.poll() is None


def test_the_pidfd_is_open_before_the_process_is_compared(root, sleeper, monkeypatch):
    """The other order could signal another process that gets the pid between the two."""
    directory = supervised(root, sleeper)
    order = []
    opened, compared = os.pidfd_open, processes.status_of
    monkeypatch.setattr(os, "pidfd_open", lambda pid: (order.append("open"), opened(pid))[1])
    monkeypatch.setattr(
        processes, "status_of", lambda *of: (order.append("compare"), compared(*of))[1]
    )
    with pytest.raises(AuditLost):
        processes.stop(directory, 10)
    assert order[:2] == ["open", "compare"]
    assert sleeper.wait() == -signal.SIGTERM


def test_an_end_without_a_seal_is_said(run, root, sleeper):
    supervised(root, sleeper)
    code, _, err = run("stop", ID)
    assert code == 4
    assert f"session {ID} ended, but its log was not sealed" in err
    assert f"`nono-trio audit recover {ID}` seals it" in err


def test_a_supervisor_is_never_killed(root, monkeypatch):
    """Asked twice, then left: a kill would leave the log unsealed."""
    code = SUPERVISOR.replace(
        "print(",
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\nprint(",
    )
    monkeypatch.setattr(processes, "HURRIED_SECONDS", 0.2)
    with standing_in(code) as process:
        directory = supervised(root, process)
        with pytest.raises(NonoTrioError, match="asked twice and still runs"):
            processes.stop(directory, 0.2)
        assert process.poll() is None
        process.kill()
        assert process.stdout.read() == "asked\nasked\n"


def test_a_stopped_supervisor_is_let_go_on(root, sleeper):
    directory = supervised(root, sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    with pytest.raises(AuditLost):
        processes.stop(directory, 10)
    assert sleeper.wait() == -signal.SIGTERM


# -- real sessions --------------------------------------------------------------------------------


def test_a_real_session_is_seen_and_stopped(sessions):
    with sessions.started("run", "--name", "web", "--", "sh", "-c", "sleep 61 & sleep 62") as run:
        one = await_child(sessions)
        assert one["supervisor_pid"] == run.pid
        assert one["status"] == "running"
        wait_until(lambda: await_child(sessions)["processes"] == 3, "both sleeps began")
        command = Path(f"/proc/{one['child_pid']}/cmdline").read_bytes()
        assert command.startswith(b"sh\0-c\0")
        done = sessions.call("stop", "web")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.endswith("has ended: its log is sealed, exit code 143\n")
        assert run.wait() == 143
    assert sessions.verdict()[0] == 0
    assert listed(sessions) == []


def test_after_the_timeout_the_tree_is_killed_and_the_log_sealed(sessions):
    with sessions.started("run", "--grace", "60", "--", *STUBBORN) as run:
        one = await_child(sessions)
        began = time.monotonic()
        done = sessions.call("stop", one["session_id"], "--timeout", "0.5")
        assert time.monotonic() - began >= 0.5
        assert done.returncode == 0
        assert "its command was killed after 0.5 s" in done.stderr
        assert run.wait() == 137
    assert sessions.verdict()[0] == 0


def test_a_lost_supervisor_takes_its_child_along(sessions):
    marker = sleep_marker()
    with sessions.started("run", "--", "sleep", marker) as run:
        await_child(sessions)
        run.kill()
        run.wait()
        (one,) = listed(sessions)
        assert (one["status"], one["child"]) == ("crashed", "gone")
        wait_until(lambda: not processes_with(marker, "sleep"), "the child is gone")


def test_a_proxy_has_no_child_and_can_be_stopped(sessions):
    with sessions.proxy() as (process, ready):
        (one,) = listed(sessions)
        assert (one["session_id"], one["child"]) == (ready["session_id"], "none")
        assert sessions.call("stop", ready["session_id"]).returncode == 0
        assert process.wait() == 0


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_inside_a_cage_it_says_so(sessions, isolation):
    made_here = sessions.call("ps", "--all")
    assert made_here.returncode == 0
    package = os.path.dirname(os.path.dirname(command_line.__file__))
    done = sessions.run(
        *PYTHON_GRANTS, "--read", os.path.dirname(package), "--isolation", isolation, "-s",
        "--", sys.executable, NONO_TRIO, "ps", "--audit-dir", str(sessions.state),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "can't be reached from inside a cage" in done.stderr
    assert "hint: run it outside" in done.stderr


@pytest.mark.parametrize("name", ["ps", "stop", "inspect"])
def test_help_and_no_loop(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Example: nono-trio {name}" in out
    code = "import sys, nono_trio.cli.ps; assert not {'trio', 'nono_py', 'rich'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
