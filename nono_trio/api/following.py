"""`audit.follow`: a log as an async iterator.

Rules of this file: files are read in a thread of their own, one step at a time, so a file system
that hangs holds up nothing else. Records that were read wait in order, also while a step is
cancelled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import trio

from nono_trio.audit.search.tail import POLL_SECONDS, Filter, Following, Tail
from nono_trio.errors import NonoTrioError, unreadable
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.search.tail import End


class Followed:
    """An async iterator over the records of one log; made by `audit.follow`.

    A step reads at most 16 MiB of the log, and that is how much may wait here.
    """

    def __init__(self, directory_or_log: Path, *, new_only: bool) -> None:
        self._path = directory_or_log
        self._tail = Tail(directory_or_log, Filter(everything=True))
        if new_only:
            self._tail.last(0)
        self._records: deque[LogRecord] = deque()
        self._following: Following | None = None
        self._failed: NonoTrioError | None = None
        self._limiter: trio.CapacityLimiter | None = None

    @property
    def end(self) -> End | None:
        """How the session has ended: `ended`, `crashed`; None while it goes on."""
        end = None if self._following is None else self._following.end
        # Looked at second: a step that was cancelled may still add the last records, then the end.
        return None if self._records else end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord:
        """Return the next record, as soon as it is in the log; looks at it each 50 ms."""
        await trio.lowlevel.checkpoint()
        while not self._records:
            if self._failed is not None:
                raise self._failed
            if self.end is not None:
                raise StopAsyncIteration
            if self._limiter is None:
                self._limiter = trio.CapacityLimiter(1)
            if not await in_thread(self._step, limiter=self._limiter):
                await trio.sleep(POLL_SECONDS)
        return self._records.popleft()

    def _step(self) -> bool:
        """Read what is new; return whether something is to be done about it at once."""
        if self._failed is not None:
            return True
        try:
            if self._following is None:
                self._following = Following(self._tail, self._records.append)
            if self._following.end is not None:
                return True
            return self._following.poll() or self._following.end is not None
        except OSError as error:
            self._failed = unreadable(self._path, error)
        except NonoTrioError as error:
            self._failed = error
        return True
