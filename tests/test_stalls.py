"""What a hostile child shares with its supervisor never holds the supervisor up.

Each program here tries to make a session wait for it: past `--timeout`, past a signal, past the
seal. Every wait of a test is bounded by the harness.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness import PYTHON_GRANTS, RUN_SECONDS, Sessions, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMED_OUT = 124


@contextmanager
def full_listener(path: Path) -> Iterator[None]:
    """A socket at `path` that nobody accepts from, with a full backlog."""
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
        done = sessions.python(
            ["--isolation", "landlock", "--timeout", "2", "--grace", "1", "--allow", str(granted)],
            "stall_connects.py", "unix", str(granted / "full.sock"),
        )  # fmt: skip
    assert done.returncode == TIMED_OUT, done.stderr
    assert "attacking" in done.stdout
    assert sessions.verdict()[1]["verdict"] == "verified"


@guarded
def test_a_full_proxy_and_sockets_made_blocking_hold_up_nothing(sessions: Sessions) -> None:
    done = sessions.python(
        ["--isolation", "landlock", "--timeout", "4", "--grace", "1"], "stall_connects.py", "proxy"
    )
    assert done.returncode == TIMED_OUT, done.stderr
    assert "attacking" in done.stdout
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
