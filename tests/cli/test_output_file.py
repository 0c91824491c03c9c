"""The file of `-o`, by every command that has it: where it may be, and that it is never half."""

from __future__ import annotations

import os
import signal
import stat

import pytest
import signed_session as signed
from archived import ID, sealed

from nono_trio.audit import store
from nono_trio.cli.output_file import output_file
from nono_trio.errors import LogUnreadable, UsageError

# Those with --force replace a file with it only.
COMMANDS = {
    "export": (),
    "prove": (),
    "report": ("--force",),
    "export-session": ("--force",),
}


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    signed.sealed(state / "audit", signed.signer())
    return state


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_replaced_and_no_link_or_pipe_is(run, state, tmp_path, command):
    number = (1,) if command == "prove" else ()
    force = COMMANDS[command]
    work = tmp_path / "work"
    work.mkdir()
    target, link, pipe, file = (work / name for name in ("target", "link", "pipe", "file"))
    target.write_text("mine")
    link.symlink_to(target)
    os.mkfifo(pipe)

    def written_to(place, *flags):
        words = ("audit", command, signed.ID, *number, "-o", place, *flags)
        code, _, err = run(*words, "--audit-dir", state)
        return code, "hint: " in err

    for place in (link, pipe, tmp_path):
        for flags in {(), force}:
            assert written_to(place, *flags) == (2, True)
    assert (target.read_text(), link.is_symlink()) == ("mine", True)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert written_to(file)[0] == 0
    content = file.read_bytes()
    file.write_text("mine")
    if force:
        assert written_to(file) == (2, True)
        assert file.read_text() == "mine"
    assert written_to(file, *force)[0] == 0
    assert len(file.read_bytes()) == len(content)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {one.name for one in work.iterdir()} == {"target", "link", "pipe", "file"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), UsageError),
        (OSError(5, "Input/output error", "/elsewhere/audit-events.ndjson"), LogUnreadable),
    ],
)
def test_an_error_says_which_file_it_is_about(tmp_path, error, told):
    def fail():
        with output_file(str(tmp_path / "new"), replace=False) as file:
            file.write(b"half")
            raise error

    with pytest.raises(told) as raised:
        fail()
    assert (error.filename or str(tmp_path / "new")) in raised.value.message
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "words",
    [
        ("export", ID),
        ("export-session", ID, "--force"),
        ("report", ID, "--force"),
        ("prove", ID, 1),
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_written_among_the_sessions(run, root, words):
    directory = sealed(root)
    before = {one: one.read_bytes() for one in root.rglob("*") if one.is_file()}
    for place in (directory / store.LOG, root / "ledger.ndjson", root / "new", directory / "new"):
        code, _, err = run("audit", *words, "-o", place)
        assert (code, "where logs are kept" in err) == (2, True)
    assert {one: one.read_bytes() for one in root.rglob("*") if one.is_file()} == before


def test_a_hyphen_is_stdout(run, root, tmp_path, monkeypatch):
    sealed(root)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("audit", "export", ID, "-o", "-")
    assert (code, out[:1] == "{", len(out) > 1000) == (0, True, True)
    assert [one.name for one in tmp_path.iterdir()] == ["audit"]


def test_sigterm_leaves_no_half_of_a_file(tmp_path):
    def write_half():
        with output_file(str(tmp_path / "out"), replace=False) as file:
            file.write(b"half")
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        write_half()
    assert ended.value.code == 128 + signal.SIGTERM
    assert [*tmp_path.iterdir()] == []
