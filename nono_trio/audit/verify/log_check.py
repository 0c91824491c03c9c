"""One pass over a log: every record, every checkpoint, and the place of the first fault.

Rules of this file: the pass stops at the first bad record, because a record after it proves
nothing. Only this file distinguishes the traces of a crash from tampering. Memory does not grow
with the log. Parts of the log may be checked by themselves (`parts`, joiner.py) and are then joined
here, where every fact of theirs is compared with what came before.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from nono_trio.audit.read.records import MAX_LINE, is_too_long, lines
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.chain import PARSE_ERROR, BadRecord, Chain, shown
from nono_trio.audit.verify.checkpoints import TRUNCATED, CheckpointCursor
from nono_trio.audit.verify.signatures import renamed
from nono_trio.core.log.events import Network, SessionEnded, SessionStarted, decode_payload
from nono_trio.core.log.notices import POLICY_SEQUENCE, Tally, says_policy_was_taken
from nono_trio.core.log.session_json import MAX_NETWORK_EVENTS
from nono_trio.core.policy.attempts import AttemptTally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.audit.verify.parts import GoodPart
    from nono_trio.audit.verify.signatures import SignatureCheck
    from nono_trio.core.log.events import NetworkEvent, Payload

FIRST_RECORD = "first record mismatch"
AFTER_END = "record after session_ended"
NETWORK_EVENTS = "network_events mismatch"


# Pages of a file may reach the disk in any order. After a loss of power a missing page is read as
# zeros, with good lines after it. No record has a raw zero byte.
_HOLE = b"\0"


class LogCheck:
    """The result of one pass over a log; call `run` once, then read the attributes.

    `strict` is for our own logs; `sealed` excludes a crash as an explanation. The sizes are those
    of the files when the verifier started; `network_events` are those that session.json repeats
    from the log; `observe` is called with each good payload, of parts with the first network events
    only; `signatures` checks what is signed.
    """

    def __init__(
        self,
        log: Path,
        size: int,
        *,
        strict: bool,
        sealed: bool,
        network_events: Sequence[NetworkEvent] = (),
        observe: Callable[[Payload], None] = lambda _payload: None,
        signatures: SignatureCheck,
    ) -> None:
        self.chain = Chain(strict=strict)
        self.chain.proof_tree = signatures.tree
        self.signatures = signatures
        self.cursor: CheckpointCursor | None = None
        self.first_bad: FirstBad | None = None
        self.good_bytes = 0
        self.torn_bytes = 0
        self.started: SessionStarted | None = None
        self.ended: SessionEnded | None = None
        self.network_count = 0
        self.tally = Tally()
        self.attempts = AttemptTally()
        self.second: Payload | None = None
        self.before_last: Payload | None = None
        """The record before the last one: in a sealed log the summary's."""
        self.last: Payload | None = None
        self.policy_was_taken = False
        """True if a recovery bound the policy, because no record had."""
        self._log = log
        self._size = size
        self._strict = strict
        self._sealed = sealed
        self._network_events = network_events
        self._observe = observe
        # The end of the good lines and records so far.
        self._number = 0
        self._good = 0
        self._line = b""

    def run(
        self,
        checkpoints: Path,
        checkpoints_size: int,
        parts: Callable[[LogCheck], None] | None = None,
    ) -> None:
        """Read the log and its checkpoints; raises OSError, all other faults are kept.

        `parts` reads what it can with `read_to` and `join`; its errors are raised.
        """
        try:
            self.cursor = CheckpointCursor(
                checkpoints, checkpoints_size, self.signatures.pass_checkpoint
            )
            self.cursor.passed(b"", 0, self.chain)
            if parts is not None:
                parts(self)
            self.read_to(self._size)
            self._line = b""
            self._check_end(self.cursor)
        except BadRecord as bad:
            self._stop(bad, self._line)

    def read_to(self, end: int, enough: Callable[[], bool] = lambda: False) -> None:
        """Read on, line by line, up to the offset `end` or until there is enough."""
        if self.cursor is None:
            raise AssertionError("read_to is for run")
        for line in lines(self._log, self._size, self.good_bytes):
            self._line = line
            self._take(line, self.cursor)
            if self.good_bytes >= end or enough():
                return

    @property
    def may_join(self) -> bool:
        """True if a part may follow: the first records are read one by one."""
        return self.ended is None and self.chain.count > POLICY_SEQUENCE

    @property
    def wants_events(self) -> bool:
        """True if session.json may repeat the next network events: a part must bring them."""
        return self.network_count < max(MAX_NETWORK_EVENTS, len(self._network_events))

    def join(self, part: GoodPart, data: bytes) -> bool:
        """Go on after a part with the bytes `data`, in which no fault was found.

        Returns False, with nothing changed, if it does not go on where the log is good up to.
        Raises BadRecord where checkpoints or session.json disagree; this check can't be used after
        that.
        """
        chain, cursor = self.chain, self.cursor
        if cursor is None or (part.first, part.prev) != (chain.count, chain.head):
            return False
        if self.wants_events and len(part.events) != part.network_count:
            return False
        begin, start, view = self.good_bytes, 0, memoryview(data)
        for mark in part.marks:
            for level, root in mark.subtrees:
                chain.tree.append_subtree(level, root)
            if chain.proof_tree is not None:
                for level, root in mark.proof_subtrees:
                    chain.proof_tree.append_subtree(level, root)
            chain.count, chain.head = mark.count, mark.head
            cursor.passed(view[start : mark.offset - begin], mark.offset, chain)
            start = mark.offset - begin
        self._number += chain.count - part.first
        self._good = chain.count
        self._join_events(part)
        self.good_bytes = begin + start
        self._join_payloads(part)
        return True

    def _join_events(self, part: GoodPart) -> None:
        if not self.wants_events:
            self.network_count += part.network_count
            return
        for payload in map(decode_payload, part.events):
            if isinstance(payload, Network):
                self._check_network_event(payload.event)
                self._observe(payload)

    def _join_payloads(self, part: GoodPart) -> None:
        payloads = [decode_payload(kind) for kind in part.kinds]
        order = array("H", part.order)
        for place, times in Counter(order).items():
            self.tally.add(payloads[place], times)
        self.attempts.add_kinds(payloads, order)
        self.policy_was_taken |= any(map(says_policy_was_taken, payloads))
        for last in map(decode_payload, part.last):
            self.before_last, self.last = self.last, last
            if isinstance(last, SessionEnded):
                self.ended = last

    def share(self) -> float:
        """Return the share of the log that is read, from 0 to 1."""
        return self.good_bytes / self._size if self._size else 1.0

    def _take(self, line: bytes, cursor: CheckpointCursor) -> None:
        if is_too_long(line):  # it may begin with a whole record, and nothing after it is read
            raise BadRecord(PARSE_ERROR, f"a line of at most {MAX_LINE} bytes", shown(line))
        payload = self.chain.feed(line)
        if self._strict and payload is not None:
            self._check_place(payload)
        cursor.passed(line, self.good_bytes + len(line), self.chain)
        self._number += 1
        self.good_bytes += len(line)
        self._good = self.chain.count
        if payload is not None:
            self._remember(payload)
            self._observe(payload)

    def _remember(self, payload: Payload) -> None:
        if self.chain.count == POLICY_SEQUENCE + 1:
            self.second = payload
        self.before_last, self.last = self.last, payload
        self.count(payload)
        self.policy_was_taken = self.policy_was_taken or says_policy_was_taken(payload)

    def count(self, payload: Payload) -> None:
        """Count a record, also one that a recovery adds."""
        self.tally.add(payload)
        self.attempts.add(payload)

    def _check_place(self, payload: Payload) -> None:
        """Check that session_started is first, session_ended last, and that session.json repeats
        the rest."""
        if self.ended is not None:
            raise BadRecord(AFTER_END, "nothing after session_ended", _kind(payload))
        if isinstance(payload, Network):
            self._check_network_event(payload.event)
        elif isinstance(payload, SessionEnded):
            self.ended = payload
        elif isinstance(payload, SessionStarted) and self.chain.count == 1:
            self.started = payload
        if self.started is None:
            raise BadRecord(FIRST_RECORD, "session_started", _kind(payload))

    def _check_network_event(self, event: NetworkEvent) -> None:
        repeated = self._network_events
        if self.network_count < len(repeated) and repeated[self.network_count] != event:
            raise BadRecord(
                NETWORK_EVENTS, "the event that session.json repeats", f"{event.decision} record"
            )
        self.network_count += 1

    def _check_end(self, cursor: CheckpointCursor) -> None:
        if cursor.pending is not None:
            raise BadRecord(
                TRUNCATED,
                f"{cursor.pending.offset} bytes (checkpoint {cursor.count + 1})",
                f"{self._size} bytes",
            )

    def _stop(self, bad: BadRecord, line: bytes) -> None:
        """Record the place of the fault, or a torn tail that a crash explains."""
        # Half a line is the last one; a live writer may have cut it back since the start.
        half = not line.endswith(b"\n") and len(line) < MAX_LINE
        last = half or self.good_bytes + len(line) >= self._size
        due = self.cursor.pending if self.cursor is not None else None
        crash = is_crash(bad, line, at_end=last)
        if crash and due is None and not self._sealed:
            self.torn_bytes = len(line) if last else self._size - self.good_bytes
            return
        if last and not bad.parsed and due is not None and self._size < due.offset:
            bad = BadRecord(TRUNCATED, f"{due.offset} bytes", f"{self._size} bytes")
        self.first_bad = FirstBad(
            line=self._number + 1,
            offset=self.good_bytes,
            sequence=self._good,
            failure=bad.failure,
            expected=bad.expected,
            got=bad.got,
        )
        if bad.failure == TRUNCATED:
            self.first_bad = renamed(self.first_bad, self.signatures, due)


def is_crash(bad: BadRecord, line: bytes, *, at_end: bool) -> bool:
    """Return whether a crash can have left a line: the last one, or one with a hole of zeros."""
    return not bad.parsed and (at_end or _HOLE in line)


def _kind(payload: Payload) -> str:
    return str(payload.__struct_config__.tag)
