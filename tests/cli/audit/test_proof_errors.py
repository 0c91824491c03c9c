"""Bad input to the commands about proofs: one sentence, a hint, and never the code of a verdict."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import signed_session as signed

from nono_trio.audit import store
from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.verify.since import read_since, verify_since

KEY = signed.signer()


@pytest.fixture
def places(run, tmp_path, monkeypatch):
    """A signed session, and files by name in the working directory."""
    session = signed.sealed(tmp_path / "audit", KEY)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "key.pem").write_text(KEY.public.pem())
    (work / "empty").touch()
    (work / "page").write_text("c2sp.org/tlog-proof@v1\n\u2026\n\nx")
    shutil.copy(session / store.CHECKPOINTS, work / "kept.ndjson")
    assert run("audit", "prove", signed.ID, 1, "-o", "good")[0] == 0
    (work / "cut").write_bytes((work / "good").read_bytes()[:-20])
    return session


WRONG = {
    "no key file": (f"verify {signed.ID} --public-key-file none", "can't be read", "ls -l none"),
    "no checkpoints": (f"verify {signed.ID} --since none", "no file none", "checkpoints.ndjson"),
    "a directory": (f"verify {signed.ID} --since .", "Is a directory", "ls -ld ."),
    "no text": (f"verify {signed.ID} --since ''", "got an empty text", "a variable"),
    "no record": (f"prove {signed.ID} 999", "got 999", f"nono-trio audit prove {signed.ID} 9"),
    "no place": (f"prove {signed.ID} 1 -o /none/proof", "can't be written", "ls -ld /none"),
    "no proof": ("check-proof none --public-key-file key.pem", "can't be read", "ls -ld none"),
    "cut": ("check-proof cut --public-key-file key.pem", "tlog-proof file", "audit prove"),
    "no text in PEM": (
        "check-proof good --public-key-file page",
        "page: expected public keys in PEM, got bytes that are not ASCII",
        "nono-trio keys export > audit-key.pem",
    ),
    "no text in a proof": (
        "check-proof page --public-key-file key.pem",
        "expected a tlog-proof file: expected a proof, got bytes that are not ASCII",
        "audit prove",
    ),
    "no kept file": (f"consistency none {signed.ID}", "a signed checkpoint", "keep a copy"),
    "empty": (f"consistency empty {signed.ID}", "signed checkpoint in empty", "keep a copy"),
    "the other log": (
        "consistency kept.ndjson ledger",
        "got the ledger",
        f"nono-trio audit consistency kept.ndjson {signed.ID}",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_error_has_a_hint_and_its_exit_code_is_that_of_wrong_input(run, places, name):
    line, message, hint = WRONG[name]
    code, out, err = run("audit", *shlex.split(line), "--json")
    assert code == 2
    answer = json.loads(out)["error"]
    assert message in answer["message"]
    assert hint in answer["hint"]
    assert f"hint: {answer['hint']}" in err
    if answer["hint"].startswith("nono-trio "):
        assert run(*shlex.split(answer["hint"])[1:])[0] == 0


def test_no_ledger_is_an_error_with_a_hint(run):
    for command in ("verify", "repair"):
        code, _, err = run("audit", "ledger", command)
        assert (code, "there is no ledger" in err, "hint: " in err) == (2, True, True)


def test_a_ledger_that_nobody_can_look_at_is_not_called_missing(run, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    code, _, err = run("audit", "ledger", "verify", "--audit-dir", str(tmp_path / "loop"))
    assert (code, "can't be read: " in err, "there is no ledger" in err) == (2, True, False)


def test_a_repair_is_proposed_for_damaged_lines_only(run, places, tmp_path):
    other = tmp_path / "other.pem"
    other.write_text(signed.signer("two").public.pem())
    shutil.copy(places.parent / LEDGER, tmp_path / "whole")
    for path, damage, proposes in (
        (other, b"", False),
        (tmp_path / "work" / "key.pem", b"{}\n", True),
    ):
        with (places.parent / LEDGER).open("ab") as ledger:
            ledger.write(damage)
        code, _, err = run("audit", "ledger", "verify", "--public-key-file", path)
        assert (code, "ledger repair" in err) == (1, proposes)


def test_json_is_printed_where_there_is_no_session(run):
    code, out, _ = run("audit", "verify", "--all", "--json")
    assert (code, json.loads(out)["verdict"]) == (0, None)


def test_a_note_about_kept_checkpoints_says_what_was_hashed(places, tmp_path):
    """Not that records lead on from a checkpoint which the session does not have."""
    kept = tmp_path / "work" / "kept.ndjson"
    answer = verify_since(places, read_since(kept, kept.stat().st_size))
    assert answer.verdict == "consistent"
    assert answer.notes[0].startswith("since: no record came after the checkpoint; ")
    other = signed.sealed(tmp_path / "elsewhere", KEY, session_id="f" * 16)
    answer = verify_since(other, read_since(kept, kept.stat().st_size))
    assert answer.verdict == "tampered"
    assert not answer.notes
