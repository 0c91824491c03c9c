"""Tables and panels: on a real terminal of three widths, with text that tries to be more."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sealed_session as made
from harness import NONO_TRIO, RUN_SECONDS
from rich.cells import cell_len
from screens import Screen
from terminals import Terminal

import nono_trio
from nono_trio.cli.tables import LEAST_WIDTH

WIDTHS = [40, 80, 200]
RED = "\x1b[1;31m"
HOSTILE = {
    "[red]x[/red].test": "[red]x[/red].test",
    ":smile:.test": ":smile:.test",
    "\x1b[31mred\x1b]0;title\x07": r"\x1b[31mred\x1b]0;title\x07",
    "\u202eevil": r"\u202eevil",
    "長い名前の長い名前.test": "長い名前の長い名前.test",
    "a" * 150: "a" * 150,
}
DRAWN = ["audit list", "audit show 0", "ps --all", "inspect 0"]
FRAME = re.compile(r"^[╭│╰].*[╮│╯]$")


@pytest.fixture
def hostile(root, tmp_path, monkeypatch):
    """A session whose hosts, name and command are hostile."""
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))
    denied = [made.network(number, "deny", host) for number, host in enumerate(HOSTILE)]
    allowed = [made.network(number, "allow", f"h{number}.test") for number in range(40)]
    made.build(
        root,
        payloads=[made.started(), *denied, *allowed, made.ended(1)],
        name="[blue]:boom:[/blue] 長い",
        working_directory="/home/長い/[bold]a[/bold]",
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", DRAWN)
def test_everything_fits_the_width(monkeypatch, hostile, command, width):
    shown = Screen(monkeypatch, width).run(*command.split())
    assert shown.code == 0
    drawn = [line for line in shown.lines if not line.startswith(("nono-trio: ", "proof "))]
    assert drawn
    assert max(map(cell_len, drawn)) <= width
    framed = {cell_len(line) for line in drawn if FRAME.match(line)}
    assert len(framed) <= 1  # every border is in its column


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_text_is_shown_as_it_is_and_does_nothing(monkeypatch, hostile, width):
    shown = Screen(monkeypatch, width).run("audit", "show", "0")
    assert shown.text.replace("\n", "").isprintable()
    joined = re.sub(r"[│\s]", "", shown.text)
    for text in [*HOSTILE.values(), "[blue]:boom:[/blue]長い"]:
        for piece in re.findall(r"\[.*?\]|:\w+:|長い|\\\w+", text):
            assert piece in joined
    assert "a" * 10 in joined
    if width == 200:
        for text in HOSTILE.values():
            assert f"deny      {text}:443 " in shown.text


def test_denials_are_red(monkeypatch, hostile):
    shown = Screen(monkeypatch, 80).run("audit", "show", "0")
    assert shown.raw.count(f"{RED}deny") == 2 * len(HOSTILE)  # hosts and timeline
    listed = Screen(monkeypatch, 80).run("audit", "list")
    assert f"{RED}   6" in listed.raw


def test_columns_that_do_not_fit_are_left_out_and_named(monkeypatch, hostile):
    wide = Screen(monkeypatch, 200).run("audit", "list")
    assert wide.lines[0].split() == [
        "ID", "NAME", "STARTED", "STATUS", "EVENTS", "DENY", "FAIL", "ALLOW", "COMMAND",
    ]  # fmt: skip
    assert "no room" not in wide.text
    narrow = Screen(monkeypatch, 40).run("audit", "list")
    assert narrow.lines[0].split() == ["ID", "STATUS", "COMMAND"]
    assert "0123456789abcdef" in narrow.text
    assert "no room for NAME, STARTED, EVENTS, DENY, FAIL, ALLOW" in " ".join(narrow.text.split())


def test_a_command_to_paste_is_one_line(monkeypatch, hostile):
    monkeypatch.setattr("nono_trio.audit.verify.on_the_way.PROVED_BYTES", 0)
    shown = Screen(monkeypatch, 40).run("audit", "show", "0")
    assert shown.lines[-1] == ("proof not verified: `nono-trio audit verify 0123456789abcdef`")


@pytest.mark.parametrize("command", [*DRAWN, "profile list"])
@pytest.mark.parametrize("name", ["NO_COLOR", "CI", "TERM"])
def test_without_colour_a_terminal_gets_the_lines_of_a_pipe(
    monkeypatch, run, hostile, command, name
):
    screen = Screen(monkeypatch, 100)
    monkeypatch.setenv(name, "dumb")
    code, out, err = run(*command.split())
    assert screen.run(*command.split()) == (code, out + err)


def test_a_terminal_without_the_lines_of_panels_gets_those_of_a_pipe(monkeypatch, run, hostile):
    shown = Screen(monkeypatch, 100, encoding="ascii").run("audit", "show", "0")
    assert shown.text.isascii()
    assert "\x1b" not in shown.raw


def test_a_terminal_too_narrow_for_a_table_gets_the_lines_of_a_pipe(monkeypatch, hostile):
    shown = Screen(monkeypatch, LEAST_WIDTH - 1).run("audit", "list")
    assert "\x1b" not in shown.raw
    assert "EVENTS" in shown.lines[0]


@pytest.mark.parametrize(("rows", "is_paged"), [(5, True), (7, False)])
def test_a_list_higher_than_the_terminal_has_a_pager(sessions, rows, is_paged):
    for number in range(4):
        made.build(sessions.state / "audit", f"{number}123456789abcdef")
    sessions.variables = {"TERM": "xterm", "PAGER": "sed s/^/paged:/"}
    script = f"stty rows {rows} cols 120; exec {NONO_TRIO} audit list"
    terminal = Terminal(sessions, "-c", script, program=("sh",))
    assert terminal.exit_code() == 0
    assert terminal.seen.count("paged:") == (5 if is_paged else 0)
    assert terminal.seen.count("123456789abcdef") == 4


def test_a_folded_text_is_set_in_from_the_next_one(monkeypatch, hostile):
    shown = Screen(monkeypatch, 60).run("audit", "show", "0")
    start = next(number for number, line in enumerate(shown.lines) if "records" in line)
    assert re.match(r"│ records  \d+ in +│$", shown.lines[start])
    assert re.match(r"│ {12}/\S+ +│$", shown.lines[start + 1])


def test_a_profile_is_described_in_whole_words(monkeypatch):
    shown = Screen(monkeypatch, 60).run("profile", "list")
    assert shown.lines[0].split() == ["NAME", "SOURCE", "DESCRIPTION"]
    assert max(map(cell_len, shown.lines)) <= 60
    assert "…" not in shown.text


def test_the_findings_of_doctor_are_folded_below_themselves(monkeypatch):
    shown = Screen(monkeypatch, 80).run("doctor")
    fixes = [line for line in shown.lines if line.lstrip().startswith("get it: ")]
    findings = [line for line in shown.lines[:-1] if line not in fixes]
    assert max(map(cell_len, findings)) <= 80
    assert all(re.match(r"(ok|missing|unknown| ) ", line) for line in findings)


def test_a_run_on_a_terminal_never_imports_rich(sessions):
    """Nor does `run --help`."""
    code = (
        "import sys; from nono_trio.cli.main import exit_code\n"
        "for line in ('run --help', 'run -v --follow -- true'):\n"
        "    assert exit_code(line.split()) == 0\n"
        "sys.exit('rich' in sys.modules)"
    )
    master, slave = pty.openpty()
    environment = {**sessions.environment, "TERM": "xterm"}
    for name in ("CI", "NO_COLOR"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    ) as process:
        os.close(slave)
        seen = b""
        while chunk := _read(master):
            seen += chunk
        assert process.wait(RUN_SECONDS) == 0, seen
    os.close(master)
    assert b"\x1b[1mNetwork" in seen


def _read(master):
    try:
        return os.read(master, 65_536)
    except OSError:
        return b""


def test_one_file_imports_rich():
    package = Path(nono_trio.__file__).parent
    importing = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(from|import) rich\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert importing == ["cli/rich_output.py"]
