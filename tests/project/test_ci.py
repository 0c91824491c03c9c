"""What a CI job does: `scripts/ci-smoke`, the forms of the summary, the composite action."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT
from harness import RUN_SECONDS, needs_curl

if TYPE_CHECKING:
    from harness import Sessions


@needs_curl
def test_ci_smoke(tmp_path: Path) -> None:
    """It builds this checkout and installs it into an empty Python, as a job does. What that needs
    is there already, so no index is asked."""
    if find_spec("hatchling") is None or find_spec("pip") is None:
        pytest.skip("hatchling or pip is not installed (./scripts/setup)")
    python = tmp_path / "python"
    venv.create(python, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = python / "lib" / version / "site-packages"
    (site_packages / "needed.pth").write_text(str(Path(pytest.__file__).parent.parent))
    done = subprocess.run(
        [str(ROOT / "scripts" / "ci-smoke")],
        env={
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path),
            "PYTHON": str(python / "bin" / "python"), "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as "isolation: no"
            "PIP_CONFIG_FILE": os.devnull,
        },
        capture_output=True, text=True, timeout=3 * RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site_packages / "nono_trio" / "entry.py").exists()
    assert done.stdout.endswith("ci-smoke: all as it should be\n")
    assert not list(tmp_path.glob("tmp.*"))


def test_ci_smoke_says_how_it_is_used() -> None:
    for arguments in (["--help"], ["sh", "-c", "true"]):
        done = subprocess.run(
            [str(ROOT / "scripts" / "ci-smoke"), *arguments],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: scripts/ci-smoke [NONO_TRIO]" in done.stderr


@needs_curl
def test_json_goes_to_a_file_or_to_stderr(sessions: Sessions, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    job = ["--", "curl", "-s", "-o", "/dev/null", "http://evil.example.net/"]
    done = sessions.run("--fail-on-deny", "--summary", "json", "--summary-file", str(file), *job)
    assert done.returncode == 3
    told = json.loads(file.read_text())
    assert (told["exit_code"], told["command_exit_code"], told["verdict"]) == (3, 0, "verified")
    assert (told["denied"], told["failed"], told["allowed"]) == (1, 0, 0)
    assert told["hosts"][0]["flags"] == ["--allow-domain evil.example.net:80"]
    assert "1 denied, 0 failed" not in done.stderr
    done = sessions.run("-s", "--summary", "json", *job)
    assert json.loads(done.stderr)["denied"] == 1
    done = sessions.run("--summary", "none", *job)
    assert (done.stdout, "denied" in done.stderr) == ("", False)
    done = sessions.run("--summary-file", str(file), *job)
    assert "nono-trio: 1 denied, 0 failed, 0 allowed\n" in file.read_text()


@pytest.mark.parametrize("place", ["granted", "linked", "state"])
def test_the_summary_lies_where_no_command_can_write_it(
    place: str, sessions: Sessions, tmp_path: Path
) -> None:
    """A CI job believes it, so a command that could replace it could forge its own verdict."""
    granted = tmp_path / "granted"
    granted.mkdir()
    (tmp_path / "link").symlink_to(granted)
    file = {
        "granted": granted / "page", "linked": tmp_path / "link" / "page",
        "state": sessions.state / "audit" / "ledger.ndjson",
    }[place]  # fmt: skip
    form = ["--summary", "json", "--summary-file", str(file)]
    done = sessions.run("--allow", str(granted), *form, "--", "true")
    assert done.returncode == 2, done.stderr
    assert "--summary-file" in done.stderr
    assert not file.exists()
    assert not sessions.directories
    other = tmp_path / "page"
    done = sessions.run("--read", str(granted), *form[:3], str(other), "--", "true")
    assert (done.returncode, json.loads(other.read_text())["verdict"]) == (0, "verified")


def test_github_without_its_variable_starts_nothing(sessions: Sessions, tmp_path: Path) -> None:
    done = sessions.run("--summary", "github", "--", "true")
    assert done.returncode == 2
    assert "hint: --summary-file F" in done.stderr
    assert not sessions.directories


def test_the_action_pastes_no_text_of_the_workflow_into_a_script(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "action" / "action.yml").read_text()
    scripts = [part.split("\n    - ")[0] for part in text.split("run: ")[1:]]
    assert len(scripts) == 3
    assert not any("${{" in script.split("\n  ")[0] for script in scripts)
    block = text.partition("run: |\n")[2].partition("    - if:")[0]
    assert "${{" not in block
    start = block.index("mapfile")
    probe = block[start:].partition("nono-trio run")[0] + 'printf "<%s>" "${options[@]}"'
    # The checkout is not trusted: none of its files may run outside of the cage.
    (tmp_path / "shlex.py").write_text("print('run outside of the cage')")
    for given, code, words in (
        ("--a 'b c' --d", 0, "<--a><b c><--d>"),
        ("$(false) `x`", 0, "<$(false)><`x`>"),
        ("--fail-on-deny --expect-deny 'x", 1, ""),
    ):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", probe.replace("python -I -c", "python3 -I -c")],
            env={"PATH": os.environ["PATH"], "OPTIONS": given}, cwd=tmp_path,
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, words), done.stderr


def test_the_action_fails_at_the_first_line_that_fails(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "action" / "action.yml").read_text()
    block = text.partition("run: |\n")[2].partition("    - if:")[0]
    stand_in = tmp_path / "nono-trio"
    stand_in.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    stand_in.chmod(0o755)
    for command, code, told in (
        ("false\necho reached", 1, ""), ("false | cat", 1, ""), ("echo 'a  b'\ntrue", 0, "a  b\n"),
    ):  # fmt: skip
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block.replace("python -I -c", "python3 -I -c")],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPTIONS": "", "COMMAND": command},
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, told), done.stderr


def test_the_workflow_names_the_runner_in_its_steps_only() -> None:
    """GitHub refuses a workflow that names `runner` in the `env` of a job."""
    text = (ROOT / "docs" / "ci.md").read_text()
    jobs = [block for block in text.split("```yaml\n")[1:] if block.startswith("jobs:")]
    assert len(jobs) == 1
    head, steps, _ = jobs[0].partition("steps:")
    assert steps
    assert "runner." not in head
