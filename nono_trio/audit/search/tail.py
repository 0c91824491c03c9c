"""The end of a log: its last decisions, and those still to come (`audit tail`, `api.audit.follow`).

It reads beside the writer without a lock and hands out whole lines only. Following ends
when session_ended was read, or when the supervisor is gone without it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import Follower, lines_backwards, parse_record, size_of
from nono_trio.audit.read.status import current_status
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.bound_facts import UNREADABLE
from nono_trio.audit.verify.followed_chain import FollowedChain
from nono_trio.core.log.events import Network, SessionEnded
from nono_trio.core.log.notices import is_about_log, is_binding
from nono_trio.errors import LogUnreadable, rewritten, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.read.status import Status
    from nono_trio.audit.search.patterns import HostGlob

# A decision is to be seen within 200 ms; looking at a file's size costs some 2 us.
POLL_SECONDS = 0.05
# The check that the supervisor lives needs session.json and /proc, so it is rarer.
ALIVE_POLLS = 20
# A directory that changed has a new session by then, or was changed by something else.
STARTING_SECONDS = 5.0

# Why following came to its end.
End: TypeAlias = Literal["ended", "crashed"]


@dataclass(frozen=True)
class Filter:
    """Which decisions are wanted; None wants all, and what the log says of itself.

    `everything`: every record is wanted, also those that are no decisions.
    """

    decision: str | None = None
    host: HostGlob | None = None
    everything: bool = False

    def wants(self, record: LogRecord) -> bool:
        """Return whether a record is a decision that is asked for."""
        if self.everything:
            return True
        if not isinstance(record.event, Network):
            return False
        event = record.event.event
        if is_about_log(event):  # a gap, or refusals that were only counted: no decision
            return not is_binding(event) and self.decision is None and self.host is None
        if self.decision is not None and event.decision != self.decision:
            return False
        return self.host is None or self.host.fits(event.target, event.port)


class Tail:
    """The end of one log: `last` reads it once, `follow` goes on from there."""

    def __init__(self, directory_or_log: Path, wanted: Filter) -> None:
        is_directory = directory_or_log.is_dir()
        self._directory = directory_or_log if is_directory else None
        self.log = directory_or_log / store.LOG if is_directory else directory_or_log
        self._wanted = wanted
        self.offset = 0
        self.has_hole = False  # of zeros in the last line: a loss of power leaves it
        self.ended = False

    def last(self, count: int) -> list[LogRecord]:
        """The last `count` decisions that are wanted, oldest first; raises LogUnreadable."""
        found: list[LogRecord] = []
        ended = False
        try:
            for end, line in lines_backwards(self.log, size_of(self.log)):
                self._take(line, found)
                if not self.offset:
                    self.offset, self.has_hole = end, b"\0" in line
                    ended = self.ended
                if len(found) >= count:
                    break
        except OSError as error:
            raise unreadable(self.log, error) from error
        self.ended = ended  # only the last record ends a log
        return found[count - 1 :: -1] if count else []

    def follow(self, show: Callable[[LogRecord], None]) -> End:
        """Hand each new decision that is wanted to `show` until the session has ended.

        Blocks; ends by KeyboardInterrupt at any time. Raises LogUnreadable when the log was cut or
        its session removed, and LogRewritten when it does not go on from what was read.
        """
        following = Following(self, show)
        while following.end is None:
            if not following.poll() and following.end is None:
                time.sleep(POLL_SECONDS)
        return following.end

    def show(self, line: bytes, show: Callable[[LogRecord], None]) -> None:
        """Hand the record of a line to `show`, if it is wanted."""
        found: list[LogRecord] = []
        self._take(line, found)
        for record in found:
            show(record)

    def _take(self, line: bytes, found: list[LogRecord]) -> None:
        record = parse_record(line)
        if record is None:
            return
        self.ended = self.ended or isinstance(record.event, SessionEnded)
        if self._wanted.wants(record):
            found.append(record)

    def is_gone(self) -> bool:
        """Return whether the writer is gone; call it before the last read of the log."""
        if self._directory is None or self.status() == "running":
            return False
        if (self._directory / store.SESSION).exists():
            return True
        age = time.time() - (_changed_at(self._directory) or 0) / 1e9
        return age > STARTING_SECONDS

    def end(self) -> End:
        """Return how a session has ended whose log has no end. Raises LogRewritten if its files
        contradict the log: they may only say that it has ended, or that its writer is gone."""
        found = None if self._directory is None else bound_facts.look(self._directory)
        if found is None or (found.fault is None and not found.sealed):
            return "crashed"
        if found.fault is None:
            return "ended"
        if found.fault.failure == UNREADABLE and not found.sealed:
            return "crashed"
        raise rewritten(f"{found.directory}: {found.fault.text}", found.directory)

    def status(self) -> Status:
        """The session's status, read now; a log alone has no writer."""
        return current_status(self._directory) if self._directory is not None else "crashed"


class Following:
    """The following of one log, step by step; `end` is set once its session has ended.

    Raises LogRewritten for a last record that does not go on from the one before it.
    """

    def __init__(self, tail: Tail, show: Callable[[LogRecord], None]) -> None:
        self.end: End | None = "ended" if tail.ended else None
        self._tail = tail
        self._show = show
        self._polls = 0
        self._follower = Follower(tail.log, tail.offset)
        if tail.has_hole and tail.is_gone() and tail.status() == "crashed":
            self.end = "crashed"
        else:
            self._chain = FollowedChain(tail.log, tail.offset)

    def poll(self) -> bool:
        """Hand each record that is wanted and new to `show`; return whether there were new lines.

        Reads the files once and does not wait. Raises LogUnreadable and LogRewritten as
        `Tail.follow`.
        """
        try:
            return self._poll()
        except (LogUnreadable, OSError):
            ledger.require_not_removed(self._tail.log.parent)
            raise

    def _poll(self) -> bool:
        tail = self._tail
        gone = self._polls % ALIVE_POLLS == 0 and tail.is_gone()
        self._polls += 1
        self._chain.check_past()
        new = self._follower.poll()
        for line in new:
            if gone and b"\0" in line and tail.status() == "crashed":
                self.end = "crashed"
                return True
            self._chain.feed(line)
            tail.show(line, self._show)
        if tail.ended:
            self.end = "ended"
        elif gone and not new:
            ledger.require_not_removed(tail.log.parent)
            self.end = tail.end()
        return bool(new)


def wait_for_session(audit_root: Path, text: str, tell: Callable[[], None]) -> Path:
    """The session that `text` means, as soon as there is one; `tell` is called if it must wait.

    Blocks; ends by KeyboardInterrupt. An ambiguous prefix is an error at once (UsageError).
    """
    seen, look_until = _changed_at(audit_root), 0.0
    with contextlib.suppress(LogUnreadable):
        return store.find_session(audit_root, text)
    tell()
    while True:
        # Reading every session.json twenty times a second is for the moment of a new one only.
        if (changed := _changed_at(audit_root)) != seen:
            seen, look_until = changed, time.monotonic() + STARTING_SECONDS
        if time.monotonic() < look_until:
            with contextlib.suppress(LogUnreadable):
                return store.find_session(audit_root, text)
        time.sleep(POLL_SECONDS)


def _changed_at(directory: Path) -> int | None:
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return None
