"""Has witnesses cosign the ledger's checkpoints (C2SP tlog-witness, --witness).

Rules of this file: it blocks, in the thread that signs the ledger, after the session is sealed. A
call takes at most TRIES questions. Whatever a witness answers is recorded beside the ledger. A
witness that has seen another ledger under our key is a conflict, of which a warning tells; one that
does not answer is asked again by the next session.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from nono_trio.audit.keys.signature import is_ed25519
from nono_trio.audit.ledger import LEDGER, LEDGER_COSIGNATURES, numbered_lines
from nono_trio.audit.ledger_heads import ledger_leaves
from nono_trio.audit.verify.proofs import Leaves
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.ledger_signer import NotPublished
from nono_trio.core.credentials.oauth2 import TokenRequest
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_cosignature import (
    LedgerCosignature,
    decode_ledger_cosignature,
    encode_ledger_cosignature,
)
from nono_trio.core.proof import tree, witness
from nono_trio.core.proof.note import parse_note
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.session.tokens.token_endpoint import EndpointFailed, TokenEndpoint

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger_heads import LedgerHead
    from nono_trio.config.witness_options import WitnessOption
    from nono_trio.session.tokens.token_endpoint import Answer, Route

# The second one begins where the witness says that it is.
TRIES: Final = 2
# A hundred of them; a line of ours must stay below ledger_append.MAX_LINE.
MAX_COSIGNATURES: Final = 16 * 1024

_ADD_KEY: Final = (
    "its operator has to add the verifier key that `nono-trio keys export --vkey ledger` prints"
)
_REFUSALS: Final = {
    400: "does not understand the request",
    403: f"does not know the key of this ledger: {_ADD_KEY}",
    404: f"does not know this ledger: {_ADD_KEY}",
    409: "is ahead of what it has said: another session was faster",
}


class _Conflict(Exception):
    """The witness has cosigned what the ledger is no continuation of."""


class Witness:
    """One witness; its last size is known from what it has cosigned before."""

    def __init__(self, audit_root: Path, option: WitnessOption, route: Route) -> None:
        self._root = audit_root
        self._option = option
        self._endpoint = TokenEndpoint(option.url, route)

    def publish(self, head: LedgerHead) -> None:
        """Have a checkpoint cosigned and keep the answer; raises NotPublished, AuditLost and
        OSError."""
        try:
            note, verified = self._cosigned(head)
        except _Conflict as conflict:
            self._record(head, "conflict", str(conflict))
            raise NotPublished(
                f"THE LEDGER IS NOT THE ONE THAT A WITNESS HAS SEEN: {self._option.text}"
                f" {conflict}; compare with a kept checkpoint: nono-trio audit consistency"
            ) from None
        except NotPublished as failed:
            self._record(head, "failed", str(failed))
            raise
        self._record(head, "cosigned", None, note, verified=verified)

    def stop(self) -> None:
        """End a question, from another thread."""
        self._endpoint.stop()

    def _cosigned(self, head: LedgerHead) -> tuple[bytes, bool]:
        leaves = Leaves()
        for data in islice(ledger_leaves(self._root / LEDGER), head.head.size):
            leaves.append(data)
        if len(leaves) < head.head.size or tree.tree_root(leaves) != head.head.root:
            raise self._failed("was not asked: the ledger was changed since it was signed")
        old, asked = self._last_size(head), None
        for _ in range(TRIES):
            asked = old
            answer = self._ask(head, old, leaves)
            if answer.status != 409:
                return self._taken(head, answer)
            if asked == head.head.size and not answer.body:  # other lines, and no size to tell
                raise _Conflict(f"has cosigned {asked} other lines under this key")
            old = self._size_in(answer)
            if old > head.head.size:
                raise _Conflict(f"has cosigned {old} lines, this one has {head.head.size}")
            if old == asked == head.head.size:
                raise _Conflict(f"has cosigned {old} other lines under this key")
            if old == asked:
                break
        raise self._failed(_REFUSALS[409])

    def _ask(self, head: LedgerHead, old: int, leaves: Leaves) -> Answer:
        size = head.head.size
        proof = tree.prove_consistency(leaves, old, size) if 0 < old < size else []
        fields = (
            ("Host", self._option.url.authority),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("User-Agent", "nono-trio"),
            ("Connection", "close"),
        )
        body = witness.encode_request(old, proof, head.note)
        try:
            return self._endpoint.post(TokenRequest(fields, body))
        except EndpointFailed as failed:
            raise self._failed(f"gave no answer: {failed.reason}") from None

    def _taken(self, head: LedgerHead, answer: Answer) -> tuple[bytes, bool]:
        """Return the cosigned note, and whether it is by the key that the user gave."""
        if answer.status == 422:
            raise _Conflict("has cosigned other lines under this key: the proof does not fit them")
        if answer.status != 200:
            reason = _REFUSALS.get(answer.status, f"answered with status {answer.status}")
            raise self._failed(reason)
        if len(answer.body) > MAX_COSIGNATURES:
            raise self._failed(f"answered with more than {MAX_COSIGNATURES} bytes")
        try:
            note, lines = witness.parse_cosigned(head.note, answer.body)
            if self._option.key is None:
                return note, False
            cosignature = witness.cosignature_of(lines, self._option.key)
        except ValueError as error:
            raise self._failed(f"answered with no cosignature: {error}") from None
        if cosignature is None:
            raise self._failed("answered with cosignatures of other keys alone")
        message = witness.cosigned_message(cosignature.time, parse_note(head.note).text)
        if not is_ed25519(self._option.key.key, cosignature.signature, message):
            raise self._failed("answered with a bad cosignature")
        return note, True

    def _size_in(self, answer: Answer) -> int:
        try:
            return witness.parse_size(answer.body)
        except ValueError as error:
            raise self._failed(f"answered with a conflict without a size: {error}") from None

    def _last_size(self, head: LedgerHead) -> int:
        """Return the size that this witness has cosigned last, as far as we know; 0 if it has
        not."""
        size = 0
        for _, _, line in numbered_lines(self._root / LEDGER_COSIGNATURES):
            try:
                found = decode_ledger_cosignature(line)
            except MALFORMED:
                continue  # nothing binds that file, and the witness knows it better
            names = (found.witness, found.origin, found.outcome)
            if names == (self._option.text, head.head.origin, "cosigned"):
                size = found.event_count
        return min(size, head.head.size)

    def _record(
        self,
        head: LedgerHead,
        outcome: Literal["cosigned", "conflict", "failed"],
        reason: str | None,
        note: bytes | None = None,
        *,
        verified: bool = False,
    ) -> None:
        line = LedgerCosignature(
            time=rfc3339(),
            witness=self._option.text,
            origin=head.head.origin,
            event_count=head.head.size,
            outcome=outcome,
            verified=verified,
            reason=reason,
            note=(note or head.note).decode(),
        )
        with as_owner_of_path(self._root), ledger_append.locked(self._root):
            ledger_append.append_line_locked(
                self._root, LEDGER_COSIGNATURES, encode_ledger_cosignature(line)
            )

    def _failed(self, reason: str) -> NotPublished:
        return NotPublished(f"the witness {self._option.text} {reason}")
