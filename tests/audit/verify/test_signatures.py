"""Signed logs: what `audit verify` says of good ones, crashed ones, and each forgery by name."""

from __future__ import annotations

import json
import os
import shutil

import msgspec
import pytest
import sealed_session as made
import signed_session as signed
from vectors import VECTORS

from nono_trio.audit import store
from nono_trio.audit.keys.signer import SignerFailed
from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import checkpoint_signer, ledger_append
from nono_trio.cli.audit.render import verification_hint, verification_lines
from nono_trio.core.log.attestation import (
    attestation_of,
    decode_bundle,
    encode_bundle,
    encode_statement,
    signed_message,
)
from nono_trio.core.log.session_json import (
    completed_at,
    decode_checkpoint,
    decode_metadata,
    encode_checkpoint,
    encode_metadata,
    session_digest,
)
from nono_trio.core.proof.tree_head import TreeHead

KEY = signed.signer()
OTHER = signed.signer("other")


@pytest.fixture
def session(root):
    return signed.sealed(root, KEY)


def checkpoints(directory):
    lines = (directory / store.CHECKPOINTS).read_bytes().splitlines(keepends=True)
    return [*map(decode_checkpoint, lines)]


def write_checkpoints(directory, found):
    (directory / store.CHECKPOINTS).write_bytes(b"".join(map(encode_checkpoint, found)))


def change_checkpoint(directory, place, **changes):
    found = checkpoints(directory)
    found[place] = msgspec.structs.replace(found[place], **changes)
    write_checkpoints(directory, found)


def verdict(directory, pinned=None):
    """Verdict and class of the first fault."""
    answer = verify(directory, pinned=pinned)
    return answer.verdict, answer.first_bad and answer.first_bad.failure


def test_a_signed_session(session):
    answer = verify(session)
    seen = answer.attestation
    assert (answer.verdict, answer.first_bad) == ("verified", None)
    assert (seen.present, seen.signature_verified, seen.pinned) == (True, True, False)
    assert (seen.key_id, seen.signed_through) == (KEY.public.key_id, 9)
    assert any(note.startswith("self-attested") for note in answer.notes)
    assert all(one.note and one.line_signature for one in checkpoints(session))
    pinned = verify(session, pinned=KEY.public)
    assert (pinned.verdict, pinned.attestation.pinned, pinned.notes) == ("verified", True, [])


def test_a_session_without_a_key_has_neither_signature_nor_key(root):
    session = signed.sealed(root)
    answer = verify(session)
    assert (answer.verdict, answer.notes) == ("verified", [])
    assert not answer.attestation.present
    assert b"note" not in (session / store.CHECKPOINTS).read_bytes()
    assert not (session / store.BUNDLE).exists()
    assert verdict(session, KEY.public) == ("tampered", "key mismatch")


def test_every_changed_byte_of_a_note_and_a_line_is_caught(session):
    path = session / store.CHECKPOINTS
    data = path.read_bytes()
    line = data.index(b"\n", data.index(b"\n") + 1) + 1  # the second line: its end
    begin = data.index(b'"note":', data.index(b"\n"))
    classes = set()
    for place in range(begin, line - 1):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 7
        made.overwrite(path, bytes(changed))
        found = verify(session)
        assert found.verdict == "tampered", place
        classes.add(found.first_bad.failure)
    assert {"signature mismatch", "key mismatch", "checkpoint parse error"} <= classes


def test_every_changed_byte_of_the_bundle_is_caught(session):
    """Also where no signature covers it: the hint of the key, white space."""
    path = session / store.BUNDLE
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1
        made.overwrite(path, bytes(changed))
        assert verdict(session)[0] == "tampered", place
    made.overwrite(path, data + b" ")
    assert verdict(session) == ("tampered", "signature mismatch")
    path.write_bytes(data)
    assert verdict(session) == ("verified", None)


