"""What a CI job does: `scripts/ci-smoke`, the forms of the summary, the composite action."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT
from harness import NONO_TRIO, RUN_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Sessions

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_ci_smoke(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "ci-smoke"), NONO_TRIO],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=3 * RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ci-smoke: all as it should be\n")
    assert not list(tmp_path.glob("tmp.*"))


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


def test_a_command_can_not_lead_the_summary_elsewhere(sessions: Sessions, tmp_path: Path) -> None:
    """The path is opened before the command starts."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    script = f"rm {own}/page; ln -s {other} {own}/page"
    done = sessions.run(
        "--allow", str(own), "--summary", "github", "--summary-file", str(own / "page"),
        "--", "sh", "-c", script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (own / "page").is_symlink()
    assert not other.exists()


def test_github_without_its_variable_starts_nothing(sessions: Sessions, tmp_path: Path) -> None:
    done = sessions.run("--summary", "github", "--", "true")
    assert done.returncode == 2
    assert "hint: --summary-file F" in done.stderr
    assert not sessions.directories


def test_the_action_pastes_no_text_of_the_workflow_into_a_script() -> None:
    text = (ROOT / "docs" / "action" / "action.yml").read_text()
    scripts = [part.split("\n    - ")[0] for part in text.split("run: ")[1:]]
    assert len(scripts) == 3
    assert not any("${{" in script.split("\n  ")[0] for script in scripts)
    block = text.partition("run: |\n")[2].partition("    - if:")[0]
    assert "${{" not in block
    start = block.index("mapfile")
    probe = block[start:].partition("nono-trio run")[0] + 'printf "<%s>" "${options[@]}"'
    for given, words in (("--a 'b c' --d", "<--a><b c><--d>"), ("$(false) `x`", "<$(false)><`x`>")):
        done = subprocess.run(
            ["bash", "-c", probe.replace("python -c", "python3 -c")],
            env={"PATH": os.environ["PATH"], "OPTIONS": given},
            capture_output=True, text=True, timeout=RUN_SECONDS, check=True,
        )  # fmt: skip
        assert done.stdout == words
