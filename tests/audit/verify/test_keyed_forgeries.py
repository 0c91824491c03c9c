"""Each forgery of a session with a key in play, by name: what `audit verify` says without the key's
public part, and with it.

Others are beside what they attack: stripped signatures, swapped keys, a cut, a rollback and trees
that disagree in test_signatures.py; a ledger that is cut, rewritten, forked or taken back in
test_ledger_signatures.py; a split view to a witness in tests/session/test_witness.py.
"""

from __future__ import annotations

import shutil

import pytest
import sealed_session as made
import signed_session as signed

from nono_trio.audit import store
from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.verify.session import verify
from nono_trio.core.log.session_json import decode_checkpoint
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import parse_note

KEY, OTHER = signed.signer(), signed.signer("other")


class Forger:
    """A signer without the key, which says that it has it: it gives the signatures that it has
    seen, or those of another key."""

    public = KEY.public

    def __init__(self, seen=()):
        self.seen = list(seen)

    def sign_note(self, data):
        return self.seen.pop(0) if self.seen else OTHER.sign_note(data)

    def sign_bundle(self, data):
        return OTHER.sign_bundle(data)

    def stop(self):
        pass


def seen_in(directory):
    """The signatures of a session, in the order in which they were made."""
    for line in (directory / store.CHECKPOINTS).read_bytes().splitlines():
        one = decode_checkpoint(line)
        yield parse_note(one.note.encode()).signatures[0].signature
        yield base64_text.decode(one.line_signature)


@pytest.fixture
def session(root):
    return signed.sealed(root, KEY)


def judged(directory):
    """The class of the first fault, the same with and without a pinned key."""
    plain, pinned = verify(directory), verify(directory, pinned=KEY.public)
    assert (plain.verdict, pinned.verdict) == ("tampered", "tampered")
    assert plain.first_bad == pinned.first_bad
    return plain.first_bad.failure


HISTORIES = {
    "a changed record": [*signed.EVENTS[:5], made.network(9, "allow")],
    "a record left out": signed.EVENTS[1:],
    "a record added": [*signed.EVENTS, made.network(9, "allow")],
    "cut back to its beginning": [],
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize("mode", ["strict", "best-effort"])
def test_another_history_with_every_hash_made_anew(root, session, history, replays, mode):
    """Log, checkpoints, summary, session.json and ledger agree; the policy names the key."""
    seen = seen_in(session) if replays else ()
    forger = Forger([*seen])
    shutil.rmtree(root)
    record = signed.begin(root, forger, mode=mode)
    signed.add(record, *HISTORIES[history])
    signed.checkpoint(record)
    signed.end(record)
    record.seal(signed.ENDED, record.totals)
    assert judged(record.directory) == "signature mismatch"


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        (store.POLICY, "policy.json mismatch"), (store.SUMMARY, "summary.json mismatch"),
        (store.SESSION, "signature mismatch"), (store.FLOWS, "flows mismatch"),
        (store.PROCESSES, "processes mismatch"),
    ],
)  # fmt: skip
def test_a_changed_file_beside_the_log(session, name, failure):
    path = session / name
    data = path.read_bytes() if path.exists() else b""
    changed = data.replace(b'"recovered":false', b'"recovered":true').replace(b'"true"', b'"evil"')
    made.overwrite(path, changed if changed != data else data + b" ")
    assert judged(session) == failure


def test_a_line_taken_out_of_the_ledger(root, session):
    (root / LEDGER).write_bytes(b"")
    assert judged(session) == "ledger line missing"


def test_a_sealed_session_that_is_said_to_have_crashed(root, session, tmp_path):
    """Cut to a signed checkpoint, with its own open session.json."""
    copy = signed.crashed(tmp_path / "other", KEY)
    shutil.rmtree(session)
    shutil.copytree(copy, session)
    assert judged(session) == "sealed session opened again"


def test_a_crashed_session_cut_to_a_signed_checkpoint_is_never_verified(root):
    """Ledger and checkpoints allow it; a kept checkpoint finds it (test_proofs.py)."""
    directory = signed.crashed(root, KEY)
    for name, count in ((store.LOG, 5), (store.CHECKPOINTS, 2)):
        path = directory / name
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))
    answer = verify(directory, pinned=KEY.public)
    assert (answer.verdict, answer.attestation.signed_through) == ("crashed", 4)
