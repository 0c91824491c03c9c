from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from nono_trio.posix.new_file import new_file

if TYPE_CHECKING:
    from pathlib import Path


def write_new_file(path, content, *, replace):
    with new_file(path, replace=replace) as file:
        file.writelines(content)
        return file.tell()


def failing():
    yield b"half"
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_whole_or_not_there(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "new"
    with pytest.raises(OSError, match="No space"):
        write_new_file(path, failing(), replace=replace)
    assert [*tmp_path.iterdir()] == []
    assert write_new_file(path, [b"a", b"bc"], replace=replace) == 3
    with pytest.raises(OSError, match=r"No space|already"):
        write_new_file(path, failing(), replace=replace)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"abc"]


def refused(*_arguments: object, **_settings: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_that_is_taken_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "new"

    def content():
        path.write_bytes(b"somebody's")
        yield b"ours"

    with pytest.raises(FileExistsError):
        write_new_file(path, content(), replace=False)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"somebody's"]
    path.unlink()
    assert write_new_file(path, [b"ours"], replace=False) == 4
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"ours"]


def test_a_name_that_was_claimed_in_vain_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(type(tmp_path), "rename", refused)
    with pytest.raises(PermissionError):
        write_new_file(tmp_path / "new", [b"ours"], replace=False)
    assert [*tmp_path.iterdir()] == []