@pytest.mark.parametrize("sig", ["QR==", "QUJ="])
def test_a_signature_in_a_bundle_has_one_spelling(sig):
    """Whose last unused bits are set, so that a byte of it could be changed."""
    bundle = json.loads(encode_bundle(b"payload", b"AB", "key"))
    for good in ("QQ==", "QUI", "QUI="):
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = good
        assert decode_bundle(json.dumps(bundle).encode())[1] in (b"A", b"AB")
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = sig
    with pytest.raises(ValueError, match="shortest spelling"):
        decode_bundle(json.dumps(bundle).encode())


@pytest.mark.parametrize("cut", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope":{}}'])
def test_what_is_no_bundle_is_caught(session, cut):
    (session / store.BUNDLE).write_bytes(cut)
    assert verdict(session) == ("tampered", "signature mismatch")
    (session / store.BUNDLE).unlink()
    assert verdict(session) == ("tampered", "signature missing")


def test_a_bundle_of_a_session_without_its_seal_is_caught(root, session):
    path = session / store.SESSION
    metadata = msgspec.structs.replace(decode_metadata(path.read_bytes()), audit_integrity=None)
    path.write_bytes(encode_metadata(metadata))
    assert verdict(session)[0] == "tampered"


def test_a_bundle_of_another_session_is_caught(session, tmp_path):
    other = signed.sealed(tmp_path / "other", KEY)
    shutil.copy(other / store.BUNDLE, session / store.BUNDLE)
    assert verdict(session) == ("tampered", "signature mismatch")


@pytest.mark.parametrize("fields", [("note",), ("line_signature",), ("note", "line_signature")])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_stripped_signatures(session, place, fields):
    change_checkpoint(session, place, **dict.fromkeys(fields, msgspec.UNSET))
    assert verdict(session) == ("tampered", "signature missing")


@pytest.mark.parametrize("pinned", [None, KEY.public])
def test_a_stripped_bundle_is_missed_though_the_ledger_was_written_anew(root, session, pinned):
    """The ledger's digest covers it, but a forger needs no key to write the ledger."""
    sealed = decode_metadata((session / store.SESSION).read_bytes())
    sealed.audit_attestation = None
    (session / store.BUNDLE).unlink()
    (root / LEDGER).unlink()
    ledger_append.append(root, sealed.session_id, session_digest(sealed), completed_at(sealed))
    store.write_session_json(session, sealed)
    assert verdict(session, pinned) == ("tampered", "signature missing")


def test_everything_stripped_and_all_hashes_made_anew_is_caught_by_the_pin(root, session):
    """Without the key a forger can write a whole session; no other key and no lack of one passes
    for the pinned one."""
    shutil.rmtree(root)
    forged = signed.sealed(root)
    assert verdict(forged) == ("verified", None)
    assert verdict(forged, KEY.public) == ("tampered", "key mismatch")


def test_a_whole_session_under_another_key_is_caught_by_the_pin(root, session):
    shutil.rmtree(root)
    forged = signed.sealed(root, OTHER)
    assert verdict(forged) == ("verified", None)
    answer = verify(forged, pinned=KEY.public)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "key mismatch")
    assert answer.attestation.pinned is False
    assert KEY.public.key_id in answer.first_bad.expected


def test_a_swapped_key_in_the_notes(root, session):
    found = checkpoints(session)
    shutil.rmtree(root)
    forged = signed.sealed(root, OTHER)
    swapped = checkpoints(forged)
    for place, one in enumerate(found):  # the good log with the other key's signatures
        found[place] = msgspec.structs.replace(one, note=swapped[place].note)
    write_checkpoints(forged, [*found[:-1], swapped[-1]])
    assert verdict(forged)[0] == "tampered"


def test_notes_under_a_policy_without_a_key(root, session):
    found = checkpoints(session)
    shutil.rmtree(root)
    plain = signed.sealed(root)
    change_checkpoint(plain, 0, note=found[0].note, line_signature=found[0].line_signature)
    assert verdict(plain) == ("tampered", "signature mismatch")


