"""Runs in the cage: programs whose connections are told apart by the name that each calls itself.

A worker asks for the host NAME.example, where NAME is its own argv[0]. What is recorded of its
request has to name it. A worker that waits for its answer stays until its standard input ends, so
that there is time to read its arguments.

Tests start hundreds of workers. So a worker starts without site-packages, and what only a few need
is imported where they need it.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

SCRIPT = os.path.abspath(__file__)
CLONE_FILES = 0x400
# Under another name an interpreter knows neither itself nor its library.
PYTHON = os.environ.setdefault("PROBE_PYTHON", os.path.realpath(sys.executable))
os.environ.setdefault("PYTHONHOME", sys.base_prefix)


def connect(name: str) -> tuple[socket.socket, bytes]:
    """A connection, to the proxy or without one, and the request to send on it."""
    proxy = re.fullmatch(r"http://(.*)@127\.0\.0\.1:(\d+)/?", os.environ.get("HTTP_PROXY", ""))
    if proxy is None:
        sock = socket.create_connection((f"{name}.example", 80))
        return sock, f"GET / HTTP/1.1\r\nHost: {name}.example\r\n\r\n".encode()
    sock = socket.create_connection(("127.0.0.1", int(proxy[2])))
    token = os.environ["NONO_PROXY_TOKEN"]
    head = f"GET http://{name}.example/ HTTP/1.1\r\nHost: {name}.example\r\n"
    return sock, f"{head}Proxy-Authorization: Bearer {token}\r\n\r\n".encode()


def ask(sock: socket.socket, request: bytes) -> None:
    """Send, and wait for the answer: a refusal."""
    sock.sendall(request)
    answer = sock.recv(65536)
    if b" 403 " not in answer[:20]:
        raise AssertionError(answer)


def worker(name: str, mode: str = "wait", **settings: object) -> subprocess.Popen[bytes]:
    """Start a process that calls itself `name`."""
    import subprocess

    return subprocess.Popen(
        [name, "-S", SCRIPT, mode, name], executable=PYTHON, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, **settings,
    )  # fmt: skip


def told(process: subprocess.Popen[bytes]) -> None:
    """Wait until a worker has its answer."""
    if process.stdout is None or process.stdout.readline() != b"answered\n":
        raise AssertionError("a worker got no answer")


def answered() -> None:
    """Tell our parent, and stay until it ends our input."""
    print("answered", flush=True)
    sys.stdin.read()


def wait(name: str) -> None:
    ask(*connect(name))
    answered()


def leave(name: str) -> None:
    """Send a request, and end before it is answered."""
    sock, request = connect(name)
    sock.sendall(request)
    os._exit(0)


def many(count: str) -> None:
    workers = [worker(f"many-{number}") for number in range(int(count))]
    for process in workers:
        told(process)
    for process in workers:
        process.communicate()


def crowded(count: str) -> None:
    """One with so many descriptors, and a few others."""
    process = worker("crowded", "crowd", env={**os.environ, "PROBE_COUNT": count})
    many("4")
    told(process)
    process.communicate()


def crowd(name: str) -> None:
    import resource

    wanted = int(os.environ["PROBE_COUNT"]) + 64
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    kept = [os.dup(0) for _ in range(wanted - 64)]
    ask(*connect(name))
    answered()
    del kept


def leaving(count: str) -> None:
    """Those that wait among those that don't."""
    workers = []
    for number in range(int(count)):
        workers.append(worker(f"stays-{number}"))
        worker(f"leaves-{number}", "leave").wait()
    for process in workers:
        told(process)
        process.communicate()


def execute(_: str) -> None:
    """Connect, and become another program that sends the request."""
    before = worker("before", "become")
    told(before)
    before.communicate()


def become(_: str) -> None:
    sock, _request = connect("after")
    sock.set_inheritable(True)
    os.execv(PYTHON, ["after", SCRIPT, "inherited", str(sock.fileno())])


def inherited(descriptor: str) -> None:
    other, request = connect("after")
    other.close()
    ask(socket.socket(fileno=int(descriptor)), request)
    answered()


def hand_over(_: str) -> None:
    """Connect, hand the socket over a unix socket, and close it: who has it then sends."""
    import array
    import subprocess

    near, far = socket.socketpair()
    far.set_inheritable(True)
    taker = subprocess.Popen(
        ["taker", SCRIPT, "take", str(far.fileno())], executable=PYTHON,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[far.fileno()],
    )  # fmt: skip
    sock, _request = connect("taker")
    rights = array.array("i", [sock.fileno()])
    near.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    sock.close()
    told(taker)
    taker.communicate()


def take(descriptor: str) -> None:
    other, request = connect("taker")
    other.close()
    _, descriptors, *_ = socket.recv_fds(socket.socket(fileno=int(descriptor)), 1, 1)
    ask(socket.socket(fileno=descriptors[0]), request)
    answered()


def share(_: str) -> None:
    """A parent and its child have the same socket."""
    process = worker("shared", "share_here")
    told(process)
    process.communicate()


def share_here(name: str) -> None:
    sock, request = connect(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    ask(sock, request)
    answered()
    os.close(writing)
    os.waitpid(child, 0)


def own_table(_: str) -> None:
    """A thread with a table of descriptors of its own has the socket."""
    process = worker("own-table", "own_table_here")
    told(process)
    process.communicate()


def own_table_here(name: str) -> None:
    import ctypes
    import threading

    failed = []

    def work() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_FILES) != 0:
            failed.append(ctypes.get_errno())
            return
        ask(*connect(name))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise OSError(failed[0], "unshare")
    answered()


def odd(_: str) -> None:
    """Arguments that are secret, control a terminal, are no text, and are long."""
    import subprocess

    for name in (b"--token", b"odd\x1b[31m\xff", b"x" * 2_000):
        process = subprocess.Popen(
            [name, SCRIPT.encode(), b"wait", b"odd"], executable=PYTHON,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        told(process)
        process.communicate()


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        globals()[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")
