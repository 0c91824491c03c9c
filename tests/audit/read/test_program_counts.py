"""The table of programs counts attempts as every other number of a session does."""

from __future__ import annotations

import json
import sys

import pytest
from harness import PYTHON_GRANTS, Origin, Sessions, free_port, serving

TRIES = """
import socket, sys
def attempt(host, port):
    # One address of the name: a reset may come before poll(2) tells of the connection, and
    # create_connection would try the next address.
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(family, kind) as sock:
            sock.connect(address)
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: api.example.com:%d\\r\\n\\r\\n" % port)
            sock.recv(1)
    except OSError:
        pass
served, closed = map(int, sys.argv[1:])
attempt("api.example.com", served)  # allowed
attempt("dead.example.com", closed)  # allowed, and nobody answers: failed
attempt("evil.example.com", 7777)  # a look-up and a connection: one denial
attempt("127.0.0.1", served)  # the cage's own loopback: not counted
try:
    socket.getaddrinfo("only.example.com", 443)  # looked up and never tried: one denial
except OSError:
    pass
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """One real session, which the tests only read."""
    place = tmp_path_factory.mktemp("session")
    sessions = Sessions(place / "state", place)
    closed = free_port()
    origin = Origin()
    served = origin.port
    with serving(origin):
        done = sessions.run(
            "--transparent", "on", "--fail-on-deny", *PYTHON_GRANTS,
            "--allow-domain", f"api.example.com:{served}",
            "--resolve", f"api.example.com:{served}:127.0.0.1",
            "--allow-domain", f"dead.example.com:{closed}",
            "--resolve", f"dead.example.com:{closed}:127.0.0.1",
            "--", sys.executable, "-c", TRIES, str(served), str(closed),
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    told = done.stderr.splitlines()
    assert "nono-trio: 2 denied, 1 failed, 1 allowed" in told
    assert told[-1].startswith("nono-trio: exit code 3: --fail-on-deny, and 2 denied: ")
    assert {"evil.example.com:7777", "only.example.com"} <= {
        *told[-1].replace(" (looked up)", "").replace(",", "").split()
    }, told[-1]
    return sessions


def test_each_attempt_counts_once_for_its_program(session: Sessions) -> None:
    shown = json.loads(session.call("audit", "show", "--json").stdout)
    assert (shown["denied"], shown["failed"], shown["allowed"]) == (2, 1, 1)
    sums = {
        outcome: sum(program[outcome] for program in shown["programs"])
        for outcome in ("denied", "failed", "allowed")
    }
    assert "1 refused at loopback" in session.call("audit", "show").stdout
    assert sums == {"denied": 2, "failed": 1, "allowed": 1}


def test_inspect_tells_the_runs_own_exit_code(session: Sessions) -> None:
    fields = json.loads(session.call("inspect", "--json").stdout)
    assert (fields["exit_code"], fields["run_exit_code"]) == (0, 3)
    assert "sealed, exit code 3 (the command's own was 0)" in session.call("inspect").stdout


def test_a_summary_file_without_a_summary_is_refused(sessions: Sessions) -> None:
    done = sessions.run("--summary", "none", "--summary-file", "s.txt", "--", "true")
    assert done.returncode == 2
    assert "hint: --summary text --summary-file s.txt" in done.stderr
