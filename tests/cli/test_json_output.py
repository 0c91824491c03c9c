"""JSON for `--json`: valid, of one line, and harmless on a terminal, whatever is in it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.cli.json_output import json_text
from nono_trio.cli.main import exit_code


@dataclass
class Row:
    """A value that a command may print."""

    name: str
    count: int


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_every_text_goes_out_and_comes_back(value):
    text = json_text({"value": value})
    assert text.isprintable()
    assert json.loads(text) == {"value": value}


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J", "\x9b2J", "\u202egnp.exe", "\u2028", "\x7f", "\udc80", "\U000e0001", "\u200b"],
)
def test_what_a_terminal_would_obey_is_escaped(text):
    told = json_text(Row(text, 1))
    assert told.isprintable()
    assert json.loads(told) == {"name": text, "count": 1}


def test_words_stay_as_they_are():
    assert json_text({"a": "bücher 本"}) == '{"a":"bücher 本"}'


def test_a_path_that_is_not_utf_8_is_no_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(b"/nowhere/\xff\x9b")
    assert exit_code(["why", "--json", "--path", path]) == 0
    assert json.loads(capsys.readouterr().out)["subject"] == f"read {path}"


ASKED = [
    ["inspect"], ["stop"], ["audit", "show"], ["audit", "tail"], ["audit", "recover"],
    ["audit", "verify"], ["audit", "learn"], ["audit", "forget"],
]  # fmt: skip
ODD = os.fsdecode(b"no-\xff-session")


@pytest.mark.parametrize("name", ["missing", ODD])
@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_a_missing_session_is_an_object_too(command, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / os.fsdecode(b"state-\xff")))
    code = exit_code([*command, "--json", name])
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["schema"] == 1
    if command != ["audit", "verify"]:  # whose answer has a verdict for it
        assert answer["error"]["exit_code"] == code == 2
        assert answer["error"]["message"]
        assert told.err.startswith("nono-trio: error: ")
    assert code == 2


@pytest.mark.parametrize(
    "command",
    [["ps"], ["audit", "list"], ["audit", "recover", "--all"], ["home", "list"], ["doctor"]],
    ids=" ".join,
)
def test_nothing_to_tell_is_an_object_too(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / os.fsdecode(b"state-\xff")))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / os.fsdecode(b"data-\xff")))
    exit_code([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["schema"] == 1


def test_a_mistake_on_the_command_line_is_an_object_too(capsys):
    assert exit_code(["ps", "--json", "--nothing"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["hint"] == "see `nono-trio ps --help`"


def test_the_json_flag_of_a_command_that_is_run_is_its_own(capsys):
    assert exit_code(["run", "--nothing", "--", "tool", "--json"]) == 2
    assert capsys.readouterr().out == ""
