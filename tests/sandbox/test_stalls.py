"""A hostile child can't block its supervisor through anything that both share.

Each program here tries to make a session wait for it: past `--timeout`, past a signal, past the
seal. Every wait of a test is bounded by the harness.
"""

from __future__ import annotations

import shlex
import signal
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deadlines import run_past_begin
from harness import (
    NONO_TRIO,
    PROBES,
    PYTHON_GRANTS,
    RUN_SECONDS,
    Sessions,
    guarded,
    landlock_isolation,
    processes_with,
    sleep_marker,
    wait_until,
)
from terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMED_OUT = 124


@contextmanager
def full_listener(path: Path) -> Iterator[None]:
    """Make a socket at `path` that is never accepted from, with a full backlog."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        yield


@guarded
def test_connections_that_hang_hold_up_neither_timeout_nor_seal(
    sessions: Sessions, tmp_path: Path
) -> None:
    """The listener is the host's: it is still there, and full, when the cage has gone."""
    granted = tmp_path / "granted"
    granted.mkdir()
    with full_listener(granted / "full.sock"):
        options = ["--isolation", "landlock", "--grace", "1", "--allow", str(granted)]
        words = ("stall_connects.py", "unix", str(granted / "full.sock"))
        done = run_past_begin(
            sessions,
            lambda seconds: sessions.python([*options, "--timeout", seconds], *words),
            "attacking",
        )
    assert done.returncode == TIMED_OUT, done.stderr
    assert sessions.verdict()[1]["verdict"] == "verified"


@guarded
def test_a_full_proxy_and_sockets_made_blocking_hold_up_nothing(sessions: Sessions) -> None:
    options = ["--isolation", "landlock", "--grace", "1"]
    done = run_past_begin(
        sessions,
        lambda seconds: sessions.python(
            [*options, "--timeout", seconds], "stall_connects.py", "proxy"
        ),
        "attacking",
    )
    assert done.returncode == TIMED_OUT, done.stderr
    assert sessions.verdict()[1]["verdict"] == "verified"


@guarded
def test_all_that_wait_for_a_full_backlog_get_their_turn(
    sessions: Sessions, tmp_path: Path
) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    path = granted / "server.sock"
    program = f"""
import socket, threading
def connect():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect({str(path)!r})
        print(sock.recv(1).decode(), end="", flush=True)
threads = [threading.Thread(target=connect) for _ in range(100)]
for thread in threads: thread.start()
print("waiting", flush=True)
for thread in threads: thread.join()
"""
    with (
        socket.socket(socket.AF_UNIX) as listener,
        sessions.started(
            "run", "-s", "--isolation", "landlock", "--allow", str(granted), *PYTHON_GRANTS,
            "--", sys.executable, "-c", program,
        ) as process,
    ):  # fmt: skip
        listener.bind(str(path))
        listener.listen(1)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        for _ in range(100):
            with listener.accept()[0] as connection:
                connection.send(b".")
        assert process.stdout.read() == "." * 100
        assert process.wait(RUN_SECONDS) == 0


ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_supervisor_that_stands_still_does_not_stop_the_clock(
    sessions: Sessions, isolation: str
) -> None:
    """The cage ends in time; who continues the supervisor finds the run timed out, and sealed."""
    marker = sleep_marker()
    with sessions.started(
        "run", "-s", "--isolation", isolation, "--timeout", "4", "--grace", "1",
        "--", "sh", "-c", f"setsid sleep {marker} & echo ready; sleep {marker}",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: len(processes_with(marker, "sleep")) == 2, "both")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not processes_with(marker, "sleep"), "the end of the cage", RUN_SECONDS)
        process.send_signal(signal.SIGCONT)
        assert process.wait(RUN_SECONDS) == TIMED_OUT
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_command_that_stops_itself_stops_the_whole_cage(
    sessions: Sessions, isolation: str
) -> None:
    project = sessions.home / "project"
    project.mkdir()
    counter = project / "counter"
    sessions.variables |= {"PS1": "outer> ", "TERM": "xterm"}
    terminal = Terminal(sessions, program=["bash", "--norc", "--noprofile", "-i"])
    words = [
        NONO_TRIO, "run", "-s", "--isolation", isolation, *PYTHON_GRANTS, "--read", str(PROBES),
        "--allow", str(project), "--", sys.executable, str(PROBES / "stall_stopped.py"),
        str(counter),
    ]  # fmt: skip
    terminal.wait_for("outer> ")
    terminal.type(f"{shlex.join(words)}\n")
    terminal.wait_for("Stopped", RUN_SECONDS)
    workers = processes_with(str(counter), f"{sys.executable}\0{PROBES}")
    assert len(workers) == 2
    wait_until(lambda: [state_of(pid) for pid in workers] == ["T", "T"], "both stopped")
    terminal.type("fg\n")
    terminal.wait_for("the other too", RUN_SECONDS)
    terminal.type("exit\n")
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_stopped_cage_ends_at_its_timeout(sessions: Sessions, isolation: str) -> None:
    sessions.variables |= {"PS1": "outer> ", "TERM": "xterm"}
    marker = sleep_marker()
    terminal = Terminal(sessions, program=["bash", "--norc", "--noprofile", "-i"])
    terminal.wait_for("outer> ")
    terminal.type(
        f"{NONO_TRIO} run -s --isolation {isolation} --timeout 4 --grace 1 --"
        f" sh -c 'setsid sleep {marker} & kill -STOP $$'\n"
    )
    terminal.wait_for("Stopped", RUN_SECONDS)
    wait_until(
        lambda: not (processes_with(marker, "sh") or processes_with(marker, "sleep")),
        "the end of the cage", RUN_SECONDS,
    )  # fmt: skip
    terminal.type("fg; echo code:$?\n")
    terminal.wait_for(f"code:{TIMED_OUT}", RUN_SECONDS)
    terminal.type("exit\n")
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert sessions.verdict()[1]["verdict"] == "verified"


def state_of(pid: int) -> str:
    """As in /proc: R, S, D, T, Z."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
