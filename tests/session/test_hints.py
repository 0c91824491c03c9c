"""A hint works when it is pasted: each kind of denial is met, its hint applied, and the same
command tried again. A test whose program is missing is skipped, and the skip says so."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import socketserver
import sys
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, landlock_isolation, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Origin, Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
NAME = "host.example.com"


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def pinned(port: int) -> list[str]:
    return ["--resolve", f"{NAME}:{port}:127.0.0.1"]


def proposed(stderr: str) -> list[str]:
    """The flags that the end of a run says to add."""
    match = re.search(r"^nono-trio: to allow: (.*)$", stderr, re.MULTILINE)
    assert match is not None, stderr
    return shlex.split(match[1])


def changed(sessions: Sessions, *question: str) -> list[str]:
    """The flags that `why` proposes, after it has said no."""
    answer = json.loads(sessions.call("why", "--json", *question).stdout)
    assert answer["status"] == "denied", answer
    return shlex.split(answer["hint"])


CLIENTS = {
    "curl": "curl -sS --max-time 20 http://{0}/",
    "pip": "python -m pip download --disable-pip-version-check --retries 0 --no-deps --no-cache-dir"
    " --index-url http://{0}/simple/ --trusted-host {1} nothing",
    "npm": "npm view nothing --registry http://{0}/ --fetch-retries 0",
    "git": "git ls-remote http://{0}/nothing.git",
}


@pytest.mark.parametrize(
    ("client", "isolation"),
    [
        *((client, "namespace") for client in CLIENTS),
        pytest.param("curl", "landlock", marks=landlock_isolation),
    ],
)
def test_a_client_of_the_web(
    sessions: Sessions, origin: Origin, client: str, isolation: str
) -> None:
    words = CLIENTS[client].format(f"{NAME}:{origin.port}", NAME).split()
    if client == "pip":
        words[0] = sys.executable
    else:
        needs(words[0])
    options = [*PYTHON_GRANTS, "--isolation", isolation, *pinned(origin.port)]
    denied = sessions.run(*options, "--", *words)
    assert not origin.seen
    sessions.run(*options, *proposed(denied.stderr), "--", *words)
    assert origin.seen


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_request_to_another_port_than_the_rules_of_its_host(
    sessions: Sessions, origin: Origin, isolation: str
) -> None:
    """The flag is for this request: what it adds to the rules is no more than that."""
    needs("curl")
    url = f"http://{NAME}:{origin.port}"
    options = ["--isolation", isolation, *pinned(origin.port)]
    options += ["--allow-endpoint", f"GET https://{NAME}/public/**"]
    denied = sessions.run(*options, "--", "curl", "-sS", f"{url}/private")
    flags = proposed(denied.stderr)
    assert flags == ["--allow-endpoint", f"GET {url}/private"]
    assert shlex.join(flags) in denied.stdout
    words = ["--", "curl", "-sS", f"{url}/private", f"{url}/other"]
    sessions.run(*options, *flags, *words)
    assert origin.seen == ["/private"]


class _Greeting(socketserver.ThreadingTCPServer):
    """Says one line to each client, as ssh, a mail or a database server does."""

    daemon_threads = True

    def __init__(self, line: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Greet)
        self.line = line
        self.greeted = 0


class _Greet(socketserver.BaseRequestHandler):
    server: _Greeting

    def handle(self) -> None:
        self.server.greeted += 1
        with contextlib.suppress(OSError):
            self.request.sendall(self.server.line)
            self.request.settimeout(10)
            self.request.recv(100)


@pytest.fixture
def greeting() -> Iterator[_Greeting]:
    server = _Greeting(b"SSH-2.0-hello\r\n")
    with serving(server):
        yield server


def test_ssh_at_another_port(sessions: Sessions, greeting: _Greeting) -> None:
    """A port without a listener: the kernel refuses, and the hint has the port all the same."""
    needs("ssh")
    port = greeting.server_address[1]
    words = ["ssh", "-p", str(port), "-o", "ConnectTimeout=20", f"nobody@{NAME}"]
    denied = sessions.run("--", *words)
    assert "Connection refused" in denied.stderr
    assert proposed(denied.stderr) == ["--allow-domain", f"{NAME}:{port}"]
    assert not greeting.greeted
    sessions.run(*pinned(port), *proposed(denied.stderr), "--", *words)
    assert greeting.greeted


@pytest.mark.parametrize(
    ("network", "place"),
    [
        ("block = true", "d.toml:2: network.block"),
        (f'deny_domain = ["{NAME}"]', "d.toml:2: network.deny_domain"),
    ],
)
def test_what_a_profile_closes_is_told_by_its_line(
    sessions: Sessions, tmp_path: Path, network: str, place: str
) -> None:
    needs("curl")
    (tmp_path / "d.toml").write_text(f"[network]\n{network}\n")
    done = sessions.run("-p", str(tmp_path / "d.toml"), "--", "curl", "-sS", f"http://{NAME}/")
    assert "hint: take it out of " in done.stdout
    assert place in done.stdout


CONNECT = "exec 3<>/dev/tcp/{}/{} && head -c 8 <&3"


@pytest.mark.parametrize(
    "entry", [f"{NAME}:443", f"{NAME}:*"], ids=["an entry for another port", "an entry for all"]
)
def test_an_unlisted_port_of_a_listed_host(
    sessions: Sessions, greeting: _Greeting, entry: str
) -> None:
    port = greeting.server_address[1]
    options = [*pinned(port), "--allow-domain", entry]
    words = ["bash", "-c", CONNECT.format(NAME, port)]
    denied = sessions.run(*options, "--", *words)
    if entry.endswith(":*") and denied.stdout:  # the kernel has tproxy: such an entry opens it
        assert denied.stdout == "SSH-2.0-"
        return
    assert proposed(denied.stderr) == ["--allow-domain", f"{NAME}:{port}"]
    done = sessions.run(*options, *proposed(denied.stderr), "--", *words)
    assert done.stdout == "SSH-2.0-"


def test_a_service_on_the_loopback_of_this_machine(sessions: Sessions, greeting: _Greeting) -> None:
    """As a database is. The cage has a loopback of its own, so the hint is `why`'s."""
    port = greeting.server_address[1]
    words = ["bash", "-c", CONNECT.format("127.0.0.1", port)]
    assert "refused" in sessions.run("--", *words).stderr
    flags = changed(sessions, "--host", "127.0.0.1", "--port", str(port))
    assert sessions.run(*flags, "--", *words).stdout == "SSH-2.0-"