def test_a_note_of_another_session(root, session, tmp_path):
    other = signed.sealed(tmp_path / "other", KEY, session_id="fedcba9876543210")
    assert verdict(other) == ("verified", None)
    moved = other.rename(other.with_name(session.name))
    change_checkpoint(session, 0, note=checkpoints(moved)[0].note)
    assert verdict(session) == ("tampered", "signature mismatch")


@pytest.mark.parametrize("lie", [{"size": 4}, {"root": bytes(32)}])
def test_a_signed_tree_that_is_not_the_logs(root, monkeypatch, lie):
    """Chain and RFC 6962 tree disagree: a signer that was given another tree."""
    record = signed.begin(root, KEY)
    monkeypatch.setattr(
        checkpoint_signer, "TreeHead", lambda *given: TreeHead(*given)._replace(**lie)
    )
    signed.add(record, *signed.EVENTS)
    signed.checkpoint(record)
    record.files.close()
    assert verdict(record.directory) == ("tampered", "trees disagree")


def test_signatures_of_one_log_do_not_fit_another_one_of_the_same_id(root):
    directory = signed.crashed(root, KEY)
    before = checkpoints(directory)
    shutil.rmtree(root)
    directory = signed.crashed(root, OTHER)
    found = [
        msgspec.structs.replace(one, note=old.note, line_signature=old.line_signature)
        for one, old in zip(checkpoints(directory), before, strict=True)
    ]
    write_checkpoints(directory, found)
    assert verdict(directory)[0] == "tampered"
    assert verdict(directory, KEY.public)[0] == "tampered"


def test_a_crashed_session_is_proved_up_to_its_last_signed_checkpoint(root):
    directory = signed.crashed(root, KEY)
    answer = verify(directory, pinned=KEY.public)
    assert (answer.verdict, answer.event_count) == ("crashed", 9)
    assert (answer.attestation.signature_verified, answer.attestation.signed_through) == (True, 7)
    assert any("the last 1 are not" in note for note in answer.notes)


def test_a_crashed_session_recovers_without_the_key(root):
    directory = signed.crashed(root, KEY)
    assert recover(directory).outcome == "recovered"
    answer = verify(directory)
    assert (answer.verdict, answer.attestation.signed_through) == ("verified", 7)
    assert any("signed through sequence 7" in note for note in answer.notes)
    pinned = verify(directory, pinned=KEY.public)
    assert pinned.verdict == "crashed"  # anybody could have written its end
    assert any("through sequence 7" in note for note in pinned.notes)
    assert next(verification_lines(pinned, brief=True)).endswith("sealed without the key")
    assert verification_hint(pinned) is None  # no command can sign it now


@pytest.mark.parametrize("dies", [None, "bundle", "checkpoint", "ledger", "session"])
def test_a_recovery_with_the_key_signs_the_end(root, dies):
    """Also if it dies on the way and another one goes on."""
    directory = signed.crashed(root, KEY)

    def step(name):
        if name == dies:
            raise OSError(5, "lost")

    if dies is not None:
        assert recover(directory, step, KEY).outcome == "failed"
        assert verdict(directory, KEY.public) == ("crashed", None)
    answer = recover(directory, signer=KEY)
    assert (answer.outcome, answer.signed) == ("recovered", True)
    found = verify(directory, pinned=KEY.public)
    assert (found.verdict, found.first_bad) == ("verified", None)
    assert found.attestation.signed_through == found.event_count - 1
    assert any("the recovery has signed" in note for note in found.notes)


