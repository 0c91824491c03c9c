"""`--max-connections`: as many as were asked for, as many as there are descriptors for, no more."""

from __future__ import annotations

import base64
import contextlib
import json
import resource
import shlex
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from harness import NONO_TRIO, RUN_SECONDS, Sessions

from nono_trio.proxy.limits import most_pipes
from nono_trio.session.descriptors import max_connections, proxy_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = (
    "CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    "Proxy-Authorization: Basic {token}\r\n\r\n"
)


@contextlib.contextmanager
def accepting() -> Iterator[int]:
    """A server on loopback that accepts, and says nothing; its port."""
    held = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in held:
            sock.close()


def tunnel(ready: dict[str, Any], port: int) -> tuple[socket.socket, bytes]:
    """Ask for a tunnel; the connection, and the answer's head and body."""
    sock = socket.create_connection(("127.0.0.1", ready["port"]), timeout=RUN_SECONDS)
    token = base64.b64encode(f"nono:{ready['token']}".encode()).decode()
    sock.sendall(HEAD.format(port=port, token=token).encode())
    answer = sock.recv(65536)
    while b" 503 " in answer and (more := sock.recv(65536)):
        answer += more
    return sock, answer


def refusal_of_a_full_proxy(
    stack: contextlib.ExitStack, ready: dict[str, Any], port: int, most: int
) -> bytes:
    """Open `most` tunnels, which the stack keeps; the answer to one more."""
    for _ in range(most):
        sock, answer = tunnel(ready, port)
        stack.enter_context(sock)
        assert answer.startswith(b"HTTP/1.1 200 ")
    sock, answer = tunnel(ready, port)
    with sock:
        assert answer.startswith(b"HTTP/1.1 503 ")
    return answer


def test_one_more_connection_than_the_limit_gets_a_503_that_names_the_flag(
    sessions: Sessions,
) -> None:
    with (
        accepting() as port,
        sessions.proxy("--max-connections", "2", "--allow-domain", f"127.0.0.1:{port}") as (
            _,
            ready,
        ),
        contextlib.ExitStack() as stack,
    ):
        assert b"--max-connections" in refusal_of_a_full_proxy(stack, ready, port, 2)
        event = sessions.decisions()[-1]
        assert event["decision"] == "deny"


def limited(files: int, *arguments: str) -> list[str]:
    """Return the command line of `nono-trio` where no more files than that can be open."""
    return ["sh", "-c", f"ulimit -n {files}; exec {shlex.join([NONO_TRIO, *arguments])}"]


def ended(sessions: Sessions, files: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nono-trio` there to its end."""
    return subprocess.run(
        limited(files, *arguments),
        env=sessions.environment, cwd=sessions.home, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [["run", "--dry-run", "--", "true"], ["proxy"]])
def test_more_than_there_are_descriptors_for_is_refused_with_what_fits(
    sessions: Sessions, command: list[str]
) -> None:
    name, *rest = command
    done = ended(sessions, 4096, name, "--max-connections", "1537", *rest)
    assert done.returncode == 2
    assert "--max-connections 1537: the hard limit of 4096 open files has no room" in done.stderr
    assert "hint: --max-connections 1536" in done.stderr
    assert not sessions.directories


@pytest.mark.parametrize("hard", [70, 128, 255, 256, 400, 1024, 4096, 20_000])
def test_the_limit_leaves_room_for_the_pipes_of_tunnels_and_for_refusals(
    monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    limits = proxy_limits(max_connections(None))
    at_the_start = 64
    assert 2 * limits.connections + limits.refusals + 2 * most_pipes(hard) + at_the_start <= hard
    assert limits.refusals > 0


def test_what_the_hint_says_is_accepted(sessions: Sessions) -> None:
    done = ended(sessions, 4096, "run", "--dry-run", "--max-connections", "1536", "--", "true")
    assert done.returncode == 0, done.stderr


def test_a_low_limit_of_open_files_leaves_room_for_the_answer_of_a_full_proxy(
    sessions: Sessions,
) -> None:
    with accepting() as port, contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                limited(128, "proxy", "--allow-domain", f"127.0.0.1:{port}"),
                env=sessions.environment, cwd=sessions.home,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
        stack.callback(process.kill)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        refusal_of_a_full_proxy(stack, ready, port, 24)  # (128 - 64 - 16) / 2


def test_a_limit_that_listeners_alone_would_reach_is_refused(sessions: Sessions) -> None:
    """The command waited for answers for ever: there was no descriptor to accept with."""
    command = ["run", "--isolation", "namespace", "--allow-domain", "a.test"]
    done = ended(sessions, 70, *command, "--", "true")
    assert done.returncode == 2, done.stderr
    assert "open files, the hard limit is 70" in done.stderr
    assert "hint: raise the hard limit (`ulimit -Hn`), or give --transparent off" in done.stderr
    assert not sessions.directories
    done = ended(sessions, 70, *command, "--transparent", "off", "--", "true")
    assert done.returncode == 0, done.stderr
