"""Colour: on a terminal only, only where nothing forbids it, never by the choice of a command."""

from __future__ import annotations

import pytest
import sealed_session as made
from screens import Screen

from nono_trio.cli.style import STYLES, painted_line, painted_word

HOSTILE = ["[red]x[/red]", ":smile:", "\x1b[31mred\x1b]0;title\x07", "\u202eevil", "日本語"]


def test_an_error_is_red_and_its_hint_can_be_pasted(monkeypatch, run):
    shown = Screen(monkeypatch, 40).run("audit", "show", "nope")
    first, hint = shown.raw.splitlines()
    assert first.startswith("nono-trio: \x1b[1;31merror:\x1b[0m expected a session, got 'nope'")
    assert hint.startswith("hint: ")
    assert "\x1b" not in hint
    plain = run("audit", "show", "nope")
    assert shown.text == plain[2]


@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb"), ("TERM", "")]
)
def test_what_forbids_colour_gives_the_bytes_of_a_pipe(monkeypatch, run, root, name, value):
    made.build(root)
    screen = Screen(monkeypatch, 100)
    monkeypatch.setenv(name, value)
    for arguments in (["audit", "tail"], ["audit", "show", "nope"], ["audit", "list"]):
        code, out, err = run(*arguments)
        assert screen.run(*arguments) == (code, out + err)


def test_decisions_are_in_colour_on_a_terminal(monkeypatch, run, root):
    made.build(root)
    shown = Screen(monkeypatch).run("audit", "tail")
    assert "\x1b[1;31mdeny\x1b[0m" in shown.raw
    assert "\x1b[32mallow\x1b[0m" in shown.raw
    assert shown.text == run("audit", "tail")[1]


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("audit verify 0", "\x1b[32mverified\x1b[0m "),
        ("audit ledger verify", "\x1b[32mverified\x1b[0m "),
        ("audit why 0 --host x.test", "\x1b[1;31mdenied\x1b[0m "),
        ("why --host x.test", "\x1b[1;31mdenied\x1b[0m "),
        ("why --host x.test --allow-domain x.test", "\x1b[32mallowed\x1b[0m "),
    ],
)
def test_a_verdict_is_in_colour_on_a_terminal(monkeypatch, run, root, command, verdict):
    made.build(root)
    shown = Screen(monkeypatch).run(*command.split())
    assert shown.raw.startswith(verdict)
    assert shown.text == run(*command.split())[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_command_chooses_no_colour_and_no_picture(monkeypatch, run, root, text):
    made.build(root, payloads=[made.started(), made.network(0, "deny", text), made.ended()])
    shown = Screen(monkeypatch, 200).run("audit", "tail")
    assert shown.text == run("audit", "tail")[1]
    assert "\x1b" not in shown.text


@pytest.mark.parametrize(
    ("line", "coloured"),
    [
        ("nono-trio: error: x", "error:"),
        ("nono-trio: warning: x", "warning:"),
        ("nono-trio: 2 denied, 0 failed, 1 allowed", "2 denied"),
        ("nono-trio: denied a.test:443 (2x): not allowed", "denied"),
        ("nono-trio: failed a.test:443 (2x): refused", "failed"),
        ("nono-trio: exit code 3: --fail-on-deny", "exit code 3:"),
        ("12:03:04.123+02:00 deny  file     ~/.ssh (read)", "deny"),
        ("12:03:04.123Z allow connect  a.test:443", "allow"),
    ],
)
def test_the_first_words_of_our_lines_have_colour(line, coloured):
    before, _, after = painted_line(line).partition(coloured)
    assert before.partition("\x1b[")[0] == line.partition(coloured)[0]
    assert after == "\x1b[0m" + line.partition(coloured)[2]


@pytest.mark.parametrize(
    "line",
    ["hint: nono-trio audit list", "nono-trio: 0 denied, 1 failed, 3 allowed", "error: x",
     "nono-trio: to allow: --allow-domain denied.test", "nono-trio: deniedx"],
)  # fmt: skip
def test_other_lines_stay_plain(line):
    assert painted_line(line) == line


def test_a_word_without_a_meaning_stays_plain():
    assert painted_word("nothing") == "nothing"
    assert all(painted_word(word) != word for word in STYLES)
