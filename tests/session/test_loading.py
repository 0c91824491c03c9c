"""Programs that are reached by links, and what the kernel needs beside them to start them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import landlock_isolation

from nono_trio.session.loading import interpreters

if TYPE_CHECKING:
    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


def make_program(path: Path, interpreter: str = "/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\necho started as $0\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """As package managers lay them out: a current version, and commands that are links."""
    make_program(tmp_path / "tools/v1/pkg/cli.sh")
    (tmp_path / "tools/v1/.bin").mkdir()
    (tmp_path / "tools/v1/.bin/tool").symlink_to("../pkg/cli.sh")
    (tmp_path / "tools/cur").symlink_to("v1")
    return tmp_path / "tools"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_links_on_the_way_are_shown(sessions: Sessions, tools: Path, isolation: str) -> None:
    """Before: the directory of the real file was granted, and the exec failed all the same."""
    command = str(tools / "cur/.bin/tool")
    first = sessions.run("-s", "--isolation", isolation, "--", command)
    assert first.returncode == 126
    hint = first.stderr.splitlines()[1].removeprefix("hint: grant it with ")
    assert hint == f"--read {tools}/v1/pkg"
    done = sessions.run("-s", "--isolation", isolation, *shlex.split(hint), "--", command)
    assert done.stdout == f"started as {command}\n", done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_interpreter_outside_is_named(sessions: Sessions, tools: Path, isolation: str) -> None:
    shell = tools / "shells/real/sh"
    shell.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath("/bin/sh"), shell)
    (tools / "shells/sh").symlink_to("real/sh")
    command = make_program(tools / "v1/pkg/own.sh", str(tools / "shells/sh"))
    grant = ["--read", str(command.parent)]
    first = sessions.run("-s", "--isolation", isolation, *grant, "--", str(command))
    assert first.returncode == 126
    assert "interpreter" in first.stderr
    assert f"{tools}/shells/real/sh" in first.stderr
    hint = shlex.split(first.stderr.splitlines()[1].removeprefix("hint: grant it with "))
    done = sessions.run("-s", "--isolation", isolation, *grant, *hint, "--", str(command))
    assert done.stdout == f"started as {command}\n", done.stderr


@pytest.mark.skipif(not os.path.islink("/var/run"), reason="/var/run is no symlink here")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a directory in /run")
def test_run_is_var_run_too(sessions: Sessions) -> None:
    with tempfile.TemporaryDirectory(dir="/run") as made:
        path = Path("/var", made.lstrip("/"))
        done = sessions.run(
            "-s", "--isolation", "namespace", "--allow", made, "--", "touch", f"{path}/file"
        )
        assert done.returncode == 0, done.stderr
        assert [one.name for one in Path(made).iterdir()] == ["file"]


def test_a_link_in_a_closed_directory_is_not_made(sessions: Sessions, tools: Path) -> None:
    closed = sessions.home / ".ssh"
    closed.mkdir()
    (closed / "tool").symlink_to(tools / "v1/pkg/cli.sh")
    done = sessions.run(
        "-s", "--isolation", "namespace", "--read", str(tools / "v1/pkg"),
        "--", str(closed / "tool"),
    )  # fmt: skip
    assert done.returncode == 126


def test_what_is_started_for_a_program_is_read_from_it(tmp_path: Path) -> None:
    script = make_program(tmp_path / "script", str(make_program(tmp_path / "second")))
    found = [*interpreters(str(script))]
    assert found[:2] == [str(tmp_path / "second"), "/bin/sh"]
    assert all(os.path.exists(path) for path in found)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"#!",
        b"#! \n",
        b"\x7fELF",
        b"\x7fELF\x02\x01" + b"\xff" * 90,
        b"#!relative\n",
        b"#!/no\n",
    ],
)
def test_what_is_none_is_taken_for_none(tmp_path: Path, beginning: bytes) -> None:
    program = tmp_path / "program"
    program.write_bytes(beginning)
    assert [*interpreters(str(program))] == []


def test_a_circle_ends(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!{program}\n")
    assert len([*interpreters(str(program))]) == 5


def test_the_interpreter_of_the_tests_has_a_loader() -> None:
    found = [*interpreters(sys.executable)]
    assert not found or "ld" in found[0]
