"""Scripts as commands: the cage runs what a shell would, and names the cause for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import landlock_isolation

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation), "none"]


def made(directory: Path, content: bytes) -> str:
    directory.mkdir()
    script = directory / "script"
    script.write_bytes(content)
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize(
    ("content", "said"),
    [(b'echo "$0 $1"\n', "SCRIPT word\n"), (b"", ""), (b"#!\necho here\n", "here\n")],
    ids=["no first line", "empty", "no interpreter"],
)
def test_a_shell_runs_what_names_no_interpreter(
    sessions: Sessions, tmp_path: Path, isolation: str, content: bytes, said: str
) -> None:
    script = made(tmp_path / "tools", content)
    done = sessions.run(
        "-s", "--isolation", isolation, "--read", str(tmp_path / "tools"), "--", script, "word"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said.replace("SCRIPT", script), "")


@pytest.mark.parametrize(
    ("content", "error", "hint"),
    [
        (b"#!/bin/sh\r\necho here\r\n", "ends with a carriage return", "sed -i 's/\\r$//' SCRIPT"),
        (b"#!/nonexistent/python\n", "does not exist: /nonexistent/python", "install it"),
        (b"#! /nonexistent/python -u\n", "does not exist: /nonexistent/python", "install it"),
        (b"#!DIRECTORY/other/sh\n", "is outside what the cage may read", "--read DIRECTORY/other"),
        (b"#!nonexistent/python\n", "does not exist: /nonexistent/python", "install it"),
        (b"#!/etc\n", "is no program: /etc", "correct the first line"),
        (b"#!DIRECTORY/tools/script\n", "is no program: SCRIPT", "correct the first line"),
        (b"\x7fELF\x02\x01\x01\x00", "Exec format error", "no program of this machine's kind"),
        (b"\x7fELFtext\n", "Exec format error", "no program of this machine's kind"),
        (b"\0\1\2", "Exec format error", "no program of this machine's kind"),
    ],
)
def test_what_cant_be_run_is_told_by_its_cause(
    sessions: Sessions, tmp_path: Path, content: bytes, error: str, hint: str
) -> None:
    other = tmp_path / "other" / "sh"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    script = made(tmp_path / "tools", content.replace(b"DIRECTORY", str(tmp_path).encode()))
    done = sessions.run("-s", "--read", str(tmp_path / "tools"), "--", script)
    assert done.returncode == 126
    lines = done.stderr.splitlines()
    assert error.replace("SCRIPT", script) in lines[-2]
    assert hint.replace("SCRIPT", script).replace("DIRECTORY", str(tmp_path)) in lines[-1]


def test_the_hint_about_carriage_returns_works(sessions: Sessions, tmp_path: Path) -> None:
    script = made(tmp_path / "tools", b"#!/bin/sh\r\necho here\r\n")
    command = ("run", "-s", "--read", str(tmp_path / "tools"), "--", script)
    hint = sessions.call(*command).stderr.splitlines()[-1].partition("sed ")[2]
    sessions.call("run", "-s", "--allow", str(tmp_path / "tools"), "--", "sh", "-c", f"sed {hint}")
    assert sessions.call(*command).stdout == "here\n"
