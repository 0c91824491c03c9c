"""--witness: a witness that keeps state cosigns the ledger, and what it says to a split view."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from http.server import HTTPServer

import pytest
import signed_session as signed
import witness_server
from harness import guarded, serving
from own_ca import write_authority
from schemas import validate_directory

from nono_trio.audit.keys.signature import is_ed25519
from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS, LEDGER_COSIGNATURES
from nono_trio.audit.ledger_heads import largest_head
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.ledger_signer import NotPublished
from nono_trio.config.witness_options import parse_witnesses
from nono_trio.core.log.ledger_cosignature import LedgerCosignature, encode_ledger_cosignature
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


@contextmanager
def answering(answer):
    """A server that answers always the same; yields its URL."""
    with HTTPServer(("127.0.0.1", 0), witness_server.Handler) as server:
        server.fixed = answer
        with serving(server):
            yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("403", "keys export --vkey ledger"), ("404", "keys export --vkey ledger"),
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
    with answering(answer) as url:
        (option,) = parse_witnesses([url])
        head = largest_head(root / LEDGER_CHECKPOINTS, signed.signer().public.note)
        key = witness.WitnessKey(witness_server.NAME, b"\7" * 32)
        asked = Witness(root, option._replace(key=key), Route((), look_up))
        with pytest.raises(NotPublished) as caught:
            asked.publish(head)
    assert text in str(caught.value)
    row = json.loads((root / LEDGER_COSIGNATURES).read_bytes())
    assert (row["outcome"], row["verified"]) == ("failed", False)


def checked(sessions, *keys, code=0):
    """The answer of the command that checks the kept cosignatures again."""
    options = [word for key in keys for word in ("--witness-key", key)]
    done = sessions.call("audit", "ledger", "verify", *options, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    return answer["first_bad"] and answer["first_bad"]["class"], answer["notes"]


def test_kept_cosignatures_are_checked_again(keyed, vkey, tmp_path):
    audit = keyed.state / "audit"
    kept, lines = audit / LEDGER_COSIGNATURES, audit / LEDGER
    with witness_server.running(tmp_path / "seen", vkey) as url:
        for _ in range(3):
            run(keyed, url)
    key = url.partition("#")[2]
    fault, notes = checked(keyed, key)
    assert fault is None
    assert notes[-1].startswith(f"{witness_server.NAME} has cosigned 3 checkpoints since 20")
    assert "the last one through line 3 at 20" in notes[-1]
    other = witness.WitnessKey("other.example", b"\7" * 32).text()
    assert checked(keyed, key, other, code=1)[0] == "ledger cosignature missing"
    good, ledger = kept.read_bytes(), lines.read_bytes()
    mark = good.index(witness_server.NAME.encode()) + len(witness_server.NAME) + 30
    kept.write_bytes(good[:mark] + (b"A" if good[mark:][:1] != b"A" else b"B") + good[mark + 1 :])
    assert checked(keyed, key, code=1)[0] == "ledger cosignature mismatch"
    kept.write_bytes(good + b"{}\n")
    assert checked(keyed, key, code=1)[0] == "ledger cosignature parse error"
    kept.write_bytes(good + good[:100])  # what a crash leaves
    assert checked(keyed, key)[0] is None
    # The forger has taken ledger and checkpoints back together, and written on without the key.
    (audit / LEDGER_CHECKPOINTS).unlink()
    lines.write_bytes(b"".join(ledger.splitlines(keepends=True)[:2]))
    assert checked(keyed)[0] is None
    assert checked(keyed, key, code=1)[0] == "ledger truncated behind a cosigned checkpoint"
    ledger_append.append(audit, "another", "ab" * 32, "2026-01-01T00:00:00Z")
    assert checked(keyed)[0] is None
    assert checked(keyed, key, code=1)[0] == "ledger rewritten behind a cosigned checkpoint"
    done = keyed.call("audit", "ledger", "verify", "--witness-key", "x")
    assert (done.returncode, "expected NAME+ID+KEY" in done.stderr) == (2, True)


@pytest.fixture
def stock_witness(vkey, tmp_path):
    """A witness of somebody else, unmodified: its URL with its key."""
    if importlib.util.find_spec("aics_witness") is None:
        pytest.skip("aics-witness is not installed: pip install aics-witness (Python 3.12)")
    words = [sys.executable, "-m", "aics_witness"]
    config = ["--config", str(tmp_path / "witness.json")]
    options = ["--name", "witness.example/stock", "--prefix", "/w", "--listen", "127.0.0.1:0"]
    made = subprocess.run(
        [*words, "init", *config, *options], stdout=subprocess.PIPE, text=True, check=True
    )
    origin = vkey.partition("+")[0]
    subprocess.run(
        [*words, "add-log", *config, "--origin", origin, "--vkey", vkey],
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    with subprocess.Popen([*words, "serve", *config], stderr=subprocess.PIPE, text=True) as process:
        try:
            said = next(line for line in process.stderr if "listening on" in line)
            url = re.search(r"http://127\.0\.0\.1:[0-9]+/w", said)[0]
            yield f"{url}#{made.stdout.split()[-1]}"
        finally:
            process.kill()


def test_a_stock_witness_cosigns_and_tells_a_split_view(keyed, stock_witness, tmp_path):
    audit, older = keyed.state / "audit", tmp_path / "older"
    run(keyed, stock_witness)
    (audit / LEDGER_COSIGNATURES).unlink()  # so that we begin at 0: it says where it is
    run(keyed, stock_witness)
    shutil.copytree(audit, older)
    run(keyed, stock_witness)
    assert [(row["event_count"], row["verified"]) for row in rows(keyed)] == [(2, True), (3, True)]
    assert checked(keyed, stock_witness.partition("#")[2])[0] is None
    shutil.rmtree(audit)
    older.rename(audit)
    for expected in ("has cosigned other lines", "the proof does not fit them"):
        told = run(keyed, stock_witness)  # first as many lines as it has seen, then one more
        assert "THE LEDGER IS NOT THE ONE THAT A WITNESS HAS SEEN" in told
        assert expected in told


def test_a_conflict_over_the_same_size_needs_no_size(tmp_path):
    """As tlog-witness 1.0 allows it: 409, for other lines of a size that the witness has seen."""
    root = signed.sealed(tmp_path / "audit", signed.signer()).parent
    head = largest_head(root / LEDGER_CHECKPOINTS, signed.signer().public.note)
    with answering("409") as url:
        (option,) = parse_witnesses([url])
        before = LedgerCosignature(
            time="", witness=option.text, origin=head.head.origin, event_count=head.head.size,
            outcome="cosigned", note="",
        )  # fmt: skip
        (root / LEDGER_COSIGNATURES).write_bytes(encode_ledger_cosignature(before))
        with pytest.raises(NotPublished, match="has cosigned 1 other lines under this key"):
            Witness(root, option, Route((), look_up)).publish(head)


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
        done = keyed.run("--dry-run", *options, "--", "true")
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
