"""Fixtures that the tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import Origin, Sessions, serving
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# No deadline for one example, because a busy machine is no fault; the tests have their own bounds.
settings.register_profile("nono-trio", deadline=None)
settings.load_profile("nono-trio")

# Who starts the tests may ignore these (nohup, a job in the background); a command inherits that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Ten thousand tests stay as long as the process: no search for garbage looks at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    """A state directory and a home for one test."""
    home = tmp_path / "home"
    home.mkdir()
    return Sessions(tmp_path / "state", home)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory of the sessions, below the state directory of `run`."""
    return tmp_path / "audit"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process with its own state: (exit code, stdout, stderr)."""
    from nono_trio.cli import main

    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("NONO_PROXY_TOKEN", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main.exit_code([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may enter and write. pytest's own directories are closed to other
    users, and each pytest that starts beside this one closes them again."""
    made = Path(tempfile.mkdtemp(prefix="nono-trio-", dir="/var/tmp"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An HTTP origin on the host's loopback."""
    server = Origin()
    with serving(server):
        yield server


@pytest.fixture
def own(sessions):
    """The user's profile directory: write(name, text)."""
    directory = sessions.home / ".config/nono-trio/profiles"
    directory.mkdir(parents=True)

    def write(name, text):
        (directory / name).write_text(text)
        return directory / name

    return write


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if the machine has one, because hundreds of real syncs are slow."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)
