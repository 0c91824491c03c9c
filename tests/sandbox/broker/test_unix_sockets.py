"""`--allow-unix-socket`: one socket of the host, or those of a directory, and nothing beside."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import (
    PROBES,
    PYTHON_GRANTS,
    RUN_SECONDS,
    SYSTEM_PYTHON,
    Sessions,
    as_user,
    guarded,
    serving,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

both_isolations = pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=guarded)]
)

ASK = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
            print(sock.makefile().readline().strip())
        except OSError as error:
            print(type(error).__name__)
"""
READ = """
import os, sys
for path in sys.argv[1:]:
    for look in (lambda: open(path).read(), lambda: open(path, "r+"), lambda: os.listdir(path)):
        try:
            look()
            print("opened")
        except OSError:
            pass
"""


class Greeting(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"hello\n")


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    """A short path, as a socket's must be, outside of the cage's private /tmp."""
    base = Path(tempfile.mkdtemp(prefix="nono-trio-", dir="/var/tmp"))
    try:
        (base / "home" / "run").mkdir(parents=True)
        (base / "home" / "work").mkdir()
        yield Sessions(base / "state", base / "home")
    finally:
        shutil.rmtree(base)


@contextmanager
def server(path: Path) -> Iterator[str]:
    """Greet each client that connects to `path`."""
    with serving(socketserver.ThreadingUnixStreamServer(str(path), Greeting)):
        yield str(path)


