"""Our notes, proofs and bundles in the hands of others: openssl, and Go's sumdb, unmodified."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import signed_session as signed
from checkout import ROOT, TESTS

from nono_trio.audit import store
from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS
from nono_trio.audit.ledger_heads import read_heads
from nono_trio.audit.verify import proofs
from nono_trio.audit.verify.ledger_proofs import prove_ledger_growth
from nono_trio.core.proof.note import verifier_key
from nono_trio.core.proof.tree import prove_inclusion
from nono_trio.core.proof.tree_head import ledger_origin

KEY = signed.signer()
DOCUMENT = ROOT / "docs" / "proof.md"
GO_PACKAGES = Path("/usr/share/gocode")
MODULE = GO_PACKAGES / "src/golang.org/x/mod/sumdb"
TOOL_SECONDS = 300  # a cold build of Go's cryptography on a busy machine


@pytest.fixture
def session(tmp_path):
    return signed.sealed(tmp_path / "audit", KEY)


@pytest.fixture
def check(tmp_path):
    """Run the program of docs/proof.md that checks signatures."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (program,) = [one for one in programs if "openssl" in one]
    (tmp_path / "check_signatures.py").write_text(program)
    (tmp_path / "audit-key.pem").write_text(KEY.public.pem())

    def run(directory):
        return subprocess.run(
            [sys.executable, "-I", "check_signatures.py", directory, "audit-key.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TOOL_SECONDS,
        )  # fmt: skip

    return run


def test_the_documents_program_checks_all_signatures(session, check):
    done = check(session)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("signed: 10 records")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (store.LOG, b"443", b"444"), (store.BUNDLE, b'"sig": "MEU', b'"sig": "MEV'),
        (store.CHECKPOINTS, b'"lost_total":0', b'"lost_total":1'),
    ],
)  # fmt: skip
def test_the_documents_program_refuses_a_change(session, check, name, before, after):
    path = session / name
    data = path.read_bytes()
    if before not in data:  # an ECDSA signature begins in one of a few ways
        before = re.search(rb'"sig": "....', data)[0]
        after = before[:-1] + (b"A" if before[-1:] != b"A" else b"B")
    path.write_bytes(data.replace(before, after))
    assert check(session).returncode != 0


def run_go(given):
    go = shutil.which("go")
    if go is None or not MODULE.is_dir():
        pytest.skip("Go's sumdb is not here: apt-get install golang-go golang-golang-x-mod-dev")
    done = subprocess.run(
        [go, "run", str(TESTS / "data/go/check.go")],
        input=json.dumps(given), capture_output=True, text=True, check=False, timeout=TOOL_SECONDS,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_PACKAGES), "GOFLAGS": ""},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


def test_go_verifies_notes_inclusion_and_consistency(session):
    heads = [*proofs.signed_heads(session)]
    encode = lambda hashes: [base64.b64encode(one).decode() for one in hashes]  # noqa: E731
    given = {
        "vkey": verifier_key(f"nono-trio/{session.name}", KEY.public.note),
        "notes": [head.data.decode() for head in heads],
        "inclusion": [],
        "consistency": [],
    }
    for sequence in range(heads[-1].head.size):
        proof = proofs.prove_record(session, sequence)
        record = base64.b64encode(proof.extra).decode()
        found = {"record": record, "index": sequence, "hashes": encode(proof.hashes)}
        given["inclusion"].append(found)
    for old, new in itertools.combinations_with_replacement(range(len(heads)), 2):
        found = proofs.prove_extension(heads[old], heads[new], session)
        given["consistency"].append({"old": old, "new": new, "hashes": encode(found)})
    assert len(given["notes"]) == 4
    assert run_go(given) == "verified"
    given["inclusion"][3]["index"] = 4
    assert run_go(given).startswith("refused:")


def test_go_verifies_the_ledgers_checkpoints(session):
    for number in range(2):
        signed.sealed(session.parent, KEY, session_id=f"{number:016x}")
    ledger, row = session.parent / LEDGER, session.parent / LEDGER_CHECKPOINTS
    heads = [proofs.parse_head(one.note) for one in read_heads(row)]
    given = {
        "vkey": verifier_key(ledger_origin(KEY.public.note), KEY.public.note),
        "notes": [head.data.decode() for head in heads],
        "inclusion": [],
        "consistency": [],
    }
    leaves = proofs.Leaves()
    for line in ledger.read_bytes().splitlines():
        leaves.append(line)
    for index, line in enumerate(ledger.read_bytes().splitlines()):
        hashes = [base64.b64encode(one).decode() for one in prove_inclusion(leaves, index, 3)]
        record = base64.b64encode(line).decode()
        given["inclusion"].append({"record": record, "index": index, "hashes": hashes})
    for old, new in itertools.combinations_with_replacement(range(len(heads)), 2):
        found = prove_ledger_growth(heads[old], ledger, heads[new]).proof
        hashes = [base64.b64encode(one).decode() for one in found]
        given["consistency"].append({"old": old, "new": new, "hashes": hashes})
    assert len(given["notes"]) == 3
    assert run_go(given) == "verified"
