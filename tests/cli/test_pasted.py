"""After --audit-dir, commands in hints look in that directory when they are pasted."""

from __future__ import annotations

import re
import shlex

import pytest
import sealed_session as made

from nono_trio.cli.pasted import pasteable, remember_state


@pytest.fixture(autouse=True)
def forgotten():
    yield
    remember_state([])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all: nono-trio audit show abc", "all: nono-trio audit show --audit-dir '/a b' abc"),
        ("see `nono-trio audit list`", "see `nono-trio audit list --audit-dir '/a b'`"),
        ("nono-trio audit ledger repair", "nono-trio audit ledger repair --audit-dir '/a b'"),
        ("nono-trio keys generate, and", "nono-trio keys generate --audit-dir '/a b', and"),
        ("see `nono-trio ps --all`", "see `nono-trio ps --audit-dir '/a b' --all`"),
        ("nono-trio audit ledger verify --audit-dir /c", None),
        ("nono-trio audit check-proof FILE", None),
        ("nono-trio home list", None),
        ("nono-trio: the audit list", None),
    ],
)  # fmt: skip
def test_a_command_gets_the_directory_once(text, expected):
    for given in (["run", "--audit-dir", "/a b", "--", "true"], ["run", "--audit-dir=/a b"]):
        remember_state(given)
        assert pasteable(text) == (expected or text)
    for given in (["run", "--", "true", "--audit-dir", "/a b"], ["run"], ["run", "--audit-dir"]):
        remember_state(given)
        assert pasteable(text) == text


def test_the_hint_about_a_crashed_session_works_elsewhere(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / "empty"))
    made.unsealed(tmp_path / "here" / "audit", "crashed")
    code, _, err = run("audit", "verify", "crashed", "--audit-dir", tmp_path / "here")
    hint = re.search("hint: `nono-trio ([^`]*)`", err)
    assert (code, hint is not None) == (6, True), err
    assert run(*shlex.split(hint[1]))[0] == 0
    code, out, _ = run("audit", "verify", "none", "--audit-dir", tmp_path / "here")
    hint = re.search("note .*`nono-trio ([^`]*)`", out)
    assert "crashed" in run(*shlex.split(hint[1]))[1]
