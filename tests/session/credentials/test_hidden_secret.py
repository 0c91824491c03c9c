"""A whole run by root and by an ordinary user, with secrets from a variable and from a command:
they reach their own host, and are found nowhere else, not in /proc, memory, files, answers or a
core dump."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from harness import PYTHON_GRANTS, SYSTEM_PYTHON, Sessions, as_user, landlock_isolation, serving
from own_ca import write_authority
from process_memory import descendants, found_in_memory
from tls_origin import TlsOrigin, signed_origin

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
PRINTED = "printed-key-0123456789abcdefghij"  # by a command
OWN, OTHER = "own.example", "other.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]

# Asks both hosts, waits, looks for the secret (that it is given backwards) in /proc, and aborts.
WORK = """
import json, os, sys, urllib.error, urllib.request
told = []
for url in sys.argv[2:]:
    fields = {"Authorization": "Bearer " + os.environ["MY_KEY"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields)) as answer:
            told.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        told.append([error.code, error.read().decode()])
with open(os.path.expanduser("~/.netrc")) as file:
    told += [file.read(), os.environ["MY_KEY"]]
print(json.dumps(told), flush=True)
sys.stdin.readline()
found, read = [], 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "maps", "auxv", "stack", "task/%s/environ" % pid):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                data = file.read()
        except OSError:
            continue
        read += 1
        if sys.argv[1][::-1].encode() in data:
            found.append(f"{pid} {name}")
    if int(pid) != os.getpid():
        try:
            with open(f"/proc/{pid}/mem", "rb"):
                pass
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += [f"{pid} mem"] if b"nono" in file.read() else []
        except OSError:
            pass
print(json.dumps([found, read]), flush=True)
os.abort()
"""


class _Says(BaseHTTPRequestHandler):
    """Says yes to the secret; the answer has nothing of it."""

    server: TlsOrigin

    def do_GET(self) -> None:
        text = b"yes" if self.headers["Authorization"] == f"Bearer {SECRET}" else b"no"
        self.server.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def dumps_allowed() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_secret_is_where_it_belongs_and_nowhere_else(isolation: str, user: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # where another user can be
        _search_run(isolation, user, Path(name))


def _search_run(isolation: str, user: str, place: Path) -> None:
    prefix, variables = as_user(user, Path(__file__))
    sessions = Sessions(place / "state", place / "home", variables)
    for directory in (sessions.home, place / "authority", place / "work"):
        directory.mkdir()
    own = write_authority(place / "authority")
    origins = [signed_origin(*own, name) for name in (OWN, OTHER)]
    origins[0].RequestHandlerClass = _Says
    where = [f"{OWN}:{origins[0].port}", f"{OTHER}:{origins[1].port}"]
    (sessions.home / ".netrc").write_text(f"machine {OWN}\nlogin me\npassword {SECRET}\n")
    (sessions.home / "own.toml").write_text(
        f'[credentials.mine]\nsource = "env://MY_KEY"\nhosts = ["{where[0]}"]\n'
        'files = ["~/.netrc"]\n[credentials.printed]\n'
        f'source = "cmd://cat {place / "key"}"\nhosts = ["{where[0]}"]\nvariables = ["PRINTED"]\n'
    )
    (place / "key").write_text(PRINTED)
    sessions.variables = {**variables, "MY_KEY": SECRET, "OF_MINE": f"key={SECRET};"}
    if prefix[1:]:
        for path in (place, *place.rglob("*")):
            shutil.chown(path, "nobody")
    resolved = [word for one in where for word in ("--resolve", f"{one}:127.0.0.1")]
    with serving(origins[0]), serving(origins[1]):
        process = subprocess.Popen(
            [*prefix, "-B", "-P", "-m", "nono_trio", "run", "-p", str(sessions.home / "own.toml"),
             "--isolation", isolation, "--allow-cwd", "--env-allow", "OF_MINE",
             "--upstream-ca", str(own[0]), *resolved, "--allow-domain", where[1],
             "--intercept", OTHER, *PYTHON_GRANTS, "--", SYSTEM_PYTHON, "-c", WORK, SECRET[::-1],
             f"https://{where[0]}/", f"https://{where[1]}/"],
            env=sessions.environment, cwd=place / "work", preexec_fn=dumps_allowed,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, process.stderr and process.stderr.read()
            secrets = (SECRET.encode(), PRINTED.encode())
            tree = descendants(process.pid)
            assert len(tree) >= 3
            for pid in tree:
                for name in ("environ", "cmdline", "maps"):
                    data = Path(f"/proc/{pid}/{name}").read_bytes()
                    # The supervisor's environment is the caller's, which no cage can read.
                    expected = [secrets[0]] if (pid, name) == (process.pid, "environ") else []
                    assert [one for one in secrets if one in data] == expected, (pid, name)
                expected_here = {*secrets} if pid == process.pid else set()
                assert found_in_memory(pid, *secrets) == expected_here, pid
            running = _files_with_secret(place)
        finally:
            out, err = process.communicate(b"\n", timeout=60)
    told = json.loads(first)
    stand_in = told.pop()
    assert stand_in != SECRET
    assert told[0] == [200, "yes"]
    assert told[1][0] == 403
    assert "exfiltration detected" in told[1][1]
    assert told[2] == f"machine {OWN}\nlogin me\npassword {stand_in}\n"
    assert origins[1].seen == []
    found, read = json.loads(out)
    assert found == []
    assert read > 0
    assert process.returncode == 134, err
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() == "core":
        assert list((place / "work").iterdir())  # the dump, which is searched too
    assert not [one for one in secrets if one in first + out + err]
    own_files = {sessions.home / ".netrc", place / "key"}
    assert running == _files_with_secret(place) == own_files


def _files_with_secret(place: Path) -> set[Path]:
    """Files of the user, of the session and of the working directory, with a core dump."""
    files = [path for path in place.rglob("*") if path.is_file()]
    secrets = (SECRET.encode(), PRINTED.encode())
    return {path for path in files if any(one in path.read_bytes() for one in secrets)}
