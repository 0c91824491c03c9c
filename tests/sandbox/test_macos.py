"""`nono-trio` on macOS: simulated on Linux (see pretend_macos), and for real on a Mac.

The simulation can't show that Seatbelt works, how a real kqueue and BSD's sockets behave in rare
cases, and whether a Mac's programs work with the default grants.
"""

from __future__ import annotations

import json
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import harness
import pretend_macos
import pytest
import run_server
from checkout import SUPPORT
from harness import PYTHON_GRANTS, processes_with, sleep_marker, wait_until

import nono_trio
from nono_trio.errors import CageFailed, UsageError
from nono_trio.sandbox.seatbelt_plan import UNTESTED
from nono_trio.session import platforms

# Modules of the Linux cage only; lint does not type-check them for macOS.
LINUX_ONLY = ("nono_trio.sandbox.launcher.linux.", "nono_trio.sandbox.broker.")
SECONDS = 10.0


@pytest.fixture
def record(tmp_path):
    return tmp_path / "applied.json"


@pytest.fixture
def mac(sessions, tmp_path, record, monkeypatch):
    """`sessions`, whose command line believes that it is on macOS."""
    script = tmp_path / "nono-trio"
    words = (sys.executable, pretend_macos.__file__, str(record))
    script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(harness, "NONO_TRIO", str(script))
    monkeypatch.setattr(harness, "DRY_RUN", ())  # of this process, which is not on macOS
    monkeypatch.setattr(run_server, "FORKED", ())
    return sessions


FETCH = """
import sys, urllib.request
for path in sys.argv[2:]:
    with urllib.request.urlopen(f"http://{sys.argv[1]}{path}", timeout=60) as answer:
        print(answer.status, len(answer.read()))
"""


def test_a_run_reaches_what_is_allowed_through_the_proxy(mac, origin, record):
    done = mac.run(
        *PYTHON_GRANTS, "--allow-domain", f"127.0.0.1:{origin.port}", "--name", "web", "--",
        sys.executable, "-c", FETCH, f"127.0.0.1:{origin.port}", "/a", "/bytes/3000000",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200 3\n200 3000000\n"), done.stderr
    assert UNTESTED in done.stderr
    assert "seatbelt isolation leaves open" in done.stderr
    assert [event["decision"] for event in mac.decisions()] == ["allow", "allow"]
    runtime = next(
        one["event"]["event"] for one in mac.records() if one["event"]["type"] == "sandbox_runtime"
    )
    assert (runtime["platform"], runtime["landlock_execute_enforced"]) == ("macos", False)
    assert mac.verdict()[0] == 0
    told = {call[0]: call[1:] for call in json.loads(record.read_text())}
    assert told.keys() >= {"block_network", "allow_localhost_port"}
    shown = mac.call("audit", "show", "web").stdout
    assert "isolation    seatbelt\n" in shown
    assert "cage         Seatbelt: connections to TCP port " in shown


def test_a_tunnel_moves_bytes_both_ways(mac, origin):
    """CONNECT, so that the relay waits with the kqueue's two filters."""
    tunnel = """
import os, socket, sys
port = int(os.environ["HTTP_PROXY"].rpartition(":")[2])
token = os.environ["NONO_PROXY_TOKEN"]
import base64
key = base64.b64encode(f"x:{token}".encode()).decode()
with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
    to = f"127.0.0.1:{sys.argv[1]}"
    sock.sendall(f"CONNECT {to} HTTP/1.1\\r\\nHost: {to}\\r\\n"
                 f"Proxy-Authorization: Basic {key}\\r\\n\\r\\n".encode())
    assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    body = bytes(2_000_000)
    sock.sendall(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
                 b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    got = 0
    while data := sock.recv(65536):
        got += len(data)
    print(got > len(body))
"""
    done = mac.run(
        *PYTHON_GRANTS, "--allow-domain", f"127.0.0.1:{origin.port}", "--", sys.executable, "-c",
        tunnel, str(origin.port),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_what_is_not_allowed_is_denied_and_recorded(mac):
    done = mac.run(*PYTHON_GRANTS, "--", sys.executable, "-c", FETCH, "denied.example.com", "/a")
    assert done.returncode == 1
    assert "403" in done.stderr
    assert [event["decision"] for event in mac.decisions()] == ["deny"]


def test_a_session_is_seen_and_stopped(mac):
    with mac.started("run", "--", "sh", "-c", "sleep 61 & sleep 62") as run:

        def child():
            answer = json.loads(mac.call("ps", "--json").stdout)["sessions"]
            return answer[0] if answer and answer[0]["child"] == "running" else None

        wait_until(lambda: (child() or {}).get("processes") == 3, "both sleeps began")
        one = child()
        assert (one["supervisor_pid"], one["isolation"]) == (run.pid, "seatbelt")
        assert Path(f"/proc/{one['child_pid']}/cmdline").read_bytes().startswith(b"sh\0-c\0")
        assert mac.call("stop", "latest").returncode == 0
        assert run.wait(SECONDS) == 143
    assert mac.verdict()[0] == 0


def test_a_killed_supervisor_takes_its_child_along(mac):
    marker = sleep_marker()
    with mac.started("run", "--", "sleep", marker) as run:
        wait_until(lambda: bool(processes_with(marker, "sleep")), "it sleeps")
        run.kill()
        run.wait()
        wait_until(lambda: not processes_with(marker, "sleep"), "the child is gone")
    assert "crashed" in mac.call("ps").stdout


def test_doctor_says_what_it_comes_to(mac):
    done = mac.call("doctor", "--json")
    answer = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in answer["checks"]}
    assert (done.returncode, answer["isolation"]) == (1, "seatbelt")
    assert states == {
        "Seatbelt": "ok", "tried by its authors": "missing", "limits": "ok", "own code": "ok",
    }  # fmt: skip
    assert "untested" in mac.call("doctor").stdout.splitlines()[-1]


def test_the_resolved_cage_is_shown(mac):
    done = mac.run("--dry-run", "--json", "--", "true")
    shown = json.loads(done.stdout)
    assert shown["isolation"] == "seatbelt"
    assert shown["enforcement"][0].startswith("Seatbelt: ")
    assert "/dev/urandom" in shown["own_paths"]
    assert "/proc" not in shown["own_paths"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--isolation", "namespace"], "--isolation namespace is not for macOS"),
        (["--isolation", "landlock"], "hint: choose one of: auto, seatbelt, none"),
        (["--transparent", "on"], "needs namespace isolation, got seatbelt"),
        (["--open-port", "5432"], "needs namespace isolation, got seatbelt"),
        (["--memory", "1G"], "--memory is not enforced by macOS"),
        (["--read", "{home}"], "would open"),
    ],
)
def test_what_macos_has_not_is_refused(mac, options, text):
    (mac.home / ".ssh").mkdir()
    done = mac.run(*(word.format(home=mac.home) for word in options), "--", "true")
    assert done.returncode == 2
    assert text in done.stderr
    assert not mac.directories