@landlock_isolation
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_without_namespaces(sessions: Sessions, origin: Origin, host: str) -> None:
    """Programs leave it out of the proxy, until an entry names it."""
    needs("curl")
    words = ["--", "curl", "-sS", f"http://{host}:{origin.port}/"]
    denied = sessions.run("--isolation", "landlock", *words)
    match = re.search(r"(--allow-domain) (\S+), or (\S+); ", denied.stderr)
    assert match is not None, denied.stderr
    entry = next(entry for entry in match.groups()[1:] if entry.startswith(host))
    assert not origin.seen
    sessions.run("--isolation", "landlock", match[1], entry, *words)
    assert origin.seen


@landlock_isolation
def test_why_says_that_only_the_proxy_leads_out_without_namespaces(sessions: Sessions) -> None:
    question = ("--isolation", "landlock", "--host", "127.0.0.1", "--port", "5432")
    answer = json.loads(sessions.call("why", "--json", *question).stdout)
    assert any(note.startswith("through the proxy only") for note in answer["notes"])


def test_a_name_that_leads_to_loopback(sessions: Sessions, greeting: _Greeting) -> None:
    """The address is denied, not the name: the hint is a pin."""
    port = greeting.server_address[1]
    options = ["--allow-domain", f"localhost.:{port}", "--allow-domain", f"ip6-localhost:{port}"]
    url = f"http://ip6-localhost:{port}/"
    needs("curl")
    denied = sessions.run(*options, "--", "curl", "-sS", url)
    if "resolved to" not in denied.stderr + denied.stdout:
        pytest.skip("this machine's hosts file has no ip6-localhost")
    assert proposed(denied.stderr)[0] == "--resolve"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_command_behind_a_link(sessions: Sessions, tmp_path: Path, isolation: str) -> None:
    real, current = tmp_path / "real" / "bin", tmp_path / "current"
    real.mkdir(parents=True)
    (real / "tool").write_text("#!/bin/sh\necho worked\n")
    (real / "tool").chmod(0o755)
    current.symlink_to("real")
    words = ["--isolation", isolation, "--", str(current / "bin" / "tool")]
    done = sessions.run(*words)
    flags: list[str] = []
    while done.returncode == 126 and len(flags) < 4:  # what is missing is named one by one
        match = re.search(r"^hint: grant it with (.*)$", done.stderr, re.MULTILINE)
        assert match is not None, done.stderr
        flags += shlex.split(match[1])
        done = sessions.run(*flags, *words)
    assert done.stdout == "worked\n", done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize(("kind", "operation"), [("file", "read"), ("directory", "write")])
def test_a_path(
    sessions: Sessions, tmp_path: Path, kind: str, operation: str, isolation: str
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "file").write_text("held\n")
    path = place / "file" if kind == "file" else place
    what = f"cat {path}" if operation == "read" else f"echo new >{path}/file"
    options = ["--isolation", isolation]
    assert sessions.run(*options, "--", "sh", "-c", what).returncode
    flags = changed(sessions, *options, "--path", str(path), "--op", operation)
    done = sessions.run(*options, *flags, "--", "sh", "-c", what)
    assert done.returncode == 0, done.stderr


def test_what_changes_the_exit_code_is_said_even_when_silent(sessions: Sessions) -> None:
    ended = sessions.run("-s", "--timeout", "0.2", "--", "sleep", "60")
    assert (ended.returncode, ended.stderr) == (
        124, "nono-trio: the command was ended after 0.2 s (--timeout)\n",
    )  # fmt: skip
    needs("curl")
    url = "http://a.example.com/"
    denied = sessions.run("-s", "--fail-on-deny", "--", "curl", "-so", "/dev/null", url)
    assert (denied.returncode, denied.stderr) == (
        3, "nono-trio: exit code 3: --fail-on-deny, and 1 denied: a.example.com:80\n",
    )  # fmt: skip
