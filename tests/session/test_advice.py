"""Warnings before a run about what would fail later in other words; each with its grant."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import RUN_SECONDS, as_user, landlock_isolation

if TYPE_CHECKING:
    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


def grant_in(warning: str, flag: str) -> list[str]:
    """The flag with its path, as a person would paste it."""
    return shlex.split(re.findall(rf"({flag} \S+?)[\s)]", warning)[0])


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_certificates_that_the_environment_names(
    sessions: Sessions, tmp_path: Path, isolation: str
) -> None:
    bundle = tmp_path / "company ca" / "ca.pem"
    bundle.parent.mkdir()
    bundle.write_text("certificates\n")
    sessions.variables |= {"SSL_CERT_FILE": str(bundle), "NODE_EXTRA_CA_CERTS": str(bundle)}
    sessions.variables |= {"SSL_CERT_DIR": "/etc/ssl/certs", "PIP_CERT": "/nonexistent.pem"}
    command = ("--", "sh", "-c", 'cat "$SSL_CERT_FILE"')
    done = sessions.run("--isolation", isolation, *command)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "is outside the cage (grant" in line]
    assert told == [
        f"nono-trio: warning: SSL_CERT_FILE, NODE_EXTRA_CA_CERTS: {bundle} is outside the cage"
        f" (grant it with --read-file '{bundle}')"
    ]
    done = sessions.run("--isolation", isolation, "--read-file", str(bundle), *command)
    assert (done.returncode, done.stdout) == (0, "certificates\n")
    assert "is outside the cage (grant" not in done.stderr


def test_certificates_in_lists_and_in_closed_places(sessions: Sessions, tmp_path: Path) -> None:
    """A grant of a closed path needs one more flag, and the warning has it."""
    listed = tmp_path / "listed"
    closed = sessions.home / ".ssh" / "ca.pem"
    for directory in (listed, closed.parent):
        directory.mkdir()
    closed.write_text("certificates\n")
    sessions.variables |= {"SSL_CERT_DIR": f"/etc/ssl/certs:{listed}", "PIP_CERT": str(closed)}
    told = sessions.run("--", "true").stderr
    assert grant_in(told, "--read") == ["--read", str(listed)]
    (flags,) = re.findall(r"PIP_CERT: .*grant it with (.*)\)", told)
    done = sessions.run(*shlex.split(flags), "--", "sh", "-c", 'cat "$PIP_CERT"')
    assert (done.returncode, done.stdout) == (0, "certificates\n"), done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("where", ["repository/deep/er", "tree/deep/er", "borrower"])
def test_what_git_misses_around_a_directory_is_named(
    sessions: Sessions, tmp_path: Path, isolation: str, where: str
) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    script = """
        git init -q repository && cd repository
        git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m first
        git worktree add -q ../tree
        git clone -q --shared . ../borrower
        mkdir -p deep/er ../tree/deep/er
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, check=True)
    options = ("--isolation", isolation, "--allow-cwd")
    look = ("--", "git", "log", "--format=%s")
    done = sessions.run(*options, *look, cwd=tmp_path / where)
    assert done.returncode != 0
    (warning,) = [line for line in done.stderr.splitlines() if "outside the cage (" in line]
    flags = [word for pair in re.findall(r"(--read) (/[^\s)]+)", warning) for word in pair]
    done = sessions.run(*options, *flags, *look, cwd=tmp_path / where)
    assert (done.returncode, done.stdout) == (0, "first\n"), done.stderr
    assert "outside the cage (" not in done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_git_worktree_names_its_repository(
    sessions: Sessions, tmp_path: Path, isolation: str
) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    script = """
        git init -q repository && cd repository
        git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m first
        git worktree add -q ../tree
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, check=True)
    options = ("--isolation", isolation, "--allow-cwd")
    look = ("--", "git", "log", "--format=%s")
    done = sessions.run(*options, *look, cwd=tmp_path / "tree")
    assert done.returncode != 0
    grant = grant_in(done.stderr, "--read")
    assert grant == ["--read", str(tmp_path / "repository" / ".git")]
    done = sessions.run(*options, *grant, *look, cwd=tmp_path / "tree")
    assert (done.returncode, done.stdout) == (0, "first\n"), done.stderr
    assert "git worktree" not in done.stderr


@pytest.mark.parametrize(
    "text",
    [b"gitdir: /etc\n", b"gitdir: /etc\0\n", b"\xff\xfe", b"gitdir: \x1b[2J\n", b"x" * 9000],
)
def test_a_file_that_only_looks_like_a_worktrees_names_nothing(
    sessions: Sessions, tmp_path: Path, text: bytes
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / ".git").write_bytes(text)
    done = sessions.run("--allow-cwd", "--", "true", cwd=work)
    assert done.returncode == 0
    assert "is a git worktree" not in done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_file_by_itself_can_be_written_but_not_replaced(
    sessions: Sessions, tmp_path: Path, isolation: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "facts.db"
    file.write_text("old\n")
    replace = ("--", "sh", "-c", f"echo new >{data}/next && mv {data}/next {file}")
    done = sessions.run("--isolation", isolation, "--allow-file", str(file), *replace)
    assert done.returncode != 0
    assert "can be written in place, not replaced" in done.stderr
    assert "SQLite keeps a journal beside it" in done.stderr
    grant = grant_in(done.stderr, "--allow")
    assert grant == ["--allow", str(data)]
    done = sessions.run("--isolation", isolation, *grant, *replace)
    assert (done.returncode, file.read_text()) == (0, "new\n"), done.stderr
    assert "not replaced" not in done.stderr


CHANGES = """
import errno, json, os, sys
def outcome(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
open("f", "w").close()
with open("f") as file:
    other, own = 12345, os.getuid()
    print(json.dumps([
        *(outcome(os.chown, "f", *ids) for ids in ((other, -1), (-1, other), (other, other))),
        outcome(os.lchown, "f", other, -1), outcome(os.fchown, file.fileno(), other, -1),
        outcome(os.setuid, other), outcome(os.setgid, other),
        outcome(os.setresuid, other, -1, -1),
        outcome(os.chown, "f", own, os.getgid()), outcome(os.chown, "f", -1, -1),
        outcome(os.setuid, own),
    ]))
"""


@pytest.mark.parametrize("isolation", [*ISOLATIONS, "none"])
def test_an_id_that_is_not_ones_own_is_not_permitted(isolation: str) -> None:
    """The cage of an ordinary user maps one id; the kernel calls every other invalid there."""
    prefix, variables = as_user("ordinary", Path("/etc/passwd"))
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        (Path(name) / "work").mkdir()
        (Path(name) / "work").chmod(0o777)
        done = subprocess.run(
            [
                *prefix, "-B", "-P", "-m", "nono_trio", "run", "-s", "--isolation", isolation,
                "--allow-cwd", "--", "/usr/bin/python3" if prefix[1:] else sys.executable, "-c",
                CHANGES,
            ],
            env={"PATH": os.environ["PATH"], "HOME": name, **variables},
            cwd=Path(name) / "work", capture_output=True, text=True, check=False,
            timeout=RUN_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ["EPERM"] * 8 + ["done"] * 3