def test_a_recovery_with_the_key_says_so_of_a_log_whose_end_a_forger_wrote(root):
    """Nothing but the signature tells such an end from that of a supervisor that was lost then."""
    record = signed.begin(root, KEY)
    signed.add(record, *signed.EVENTS)
    signed.checkpoint(record)
    signed.add(record, made.network(7, "deny", "forged.example"))  # from here on without the key
    signed.end(record)
    record.files.close()
    assert recover(record.directory, signer=KEY).outcome == "recovered"
    found = verify(record.directory, pinned=KEY.public)
    assert found.verdict == "verified"
    (note,) = (note for note in found.notes if "the recovery has signed" in note)
    assert "the records from sequence 8 on" in note
    change_checkpoint(record.directory, -1, recovered=msgspec.UNSET)
    assert verdict(record.directory) == ("tampered", "signature mismatch")
    assert not any("recovery" in note for note in verify(signed.sealed(root / "b", KEY)).notes)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_checkpoint_of_a_recovery_without_a_signature_is_refused(root, key):
    directory = signed.crashed(root, key)
    recover(directory)
    change_checkpoint(directory, -1, recovered=True)
    assert verdict(directory) == ("tampered", "signature missing")


def test_a_recovery_with_another_key_changes_nothing(root):
    directory = signed.crashed(root, KEY)
    answer = recover(directory, signer=OTHER)
    assert (answer.outcome, answer.exit_code) == ("failed", 4)
    assert "another key" in answer.reason
    unsigned = recover(directory)  # without a key
    assert unsigned.signed is False
    assert unsigned.hint == (
        "its end stays unsigned; next time: `nono-trio audit recover --all --audit-sign-key KEY`"
    )
    unkeyed = signed.crashed(root, session_id="unkeyed")
    assert (recover(unkeyed, signer=KEY).outcome, recover(unkeyed).signed) == ("recovered", None)


def test_a_crash_after_the_end_and_before_the_seal(root):
    record = signed.begin(root, KEY)
    signed.end(record)
    record.files.close()
    assert recover(record.directory).outcome == "recovered"
    assert verdict(record.directory) == ("verified", None)
    assert verdict(record.directory, KEY.public) == ("crashed", None)


@pytest.mark.parametrize("lost", ["ledger", "session"])
def test_a_crash_after_the_signed_seal_recovers_to_the_signed_session(root, monkeypatch, lost):
    """The bundle and the final checkpoint are there; a recovery only finishes the seal."""
    from nono_trio.audit.write import session_record

    def die(*_arguments):
        raise OSError(5, "lost")

    record = signed.begin(root, KEY)
    signed.end(record)
    with monkeypatch.context() as patch:
        if lost == "ledger":
            patch.setattr(session_record.ledger_append, "append", die)
        else:
            patch.setattr(store, "write_session_json", die)
        with pytest.raises(OSError, match="lost"):
            record.seal(signed.ENDED, record.totals)
    record.files.close()
    assert verdict(record.directory, KEY.public) == ("crashed", None)
    assert recover(record.directory).outcome == "recovered"
    assert verdict(record.directory, KEY.public) == ("verified", None)


def test_a_log_cut_behind_a_signed_checkpoint(root):
    directory = signed.crashed(root, KEY)
    log = directory / store.LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:7]))
    assert verdict(directory) == ("tampered", "truncated behind a signed checkpoint")
    log.write_bytes(b"".join(lines[:7]) + lines[7][:40])
    assert verdict(directory) == ("tampered", "truncated behind a signed checkpoint")


@pytest.mark.parametrize("data", [None, b"", b'{"v":1'])
def test_a_crashed_session_without_its_checkpoints(root, data):
    """The first one was there before the command was."""
    directory = signed.crashed(root, KEY)
    (directory / store.CHECKPOINTS).unlink()
    if data is not None:
        (directory / store.CHECKPOINTS).write_bytes(data)
    assert verdict(directory) == ("tampered", "signature missing")
    assert recover(directory).outcome == "tampered"


def test_a_rollback_to_an_older_copy(root, tmp_path):
    record = signed.begin(root, KEY)
    older = shutil.copytree(record.directory, tmp_path / "older")
    signed.add(record, *signed.EVENTS)
    signed.end(record)
    record.seal(signed.ENDED, record.totals)
    shutil.rmtree(record.directory)
    older.rename(record.directory)
    assert verdict(record.directory, KEY.public) == ("tampered", "sealed session opened again")


