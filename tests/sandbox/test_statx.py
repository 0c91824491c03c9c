"""What the kernel knows of a file, as os.lstat and os.stat say it of a file system that answers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from nono_trio.sandbox.statx import known_device, known_mode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="statx is a call of Linux")


def test_the_mode_is_that_of_the_name_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o640)
    (tmp_path / "directory").mkdir(0o750)
    (tmp_path / "link").symlink_to("nowhere")
    for path in tmp_path.iterdir():
        assert known_mode(os.fsencode(path)) == os.lstat(path).st_mode


def test_the_device_is_that_of_the_open_file(tmp_path: Path) -> None:
    for path in (str(tmp_path), "/proc/self/status", "/dev/null"):
        file = os.open(path, os.O_RDONLY)
        try:
            device = os.fstat(file).st_dev
            assert known_device(file) in (None, (os.major(device), os.minor(device)))
        finally:
            os.close(file)


def test_what_is_missing_raises_the_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="statx"):
        known_mode(os.fsencode(tmp_path / "missing"))
