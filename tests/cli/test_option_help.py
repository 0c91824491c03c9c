"""`run --help`: its options in groups that fit a screen, each flag and the example in one piece."""

from __future__ import annotations

import re

import pytest
from screens import Screen

from nono_trio.cli.option_help import GROUPS
from nono_trio.cli.run import run as run_command

SCREEN_LINES = 24
GROUP = re.compile(r"^(\S.*):$", re.MULTILINE)


@pytest.fixture
def groups(run, monkeypatch):
    """The lines of each group in the help of `run`, by title, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("run", "--help")
    assert code == 0
    _, *parts = GROUP.split(out)
    return {title: text.strip("\n").splitlines() for title, text in zip(*[iter(parts)] * 2)}  # noqa: B905


def test_the_groups_come_in_their_order(groups):
    assert [*groups] == [title for group, title in GROUPS.items() if group]


def test_each_group_fits_a_screen(groups):
    for title, lines in groups.items():
        assert len(lines) < SCREEN_LINES, title  # its title is a line more
        assert max(map(len, lines)) <= 80, title


def test_each_option_is_in_the_group_of_its_declaration(groups):
    for option in run_command.params:
        if flags := [flag for flag in option.opts if flag.startswith("--")]:
            title = GROUPS[option.group if hasattr(option, "group") else "output"]
            assert re.search(rf"^  (-\w, )?{flags[0]}\b", "\n".join(groups[title]), re.MULTILINE)


@pytest.mark.parametrize("columns", [60, 72, 80, 100])
def test_no_flag_is_broken_and_the_example_is_one_line(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run("run", "--help")
    assert not re.search(r"--?[a-z-]*-$", out, re.MULTILINE)
    assert out.isascii()
    assert re.search(r"^Example: nono-trio run .* -- agent --fix$", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["proxy", "shell", "why"])
def test_other_commands_with_these_options_have_the_groups_too(run, command):
    _, out, _ = run(command, "--help")
    assert [title for title in GROUP.findall(out) if title == "Options"] == ["Options"]
    assert {"Network", "Audit"} <= {*GROUP.findall(out)}


def test_titles_are_bold_on_a_terminal_only(run, monkeypatch):
    shown = Screen(monkeypatch).run("run", "--help")
    assert "\x1b[1mNetwork\x1b[0m:" in shown.raw
    assert "\x1b" not in run("run", "--help")[1]
