"""A state directory that can't be read: each command says so, with a hint, and ends with 2."""

from __future__ import annotations

import errno
import os

import pytest

from nono_trio.cli.output_file import output_file
from nono_trio.errors import UsageError

COMMANDS = [
    "list", "show latest", "tail", "search", "hosts", "learn latest", "verify --all",
    "export --all", "cleanup --keep 1", "recover --all", "forget latest", "forget 0123456789abcdef",
    "ledger verify", "export-session latest -o {place}", "report --all -o {place}",
    "ship --all --to file://{place}",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_directory_of_the_sessions_can_not_be_read(run, root, tmp_path, command):
    root.write_text("no directory")
    words = command.format(place=tmp_path / "place").split()
    code, out, err = run("audit", *words)
    assert code == 2
    assert "can't be" in out + err
    assert "ls -ld" in out + err
    assert not (tmp_path / "place").exists()


def test_the_progress_of_ship_can_not_be_kept(run, root, tmp_path):
    root.mkdir()
    (tmp_path / "ship").write_text("no directory")
    code, _, err = run("audit", "ship", "--all", "--to", f"file://{tmp_path}/out")
    assert (code, "the progress can't be kept" in err) == (2, True)
    assert f"hint: look at it: ls -ld {tmp_path}\n" in err


def test_a_disk_without_room_is_looked_at_as_a_disk(tmp_path):
    def fail():
        with output_file(str(tmp_path / "new"), replace=False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UsageError) as raised:
        fail()
    assert raised.value.hint == f"see what room is left: df -h {tmp_path}"


@pytest.mark.parametrize("url", ["https://a.example/session.tar", "s3://bucket/session.tar"])
def test_an_archive_at_a_url_is_not_imported(run, url):
    code, _, err = run("audit", "import", url)
    assert (code, f"expected a file, got the URL {url}" in err, "hint: copy" in err) == (
        2,
        True,
        True,
    )
