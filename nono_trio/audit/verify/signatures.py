"""Checks the signatures of a log while it is read: notes, signed lines, and the bundle of the seal.

Rules of this file: the keys are those that policy.json names, which the second record binds; a
pinned key must be the same. A signed session's checkpoints are all signed, but those that a
best-effort session wrote while its signer failed, and a final one, which a recovery may have
written. The note of a checkpoint is about the RFC 6962 tree, its `merkle_root` about upstream's:
both are computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from nono_trio.audit import store
from nono_trio.audit.keys.signature import KEY_MISMATCH, SIGNATURE_MISMATCH, is_ed25519, note_fault
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.chain import BadRecord
from nono_trio.audit.verify.evidence import read_bound_file
from nono_trio.audit.write.seal import public_keys_of
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.policy_json import decode_policy
from nono_trio.core.log.session_json import signed_bytes
from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.log.session_json import Checkpoint, SessionMetadata
    from nono_trio.core.proof.public_keys import PublicKeys
    from nono_trio.core.proof.tree import Frontier

SIGNATURE_MISSING: Final = "signature missing"
TREES_DISAGREE: Final = "trees disagree"
TRUNCATED_SIGNED: Final = "truncated behind a signed checkpoint"
UNSIGNED: Final = "a session without a key"

# The records of a session that ended before its first signed checkpoint: start and policy, and from
# its end or a recovery the loss, the recovery, the summary and the end.
_UNSIGNED: Final = 6


class SignatureCheck:
    """The signatures of one session; `keys` is None for a session without a key.

    `tree` is to be fed with the records, and None if no checkpoint can be signed. `last_signed` is
    the number of records that the last signed checkpoint covers.
    """

    def __init__(self, session_id: str, keys: PublicKeys | None, *, best_effort: bool) -> None:
        self.keys = keys
        self.tree: Frontier | None = None
        self.signed = 0
        self.last_signed = 0
        self.final_is_signed = False
        self.taken_from: int | None = None
        """The first record that a recovery took from the disk and signed."""
        self._session_id = session_id
        self._best_effort = best_effort
        self._is_known = True
        self._count = 0
        self._unsigned: int | None = None  # the place of the first one that is not final
        if keys is not None:
            from nono_trio.core.proof.tree import Frontier  # late: few sessions are signed

            self.tree = Frontier()

    @classmethod
    def of(cls, directory: Path | None) -> SignatureCheck:
        """Return the check for a session directory, by its policy.json, which is bound later."""
        if directory is None:
            return cls._unknown("")
        name = store.place_name(directory)
        try:
            policy = decode_policy(read_bound_file(directory / store.POLICY) or b"")
            named = policy.signing_keys
            keys = None if named is None else public_keys_of(named)
        except (*MALFORMED, ValueError, OSError):
            return cls._unknown(name)  # the log does not bind such a policy
        return cls(name, keys, best_effort=policy.audit_mode != "strict")

    def seal_fault(self, metadata: SessionMetadata) -> FirstBad | None:
        """Return the fault of a seal of which one part is signed: it is all of it, or nothing."""
        has_bundle = metadata.audit_attestation is not None
        if self.keys is None or has_bundle == self.final_is_signed:
            return None
        if has_bundle:
            return _missing(self._count)
        return FirstBad(failure=SIGNATURE_MISSING, expected=store.BUNDLE, got="no attestation")

    @classmethod
    def _unknown(cls, name: str) -> SignatureCheck:
        check = cls(name, None, best_effort=True)
        check._is_known = False
        return check

    def pass_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Check the signatures of the next checkpoint, at the end of its records.

        Raises BadRecord.
        """
        self._count += 1
        parts = (checkpoint.note, checkpoint.line_signature)
        if not self._is_known:
            return
        if checkpoint.recovered is not UNSET and UNSET in parts:
            raise self._bad(SIGNATURE_MISSING, "a signature of the recovery", "none")
        if self.keys is None:
            if parts != (UNSET, UNSET):
                raise self._bad(SIGNATURE_MISMATCH, "none: the policy names no key", "a signature")
            return
        if parts == (UNSET, UNSET):
            if self._unsigned is None and not checkpoint.final:
                self._unsigned = self._count
            return
        root = self.tree.root() if self.tree is not None else b""
        fault = _fault(checkpoint, self._session_id, self.keys, root)
        if fault is not None:
            raise self._bad(*fault)
        self.signed += 1
        if checkpoint.recovered is not UNSET:
            self.taken_from = self.last_signed
        self.last_signed = checkpoint.event_count
        self.final_is_signed = checkpoint.final

    def end_fault(self, count: int, pinned: PublicKeys | None) -> FirstBad | None:
        """Return what is missing in a log of `count` records, all of whose signatures are good."""
        fault = pin_fault(self.keys, pinned)
        if fault is not None or self.keys is None:
            return fault
        if self._unsigned is not None and not self._best_effort:
            return _missing(self._unsigned)
        if count > _UNSIGNED and not self.signed and (pinned is not None or not self._best_effort):
            return _missing(1)
        return None

    def is_truncation(self, pending: Checkpoint | None) -> bool:
        """Return whether a checkpoint beyond the end of the log has good signatures."""
        if pending is None or self.keys is None or pending.note is UNSET:
            return False
        return _fault(pending, self._session_id, self.keys, None) is None

    def _bad(self, failure: str, expected: str, got: str) -> BadRecord:
        return BadRecord(failure, f"{expected} (checkpoint {self._count})", got)


