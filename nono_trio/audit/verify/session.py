"""`audit verify`: proves a session from its files alone.

It only reads, without locks, in constant memory, without the loop. evidence.py collects the files
and decides whose rules apply. Our own rules are strict, byte for byte; upstream nono's apply only
to its own sessions, and only on request (`upstream`). A single log, without its session, is never
`verified`: nothing says where it should end.

A crash is not tampering. In an unsealed session an incomplete last line, after everything a
checkpoint covers, is a torn tail, and a hole of zeros there comes from a loss of power. Any fault
before it, and any fault in a sealed session, is tampering. So is a session that says it is unsealed
while the ledger has its line, unless its log has ended and leads to that very digest (a crash after
the ledger's line). A session whose supervisor runs is `open`, even if half of its seal is written.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, TypedDict

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.store import CHECKPOINTS, FLOWS, place_name
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify import bound_files as bounds
from nono_trio.audit.verify import seal_check as seal
from nono_trio.audit.verify.binding import binding_fault, current_report
from nono_trio.audit.verify.bound_files import Bound
from nono_trio.audit.verify.evidence import Evidence, gather, is_ledger
from nono_trio.audit.verify.log_check import LogCheck
from nono_trio.audit.verify.no_session import removed_meanwhile, verify_without_session
from nono_trio.audit.verify.quick import QuickCheck
from nono_trio.audit.verify.session_signatures import (
    require_signed_end,
    signature_fault,
    tell_signatures,
)
from nono_trio.audit.verify.signatures import SignatureCheck
from nono_trio.audit.verify.verdict import (
    AttestationSeen,
    CheckpointsSeen,
    Stored,
    Verdict,
    Verification,
)
from nono_trio.audit.verify.verdict_notes import evidence_notes, ledger_notes, nameless_notes
from nono_trio.audit.verify.whole_ledger import verify_ledger
from nono_trio.core.log.events import Network
from nono_trio.core.log.session_json import MAX_NETWORK_EVENTS, session_digest
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.stored_session import FirstBad
    from nono_trio.core.log.events import NetworkEvent, Payload
    from nono_trio.core.log.session_json import Checkpoint, SessionMetadata
    from nono_trio.core.proof.public_keys import PublicKeys

Watch: TypeAlias = "Callable[[Callable[[], float]], None]"

# A supervisor or a recovery may seal a session while it is judged. The first reading then does not
# fit the last one, so it is judged again. A session ends only once.
MAX_LOOKS = 3
LEAST_BYTES: Final = 2 * 1024 * 1024  # of a log that is read in parts, with joiner.py


class VerifyOptions(TypedDict, total=False):
    """The keywords of `verify` that hold for a session in any form; `verify` says what they do."""

    quick: bool
    upstream: bool
    pinned: PublicKeys | None
    watch: Watch | None
    jobs: int | None


def verify(
    target: Path,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    ledger: LedgerReport | None = None,
    watch: Watch | None = None,
    jobs: int | None = 1,
) -> Verification:
    """Judge one session directory or log file.

    `jobs` is the number of processes that check parts of a long log, None to choose it. Not for a
    process that runs a loop: it blocks, and ends its own processes only. Raises WorkerLost.

    `ledger` is the report on the ledger beside it, if there is one already (it is made again for a
    session that is missing in it, which may have been sealed since). `watch` gets a function that
    returns the share of the log that is read; another thread may call it. With `pinned`, only a
    session that is signed with that key is verified. Raises nothing for its
    faults: an unreadable session has the verdict `unreadable` and a note, and so has one that is
    removed on purpose meanwhile.
    """
    try:
        if is_ledger(target):
            return verify_ledger(target, pinned)
        evidence = gather(target, upstream=upstream)
        answer = _answer_for(evidence, ledger, quick, pinned, watch, jobs)
        for _ in range(MAX_LOOKS - 1):
            before = evidence
            if answer.first_bad is None or evidence.sealed:
                break
            evidence = gather(target, upstream=upstream)
            if not evidence.moved_on_from(before):
                break
            answer = _answer_for(evidence, ledger, quick, pinned, watch, jobs)
    except LogUnreadable as error:
        return verify_without_session(target, error)
    except OSError as error:
        note = f"{error.filename or target} can't be read: {error.strerror or error}"
        unread = Verification(verdict="unreadable", path=str(target), notes=[note])
        return removed_meanwhile(target) or unread
    if answer.first_bad is not None and (removed := removed_meanwhile(target)) is not None:
        return removed
    if quick and not evidence.checkpoints_size:
        answer.notes.append("quick: there are no checkpoints, so every record was checked")
    return answer


def _answer_for(
    evidence: Evidence,
    ledger: LedgerReport | None,
    quick: bool,
    pinned: PublicKeys | None,
    watch: Watch | None,
    jobs: int | None,
) -> Verification:
    replaced = (
        bounds.check_kinds(evidence.directory) if evidence.ours and evidence.directory else None
    )
    if replaced is not None:
        answer = _answer(evidence, 0, None, None)
        answer.first_bad = replaced
        return _conclude(evidence, answer, ledger, sound="verified")
    if quick and evidence.checkpoints_size:
        return _judge_quickly(evidence, ledger)
    return _judge(evidence, ledger, pinned, watch, jobs)


class FirstNetworkEvents:
    """The first network events of a log, as session.json repeats them; their number is bounded."""

    def __init__(self) -> None:
        self.first: list[NetworkEvent] = []

    def observe(self, payload: Payload) -> None:
        """Keep one, if it is a network event and there is space."""
        if isinstance(payload, Network) and len(self.first) < MAX_NETWORK_EVENTS:
            self.first.append(payload.event)


def _nothing(_payload: Payload) -> None:
    """Keep nothing of a sealed log: session.json has these events already."""


def _check_log(
    evidence: Evidence, watch: Watch | None, jobs: int | None
) -> tuple[LogCheck, FirstNetworkEvents]:
    """Read the whole log; in parts if it is long, and again in one if they do not fit together."""
    checkpoints, size = evidence.beside(CHECKPOINTS), evidence.checkpoints_size
    if evidence.ours and evidence.log_size >= LEAST_BYTES:
        from nono_trio.audit.verify.joiner import PartsDisagree, PartsJoiner  # late: few are long

        check, events = _log_check(evidence, watch)
        with suppress(PartsDisagree):
            check.run(checkpoints, size, PartsJoiner(evidence, jobs).run)
            return check, events
    check, events = _log_check(evidence, watch)
    check.run(checkpoints, size)
    return check, events


def _log_check(evidence: Evidence, watch: Watch | None) -> tuple[LogCheck, FirstNetworkEvents]:
    metadata = evidence.metadata
    events = FirstNetworkEvents()
    signatures = SignatureCheck.of(evidence.directory if evidence.ours else None)
    check = LogCheck(
        evidence.log,
        evidence.log_size,
        strict=evidence.ours,
        sealed=evidence.sealed,
        network_events=metadata.network_events if metadata and evidence.sealed else (),
        observe=_nothing if evidence.sealed else events.observe,
        signatures=signatures,
    )
    if watch is not None:
        watch(check.share)
    return check, events


def _judge(
    evidence: Evidence,
    ledger: LedgerReport | None,
    pinned: PublicKeys | None,
    watch: Watch | None,
    jobs: int | None,
) -> Verification:
    metadata = evidence.metadata
    check, events = _check_log(evidence, watch, jobs)
    head = check.chain.head
    answer = _answer(
        evidence, check.chain.count, head.hex() if head else None, check.chain.tree.root().hex()
    )
    answer.checkpoints = check.cursor.seen() if check.cursor else CheckpointsSeen(matches=False)
    if evidence.sealed and metadata is not None:  # compared with the log one by one
        events.first = metadata.network_events
    bound = Bound(evidence.directory or evidence.log.parent)
    answer.first_bad = (
        check.first_bad
        or signature_fault(evidence, check, pinned)
        or (_seal_fault(evidence, answer, check) if evidence.sealed else None)
        or binding_fault(evidence, check, bound, events.first, ledger)
    )
    tell_signatures(evidence, answer, check.signatures, pinned)
    if check.policy_was_taken:
        answer.notes.append(
            "its policy was bound by the recovery, from a policy.json that no record had bound: no"
            " command is started before that record"
        )
    if check.torn_bytes and not evidence.alive:
        answer.notes.append(f"the last {check.torn_bytes} bytes are no whole record: a torn tail")
    answer = _conclude(evidence, answer, ledger, sound="verified", pinned=pinned)
    if pinned is not None and answer.verdict == "verified" and evidence.ours:
        require_signed_end(answer, check.signatures)
    return answer


def _judge_quickly(evidence: Evidence, ledger: LedgerReport | None) -> Verification:
    check = QuickCheck(evidence.log, evidence.log_size)
    check.run(evidence.beside(CHECKPOINTS), evidence.checkpoints_size)
    last = check.cursor.last if check.cursor else None
    answer = _answer(evidence, 0, None, None)
    if last is not None:
        answer.event_count = last.event_count
        answer.chain_head, answer.merkle_root = last.chain_head, last.merkle_root
    answer.checkpoints = check.cursor.seen() if check.cursor else CheckpointsSeen(matches=False)
    answer.first_bad = check.first_bad
    if answer.first_bad is None and evidence.sealed:
        answer.first_bad = _summary_fault(evidence, answer, last)
    if answer.first_bad is None and evidence.ours and evidence.directory is not None:
        answer.first_bad = bound_facts.look(evidence.directory, ledger, files=True).fault
    answer.notes.append("quick: checksums only, no record was hashed; nothing is proved")
    if check.unchecked_bytes:
        answer.notes.append(
            f"quick: {check.unchecked_bytes} bytes after the last checkpoint were not looked at"
        )
    return _conclude(evidence, answer, ledger, sound="undamaged")


def _answer(evidence: Evidence, count: int, head: str | None, root: str | None) -> Verification:
    metadata = evidence.metadata
    integrity = metadata.audit_integrity if metadata else None
    attestation = metadata.audit_attestation if metadata else None
    return Verification(
        verdict="crashed",
        path=str(evidence.directory or evidence.log),
        session_id=_session_id(evidence),
        event_count=count,
        chain_head=head,
        merkle_root=root,
        sealed=evidence.sealed,
        rules=evidence.rules,
        stored=Stored(
            event_count=integrity.event_count if integrity else None,
            chain_head=integrity.chain_head if integrity else None,
            merkle_root=integrity.merkle_root if integrity else None,
        ),
        attestation=AttestationSeen(
            present=attestation is not None, key_id=attestation.key_id if attestation else None
        ),
    )


def _session_id(evidence: Evidence) -> str | None:
    """Return the id that a session has by its place, so that a copy of another session is not
    reported under the other's id. Upstream's sessions may lie under any name."""
    if evidence.metadata is not None and not evidence.ours:
        return evidence.metadata.session_id
    return place_name(evidence.directory) if evidence.directory is not None else None


def _seal_fault(evidence: Evidence, answer: Verification, check: LogCheck) -> FirstBad | None:
    """Return the first fault of a good log against its seal."""
    last = check.cursor.last if check.cursor else None
    fault = _summary_fault(evidence, answer, last)
    if fault is None and evidence.ours and evidence.metadata is not None:
        fault = seal.check_records(check, evidence.metadata)
    return fault


def _summary_fault(
    evidence: Evidence, answer: Verification, last: Checkpoint | None
) -> FirstBad | None:
    metadata = evidence.metadata
    if metadata is None:
        return None
    fault = seal.check_integrity(
        metadata, answer.event_count, answer.chain_head, answer.merkle_root
    )
    if fault is not None or not evidence.ours:
        return fault
    fault = seal.check_final_checkpoint(last, evidence.log_size)
    if fault is not None or last is None:
        return fault
    return seal.check_flows(last, evidence.beside(FLOWS)) or seal.check_lost(metadata, last)


def _conclude(
    evidence: Evidence,
    answer: Verification,
    ledger: LedgerReport | None,
    *,
    sound: Verdict,
    pinned: PublicKeys | None = None,
) -> Verification:
    """Fill in the verdict; `sound` is the one for a sealed session without a fault."""
    if answer.first_bad is None and evidence.sealed:
        answer.verdict = _judge_ledger(evidence, answer, ledger, sound, pinned)
    elif answer.first_bad is None:
        answer.verdict = "open" if evidence.alive else "crashed"
        if evidence.ours and evidence.directory is not None and not evidence.alive:
            root = evidence.directory.resolve().parent
            answer.notes += nameless_notes(ledger or ledgers.verify(root, answer.session_id))
    if answer.first_bad is not None:
        answer.verdict = "tampered"
    answer.notes.extend(evidence_notes(evidence, answer))
    return answer


def _judge_ledger(
    evidence: Evidence,
    answer: Verification,
    ledger: LedgerReport | None,
    sound: Verdict,
    pinned: PublicKeys | None,
) -> Verdict:
    """Return the verdict of a sealed session by its line in the ledger; may set `first_bad`."""
    metadata, directory = evidence.metadata, evidence.directory
    if metadata is None or directory is None:
        raise AssertionError("sealed without a session.json")
    ledger = current_report(directory, metadata.session_id, ledger)
    answer.ledger, fault = seal.check_ledger(ledger, metadata)
    answer.notes += ledger_notes(ledger, metadata.session_id)
    if fault is None and answer.ledger.imported:
        fault = _carried_fault(directory, metadata, answer, pinned)
    if fault is None:
        answer.first_bad = bounds.differs(
            bounds.ID_MISMATCH, place_name(directory), metadata.session_id
        )
        return sound
    if fault.failure == seal.LEDGER_LINE_MISSING:
        if not evidence.ours:
            answer.notes.append("no ledger line: its digest was compared with nothing")
            return _judge_name(directory, metadata.session_id, ledger, answer, sound)
        if not ledger.present:
            answer.notes.append(
                f"{directory.resolve().parent / ledgers.LEDGER} is missing;"
                " a copied session needs its ledger beside it"
            )
            return "unreadable"
    answer.first_bad = fault
    return "tampered"


def _carried_fault(
    directory: Path, metadata: SessionMetadata, answer: Verification, pinned: PublicKeys | None
) -> FirstBad | None:
    """Return the fault of the files that came with another machine's session."""
    from nono_trio.audit.verify import carried_ledger as carried  # late: few are imported

    try:
        found = carried.check_carried(directory, session_digest(metadata))
    except carried.CarriedFault as fault:
        return fault.first_bad
    answer.notes += carried.carried_notes(found, pinned)
    return None


def _judge_name(
    directory: Path, session_id: str, ledger: LedgerReport, answer: Verification, sound: Verdict
) -> Verdict:
    """Return the verdict of an upstream session without a ledger line, by its directory's name.

    Beside a ledger a directory has its session's id; a copy elsewhere may have any name.
    """
    renamed = bounds.differs(bounds.ID_MISMATCH, place_name(directory), session_id)
    if renamed is not None and ledger.present:
        answer.first_bad = renamed
        return "tampered"
    if renamed is not None:
        answer.notes.append(f"its directory has another name than session {session_id} in it")
    return sound
