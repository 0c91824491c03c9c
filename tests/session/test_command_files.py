"""Files of a session in the state directory: made exclusively, gone with the session."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nono_trio.session import abandoned_entries
from nono_trio.session.command_files import CommandFiles


def test_files_can_be_read_by_others_and_their_directory_not(tmp_path) -> None:
    before = os.umask(0o077)
    try:
        files = CommandFiles(tmp_path, "trust")
        path = Path(files.write("bundle", b"data"))
    finally:
        os.umask(before)
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files.close()
    files.close()
    assert not path.parent.exists()


def test_a_file_is_made_once(tmp_path) -> None:
    files = CommandFiles(tmp_path, "trust")
    files.write("bundle", b"one")
    with pytest.raises(FileExistsError):
        files.write("bundle", b"two")
    files.close()


def test_what_a_killed_session_left_is_removed_and_a_live_ones_is_not(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(abandoned_entries, "ABANDONED_SECONDS", -1.0)
    live = CommandFiles(tmp_path, "trust")
    kept = Path(live.write("bundle", b"data"))
    for name in ("dead", "unfinished"):
        (tmp_path / "trust" / name).mkdir()
    for name in ("lock", "bundle"):
        (tmp_path / "trust" / "dead" / name).write_text("")
    (tmp_path / "trust" / "elsewhere").symlink_to(tmp_path)
    CommandFiles(tmp_path, "trust").close()
    left = sorted(path.name for path in (tmp_path / "trust").iterdir())
    assert left == sorted([kept.parent.name, "elsewhere"])
    assert kept.exists()
    live.close()
