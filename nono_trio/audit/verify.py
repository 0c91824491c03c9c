"""`audit verify`: what a session's files prove, to someone who was not there.

Pure reading, without locks, in constant memory, without the loop. The order of looking matters on
a session that is still being written: session.json first, then the sizes of the checkpoints and of
the log, so that a checkpoint is never expected to cover bytes that came later.

Three kinds of input, told apart by what lies beside the log:
- ours (session.json has `nono_trio`, or there are checkpoints): strict, byte for byte;
- a session of upstream nono: by upstream's rules, with notes on what it can't tell;
- a log without session.json and checkpoints: nothing says where it should end, so it is never
  `verified`; a good one is reported as `crashed`, with a note that it is an unsealed prefix.

A crash is not tampering: in an unsealed session a last line that is no record, after everything a
checkpoint covers, is a torn tail. Anything wrong before it, and anything wrong in a sealed session,
is tampering. A session whose supervisor lives is `open`, whatever half of its seal is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.audit import ledger as ledgers
from nono_trio.audit import seal_check as seal
from nono_trio.audit.log_check import LogCheck
from nono_trio.audit.quick import QuickCheck
from nono_trio.audit.read import size_of
from nono_trio.audit.store import (
    CHECKPOINTS,
    FLOWS,
    LOG,
    SESSION,
    is_alive,
    is_sealed,
    read_metadata,
)
from nono_trio.audit.verdict import (
    AttestationSeen,
    CheckpointsSeen,
    FirstBad,
    Stored,
    Verdict,
    Verification,
)
from nono_trio.core.events import LOST_EXIT_CODE
from nono_trio.core.metadata import NonoTrioFacts, SessionMetadata
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.core.metadata import Checkpoint

ID_MISMATCH = "session id mismatch"


@dataclass(frozen=True)
class Evidence:
    """What lies there to be judged, and how it is to be judged."""

    log: Path
    directory: Path | None
    metadata: SessionMetadata | None
    alive: bool
    checkpoints_size: int
    log_size: int

    @property
    def facts(self) -> NonoTrioFacts | None:
        """Our own part of session.json."""
        facts = self.metadata.nono_trio if self.metadata is not None else None
        return facts if isinstance(facts, NonoTrioFacts) else None

    @property
    def ours(self) -> bool:
        """Whether nono-trio wrote it, so that the strict rules hold."""
        return self.facts is not None or self.checkpoints_size > 0

    @property
    def sealed(self) -> bool:
        """Whether session.json says so; without our facts, whether it has anything to compare."""
        return self.metadata is not None and is_sealed(self.metadata)


def verify(
    target: Path, *, quick: bool = False, ledger: LedgerReport | None = None
) -> Verification:
    """Judge one session directory or log file.

    `ledger` is the report on the ledger beside it, if it was made already (it is made anew for a
    session that is missing in it: it may have been sealed since). Never raises for what it finds:
    what can't be read has the verdict `unreadable` and a note.
    """
    try:
        evidence = _gather(target)
        judge = _judge_quickly if quick and evidence.checkpoints_size else _judge
        answer = judge(evidence, ledger)
    except LogUnreadable as error:
        return Verification(verdict="unreadable", path=str(target), notes=[error.message])
    except OSError as error:
        note = f"{error.filename or target} can't be read: {error.strerror or error}"
        return Verification(verdict="unreadable", path=str(target), notes=[note])
    if quick and not evidence.checkpoints_size:
        answer.notes.append("quick: there are no checkpoints, so every record was checked")
    return answer


def _gather(target: Path) -> Evidence:
    if not target.exists():
        raise LogUnreadable(f"{target} does not exist")
    directory = _session_directory(target)
    log = directory / LOG if directory is not None else target
    metadata, alive = _read_session(directory)
    beside = size_of(directory / CHECKPOINTS) if directory is not None else 0
    if not log.is_file():
        raise LogUnreadable(f"{log} is {'no file' if log.exists() else 'missing'}")
    return Evidence(
        log=log,
        directory=directory,
        metadata=metadata,
        alive=alive,
        checkpoints_size=beside,
        log_size=size_of(log),
    )


def _session_directory(target: Path) -> Path | None:
    """The session that a directory, or a file in it, belongs to; None for a log by itself."""
    if target.is_dir():
        return target
    parent = target.parent
    in_session = target.name in (LOG, SESSION) and (
        (parent / SESSION).exists() or (parent / CHECKPOINTS).exists()
    )
    return parent if in_session else None


def _read_session(directory: Path | None) -> tuple[SessionMetadata | None, bool]:
    """session.json if there is one, and whether the supervisor that wrote it still runs.

    One that is found dead may have sealed between the two looks, hence the second reading.
    """
    if directory is None or not (directory / SESSION).exists():
        return None, False
    metadata = read_metadata(directory)
    if is_alive(metadata):
        return metadata, True
    return read_metadata(directory), False


def _judge(evidence: Evidence, ledger: LedgerReport | None) -> Verification:
    metadata = evidence.metadata
    check = LogCheck(
        evidence.log,
        evidence.log_size,
        strict=evidence.ours,
        sealed=evidence.sealed,
        network_events=metadata.network_events if metadata and evidence.sealed else (),
    )
    check.run(_beside(evidence, CHECKPOINTS), evidence.checkpoints_size)
    head = check.chain.head
    answer = _answer(
        evidence, check.chain.count, head.hex() if head else None, check.chain.tree.root().hex()
    )
    answer.checkpoints = check.cursor.seen() if check.cursor else CheckpointsSeen(matches=False)
    answer.first_bad = check.first_bad
    if answer.first_bad is None and evidence.sealed:
        answer.first_bad = _seal_fault(evidence, answer, check)
    if check.torn_bytes and not evidence.alive:
        answer.notes.append(f"the last {check.torn_bytes} bytes are no whole record: a torn tail")
    return _conclude(evidence, answer, ledger, sound="verified")


def _judge_quickly(evidence: Evidence, ledger: LedgerReport | None) -> Verification:
    check = QuickCheck(evidence.log, evidence.log_size)
    check.run(_beside(evidence, CHECKPOINTS), evidence.checkpoints_size)
    last = check.cursor.last if check.cursor else None
    answer = _answer(evidence, 0, None, None)
    if last is not None:
        answer.event_count = last.event_count
        answer.chain_head, answer.merkle_root = last.chain_head, last.merkle_root
    answer.checkpoints = check.cursor.seen() if check.cursor else CheckpointsSeen(matches=False)
    answer.first_bad = check.first_bad
    if answer.first_bad is None and evidence.sealed:
        answer.first_bad = _summary_fault(evidence, answer, last)
    answer.notes.append("quick: checksums only, no record was hashed; nothing is proved")
    if check.unchecked_bytes:
        answer.notes.append(
            f"quick: {check.unchecked_bytes} bytes after the last checkpoint were not looked at"
        )
    return _conclude(evidence, answer, ledger, sound="undamaged")


def _beside(evidence: Evidence, name: str) -> Path:
    return (evidence.directory or evidence.log.parent) / name


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
    if evidence.metadata is not None:
        return evidence.metadata.session_id
    return evidence.directory.resolve().name if evidence.directory is not None else None


def _seal_fault(evidence: Evidence, answer: Verification, check: LogCheck) -> FirstBad | None:
    """What keeps a good log from being a sealed one."""
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
    return seal.check_flows(last, _beside(evidence, FLOWS)) or seal.check_lost(metadata, last)


def _conclude(
    evidence: Evidence, answer: Verification, ledger: LedgerReport | None, *, sound: Verdict
) -> Verification:
    """Fill in the verdict; `sound` is the one for a sealed session without a fault."""
    if answer.first_bad is None and evidence.sealed:
        answer.verdict = _judge_ledger(evidence, answer, ledger, sound)
    elif answer.first_bad is None:
        answer.verdict = "open" if evidence.alive else "crashed"
    if answer.first_bad is not None:
        answer.verdict = "tampered"
    answer.notes.extend(_notes(evidence, answer))
    return answer


def _judge_ledger(
    evidence: Evidence, answer: Verification, ledger: LedgerReport | None, sound: Verdict
) -> Verdict:
    """The verdict of a sealed session by its line in the ledger; may set `first_bad`."""
    metadata, directory = evidence.metadata, evidence.directory
    if metadata is None or directory is None:
        raise AssertionError("sealed without a session.json")
    root = directory.resolve().parent
    if ledger is None or metadata.session_id not in ledger.digests:
        ledger = ledgers.verify(root, metadata.session_id)
    answer.ledger, fault = seal.check_ledger(ledger, metadata)
    if fault is None:
        answer.first_bad = seal.differs(ID_MISMATCH, directory.resolve().name, metadata.session_id)
        return sound
    if fault.failure == seal.LEDGER_LINE_MISSING:
        if evidence.alive:
            answer.notes.append("it is being sealed: the ledger has no line for it yet")
            return "open"
        if not evidence.ours:
            answer.notes.append("no ledger line: its digest was compared with nothing")
            return sound
        if not ledger.present:
            answer.notes.append(
                f"{root / ledgers.LEDGER} is missing; a copied session needs its ledger beside it"
            )
            return "unreadable"
    answer.first_bad = fault
    return "tampered"


def _how_far(event_count: int) -> str:
    if not event_count:
        return "never sealed, and there is no record in it"
    return f"never sealed: good up to sequence {event_count - 1}, what came after is not known"


def _notes(evidence: Evidence, answer: Verification) -> list[str]:
    """What a reader of the verdict has to know besides."""
    notes = []
    if evidence.metadata is None:
        notes.append("no session.json: nothing says where the log should end (an unsealed prefix)")
    elif not evidence.ours:
        notes.append("no checkpoints: checked by upstream nono's rules, against session.json only")
    if answer.verdict == "crashed":
        notes.append(_how_far(answer.event_count))
    notes += _recovery_notes(evidence) if evidence.sealed else ()
    if evidence.facts is not None and evidence.facts.lost_total:
        notes.append(f"{evidence.facts.lost_total} events were lost while recording")
    if answer.attestation.present:
        notes.append("it is signed; this version does not check signatures")
    return notes


def _recovery_notes(evidence: Evidence) -> Sequence[str]:
    """That it was recovered: by its last record, which the hashes cover, wherever that says so.

    session.json's `status` alone is covered by no hash.
    """
    if evidence.metadata is None or not evidence.ours:
        return ()
    if evidence.metadata.exit_code == LOST_EXIT_CODE:
        return (
            "it was recovered: its supervisor was lost, so how the command ended, and what was not"
            " yet recorded then, is not known",
        )
    if evidence.facts is not None and evidence.facts.status == "recovered":
        return ("it was recovered: its log was whole, only the seal was missing",)
    return ()
