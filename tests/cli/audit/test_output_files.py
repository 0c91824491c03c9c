"""Where `-o` of the audit commands puts a file, and where not."""

from __future__ import annotations

import signal

import pytest
from archived import ID, sealed

from nono_trio.audit import store
from nono_trio.cli.output_file import output_file


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
