"""Where `-o` of the audit commands puts a file, and where not."""

from __future__ import annotations

import pytest
from archived import ID, sealed

from nono_trio.audit import store


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
