"""Kept cosignatures of a witness that knows other logs too: only this ledger's count."""

from __future__ import annotations

import shutil

import pytest
import signed_session as signed
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS, LEDGER_COSIGNATURES
from nono_trio.audit.verify.whole_ledger import verify_ledger
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.ledger_signer import LedgerSigner
from nono_trio.core.log.ledger_cosignature import LedgerCosignature, encode_ledger_cosignature
from nono_trio.core.proof.note import Signature, encode_note, parse_note
from nono_trio.core.proof.witness import WitnessKey, cosigned_message

KEY, OTHER = signed.signer(), signed.signer("other")
WITNESS = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = WitnessKey("witness.example/w1", WITNESS.public_key().public_bytes_raw())
TIME, LATER = 1_700_000_000, 1_800_000_000


@pytest.fixture
def root(tmp_path):
    """A state directory whose ledger has three lines, signed."""
    root = tmp_path / "audit"
    root.mkdir()
    for number in range(3):
        ledger_append.append(root, f"s{number}", "ab" * 32, "2026-01-01T00:00:00Z")
    LedgerSigner(root, KEY).sign()
    return root


def keep(root, signer, at, time):
    """Keep the cosignature of the checkpoint that a signer makes of the ledger in `at`."""
    (at / LEDGER_CHECKPOINTS).unlink(missing_ok=True)
    checkpoint = LedgerSigner(at, signer).sign()
    note = parse_note(checkpoint.note.encode())
    cosignature = time.to_bytes(8, "big") + WITNESS.sign(cosigned_message(time, note.text))
    line = Signature(PUBLIC.name, PUBLIC.key_id, cosignature)
    row = LedgerCosignature(
        time="2026-01-01T00:00:00Z",
        witness="https://witness.example",
        origin=note.text.partition("\n")[0],
        event_count=checkpoint.event_count,
        outcome="cosigned",
        verified=True,
        note=encode_note(note.text, [*note.signatures, line]),
    )
    with (root / LEDGER_COSIGNATURES).open("ab") as kept:
        kept.write(encode_ledger_cosignature(row))


@pytest.mark.parametrize("pinned", [None, KEY.public])
def test_a_cosignature_of_the_same_lines_under_another_key_does_not_count(root, tmp_path, pinned):
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)
    keep(root, OTHER, copied, LATER)  # the witness knows the forger's log as well
    found = verify_ledger(root / LEDGER, pinned, [PUBLIC])
    assert found.verdict == "tampered"
    assert found.first_bad.failure == "ledger cosignature missing"
    keep(root, KEY, copied, TIME)
    found = verify_ledger(root / LEDGER, pinned, [PUBLIC])
    assert found.verdict == "verified"
    assert found.notes[-1] == (
        "witness.example/w1 has cosigned 1 checkpoint since 2023-11-14T22:13:20Z, the last one"
        " through line 3 at 2023-11-14T22:13:20Z"
    )


def test_a_cosignature_under_another_key_of_the_ledger_does_not_count_for_a_pinned_one(
    root, tmp_path
):
    LedgerSigner(root, OTHER).sign()
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)
    keep(root, OTHER, copied, TIME)
    assert verify_ledger(root / LEDGER, None, [PUBLIC]).verdict == "verified"
    assert verify_ledger(root / LEDGER, OTHER.public, [PUBLIC]).verdict == "verified"
    assert verify_ledger(root / LEDGER, KEY.public, [PUBLIC]).verdict == "tampered"
