"""--witness: a witness that keeps state cosigns the ledger, and what it says to a split view."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import HTTPServer

import pytest
import signed_session as signed
import witness_server
from harness import guarded
from own_ca import write_authority
from schemas import validate_directory

from nono_trio.audit.keys.signature import is_ed25519
from nono_trio.audit.ledger import LEDGER_CHECKPOINTS, LEDGER_COSIGNATURES
from nono_trio.audit.ledger_heads import largest_head
from nono_trio.audit.write.ledger_signer import NotPublished
from nono_trio.config.witness_options import parse_witnesses
from nono_trio.core.proof import witness
from nono_trio.core.proof.note import parse_note
from nono_trio.proxy.upstream.blocking_look_up import look_up
from nono_trio.session.tokens.token_endpoint import Route
from nono_trio.session.witness import Witness

ISOLATIONS = ["namespace", pytest.param("landlock", marks=guarded)]
SIGNED = ["--audit-sign-key", "default"]
FIVE = [one for n in range(5) for one in ("--witness", f"https://w{n}.example.com")]


@pytest.fixture
def keyed(sessions):
    assert sessions.call("keys", "generate").returncode == 0
    return sessions


@pytest.fixture
def vkey(keyed):
    return keyed.call("keys", "export", "--vkey", "ledger").stdout.strip()


def rows(sessions):
    path = sessions.state / "audit" / LEDGER_COSIGNATURES
    return [*map(json.loads, path.read_bytes().splitlines())]


def run(sessions, url, *options):
    done = sessions.run(*SIGNED, "--witness", url, *options, "--", "true")
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_each_checkpoint_is_cosigned_and_kept(keyed, vkey, isolation, tmp_path):
    with witness_server.running(tmp_path / "seen", vkey) as url:
        for _ in range(3):
            assert "the witness" not in run(keyed, url, "--isolation", isolation)
    found = rows(keyed)
    assert [(row["event_count"], row["outcome"], row["verified"]) for row in found] == [
        (size, "cosigned", True) for size in (1, 2, 3)
    ]
    assert LEDGER_COSIGNATURES in validate_directory(keyed.state / "audit")
    key = witness.parse_witness_key(url.partition("#")[2])
    for row in found:
        note = parse_note(row["note"].encode())
        cosignature = witness.cosignature_of(note.signatures, key)
        message = witness.cosigned_message(cosignature.time, note.text)
        assert is_ed25519(key.key, cosignature.signature, message)
    kept = tmp_path / "kept.note"
    kept.write_text(found[0]["note"])
    assert keyed.call("audit", "consistency", str(kept), "ledger").returncode == 0


def test_a_witness_that_was_not_there_gets_the_proof_from_where_it_is(keyed, vkey, tmp_path):
    with witness_server.running(tmp_path / "seen", vkey) as url:
        run(keyed, url)
    assert "gave no answer: 127.0.0.1" in run(keyed, url)  # it is gone: warned, exit code 0
    (keyed.state / "audit" / LEDGER_COSIGNATURES).unlink()  # so that we begin at 0: a conflict
    with witness_server.running(tmp_path / "seen", vkey) as url:
        assert "the witness" not in run(keyed, url)
    assert [(row["event_count"], row["outcome"]) for row in rows(keyed)] == [(3, "cosigned")]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_witness_under_tls_is_verified(keyed, vkey, isolation, tmp_path):
    own = write_authority(tmp_path)
    with witness_server.running(tmp_path / "seen", vkey, own=own) as url:
        port = url.split(":")[2].partition("/")[0]
        options = ["--resolve", f"{witness_server.HOST}:{port}:127.0.0.1", "--isolation", isolation]
        assert "gave no answer" in run(keyed, url, *options)  # its authority is not trusted
        assert "the witness" not in run(keyed, url, *options, "--upstream-ca", str(own[0]))
    assert [row["outcome"] for row in rows(keyed)] == ["failed", "cosigned"]


def test_a_split_view_and_a_rollback_are_told(keyed, vkey, tmp_path):
    audit, older = keyed.state / "audit", tmp_path / "older"
    with witness_server.running(tmp_path / "seen", vkey) as url:
        run(keyed, url)
        shutil.copytree(audit, older)
        for _ in range(2):
            run(keyed, url)
        shutil.rmtree(audit)
        older.rename(audit)  # the whole state, taken back: nothing in it contradicts that
        assert keyed.call("audit", "verify", "--all").returncode == 0
        for expected in (
            "has cosigned 3 lines, this one has 2",
            "has cosigned 3 other lines under this key",
            "has cosigned other lines under this key: the proof does not fit them",
        ):
            told = run(keyed, url)
            assert "THE LEDGER IS NOT THE ONE THAT A WITNESS HAS SEEN" in told
            assert expected in told
    outcomes = [row["outcome"] for row in rows(keyed)]
    assert outcomes == ["cosigned", "conflict", "conflict", "conflict"]
    assert (tmp_path / "seen").read_text().split()[0] == "3"  # it has cosigned nothing of that


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("403", "does not know the key"), ("404", "keys export --vkey ledger"),
        ("400", "does not understand"), ("500", "answered with status 500"),
        ("409 x", "a conflict without a size"), ("200", "no cosignature"),
        ("200 x", "no cosignature"), ("409 0\n", "another session was faster"),
        (f"200 {'x' * 16385}", "more than 16384 bytes"),
        ("200 — other.example AAAAAAAA\n", "cosignatures of other keys alone"),
        ("200 x\n\n— other.example AAAAAAAA\n", "no cosignature"),
    ],
)  # fmt: skip
def test_what_else_a_witness_may_answer(tmp_path, answer, text):
    root = signed.sealed(tmp_path / "audit", signed.signer()).parent
    with HTTPServer(("127.0.0.1", 0), witness_server.Handler) as server:
        server.fixed = answer
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        (option,) = parse_witnesses([f"http://127.0.0.1:{server.server_address[1]}"])
        head = largest_head(root / LEDGER_CHECKPOINTS, signed.signer().public.note)
        key = witness.WitnessKey(witness_server.NAME, b"\7" * 32)
        asked = Witness(root, option._replace(key=key), Route((), look_up))
        with pytest.raises(NotPublished) as caught:
            asked.publish(head)
        server.shutdown()
        serving.join()
    assert text in str(caught.value)
    row = json.loads((root / LEDGER_COSIGNATURES).read_bytes())
    assert (row["outcome"], row["verified"]) == ("failed", False)


def test_a_cosignature_by_another_key_is_not_taken(keyed, vkey, tmp_path):
    other = witness.WitnessKey(witness_server.NAME, b"\7" * 32).text()
    with witness_server.running(tmp_path / "seen", vkey) as url:
        plain = url.partition("#")[0]
        assert "cosignatures of other keys alone" in run(keyed, f"{plain}#{other}")
        assert "the witness" not in run(keyed, plain)  # without a key it is kept, unverified
    assert [row["verified"] for row in rows(keyed)] == [False, False]


def test_what_is_refused_before_the_start(keyed):
    for options, text in (
        (["--witness", "https://w.example.com"], "needs --audit-sign-key"),
        ([*SIGNED, "--witness", "http://w.example.com"], "is for this machine alone"),
        ([*SIGNED, "--witness", "http://10.0.0.1/x"], "is for this machine alone"),
        ([*SIGNED, "--witness", "https://u@w.example.com"], "--witness"),
        ([*SIGNED, "--witness", "https://w.example.com#x"], "expected NAME+ID+KEY"),
        ([*SIGNED, *FIVE], "at most 4 witnesses"),
    ):
        done = keyed.run(*options, "--", "true")
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
