"""Checks the signatures of a session: their part of its verdict, and of the answer.

Rules of this file: a session of ours is signed in all its parts or in none, and a pinned key must
be its own. The verdict on a session of upstream nono depends on its bundle only if a key is pinned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.verify.signatures import bundle_fault, pin_fault
from nono_trio.audit.verify.verdict import AttestationSeen
from nono_trio.audit.verify.verdict_notes import signed_by_recovery, unsigned_end

if TYPE_CHECKING:
    from nono_trio.audit.stored_session import FirstBad
    from nono_trio.audit.verify.evidence import Evidence
    from nono_trio.audit.verify.log_check import LogCheck
    from nono_trio.audit.verify.signatures import SignatureCheck
    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.proof.public_keys import PublicKeys


def signature_fault(
    evidence: Evidence, check: LogCheck, pinned: PublicKeys | None
) -> FirstBad | None:
    """Return the first fault of the signatures beside those of the checkpoints."""
    directory, metadata, signatures = evidence.directory, evidence.metadata, check.signatures
    if directory is None:  # a single log: it is never `verified`
        return None
    fault = None
    if evidence.ours:
        fault = signatures.end_fault(check.chain.count, pinned)
    elif metadata is None or metadata.audit_attestation is None:
        fault = pin_fault(None, pinned)
    if fault is not None or metadata is None or not evidence.sealed:
        return fault
    if not evidence.ours and pinned is None:  # upstream's verdict does not depend on it
        return None
    return signatures.seal_fault(metadata) or bundle_fault(
        directory, metadata, pinned, ours=evidence.ours
    )


def tell_signatures(
    evidence: Evidence,
    answer: Verification,
    signatures: SignatureCheck,
    pinned: PublicKeys | None,
) -> None:
    """Add to the answer what is signed, and by whom."""
    if evidence.ours:
        answer.attestation = _signatures_seen(signatures, answer, pinned)
        if signatures.taken_from is not None and answer.first_bad is None:
            answer.notes.append(signed_by_recovery(signatures.taken_from))
    elif evidence.sealed and answer.attestation.present and answer.first_bad is None:
        _look_at_upstreams_bundle(evidence, answer, pinned)


def require_signed_end(answer: Verification, signatures: SignatureCheck) -> None:
    """Take `verified` back if the end is not signed: without the key, anybody could write that."""
    if not signatures.final_is_signed:
        answer.verdict = "crashed"
        answer.notes.append(unsigned_end(signatures.last_signed))


def _signatures_seen(
    signatures: SignatureCheck, answer: Verification, pinned: PublicKeys | None
) -> AttestationSeen:
    keys = signatures.keys
    return AttestationSeen(
        present=keys is not None,
        signature_verified=signatures.signed > 0 and answer.first_bad is None,
        key_id=keys.key_id if keys is not None else None,
        pinned=pinned is not None and keys == pinned,
        signed_through=signatures.last_signed - 1 if signatures.last_signed else None,
    )


def _look_at_upstreams_bundle(
    evidence: Evidence, answer: Verification, pinned: PublicKeys | None
) -> None:
    """Say whether the bundle of an upstream session is good; without a pinned key a bad one is only
    noted, as upstream does."""
    directory, metadata = evidence.directory, evidence.metadata
    if directory is None or metadata is None:
        return
    fault = bundle_fault(directory, metadata, pinned, ours=False)
    if fault is not None:
        answer.notes.append(f"its attestation is not good: {fault.text}")
    answer.attestation = msgspec.structs.replace(
        answer.attestation, signature_verified=fault is None, pinned=pinned is not None
    )
