"""`HOST:*` opens every port to programs that know of no proxy (tproxy); the others stay refused."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, SYSTEM_PYTHON, Sessions, as_user

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each argument is HOST/PORT; prints what came of it.
TRY = """
import socket, sys
for one in sys.argv[1:]:
    host, _, port = one.rpartition("/")
    # The first address only: the next would be another attempt.
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(60)
            sock.connect(address)
            print(sock.recv(100).decode() or "closed")
    except OSError as error:
        print(type(error).__name__)
"""
GREETING = "served"


@contextmanager
def greeter() -> Iterator[int]:
    """A server of this machine that speaks first; yields its port."""

    def serve() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:  # closed
                return
            with client:
                client.sendall(GREETING.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def tproxy() -> None:
    """Skips where the kernel has none."""
    with tempfile.TemporaryDirectory() as state:
        sessions = Sessions(Path(state), Path(state))
        checks = json.loads(sessions.call("doctor", "--json").stdout)["checks"]
    found = next(one["found"] for one in checks if one["name"] == "refused attempts")
    if "(tproxy)" not in found:
        pytest.skip("the kernel has no tproxy in network namespaces of its users")


@pytest.mark.usefixtures("tproxy")
def test_each_port_of_a_named_host_is_decided_and_recorded_once(sessions: Sessions) -> None:
    with greeter() as port:
        done = sessions.run(
            "--transparent", "on", *PYTHON_GRANTS, "--allow-domain", "db.example.com:*",
            "--allow-domain", "*.wild.example.com:*", "--deny-domain", "db.example.com:4444",
            "--resolve", f"db.example.com:{port}:127.0.0.1",
            "--resolve", f"a.wild.example.com:{port}:127.0.0.1", "--", sys.executable, "-c", TRY,
            f"db.example.com/{port}", f"a.wild.example.com/{port}", "db.example.com/4444",
            "wild.example.com/4445", "198.51.100.7/4446",
        )  # fmt: skip
    assert done.stdout.splitlines() == [
        GREETING, GREETING, "ConnectionResetError",
        "ConnectionRefusedError", "ConnectionRefusedError",
    ], done.stderr  # fmt: skip
    recorded = [
        (one["target"], one["port"], one["decision"])
        for one in sessions.decisions()
        if one["port"] not in (53, None)
    ]
    assert recorded == [
        ("db.example.com", port, "allow"),
        ("a.wild.example.com", port, "allow"),
        ("db.example.com", 4444, "deny"),
        ("wild.example.com", 4445, "deny"),
        ("198.51.100.7", 4446, "deny"),
    ]
    assert sessions.verdict()[0] == 0


@pytest.mark.usefixtures("tproxy")
def test_a_port_with_a_listener_of_its_own_keeps_it(sessions: Sessions) -> None:
    """On 80 a plain entry needs HTTP for that host: the handler is the port's."""
    script = (
        "exec 3<>/dev/tcp/db.example.com/80;"
        " printf 'GET / HTTP/1.1\\r\\nHost: x.test\\r\\n\\r\\n' >&3; head -1 <&3"
    )
    done = sessions.run(
        "--transparent", "on", "--allow-domain", "db.example.com:*", "--", "bash", "-c", script
    )
    assert done.stdout.startswith("HTTP/1.1 403"), done.stderr


def test_an_observed_run_opens_no_other_port(sessions: Sessions) -> None:
    """--observe is no entry: a port without a listener stays refused."""
    with greeter() as port:
        done = sessions.run(
            "--observe", "--transparent", "on", *PYTHON_GRANTS,
            "--resolve", f"db.example.com:{port}:127.0.0.1", "--", sys.executable, "-c", TRY,
            f"db.example.com/{port}",
        )  # fmt: skip
    assert done.stdout == "ConnectionRefusedError\n", done.stderr


@pytest.mark.usefixtures("tproxy")
def test_an_ordinary_user_has_it_too() -> None:
    prefix, variables = as_user("nobody", Path(__file__))
    with tempfile.TemporaryDirectory() as place, greeter() as port:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [*prefix, "-B", "-m", "nono_trio", "run", "--transparent", "on",
             "--allow-domain", "db.example.com:*",
             "--resolve", f"db.example.com:{port}:127.0.0.1",
             "--", SYSTEM_PYTHON, "-c", TRY, f"db.example.com/{port}"],
            env={"PATH": os.environ["PATH"], "HOME": place, **variables},
            capture_output=True, text=True, check=False, cwd="/", timeout=60,
        )  # fmt: skip
    assert done.stdout == f"{GREETING}\n", done.stderr


# In a user namespace below the network's own nobody may add rules, as on a kernel without them.
WITHOUT = """
import os
from nono_trio.sandbox.launcher.linux import namespaces, syscalls
from nono_trio.sandbox.launcher.linux.network import OuterNetwork
namespaces.enter_namespaces()
outer = OuterNetwork([80], [])
syscalls.unshare(syscalls.CLONE_NEWUSER)
from nono_trio.sandbox.launcher.linux.tproxy import listen_on_every_port
before = len(os.listdir("/proc/self/fd"))
print(listen_on_every_port(["198.19.128.0/18"], [80]), len(os.listdir("/proc/self/fd")) - before)
"""


def test_a_kernel_that_refuses_gives_no_listeners_and_leaves_no_socket() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "{} 0\n", done.stderr
