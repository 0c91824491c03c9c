"""The notes of a verdict: sentences, each about one fact."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.core.log.events import LOST_EXIT_CODE
from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.verify.evidence import Evidence
    from nono_trio.audit.verify.verdict import Verification


def nameless_notes(ledger: LedgerReport) -> Sequence[str]:
    """Return the notes about ledger lines whose session is unknown."""
    if not ledger.nameless:
        return ()
    return (
        "a line of the ledger is damaged or missing, and its session is not known: it may have been"
        " this session's",
    )


def ledger_notes(ledger: LedgerReport, session_id: str) -> list[str]:
    """Return the notes about the ledger for a session that has a line in it."""
    notes = []
    if ledger.first_bad is not None:
        bad = ledger.first_bad
        notes.append(
            f"line {bad.line} of the ledger is damaged ({bad.failure}):"
            " `nono-trio audit verify --all` says which sessions lost their proof by that"
        )
    if session_id in ledger.doubtful:
        notes.append(
            "its line comes after a damaged or missing line of the ledger, which may have been its"
            " own: only an earlier copy of the ledger can tell"
        )
    if imported := ledger.imported.get(session_id):
        notes.append(f"another machine's: it was imported at {imported} (`audit import`)")
    if session_id in ledger.removed:
        notes.append("the ledger says that it was removed: `audit forget` was not finished")
    return notes


def _how_far(event_count: int) -> str:
    if not event_count:
        return "never sealed, and there is no record in it"
    return f"never sealed: good up to sequence {event_count - 1}, what came after is not known"


def evidence_notes(evidence: Evidence, answer: Verification) -> list[str]:
    """Return the notes about the session's files."""
    notes = []
    if evidence.metadata is None:
        notes.append("no session.json: nothing says where the log should end (an unsealed prefix)")
    elif not evidence.ours:
        notes.append(
            "judged by upstream nono's rules: chain, Merkle root and session.json; what the session"
            " was allowed, and when it ended, is not bound"
        )
    if evidence.ours and not evidence.binds_policy and answer.verdict in ("crashed", "open"):
        notes.append("it has no policy record yet: what it was allowed is not known")
    if answer.verdict == "crashed":
        notes.append(_how_far(answer.event_count))
    notes += _recovery_notes(evidence) if evidence.sealed else ()
    if evidence.facts.lost_total:
        notes.append(f"{counted(evidence.facts.lost_total, 'event')} lost while recording")
    if evidence.facts.lost_flows:
        lost = counted(evidence.facts.lost_flows, "flow line")
        notes.append(f"{lost} lost: what those connections moved is not known")
    return [*notes, *_torn_notes(evidence), *_signature_notes(evidence, answer)]


def _torn_notes(evidence: Evidence) -> Sequence[str]:
    """Return the note about the files for what a recovery cut off: the log does not bind them, so
    their content may have been changed, in an archive too."""
    if not evidence.ours:
        return ()
    torn = [name for name in store.TORN_FILES if os.path.lexists(evidence.beside(name))]
    if not torn:
        return ()
    cut = ", ".join(torn)
    return (f"not part of the proof, as no record binds what a recovery cut off: {cut}",)


def _signature_notes(evidence: Evidence, answer: Verification) -> list[str]:
    seen, notes = answer.attestation, list[str]()
    if not seen.present or answer.first_bad is not None:
        return notes
    if not seen.signature_verified and evidence.ours:
        notes.append(f"its policy names key {seen.key_id}; no signature was checked")
    elif seen.signature_verified and not seen.pinned:
        notes.append(
            f"self-attested: signed with key {seen.key_id}, which was not compared with one that"
            " you know (--public-key-file)"
        )
    unsigned = answer.event_count - 1 - (seen.signed_through or 0)
    if evidence.ours and seen.signed_through is not None and unsigned > 0:
        notes.append(f"signed through sequence {seen.signed_through}: the last {unsigned} are not")
    return notes


def unsigned_end(signed: int) -> str:
    """Return the note about a sealed session whose end is not signed with the pinned key."""
    if not signed:
        return "nothing of it is signed with that key, so nothing is proved by it"
    return (
        f"under that key only the records through sequence {signed - 1} are proved: what follows"
        " was written without it (by a recovery, or while the signer failed)"
    )


def signed_by_recovery(taken_from: int) -> str:
    """Return the note about records that were first signed by a recovery, from this sequence on."""
    return (
        "its supervisor was lost before its seal: the recovery has signed its end, and took the"
        f" records from sequence {taken_from} on from the disk"
    )


def _recovery_notes(evidence: Evidence) -> Sequence[str]:
    """Return the note about a recovery: its last record tells of it, which the hashes cover."""
    if evidence.metadata is None or not evidence.ours:
        return ()
    if evidence.metadata.exit_code != LOST_EXIT_CODE:
        return ()
    return (
        "it was recovered: its supervisor was lost, so how the command ended, and what was not"
        " yet recorded then, is not known",
    )
