"""Lines for people while a session lives, where the system refuses the thread that writes them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import click
import pytest

from nono_trio.cli import main
from nono_trio.cli.steady import SteadyOutput

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture(autouse=True)
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pipe" not in request.fixturenames:
        return

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_without_a_thread_the_end_writes_the_lines(pipe: tuple[int, int]) -> None:
    """It waited for 30 seconds for a thread that was never there, and the lines were lost."""
    reading, writing = pipe
    output = SteadyOutput(writing)
    output.write_line("error: the reason")
    output.write_line("hint: the way out")
    assert output.finish()
    assert os.read(reading, 100) == b"error: the reason\nhint: the way out\n"
    assert output.finish(0)  # nothing is left


def test_without_a_thread_a_full_pipe_holds_nobody_up(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    output = SteadyOutput(writing)
    for _ in range(200):
        output.write_line("x" * 1000)
    assert not output.finish(0.05)


def test_a_library_that_memory_is_too_short_for_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback: the loader's error is an ImportError like any other."""

    def invoke(_context: click.Context) -> int:
        raise ImportError("/usr/lib/library.so: failed to map segment from shared object")

    monkeypatch.setattr(main.cli, "invoke", invoke)
    assert main.exit_code(["run", "--", "true"]) == 1
    assert "nono-trio: error: there is not enough memory for that\n" in capsys.readouterr().err
