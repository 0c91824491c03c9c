"""The ledger's line of a session that left its machine, and the proof that came with it.

In an archive, and beside an imported session, lie the line, a tlog-proof (C2SP) that the ledger's
signed tree has it, the signed checkpoint of that tree, and the public keys. Rules of this file: the
line alone proves nothing: anyone who makes an archive can make a line. The keys are those
that the files name; whether they are the right ones is for the reader (`--public-key-file`). Every
byte of these files follows from the session and the ledger, and is compared.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.audit import store
from nono_trio.audit.ledger import BadLedgerLine, LedgerReport
from nono_trio.audit.store import (
    LEDGER_CHECKPOINT,
    LEDGER_LINE,
    LEDGER_PROOF,
    PUBLIC_KEYS,
    VERIFIER_KEYS,
)
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.evidence import read_bound_file
from nono_trio.audit.write.seal import public_keys_of
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_record import LedgerRecord, encode_ledger_record, sound_record
from nono_trio.core.log.policy_json import decode_policy
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger_heads import LedgerHead
    from nono_trio.core.proof.public_keys import PublicKeys

MAX_BYTES: Final = 64 * 1024

LINE_MISMATCH: Final = "carried ledger line mismatch"
PROOF_MISMATCH: Final = "ledger proof mismatch"
KEYS_MISMATCH: Final = "public keys mismatch"


class Carried(NamedTuple):
    """The files beside a session: the ledger's line, and if its ledger was signed, the checkpoint
    whose tree has the line."""

    record: LedgerRecord
    head: LedgerHead | None


class CarriedFault(Exception):
    """A file that came with a session is missing, or is another one."""

    def __init__(self, failure: str, expected: object, got: object) -> None:
        super().__init__(failure)
        self.first_bad = FirstBad(failure=failure, expected=str(expected), got=str(got))


def carried_report(directory: Path) -> LedgerReport:
    """Return what the line beside a session says, in place of the ledger that is not here.

    A bad line condemns the session. Raises OSError.
    """
    session_id = directory.name
    digests, condemned = dict[str, str](), dict[str, BadLedgerLine]()
    try:
        digests[session_id] = read_line(directory).session_digest
    except CarriedFault as fault:
        bad = fault.first_bad
        condemned[session_id] = BadLedgerLine(
            line=1, offset=0, failure=bad.failure, expected=bad.expected, got=bad.got
        )
    return LedgerReport(
        present=False,
        count=len(digests),
        chain_head=None,
        digests=digests,
        condemned=condemned,
        removed={},
        imported={session_id: ""},
        first_bad=None,
        torn_tail=False,
    )


def read_line(directory: Path) -> LedgerRecord:
    """Return the line beside a session; raises CarriedFault and OSError."""
    data = _read(directory, LEDGER_LINE)
    record = None if data is None else sound_record(data)
    if record is None or encode_ledger_record(record) != data:
        got = "no file" if data is None else "another"
        raise CarriedFault(LINE_MISMATCH, f"one line of a ledger in {LEDGER_LINE}", got)
    if record.session_id != directory.name:
        raise CarriedFault(LINE_MISMATCH, directory.name, record.session_id)
    return record


def check_carried(directory: Path, digest: str) -> Carried:
    """Check all files that came with a session, whose digest the ledger's line must have.

    Raises CarriedFault, LogUnreadable and OSError.
    """
    record = read_line(directory)
    if record.session_digest != digest:
        raise CarriedFault(LINE_MISMATCH, digest, record.session_digest)
    head = _checked_head(directory, record)
    for name, expected in key_files(directory, head).items():
        got = _read(directory, name)
        if got != expected:
            shown = (_shown(one) for one in (expected, got))
            raise CarriedFault(KEYS_MISMATCH, *(f"{name}: {one}" for one in shown))
    return Carried(record, head)


def key_files(directory: Path, head: LedgerHead | None) -> dict[str, bytes | None]:
    """Return the public keys that the session's policy and the ledger's checkpoint name, as PEM and
    as verifier keys; None for a file that there must not be. Raises OSError."""
    keys, lines = _session_keys(directory), list[str]()
    if keys is not None or head is not None:
        from nono_trio.core.proof.note import verifier_key  # late: few sessions are signed
        from nono_trio.core.proof.tree_head import ledger_origin, session_origin

        if keys is not None:
            lines.append(verifier_key(session_origin(directory.name), keys.note))
        if head is not None:
            lines.append(verifier_key(ledger_origin(head.key), head.key))
    return {
        PUBLIC_KEYS: None if keys is None else keys.pem().encode(),
        VERIFIER_KEYS: "".join(f"{line}\n" for line in lines).encode() if lines else None,
    }


def carried_notes(found: Carried, pinned: PublicKeys | None) -> list[str]:
    """Return what the line and its proof say, and what they do not."""
    place = f"line {found.record.sequence + 1} of its own ledger came with it"
    if found.head is None:
        return [f"{place}, unsigned: anyone who makes an archive can make such a line"]
    size = found.head.head.size
    proved = f"{place}, with a proof that it is among {size} signed lines"
    if pinned is not None and pinned.note == found.head.key:
        return [f"{proved}, by the pinned key"]
    return [f"{proved}; self-attested: that key was not compared with one that you know"]


def _session_keys(directory: Path) -> PublicKeys | None:
    """Return the keys of a session's policy, which the log binds; None if it names none."""
    try:
        named = decode_policy(read_bound_file(directory / store.POLICY) or b"").signing_keys
        return None if named is None else public_keys_of(named)
    except (*MALFORMED, ValueError):
        return None