def run(sessions: Sessions, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the cage, which works in a directory of its own."""
    return sessions.run("--allow-cwd", *PYTHON_GRANTS, *words, cwd=sessions.home / "work")


@both_isolations
def test_one_socket_and_no_other(sessions: Sessions, isolation: str) -> None:
    here = ["--isolation", isolation]
    place = sessions.home / "run"
    with server(place / "agent") as agent, server(place / "other") as other:
        ask = ["--", sys.executable, "-c", ASK, agent, other]
        closed = run(sessions, *here, *ask)
        assert "hello" not in closed.stdout
        opened = run(sessions, *here, "--allow-unix-socket", agent, *ask)
        first, second = opened.stdout.split()
        assert first == "hello", opened.stderr
        assert second in ("FileNotFoundError", "PermissionError")
        (place / "file").write_text("secret")
        read = ["--", sys.executable, "-c", READ, agent, str(place / "file")]
        for granted in (agent, str(place)):
            opened = run(sessions, *here, "--allow-unix-socket", granted, *read)
            assert (opened.stdout, opened.returncode) == ("", 0), opened.stderr


@both_isolations
def test_the_variable_comes_with_the_socket(sessions: Sessions, isolation: str) -> None:
    """`--env-allow SSH_AUTH_SOCK` is refused with what it opens, and the flag that gives both."""
    here = ["--isolation", isolation]
    place = sessions.home / "run"
    with server(place / "agent") as agent, server(place / "other") as other:
        sessions.variables |= {"SSH_AUTH_SOCK": agent, "DOCKER_HOST": f"unix://{other}"}
        refused = run(sessions, *here, "--env-allow", "SSH_AUTH_SOCK", "--", "true")
        assert refused.returncode == 2
        assert "your ssh agent" in refused.stderr
        assert f"hint: --allow-unix-socket {agent} gives the socket" in refused.stderr
        both = ["--env-allow", "SSH_AUTH_SOCK", "--allow-unix-socket"]
        assert run(sessions, *here, *both, other, "--", "true").returncode == 2
        opened = run(sessions, *here, *both, agent, "--", "sh", "-c", "echo $SSH_AUTH_SOCK")
        assert opened.stdout == f"{agent}\n", opened.stderr
        command = ["--", "sh", "-c", "echo $SSH_AUTH_SOCK,$DOCKER_HOST"]
        assert run(sessions, *here, *command).stdout == ",\n"
        opened = run(sessions, *here, "--allow-unix-socket", agent, *command)
        assert opened.stdout == f"{agent},\n", opened.stderr
        denied = ["--env-deny", "SSH_AUTH_SOCK", "--allow-unix-socket", agent]
        assert run(sessions, *here, *denied, *command).stdout == ",\n"


@both_isolations
def test_an_ordinary_user_reaches_it_as_well(sessions: Sessions, isolation: str) -> None:
    prefix, variables = as_user("user", PROBES / "reach.py")
    with server(sessions.home / "run/agent") as agent:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            base = sessions.home.parent
            for path in (base, *base.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [*prefix, "-P", "-m", "nono_trio", "run", "--isolation", isolation,
             "--allow-unix-socket", agent, "--", SYSTEM_PYTHON, "-c", ASK, agent],
            env={**sessions.environment, **variables}, cwd="/", capture_output=True, text=True,
            timeout=RUN_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.stdout == "hello\n", done.stderr


@both_isolations
def test_the_sockets_of_a_directory_and_no_file(sessions: Sessions, isolation: str) -> None:
    """Also one that its server makes anew while the command runs."""
    place = sessions.home.parent / "run"
    place.mkdir()
    (place / "file").write_text("secret")
    program = f"""
import os, time
{ASK}
open("ready", "w").close()
while not os.path.exists("made"):
    time.sleep(0.01)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    print(sock.makefile().readline().strip())
{READ.replace("sys.argv[1:]", "sys.argv[2:]")}
"""
    options = ["--isolation", isolation, "--allow-cwd", "--allow-unix-socket", str(place)]
    words = [str(place / "agent"), str(place / "file"), str(place)]
    command = [sys.executable, "-c", program.replace("sys.argv[1:]:", "sys.argv[1:2]:"), *words]
    work = sessions.home / "work"
    with server(place / "agent"):
        started = sessions.started("run", *options, *PYTHON_GRANTS, "--", *command, cwd=work)
        with started as process:
            wait_until((work / "ready").exists, "the first connection", seconds=60)
            (place / "agent").unlink()
            with server(place / "agent"):
                (work / "made").touch()
                output, errors = process.communicate(timeout=60)
    assert output.split() == ["hello", "hello"], errors


@both_isolations
def test_a_socket_that_is_protected_needs_its_protection_lifted(
    sessions: Sessions, isolation: str
) -> None:
    (sessions.home / ".gnupg").mkdir()
    sessions.state.mkdir()
    here = ["--isolation", isolation, "--allow-unix-socket"]
    with server(sessions.home / ".gnupg/agent") as agent, server(sessions.state / "s") as state:
        ask = ["--", sys.executable, "-c", ASK, agent]
        refused = run(sessions, *here, agent, *ask)
        assert (refused.returncode, refused.stdout) == (2, "")
        lift = ["--bypass-protection", f"{sessions.home}/.gnupg"]
        assert " ".join(lift) in refused.stderr
        assert run(sessions, *here, agent, *lift, *ask).stdout == "hello\n"
        ours = run(sessions, *here, state, "--", "true")
        assert (ours.returncode, "audit state directory" in ours.stderr) == (2, True)


def test_what_is_no_socket_is_refused_and_what_is_missing_skipped(sessions: Sessions) -> None:
    (sessions.home / "run/file").touch()
    refused = run(sessions, "--allow-unix-socket", f"{sessions.home}/run/file", "--", "true")
    assert refused.returncode == 2
    assert "expected a socket or a directory, got a file" in refused.stderr
    missing = run(sessions, "--allow-unix-socket", "/no/such/socket", "--", "true")
    assert missing.returncode == 0
    assert "--allow-unix-socket /no/such/socket: no such path, skipped" in missing.stderr
    (sessions.home / "work/link").symlink_to(sessions.home / "run")
    led = run(sessions, "--allow-unix-socket", "link", "--", "true")
    assert led.returncode == 2
    assert f"name it: --allow-unix-socket {sessions.home}/run" in led.stderr


def test_a_directory_in_the_home_has_the_sockets_of_the_start(sessions: Sessions) -> None:
    """The home of the cage may be read, whatever is mounted below it: no file of the host's is."""
    place = sessions.home / "run"
    options = ["--isolation", "namespace", "--allow-unix-socket", str(place)]
    assert "there is no socket in it now" in run(sessions, *options, "--", "true").stderr
    (place / "inner").mkdir()
    (place / "inner/file").write_text("secret")
    with server(place / "inner/agent") as agent:
        done = run(sessions, *options, "--", sys.executable, "-c", ASK, agent)
        assert done.stdout == "hello\n", done.stderr
        seen = run(sessions, *options, "--", "ls", str(place / "inner"))
        assert seen.stdout == "agent\n"


def test_it_is_shown_explained_and_recorded(sessions: Sessions) -> None:
    with server(sessions.home / "run/agent") as agent:
        profile = sessions.home / "p.toml"
        profile.write_text(f'[filesystem]\nallow_unix_socket = ["{agent}"]\n')
        source = f"{profile}:2: filesystem.allow_unix_socket"
        options = ["--isolation", "namespace", "--profile", str(profile)]
        shown = json.loads(run(sessions, "--dry-run", "--json", *options, "--", "true").stdout)
        assert shown["unix_sockets"] == [{"path": agent, "source": source}]
        assert agent not in [grant["path"] for grant in shown["grants"]]
        text = run(sessions, "--dry-run", *options, "--", "true").stdout
        assert f"connect {agent}  ({source})" in text
        denied = json.loads(sessions.call("why", "--json", "--path", agent).stdout)
        assert (denied["status"], denied["hint"]) == ("denied", f"--allow-unix-socket {agent}")
        why = json.loads(sessions.call("why", "--json", "--path", agent, *options).stdout)
        assert (why["status"], why["rule"]) == ("allowed", f"{source} {agent}")
        sessions.variables = {"NONO_TRIO_ALLOW_UNIX_SOCKET": agent}
        done = run(sessions, "--", sys.executable, "-c", ASK, agent)
        assert done.stdout == "hello\n", done.stderr
    record = json.loads((sessions.only / "session.json").read_text())
    held = record["nono_trio"]["enforcement"]
    assert f"may connect to the host's sockets at {agent}" in held
    assert agent in record["tracked_paths"]
    policy = json.loads((sessions.only / "policy.json").read_text())
    opened = {(grant["path"], grant["access"]) for grant in policy["files"]["grants"]}
    assert (agent, "socket") in opened


def test_a_socket_is_no_file(sessions: Sessions) -> None:
    """A grant of a socket does not make a directory of programs or a place to write."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(sessions.home.parent / "agent"))
        answer = sessions.call(
            "why", "--json", "--path", f"{sessions.home.parent}/new", "--op", "write",
            "--allow-unix-socket", str(sessions.home.parent / "agent"),
        )  # fmt: skip
    assert json.loads(answer.stdout)["status"] == "denied"
    assert os.path.exists(sessions.home / "run")
