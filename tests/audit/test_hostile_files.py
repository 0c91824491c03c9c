"""State files that are huge, or dated past the calendar: a clear error, and the rest is served."""

from __future__ import annotations

import io
import os
import re
import resource
from typing import TYPE_CHECKING

import pytest
import sealed_session as made

from nono_trio.audit import ledger, store
from nono_trio.cli import main as command_line
from nono_trio.posix.safe_open import NeverWaiting, read_whole
from nono_trio.session import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HUGE = 200 * 1024**3
GOOD, BAD = "0123456789abcdef", "aaaa000000000000"
FILES = [
    store.SESSION, store.LOG, store.CHECKPOINTS, store.FLOWS, store.LOG + store.TORN,
    f"../{ledger.LEDGER}",
]  # fmt: skip
COMMANDS = [
    "audit list", "audit list --json", "audit list --status tampered", "ps --all", "ps --json",
    "audit verify --all", f"audit verify {BAD}", f"audit verify --quick {BAD}",
    f"audit show {BAD}", f"audit tail {BAD}", f"audit learn {BAD}", f"inspect {BAD}",
    f"inspect {BAD} --json", f"stop {BAD}", f"audit recover {BAD}", "audit recover --all",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command line in this process, with little memory to spare."""
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))
    monkeypatch.delenv(processes.TOKEN_VARIABLE, raising=False)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 1024**2, limits[1]))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = command_line.exit_code([*arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "not enough memory" not in err
        return code, out, err

    yield run
    resource.setrlimit(resource.RLIMIT_AS, limits)


def sparse(path: Path, at: int = 0) -> None:
    """Make the file huge; what it has stays before a hole."""
    path.touch()
    try:
        os.truncate(path, HUGE + at)
    except OSError as error:
        pytest.skip(f"this file system has no files of that size: {error}")


@pytest.mark.parametrize("name", FILES)
def test_a_huge_file_is_refused_before_it_is_read(root: Path, run, name: str) -> None:
    made.build(root, GOOD)
    directory = made.unsealed(root, BAD)
    sparse(directory / name)
    for command in COMMANDS:
        code, out, err = run(*command.split())
        assert code in (0, 1, 2, 4, 5, 6), command
        assert code == 0 or out or err.startswith("nono-trio: error: "), command
    assert GOOD in run("audit", "list")[1]
    assert BAD in run("audit", "list")[1]


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    sparse(tmp_path / "file")
    with pytest.raises(OSError, match="expected at most 10 bytes, got 214748364800"):
        read_whole(tmp_path / "file", 10)
    (tmp_path / "small").write_bytes(b"0123456789")
    assert read_whole(tmp_path / "small", 10) == b"0123456789"


DATES = [
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "-1", "",
    "2026-07-02T11:48:52+99:99", "2026-W01", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_an_impossible_date_is_nobodys_traceback(
    root: Path, run, monkeypatch: pytest.MonkeyPatch, date: str, zone: str
) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    made.build(root, GOOD)
    for session_id, fields in ((BAD, {"started": date}), ("bbbb000000000000", {"ended": date})):
        directory = made.unsealed(root, session_id)
        made.change_session(directory, **fields)
    try:
        for command in (*COMMANDS, "audit list --today", "audit list --since 2000-01-01",
                        "audit show bbbb000000000000", "audit show latest"):  # fmt: skip
            _, out, err = run(*command.split())
            assert "\x1b" not in out + err
        assert GOOD in run("audit", "list")[1]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("when", [-1e12, -(2**62) / 1e9, 1e12])
def test_a_directory_dated_where_no_calendar_goes(root: Path, run, when: float) -> None:
    directory = root / BAD
    directory.mkdir(parents=True)
    made.build(root, GOOD)
    try:
        os.utime(directory, (when, when))
    except (OSError, OverflowError):
        pytest.skip("this file system has no such times")
    for command in ("audit list", "ps", "audit verify --all", "audit list --today"):
        run(*command.split())


@pytest.mark.parametrize("flag", ["--since", "--until"])
@pytest.mark.parametrize("date", ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59-23:59"])
def test_an_impossible_day_is_a_usage_error(run, flag: str, date: str) -> None:
    code, _, err = run("audit", "list", flag, date)
    assert code == 2
    assert re.match(f"nono-trio: error: {flag}: expected a day, a time or an age, got", err)


def test_a_file_that_would_wait_is_an_error_and_not_none() -> None:
    """/proc/kmsg is called a regular file, and reads None; a link to it in a session's place ended
    every command that lists sessions with a traceback."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        with io.BufferedReader(NeverWaiting(reader)) as file:
            for read in (lambda: file.read(9), file.readline, lambda: next(file), file.read1):
                with pytest.raises(OSError, match="would wait"):
                    read()
    finally:
        os.close(writer)
