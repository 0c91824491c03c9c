"""A run's child can't write any file that the run and `audit verify` load code from.

An audit hook in the command and in its launcher lists opened modules; /proc/PID/maps of both lists
shared objects while the child runs. A second child with the same grants then tries to write each of
them, to create files beside it, and to move its parents.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from code_hook import hooked_command
from harness import PYTHON_GRANTS, RUN_SECONDS, guarded
from installation import install

TRY = """
import json, os, sys
def attempt(action):
    try:
        return action() is None
    except OSError:
        return False
def make(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
got = []
for path in json.load(sys.stdin):
    directory = os.path.dirname(path)
    if attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND))):
        got.append("write " + path)
    if attempt(lambda: make(directory + "/planted.py")):
        got.append("create beside " + path)
    while path.startswith(sys.argv[1] + "/"):  # above it is the cage's own /tmp
        if attempt(lambda: os.rename(path, path + "-moved")):
            got.append("move " + path)
        path = os.path.dirname(path)
print(json.dumps(sorted(set(got))))
"""


class Watched:
    """Commands of an installation whose code is watched; `opened` is what they took code from."""

    def __init__(self, sessions, environment, log):
        self._sessions = sessions
        self._python = str(environment / "bin" / "python")
        self._log = log
        self._program = hooked_command(str(log))
        self._mapped = set()

    def start(self, *arguments, cwd):
        return subprocess.Popen(
            [self._python, "-P", "-c", self._program, *arguments],
            env=self._sessions.environment, cwd=cwd, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def look_at(self, pid):
        """Remember what is mapped in a process of ours and in its launcher's."""
        for one in (pid, *self._launchers(pid)):
            for line in Path(f"/proc/{one}/maps").read_text().splitlines():
                path = line.split(None, 5)[-1]
                if path.startswith("/"):
                    self._mapped.add(path)

    def _launchers(self, pid):
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"nono_trio_launcher" in Path(f"/proc/{child}/cmdline").read_bytes():
                found += [child, *self._launchers(child)]
        return found

    @property
    def opened(self):
        read = {line for line in self._log.read_text().splitlines() if Path(line).is_file()}
        code = {path for path in read if path.endswith((".py", ".pyc", ".pth", ".cfg", ".zip"))}
        return sorted({path for path in read if ".so" in path} | code | self._mapped)


@pytest.mark.parametrize("isolation", ["namespace", pytest.param("landlock", marks=guarded)])
def test_no_code_lies_where_the_child_may_write(sessions, tmp_path, isolation):
    granted = tmp_path / "granted"
    environment = granted / "deep" / "venv"
    install(environment)
    project = granted / "project"
    project.mkdir()
    # Landlock refuses what has our code inside.
    writable = granted if isolation == "namespace" else project
    options = ["run", "--isolation", isolation, *PYTHON_GRANTS, "--allow", str(writable)]
    options += ["--read", str(environment)]
    watched = Watched(sessions, environment, tmp_path / "opened")
    request = "curl --silent http://denied.invalid/ http://allowed.invalid/"
    script = f"{request}; echo ready; read end; {request}; exit 0"
    shell = ["--allow-domain", "allowed.invalid", "--", "sh", "-c", script]
    with watched.start(*options, *shell, cwd=project) as run:
        while (line := run.stdout.readline()) != "ready\n":
            assert line, run.stderr.read()
        watched.look_at(run.pid)
        _, told = run.communicate("end\n", timeout=RUN_SECONDS)
        assert run.returncode == 0, told
    with watched.start("audit", "verify", "latest", cwd=project) as verify:
        said, told = verify.communicate(timeout=RUN_SECONDS)
        assert said.startswith("verified"), told
    files = watched.opened
    for needed in (
        "nono_trio/session/child_service.py",
        "nono_trio/sandbox/launcher/linux/launch.py",
        "nono_trio/audit/verify/session.py",
        "trio/_core/", "_nono_py", "/libc", "stringprep", "lib-dynload",
    ):  # fmt: skip
        assert any(needed in path for path in files), needed
    command = [*options, "--", str(environment / "bin" / "python"), "-c", TRY, str(granted)]
    (project / "own.py").write_text("")
    for paths, expected in (
        (files, False),
        ([str(project / "own.py")], True),  # or the attempts themselves do nothing
    ):
        with watched.start(*command, cwd=project) as attempts:
            said, told = attempts.communicate(json.dumps(paths), timeout=RUN_SECONDS)
        assert attempts.returncode == 0, told
        got = json.loads(said)
        assert (got != []) is expected, (got, told)