def test_every_module_of_its_path_imports():
    package = os.path.dirname(nono_trio.__file__)
    names = [
        found.name
        for found in pkgutil.walk_packages([package], "nono_trio.")
        if not found.name.startswith(LINUX_ONLY) and not found.name.endswith(".__main__")
    ]
    assert len(names) > 100
    code = (
        "import trio, pretend_macos; pretend_macos.take_names_away(); import importlib\n"
        f"for name in {names}: importlib.import_module(name)"
    )
    where = {"PYTHONPATH": os.pathsep.join([os.path.dirname(package), str(SUPPORT)])}
    subprocess.run([sys.executable, "-c", code], env=where, check=True, timeout=60)


# -- other systems ----------------------------------------------------------------------------


def test_linux_has_no_seatbelt(sessions):
    done = sessions.run("--isolation", "seatbelt", "--", "true")
    assert done.returncode == 2
    assert "--isolation seatbelt is not for Linux" in done.stderr


def test_any_other_system_is_refused(monkeypatch):
    monkeypatch.setattr(platforms.sys, "platform", "freebsd14")
    with pytest.raises(CageFailed, match="needs Linux or macOS, got freebsd14"):
        platforms.preferred_isolation(_Asked("auto"))


def test_none_is_for_both(monkeypatch):
    for system in ("linux", "darwin"):
        monkeypatch.setattr(platforms.sys, "platform", system)
        assert platforms.preferred_isolation(_Asked("none")) == "none"
    with pytest.raises(UsageError):
        platforms.preferred_isolation(_Asked("namespace"))


class _Asked:
    def __init__(self, isolation):
        self.isolation = isolation


# -- a Mac ----------------------------------------------------------------------------------------

needs_macos = pytest.mark.skipif(sys.platform != "darwin", reason="needs macOS: Seatbelt")


@needs_macos
def test_seatbelt_closes_files_and_network(sessions, origin, tmp_path):
    (tmp_path / "outside").write_text("secret")
    script = (
        f'cat {tmp_path}/outside && exit 1; echo x >"$TMPDIR/mine" || exit 2;'
        f" nc -z -w 2 127.0.0.1 {origin.port} && exit 3; exit 0"
    )
    done = sessions.run("--", "/bin/sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout


@needs_macos
def test_seatbelt_lets_the_proxy_through(sessions, origin):
    done = sessions.run(
        "--allow-domain", f"127.0.0.1:{origin.port}", "--",
        "/usr/bin/curl", "-fsS", f"http://127.0.0.1:{origin.port}/a",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert origin.seen == ["/a"]


@needs_macos
def test_seatbelt_closes_a_path_inside_what_the_system_grants(sessions):
    done = sessions.run("--", "/bin/ls", "/Library/Keychains")
    assert done.returncode != 0


@needs_macos
def test_the_child_can_not_signal_its_launcher(sessions):
    done = sessions.run("--", "/bin/sh", "-c", "kill -9 $PPID")
    assert done.returncode != 137, done.stderr


@needs_macos
def test_no_udp_leaves_the_cage(sessions):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        sessions.run("--", "/bin/sh", "-c", f"echo x | nc -u -w 1 127.0.0.1 {udp.getsockname()[1]}")
        with pytest.raises(BlockingIOError):
            udp.recv(16)
