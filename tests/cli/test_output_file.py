"""The file of `--output`, by every command that has it: no link is followed, nothing is half."""

from __future__ import annotations

import os
import stat

import pytest
import signed_session as signed

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