class Failing:
    """The signer, until it fails."""

    def __init__(self, good):
        self.left = good
        self.public = KEY.public

    def _one(self, sign, data):
        if self.left == 0:
            raise SignerFailed("the signer is gone")
        self.left -= 1
        return sign(data)

    def sign_note(self, data):
        return self._one(KEY.sign_note, data)

    def sign_bundle(self, data):
        return self._one(KEY.sign_bundle, data)


@pytest.mark.parametrize("good", [0, 1, 2, 3, 4, 6, 7, 8])
def test_a_signer_that_fails_in_best_effort_mode_leaves_a_log_that_says_so(root, good):
    """Two signatures a checkpoint, three checkpoints, one bundle, two of the final one."""
    session = signed.sealed(root, Failing(good), mode="best-effort")
    answer = verify(session)
    assert (answer.verdict, answer.first_bad) == ("verified", None)
    whole = good // 2
    expected = None if not whole else (1, 4, 7)[min(whole, 3) - 1]
    assert answer.attestation.signed_through == expected
    assert json.loads((session / store.SESSION).read_bytes())["audit_attestation"] is None
    pinned = verify(session, pinned=KEY.public)
    assert pinned.verdict == ("crashed" if whole else "tampered")


@pytest.mark.parametrize("good", [0, 3, 6, 8])
def test_a_signer_that_fails_in_strict_mode_seals_nothing(root, good):
    with pytest.raises(SignerFailed, match="the signer is gone"):
        signed.sealed(root, Failing(good))


def test_a_policy_with_keys_that_are_none(root, session, monkeypatch):
    shutil.rmtree(root)
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint_signer.CheckpointSigner,
            "keys",
            property(lambda _self: checkpoint_signer.SigningKeys(note="AAAA", bundle="AAAA")),
        )
        forged = signed.sealed(root, KEY)
    assert verdict(forged, KEY.public)[0] == "tampered"


def test_upstream_verifies_the_bundle(session):
    upstream = pytest.importorskip("nono_py.audit", reason="nono_py.audit: not installed")
    if not hasattr(upstream, "verify_audit_attestation_bundle"):
        pytest.skip("this nono_py does not verify attestations")
    metadata = json.loads((session / store.SESSION).read_bytes())
    bundle = (session / store.BUNDLE).read_text()
    pem = KEY.public.pem()
    said = upstream.verify_audit_attestation_bundle(
        bundle, metadata, expected_public_key=pem[pem.rindex("-----BEGIN") :]
    )
    assert said["verification_error"] is None
    assert said["signature_verified"]
    assert said["merkle_root_matches"]
    assert said["session_id_matches"]
    assert said["expected_public_key_matches"]


def test_the_files_of_a_signed_session_are_private(session):
    assert {os.stat(path).st_mode & 0o777 for path in session.iterdir()} == {0o600}


def test_the_bundle_of_an_upstream_session(tmp_path):
    """Upstream's rules: a bad bundle is noted, and tampered where a key is pinned."""
    pinned = KEY.public
    session = shutil.copytree(VECTORS / "n5", tmp_path / "n5")  # with a key that is none
    answer = verify(session, upstream=True)
    assert (answer.verdict, answer.attestation.signature_verified) == ("verified", False)
    assert any("its attestation is not good" in note for note in answer.notes)
    assert verify(session, upstream=True, pinned=pinned).verdict == "tampered"
    metadata = store.read_metadata(session)
    payload = encode_statement(metadata, pinned.key_id)
    bundle = encode_bundle(payload, KEY.sign_bundle(signed_message(payload)), pinned.key_id)
    (session / store.BUNDLE).write_bytes(bundle)
    metadata.audit_attestation = attestation_of(pinned)
    store.write_session_json(session, metadata)
    assert verify(session, upstream=True).attestation.signature_verified
    assert verify(session, upstream=True, pinned=pinned).verdict == "verified"
    assert verify(session, upstream=True, pinned=OTHER.public).first_bad.failure == "key mismatch"
