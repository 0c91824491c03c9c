"""Destinations of the shipper: a file, a command, and the errors that all of them have.

Rules of this file: `deliver` returns when the receiver has taken a batch. If it raises, or
is cancelled, the batch may have been taken all the same, and the caller sends it again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import termios
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import trio

from nono_trio.audit.export import formats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.audit.export.formats import LineFormat
    from nono_trio.core.export.exported import Exported, SessionFacts

# A command that has not taken a batch by then hangs.
COMMAND_SECONDS: Final = 60.0
_KILL_SECONDS: Final = 2.0
_NEWLINE: Final = b"\n"
_TAIL: Final = 16 * 1024 * 1024  # a line of ours may be as long as a record
# The beginnings of our lines, by which the rest of a write that was cut off is known.
_BEGINNINGS: Final = (b'{"schema":1,"id":"', b'{"category_uid":', b'{"resourceLogs":')


class Unavailable(Exception):
    """The receiver did not take the batch and may take it later; `retry_after` in seconds."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Refused(Exception):
    """The receiver will never take this batch as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Taken(NamedTuple):
    """The answer of a receiver that has taken a batch: how many records it rejected, and a sentence
    for the user."""

    rejected: int = 0
    said: str | None = None


class Destination(Protocol):
    """A receiver."""

    async def deliver(self, lines: Sequence[Exported], facts: SessionFacts) -> Taken:
        """Send lines of one session.

        Raises Unavailable and Refused. If cancelled, the batch may have been taken.
        """
        ...

    async def aclose(self) -> None:
        """End what is open."""
        ...


class FileDestination:
    """Appends to a file (0600) and makes it durable; the file may be rotated meanwhile."""

    def __init__(self, path: str, form: LineFormat, *, integrity: bool) -> None:
        self._path = path
        self._form = form
        self._integrity = integrity

    async def deliver(self, lines: Sequence[Exported], facts: SessionFacts) -> Taken:
        """Append one batch."""
        data = formats.encode(lines, facts, self._form, integrity=self._integrity)
        try:
            await trio.to_thread.run_sync(self._append, data)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror or error}") from error
        return Taken()

    async def aclose(self) -> None:
        """Nothing is open between batches."""
        await trio.lowlevel.checkpoint()

    def _append(self, data: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = _without_half_a_line(descriptor)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except BaseException:
                with suppress(OSError):  # never longer: another program may have cut it meanwhile
                    os.ftruncate(descriptor, min(size, os.fstat(descriptor).st_size))
                raise
            # A rotation may have moved the file away, read it for its compressed copy before our
            # lines came, and remove it now. While it has its name, all that is still to come.
            if not os.path.samestat(os.stat(self._path), os.fstat(descriptor)):
                raise OSError(errno.ESTALE, "the file was replaced while it was written")
        finally:
            os.close(descriptor)


def _without_half_a_line(descriptor: int) -> int:
    """End the file with a newline and return its size. The rest of a line of ours, which a killed
    shipper has left, is cut: it is sent again."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - _TAIL)
    if size == 0 or os.pread(descriptor, 1, size - 1) == _NEWLINE:
        return size
    tail = os.pread(descriptor, _TAIL, begin)
    last = tail[tail.rfind(_NEWLINE) + 1 :]
    is_ours = any(last.startswith(one[: len(last)]) for one in _BEGINNINGS)
    if is_ours and (len(last) < size or begin == 0):
        os.ftruncate(descriptor, size - len(last))
    else:
        os.write(descriptor, _NEWLINE)
    return os.fstat(descriptor).st_size


class CommandDestination:
    """Starts a command for each batch, with the batch as its input; exit code 0: it is taken."""

    def __init__(self, words: Sequence[str], form: LineFormat, *, integrity: bool) -> None:
        self._words = words
        self._form = form
        self._integrity = integrity

    async def deliver(self, lines: Sequence[Exported], facts: SessionFacts) -> Taken:
        """Run the command once."""
        data = formats.encode(lines, facts, self._form, integrity=self._integrity)
        name = os.path.basename(self._words[0])
        try:
            with trio.move_on_after(COMMAND_SECONDS) as scope:
                code, has_read = await self._run(data)
        except* (OSError, trio.BrokenResourceError) as group:
            raise Unavailable(f"{name} can't be run: {group.exceptions[0]}") from group
        if scope.cancelled_caught:
            raise Unavailable(f"{name} did not end within {COMMAND_SECONDS:.0f} seconds")
        if code:
            raise Unavailable(f"{name} ended with exit code {code}")
        if not has_read:
            raise Unavailable(f"{name} ended before it had read its whole input")
        return Taken()

    async def _run(self, data: bytes) -> tuple[int, bool]:
        """Return the command's exit code, and whether nothing of its input was left in the pipe."""
        reading, writing = os.pipe()
        try:
            async with trio.lowlevel.FdStream(writing) as into, trio.open_nursery() as nursery:
                is_written = trio.Event()
                nursery.start_soon(_write, into, data, is_written)
                done = await trio.run_process(
                    list(self._words),
                    stdin=reading,
                    check=False,
                    start_new_session=True,
                    deliver_cancel=_kill_group,
                )
                has_read = is_written.is_set() and not _unread_bytes(reading)
                nursery.cancel_scope.cancel(reason="the command has ended")
        finally:
            os.close(reading)
        return done.returncode, has_read

    async def aclose(self) -> None:
        """Nothing runs between batches."""
        await trio.lowlevel.checkpoint()


async def _write(into: trio.lowlevel.FdStream, data: bytes, is_written: trio.Event) -> None:
    """Write the whole input, and end it. The pipe never breaks: we hold its other end too."""
    await into.send_all(data)
    is_written.set()
    await into.aclose()


def _unread_bytes(pipe: int) -> int:
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


async def _kill_group(process: trio.Process) -> None:
    """End the command and what it has started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    await trio.sleep(_KILL_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