def _checked_head(directory: Path, record: LedgerRecord) -> LedgerHead | None:
    """Return the signed checkpoint whose tree has the line; None if the ledger was not signed."""
    proof, checkpoint = (_read(directory, name) for name in (LEDGER_PROOF, LEDGER_CHECKPOINT))
    if proof is None and checkpoint is None:
        return None
    if proof is None or checkpoint is None:
        missing = LEDGER_PROOF if proof is None else LEDGER_CHECKPOINT
        raise CarriedFault(PROOF_MISMATCH, missing, "no file")
    from nono_trio.audit.ledger_heads import BadLedgerHead, read_heads  # late: as above
    from nono_trio.core.proof import tree
    from nono_trio.core.proof.proof_file import parse_proof

    try:
        heads = list(read_heads(directory / LEDGER_CHECKPOINT))
        parsed = parse_proof(proof)
    except BadLedgerHead as bad:
        raise CarriedFault(f"ledger {bad.failure}", bad.expected, bad.got) from bad
    except ValueError as error:
        raise CarriedFault(PROOF_MISMATCH, f"a tlog-proof in {LEDGER_PROOF}", error) from error
    if len(heads) != 1 or checkpoint.count(b"\n") != 1:
        raise CarriedFault(PROOF_MISMATCH, "one signed checkpoint", f"{len(heads)}")
    (head,) = heads
    data = encode_ledger_record(record)[:-1]
    if parsed.encode() != proof or (parsed.extra, parsed.checkpoint) != (data, head.note):
        raise CarriedFault(PROOF_MISMATCH, "a proof of the line, under the checkpoint", "another")
    place, size = parsed.leaf_index, head.head.size
    if place != record.sequence or not tree.includes(
        tree.leaf_hash(data), place, size, parsed.hashes, head.head.root
    ):
        expected = f"line {record.sequence + 1} in the signed tree of {size}"
        raise CarriedFault(PROOF_MISMATCH, expected, "another line or tree")
    return head


def _read(directory: Path, name: str) -> bytes | None:
    try:
        return read_whole(directory / name, MAX_BYTES)
    except FileNotFoundError:
        return None


def _shown(data: bytes | None) -> str:
    return "no file" if data is None else f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
