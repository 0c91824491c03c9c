"""What a later run executes or obeys stays as it is, whatever the command may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import RUN_SECONDS

import nono_trio
from nono_trio.errors import UsageError
from nono_trio.sandbox import program
from nono_trio.sandbox.plan import Grant

PACKAGE = Path(nono_trio.__file__).resolve().parent


def grant(path, access="readwrite"):
    return Grant(str(path), access, False, "--allow", asked_for=True)


# -- our own code ---------------------------------------------------------------------------------


def test_our_package_and_the_interpreter_are_among_it():
    paths = program.program_paths()
    for needed in (str(PACKAGE), os.path.realpath(sys.executable), os.__file__):
        real = os.path.realpath(needed)
        assert any(real == one or real.startswith(one + "/") for one in paths)
    assert str(PACKAGE.parent) not in paths or PACKAGE.parent.name == "site-packages"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A directory to grant with our code inside it, and some of it not there yet."""
    (tmp_path / "tree" / "ours").mkdir(parents=True)
    monkeypatch.setattr(program, "program_paths", lambda: [str(tmp_path / "tree" / "ours")])
    return tmp_path / "tree"


def test_it_is_kept_inside_a_grant_for_writing_only(tree):
    ours = str(tree / "ours")
    assert [*program.kept_paths([grant(tree)], (), can_cover=True)] == [ours]
    assert program.kept_paths([grant(tree, "read")], (), can_cover=False) == {}
    assert program.kept_paths([grant(tree)], [ours], can_cover=False) == {}
    assert program.kept_paths([grant(tree / "other")], (), can_cover=False) == {}


@pytest.mark.parametrize(
    ("below", "can_cover", "text"),
    [
        ("", False, "write {ours}, which is nono-trio's own code"),
        ("ours", True, "write {ours}, which is nono-trio's own code"),
        ("ours/lib", True, "write {ours}, which is nono-trio's own code"),
    ],
)
def test_a_grant_that_would_open_it_is_refused(tree, below, can_cover, text):
    with pytest.raises(UsageError) as caught:
        program.kept_paths([grant(tree / below)], (), can_cover=can_cover)
    assert text.format(ours=tree / "ours") in caught.value.message
    assert f"--bypass-protection {tree / 'ours'}" in (caught.value.hint or "")


def test_code_that_is_not_there_yet_can_not_be_kept(tree):
    (tree / "ours").rmdir()
    with pytest.raises(UsageError, match=r"would let the command create .* imports"):
        program.kept_paths([grant(tree)], (), can_cover=True)


def test_the_command_can_neither_change_nor_replace_it(sessions, tmp_path):
    """A copy of ours inside the grant, two directories deep, and a command that wants it."""
    deep = tmp_path / "granted" / "some" / "lib"
    shutil.copytree(PACKAGE, deep / "nono_trio", ignore=shutil.ignore_patterns("__pycache__"))
    script = f"""
    cat {deep}/nono_trio/py.typed && echo read
    echo x 2>/dev/null >{deep}/nono_trio/x || echo refused
    mv {deep}/nono_trio {deep}/moved 2>/dev/null || echo refused
    mv {deep} {deep}2 2>/dev/null || echo refused
    mv {deep.parent} {deep.parent}2 2>/dev/null || echo refused
    echo x >{deep}/beside && echo written
    """
    main = "from nono_trio.cli.main import main; main()"
    options = ["--isolation", "namespace", "--allow", str(tmp_path / "granted")]
    done = subprocess.run(
        [sys.executable, "-c", main, "run", *options, "--", "sh", "-c", script],
        env={**sessions.environment, "PYTHONPATH": str(deep)},
        cwd=sessions.home, capture_output=True, text=True, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stdout.split() == ["read", *["refused"] * 4, "written"], done.stderr
    assert f"{deep}/nono_trio is nono-trio's own code and stays read-only" in done.stderr
    assert (deep / "beside").exists()


# -- profiles, registries, programs ---------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_profiles_that_are_not_there_yet_can_not_be_made(sessions, isolation):
    config = sessions.home / ".config"
    config.mkdir()
    command = ["--isolation", isolation, "--allow", str(config), "--", "true"]
    done = sessions.run(*command)
    assert done.returncode == 2
    assert "nono-trio" in done.stderr
    assert "--bypass-protection" in done.stderr


def test_what_lifts_the_refusal(sessions):
    config = sessions.home / ".config"
    config.mkdir()
    made = f"mkdir {config}/nono-trio 2>/dev/null && echo made"
    command = ["--isolation", "namespace", "--allow", str(config), "--", "sh", "-c", made]
    done = sessions.run(*command)
    assert f"would let the command create {config}/nono-trio" in done.stderr
    lifted = sessions.run("--bypass-protection", f"{config}/nono-trio", *command)
    assert (lifted.returncode, lifted.stdout) == (0, "made\n")
    assert sessions.run(*command).stdout == ""  # it is there now, and covered


@pytest.mark.parametrize(
    ("granted", "warned"),
    [(".cargo", ".cargo/config.toml"), (".config", ".config/pip/pip.conf"), ("work", None)],
)
def test_registries_that_a_later_run_would_believe(sessions, granted, warned):
    work = sessions.home / "work"
    for path in (work, sessions.home / ".config" / "nono-trio", sessions.home / ".cargo"):
        path.mkdir(parents=True)
    sessions.variables = {"VIRTUAL_ENV": str(work / ".venv")}
    done = sessions.run("--dry-run", "-a", str(sessions.home / granted), "--", "true", cwd=work)
    assert done.returncode == 0, done.stderr
    assert (f"{sessions.home}/{warned}" in done.stderr) is (warned is not None)
    assert ("a later run with package_registries" in done.stderr) is (warned is not None)


def test_programs_that_would_be_run_outside_of_a_cage(monkeypatch, tmp_path):
    for name in ("bin", "project/bin"):
        (tmp_path / name).mkdir(parents=True)
    path = f"{tmp_path}/bin:{tmp_path}/project/bin:{tmp_path}/missing::relative"
    monkeypatch.setenv("PATH", path)
    work = str(tmp_path / "project")
    (warning,) = program.search_path_warnings([grant(tmp_path)], work, ())
    assert f"--allow {tmp_path} lets the command change the programs in {tmp_path}/bin" in warning
    assert not [*program.search_path_warnings([grant(tmp_path, "read")], work, ())]
    assert not [*program.search_path_warnings([grant(tmp_path)], str(tmp_path), ())]
    assert not [*program.search_path_warnings([grant(tmp_path)], work, [f"{tmp_path}/bin"])]
