"""Ships sessions to one destination, and goes on with those that are being written.

Rules of this file:
- It reads files only, beside their writers and without a lock, so no session ever waits for it.
- At least once: a position is saved after its batch was taken. In order: the next batch of a
  session waits for the one before. One batch at a time is in memory.
- A session that an earlier run sent whole is read again if its log has another length by now.
- One message reports a session that is tampered with, cut or removed. The others go on.
- A line that the receiver refuses is passed over only if the receiver takes others. One that
  refuses everything is set up wrongly, and gets everything again.
- A receiver that does not answer is asked again without end when following, else MOST_FAILURES
  times.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from nono_trio.audit import ledger, store
from nono_trio.audit.export.cursor import Sent
from nono_trio.audit.export.destination import Refused, Unavailable
from nono_trio.audit.export.facts import facts_of
from nono_trio.audit.export.shipped_session import ShippedSession
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.bound_facts import UNREADABLE
from nono_trio.core.export.exported import FaultLine, SessionFacts, event_id
from nono_trio.core.export.retry import FIRST_SECONDS, Backoff
from nono_trio.errors import LogRewritten, LogUnreadable, NonoTrioError, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.audit.export.cursor import Cursor
    from nono_trio.audit.export.destination import Destination, Taken
    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.stored_session import FirstBad, StoredSession
    from nono_trio.core.export.exported import Exported

POLL_SECONDS: Final = 0.5
# After a signal: what is there is sent, if the receiver answers.
FLUSH_SECONDS: Final = 10.0
# Without --follow: about a minute.
MOST_FAILURES: Final = 6
TELL_SECONDS: Final = 60.0  # of a receiver that stays away
# Of one batch, and nothing taken: then it refuses everything, and is not asked about each line.
MOST_REFUSALS: Final = 32
BATCHES_A_TURN: Final = 16  # of one session, then it is another one's turn


class ShipFailed(NonoTrioError):
    """The receiver does not take what is sent."""


class Shipped(msgspec.Struct):
    """The numbers of one run: records and flows taken, those refused, sessions with a fault."""

    lines: int = 0
    refused: int = 0
    faults: int = 0


class _Stopped(Exception):
    """A signal came, and the receiver did not answer."""


class Shipper:
    """Ships the sessions below `audit_root`, or only `session_id`; `tell` prints a line for people.

    `stopping` is set by the first signal. `first_seconds` is the first wait after a failure.
    """

    def __init__(
        self,
        audit_root: Path,
        cursor: Cursor,
        destination: Destination,
        tell: Callable[[str], None],
        *,
        follow: bool,
        session_id: str | None = None,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self._root = audit_root
        self._cursor = cursor
        self._destination = destination
        self._tell = tell
        self._follow = follow
        self._only = session_id
        self._backoff = Backoff(random.random, first_seconds)
        self._sessions: dict[str, ShippedSession] = {}
        self._finished: set[str] = set()  # sent whole, or with a fault
        self._begun: set[str] = set()  # of earlier runs
        self._due: list[ShippedSession] = []
        self._to_send: list[tuple[FaultLine, SessionFacts]] = []
        self._told: set[str] = set()
        self._told_at = 0.0
        self._taken = 0  # batches
        self.stopping = trio.Event()
        self.shipped = Shipped()

    async def run(self) -> Shipped:
        """Ship until all is sent. When following, ship until `stopping` is set and all that is
        there by then is sent. A log may keep growing, so the caller that sets `stopping` must set
        a deadline too.

        Raises ShipFailed, LogUnreadable for a directory of sessions that can't be read, and
        OSError. If cancelled, a batch that was on its way is sent again by the next run.
        """
        for session_id in self._cursor.known():
            sent = self._cursor.load(session_id)
            if not sent.done:
                self._begun.add(session_id)
            elif not self._has_changed(session_id, sent):
                self._finished.add(session_id)
        try:
            while True:
                is_last = self.stopping.is_set()
                progress = await self._turn()
                if not progress and (is_last or not self._follow):
                    self._tell_refused()
                    break
                if not progress:
                    with trio.move_on_after(POLL_SECONDS):
                        await self.stopping.wait()
        except _Stopped:
            self._tell("not all is sent; the next `nono-trio audit ship` goes on from there")
        finally:
            with trio.move_on_after(FLUSH_SECONDS, shield=True):
                await self._destination.aclose()
        return self.shipped

    def _has_changed(self, session_id: str, sent: Sent) -> bool:
        """Return whether the log of a session that was sent whole has another length by now; False
        for a session that was removed since."""
        try:
            return (self._root / session_id / store.LOG).stat().st_size != sent.position.log
        except OSError:
            return False

    async def _turn(self) -> bool:
        """Ship some batches of each session; return whether any was there."""
        await trio.to_thread.run_sync(self._find_sessions, abandon_on_cancel=True)
        progress = False
        await self._send_faults()
        for session in self._due:
            for _ in range(BATCHES_A_TURN):
                if not await self._ship_next(session):
                    break
                progress = True
        return progress

    async def _ship_next(self, session: ShippedSession) -> bool:
        """Ship one batch of a session; return False if it has no more."""
        try:
            batch = await trio.to_thread.run_sync(
                lambda: session.read(wait=self._follow), abandon_on_cancel=True
            )
        except LogRewritten as error:
            self._drop(session.session_id, error.message, session.facts)
            await self._send_faults()
            return False
        except LogUnreadable as error:
            if session.directory.exists():
                self._tell_once(session.session_id, error.message)
            else:
                self._lose(session.session_id)
                await self._send_faults()
            return False
        if batch.lines and not await self._deliver(batch.lines, session):
            position = self._cursor.load(session.session_id).position
            seconds = self._backoff.next_seconds() if self._follow else 0.0
            session.put_back(position, seconds)
            return False
        is_done = not batch.lines and batch.position.ended and not session.alive
        if is_done and not session.was_sealed:
            sealed = await trio.to_thread.run_sync(session.look, abandon_on_cancel=True)
            if sealed.fault is not None and sealed.fault.failure != UNREADABLE:
                self._drop_tampered(sealed, sealed.fault)
                await self._send_faults()
                return False
            if sealed.alive:  # it is about to be sealed
                return False
        if batch.lines or is_done:
            sent = Sent(position=batch.position, done=is_done)
            try:
                await trio.to_thread.run_sync(self._cursor.save, session.session_id, sent)
            except OSError as error:
                raise ShipFailed(
                    f"the cursor can't be written: {error.strerror or error}",
                    hint="free some room, then run the same command again",
                ) from error
        else:
            session.rest()
        if is_done:
            self._finish(session.session_id)
        return bool(batch.lines)

    async def _deliver(self, lines: Sequence[Exported], session: ShippedSession) -> bool:
        """Send a batch until the receiver has taken it; return False if it refuses every line.

        A batch that it refuses is halved until the refused lines are found. They are passed over if
        it takes other lines, with a message about each. Raises ShipFailed and _Stopped.
        """
        waiting, taken, rejected, refusals = [lines], 0, 0, 0
        works = session.refused_at is not None and self._taken > session.refused_at
        refused: list[tuple[Exported, str]] = []
        reason = ""
        while waiting:
            part = waiting.pop()
            try:
                said = await self._destination.deliver(part, session.facts)
            except Refused as error:
                half, reason = len(part) // 2, error.reason
                refusals += 1
                if refusals >= MOST_REFUSALS and not taken and not works:
                    break
                if half:
                    waiting += [part[half:], part[:half]]
                else:
                    refused.append((part[0], error.reason))
                continue
            except Unavailable as away:
                waiting.append(part)
                await self._wait(away)
                continue
            self._note_taken(said)
            taken += len(part)
            rejected += said.rejected
        self.shipped.lines += taken - rejected
        self.shipped.refused += rejected
        if not taken and not works:
            if session.refused_at is None:
                self._tell(f"the receiver refuses every record: {reason}; nothing is lost")
                session.refused_at = self._taken
            return False
        session.refused_at = None
        for line, reason in refused:
            self.shipped.refused += 1
            self._tell(f"{event_id(session.session_id, line)} was refused and left out: {reason}")
        return True

    def _note_taken(self, taken: Taken) -> None:
        self._taken += 1
        if self._backoff.failures:
            self._backoff.reset()
            if self._told_at:
                self._tell("the receiver answers again")
                self._told_at = 0.0
        if taken.said is not None:
            self._tell(taken.said)

    def _tell_refused(self) -> None:
        """Count the sessions of which the receiver takes nothing; their cursors stay."""
        self.shipped.faults += sum(
            session.refused_at is not None for session in self._sessions.values()
        )

    async def _wait(self, away: Unavailable) -> None:
        """Wait before the same batch is sent again."""
        seconds = self._backoff.next_seconds(away.retry_after)
        now = time.monotonic()
        if not self._told_at or now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._tell(f"the receiver does not take records: {away.reason}; nothing is lost")
        if self.stopping.is_set():
            raise _Stopped
        if not self._follow and self._backoff.failures >= MOST_FAILURES:
            raise ShipFailed(
                f"the receiver does not take records: {away.reason}",
                hint="look at the receiver, then run the same command again: it goes on from there",
            )
        with trio.move_on_after(seconds):
            await self.stopping.wait()

    def _find_sessions(self) -> None:
        """Take new sessions, and tell of those that are gone; blocks."""
        try:
            present = {entry.name for entry in os.scandir(self._root)}
        except FileNotFoundError:
            present = set()
        except OSError as error:
            raise unreadable(self._root, error) from error
        names = {name for name in present if store.is_session_id(name)}
        for session_id in (self._begun | self._sessions.keys()) - names:
            self._lose(session_id)
        for session_id in [one for one in self._finished if one not in names]:
            self._finished.discard(session_id)
            self._cursor.forget(session_id)
        wanted = names if self._only is None else names & {self._only}
        new = wanted - self._finished - self._sessions.keys()
        report = ledger.readable_report(self._root) if new else None
        for session_id in new:
            self._take(session_id, report)
        due = [session for session in self._sessions.values() if session.is_due()]
        self._due = sorted(due, key=lambda one: (one.started, one.session_id))

    def _take(self, session_id: str, report: LedgerReport | None) -> None:
        """Begin with a session, if its log has begun."""
        directory = self._root / session_id
        if directory.is_symlink() or not directory.is_dir():
            return
        found = bound_facts.look(directory, report, files=True)
        if found.fault is not None and found.fault.failure == UNREADABLE:
            self._tell_once(session_id, f"session {session_id} can't be read: {found.fault.got}")
        elif found.fault is not None:
            self._drop_tampered(found, found.fault)
        elif found.policy is not None or not found.alive:
            self._sessions[session_id] = ShippedSession(found, self._cursor.load(session_id))

    def _drop_tampered(self, found: StoredSession, fault: FirstBad) -> None:
        session_id = found.session_id
        message = f"TAMPERED: session {session_id}: {fault.failure}"
        self._drop(session_id, message, facts_of(found))

    def _drop(self, session_id: str, message: str, facts: SessionFacts) -> None:
        """Ship nothing more of a tampered session but that. Its cursor stays where it was."""
        self.shipped.faults += 1
        self._add_fault("tampered", message, facts)
        self._tell(f"{message}; nothing more of it is sent")
        self._finish(session_id)

    def _lose(self, session_id: str) -> None:
        """Tell that a session was removed before it was sent whole."""
        self.shipped.faults += 1
        self._tell(f"session {session_id} was removed before it was sent whole")
        self._begun.discard(session_id)
        session = self._sessions.pop(session_id, None)
        facts = SessionFacts(session_id=session_id) if session is None else session.facts
        self._add_fault("removed", "the session was removed before it was sent whole", facts)
        self._cursor.forget(session_id)

    def _add_fault(
        self, kind: Literal["tampered", "removed"], message: str, facts: SessionFacts
    ) -> None:
        """Queue a line about the fault for the receiver, whose readers do not see this terminal."""
        sequence = self._cursor.load(facts.session_id).position.records
        now = time.time_ns() // 1_000_000
        fault = FaultLine(kind=kind, sequence=sequence, unix_ms=now, message=message)
        self._to_send.append((fault, facts))

    async def _send_faults(self) -> None:
        """Send what `_add_fault` has left; one that the receiver refuses is given up."""
        while self._to_send:
            fault, facts = self._to_send[0]
            try:
                self._note_taken(await self._destination.deliver([fault], facts))
                self.shipped.lines += 1
            except Refused as error:
                self._tell(f"{event_id(facts.session_id, fault)} was refused: {error.reason}")
            except Unavailable as away:
                await self._wait(away)
                continue
            del self._to_send[0]

    def _finish(self, session_id: str) -> None:
        self._begun.discard(session_id)
        self._sessions.pop(session_id, None)
        self._finished.add(session_id)

    def _tell_once(self, session_id: str, message: str) -> None:
        if session_id not in self._told:
            self._told.add(session_id)
            self.shipped.faults += 1
            self._tell(message)
