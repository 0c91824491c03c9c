"""The session's own temporary directory: what a hostile command leaves in it, who removes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import wait_until

from nono_trio.sandbox.launcher.tempdir import make_temporary, remove_temporary

if TYPE_CHECKING:
    from harness import Sessions


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Path(make_temporary())


def test_nothing_outside_is_followed_or_touched(tmp_path, temporary):
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "kept").write_text("kept")
    (temporary / "to_directory").symlink_to(outside)
    (temporary / "to_file").symlink_to(outside / "kept")
    (temporary / "a" / "b").mkdir(parents=True)
    (temporary / "a" / "b" / "up").symlink_to("../../..")
    os.link(outside / "kept", temporary / "a" / "linked")
    outside.chmod(0o755)
    assert remove_temporary(str(temporary))
    assert not temporary.exists()
    assert (outside / "kept").read_text() == "kept"
    assert (outside / "below").is_dir()
    assert outside.stat().st_mode & 0o777 == 0o755


def test_a_symlink_in_its_own_place_is_left_alone(tmp_path, temporary):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    temporary.rmdir()
    temporary.symlink_to(other)
    assert not remove_temporary(str(temporary))
    assert (other / "kept").exists()


def test_a_tree_deeper_than_any_recursion_and_any_path(temporary):
    descriptor = os.open(temporary, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert remove_temporary(str(temporary), 60.0)  # however busy the machine is
    assert not temporary.exists()


def test_directories_that_forbid_everything(temporary):
    for path in ("a/b/c", "a/d"):
        (temporary / path).mkdir(parents=True)
        (temporary / path / "file").touch()
    for path in ("a/b/c", "a/b", "a/d", "a", ""):
        (temporary / path).chmod(0)
    assert remove_temporary(str(temporary))
    assert not temporary.exists()


def test_what_it_takes_is_bounded(temporary):
    (temporary / "file").touch()
    assert not remove_temporary(str(temporary), seconds=-1)
    assert (temporary / "file").exists()
    assert remove_temporary(str(temporary))
    assert remove_temporary(str(temporary))  # gone already: nothing is left


_FILL = (
    'echo "$TMPDIR"; mkdir -p "$TMPDIR/a/b"; ln -s "$HOME" "$TMPDIR/a/home"; chmod 0 "$TMPDIR/a"'
)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_gone_after_the_session_however_that_ended(sessions: Sessions, end):
    (sessions.home / "kept").touch()
    command = ["--isolation", "landlock", "--", "sh", "-c", f"{_FILL}; exec sleep 60"]
    with sessions.started("run", "-s", *command) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert directory.name.startswith("nono-trio-")
        assert directory.is_dir()
        process.send_signal(end)
        wait_until(lambda: not directory.exists(), "the temporary directory is gone")
    assert (sessions.home / "kept").exists()