def pin_fault(keys: PublicKeys | None, pinned: PublicKeys | None) -> FirstBad | None:
    """Return the fault of a session that is not signed with the pinned key."""
    if pinned is None or keys == pinned:
        return None
    got = UNSIGNED if keys is None else f"key {keys.key_id}"
    return FirstBad(failure=KEY_MISMATCH, expected=f"key {pinned.key_id}", got=got)


def _missing(place: int) -> FirstBad:
    expected = f"a signed checkpoint (checkpoint {place})"
    return FirstBad(failure=SIGNATURE_MISSING, expected=expected, got="none")


def _fault(
    checkpoint: Checkpoint, session_id: str, keys: PublicKeys, root: bytes | None
) -> tuple[str, str, str] | None:
    """Return class, expected and got of a checkpoint's first bad signature.

    `root` is that of the RFC 6962 tree; None: it is not known.
    """
    if checkpoint.note is UNSET or checkpoint.line_signature is UNSET:
        return SIGNATURE_MISSING, "a note and a line_signature", "one of them"
    from nono_trio.core.proof import base64_text, tree_head
    from nono_trio.core.proof.note import parse_note

    origin = tree_head.session_origin(session_id)
    try:
        note = parse_note(checkpoint.note.encode())
        head = tree_head.parse_tree_head(note.text)
        over_line = base64_text.decode(checkpoint.line_signature)
    except (ValueError, UnicodeError) as error:
        return SIGNATURE_MISMATCH, "a signed checkpoint", str(error)
    if head.origin != origin:
        return SIGNATURE_MISMATCH, f"the origin {origin}", head.origin
    if (fault := note_fault(note, origin, keys.note)) is not None:
        return fault
    if not is_ed25519(keys.note, over_line, signed_bytes(checkpoint)):
        return SIGNATURE_MISMATCH, "a signature of the line", "another"
    if head.size != checkpoint.event_count:
        return TREES_DISAGREE, counted(checkpoint.event_count, "record"), f"{head.size} in the note"
    if root is not None and head.root != root:
        return TREES_DISAGREE, f"the root {root.hex()}", f"{head.root.hex()} in the note"
    return None


def bundle_fault(
    directory: Path, metadata: SessionMetadata, pinned: PublicKeys | None, *, ours: bool
) -> FirstBad | None:
    """Check the bundle that session.json names; upstream's sessions have no other signature.

    One of ours must have our bytes: parts of it are not signed, and standard tools read them.
    """
    said = metadata.audit_attestation
    if said is None:
        return None
    from nono_trio.audit.keys.signature import is_p256  # late: few sessions are signed
    from nono_trio.core.log import attestation as bundles

    try:
        key = bundles.decode_key(said)
        data = read_bound_file(directory / store.BUNDLE)
        if data is None:
            return FirstBad(failure=SIGNATURE_MISSING, expected=store.BUNDLE, got="no such file")
        payload, signature = bundles.decode_bundle(data)
    except (*MALFORMED, ValueError) as error:
        return FirstBad(failure=SIGNATURE_MISMATCH, expected="a bundle", got=str(error))
    if pinned is not None and pinned.bundle != key:
        expected = f"key {pinned.key_id}"
        return FirstBad(failure=KEY_MISMATCH, expected=expected, got=f"key {said.key_id}")
    if not is_p256(key, signature, bundles.signed_message(payload)):
        return FirstBad(
            failure=SIGNATURE_MISMATCH, expected="a signature of the bundle", got="another"
        )
    if not bundles.says(payload, metadata, said.key_id):
        return FirstBad(
            failure=SIGNATURE_MISMATCH, expected="a statement about this session", got="another"
        )
    if ours and bundles.encode_bundle(payload, signature, said.key_id) != data:
        return FirstBad(
            failure=SIGNATURE_MISMATCH, expected="the bytes of a bundle of ours", got="others"
        )
    return None


def renamed(first_bad: FirstBad, check: SignatureCheck, pending: Checkpoint | None) -> FirstBad:
    """Return a truncation by its own name if what is missing was signed."""
    if not check.is_truncation(pending):
        return first_bad
    return msgspec.structs.replace(first_bad, failure=TRUNCATED_SIGNED)
