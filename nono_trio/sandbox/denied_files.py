"""Records look-ups of files that are not granted, which the view's server reports.

Rules of this file: the record is in the log before the server gets its acknowledgement, so before
the program has its answer. Each path has one record for reading and one for creating, up to a
bound; the rest is counted. A thread checks for a bounded time if the path exists on the host: the
program chooses the path, which may be on a file system that hangs. A path that does not exist there
has no record, unless the program was to create it, or it is a tripwire of the run. The server waits
for three seconds at most. Lost look-ups that may decide about the run are counted apart.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from nono_trio.core.log.file_events import (
    NOT_GRANTED,
    FileAccess,
    denied_file,
    leading_to,
    more_denied_files,
    unseen_files,
)
from nono_trio.core.policy.judging import Judging
from nono_trio.errors import AuditBusy
from nono_trio.posix.clock import unix_ns
from nono_trio.sandbox.attribution.file_system import followed
from nono_trio.sandbox.launcher.linux.view_reports import (
    ACKNOWLEDGED,
    MOST_TOLD,
    NO_PATH,
    TOLD,
)
from nono_trio.sandbox.statx import known_mode
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from nono_trio.core.log.events import Payload

# More than a person reads; a program that searches a whole disk must not fill the log.
MOST_RECORDS: Final = 1000
# Beyond it, for paths that the verdict on a run depends on: other look-ups must not hide them.
MOST_TRIPPED: Final = 100
# A local file system answers in microseconds, but on a busy machine the thread may be late. Less
# than the server waits (ANSWER_SECONDS), so a path that hangs does not make the next records late.
EXISTS_SECONDS: Final = 1.5
# A dead mount may block each of them until the run ends.
_THREADS: Final = 2
_BATCH: Final = 64
_TGID: Final = b"Tgid:"


class RecordsPayloads(Protocol):
    """The part of the recorder that is used here."""

    async def record_payload(self, payload: Payload) -> int:
        """Return the sequence once the payload is in the log."""
        ...


class _LookUp(msgspec.Struct, frozen=True):
    number: int
    thread: int
    creates: bool
    path: bytes


class DeniedFile(msgspec.Struct, frozen=True):
    """A path that was recorded; `real`: without symlinks, None if the host has no file there."""

    path: str
    access: FileAccess
    is_directory: bool
    real: str | None = None


class DeniedFiles(msgspec.Struct, eq=False):
    """Records the look-ups that the server at `sock` reports; `files` have a record of their own.

    A path that may decide about the run has a record also beyond `most`, up to MOST_TRIPPED.
    `more` counts paths beyond the bound, `unknown` paths that the host could not check in time,
    `untold` look-ups that the server could not send, of which `untold_creates` were to create a
    file. `lost` counts those of them all that may have decided about the run.
    """

    sock: socket.socket
    recorder: RecordsPayloads
    session_id: str
    most: int = MOST_RECORDS
    judging: Judging = msgspec.field(default_factory=Judging)
    files: dict[tuple[bytes, FileAccess], DeniedFile] = msgspec.field(default_factory=dict)
    more: int = 0
    unknown: int = 0
    untold: int = 0
    untold_creates: int = 0
    lost: int = 0
    _is_whole: bool = False  # the server's last message has come
    # Arrived and not settled; a batch, and at the end what the server still had for us.
    _open: dict[int, _LookUp] = msgspec.field(default_factory=dict)
    _limiter: trio.CapacityLimiter = msgspec.field(
        default_factory=lambda: trio.CapacityLimiter(_THREADS)
    )
    # For paths that have a record in any case: others that hang must not take its time.
    _certain: trio.CapacityLimiter = msgspec.field(
        default_factory=lambda: trio.CapacityLimiter(_THREADS)
    )

    async def serve(self) -> None:
        """Record until the server has ended. Raises AuditLost and SessionSealed. If cancelled, the
        last look-ups may have no record."""
        self.sock.setblocking(False)
        while (batch := await self._receive()) is not None:
            await self._record(batch)
            self._acknowledge(batch)

    def rest(self) -> Iterator[Payload]:
        """Once `serve` has ended, or was cancelled: yield records that count the look-ups without
        a record of their own."""
        while (batch := self._read()) is not None and batch:
            pass
        for one in self._open.values():
            self._lose(one)
        self._open.clear()
        every = self.judging.weighs(None, creates=False)
        if every:
            self.lost += self.untold
        elif self.judging.weighs(None, creates=True):
            self.lost += self.untold_creates
        if not self._is_whole and self.judging.weighs(None, creates=True):
            self.lost += 1  # or more: the server was killed before it told
        count = self.more + self.unknown + self.untold
        if count:
            yield more_denied_files(count, self.session_id, unix_ns())
        if self.lost:
            yield unseen_files(self.lost, self.session_id, unix_ns())

    async def _receive(self) -> list[_LookUp] | None:
        """Wait for look-ups and return all that have arrived; None at the end."""
        await trio.lowlevel.wait_readable(self.sock)
        return self._read()

    def _read(self) -> list[_LookUp] | None:
        """Return the look-ups that have arrived, up to _BATCH; None at the end."""
        batch: list[_LookUp] = []
        for _ in range(_BATCH):
            try:
                data = self.sock.recv(MOST_TOLD)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if len(data) < TOLD.size:
                return batch or None
            number, thread, creates, self.untold, self.untold_creates = TOLD.unpack_from(data)
            if number == NO_PATH:
                self._is_whole = True
            else:
                batch.append(_LookUp(number, thread, creates, data[TOLD.size :]))
                self._open[number] = batch[-1]
        return batch

    async def _record(self, batch: Sequence[_LookUp]) -> None:
        new = [one for one in batch if (one.path, _access(one)) not in self.files]
        for number in {one.number for one in batch} - {one.number for one in new}:
            del self._open[number]
        found = await self._looked_up(new)
        async with trio.open_nursery() as nursery:
            for one, known in zip(new, found, strict=True):
                if known is None or (one.path, _access(one)) in self.files:
                    del self._open[one.number]
                elif not self._has_room(one, known.real):
                    del self._open[one.number]
                    self.more += 1  # of those that decide, MOST_TRIPPED have a record
                else:
                    file = DeniedFile(_text(one.path), _access(one), known.is_directory, known.real)
                    self.files[one.path, file.access] = file
                    nursery.start_soon(self._commit, one, file, known.process, len(self.files))

    def _has_room(self, one: _LookUp, real: str | None) -> bool:
        if len(self.files) < self.most:
            return True
        return len(self.files) < self.most + MOST_TRIPPED and self._weighs(one, real)

    def _weighs(self, one: _LookUp, real: str | None) -> bool:
        return self.judging.weighs(_text(one.path), creates=one.creates, real=real)

    def _lose(self, one: _LookUp) -> None:
        known = self.files.get((one.path, _access(one)))
        self.unknown += 1
        self.lost += self._weighs(one, None if known is None else known.real)

    async def _commit(self, one: _LookUp, file: DeniedFile, process: int, number: int) -> None:
        payload = denied_file(
            file.path,
            file.access,
            process=process,
            number=number,
            session_id=self.session_id,
            unix_ns=unix_ns(),
            reason=_reason(file),
        )
        try:
            await self.recorder.record_payload(payload)
        except AuditBusy:
            self._lose(one)
        del self._open[one.number]

    async def _looked_up(self, batch: Sequence[_LookUp]) -> Sequence[_Found | None]:
        """Return the host's file at each path; None if there is nothing to record."""
        certain = [one for one in batch if self._is_certain(one)]
        if len(certain) == len(batch):
            return await self._ask_about(certain)
        if not certain:
            return await self._ask(batch)
        asked = [one for one in batch if one not in certain]
        found: dict[_LookUp, _Found | None] = {}

        async def ask_about_certain() -> None:
            found.update(zip(certain, await self._ask_about(certain), strict=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_about_certain)
            found.update(zip(asked, await self._ask(asked), strict=True))
        return [found[one] for one in batch]

    def _is_certain(self, one: _LookUp) -> bool:
        """Return whether it has a record in any case."""
        return one.creates or self.judging.is_named(_text(one.path))

    async def _ask(self, batch: Sequence[_LookUp]) -> Sequence[_Found | None]:
        found = await _within(EXISTS_SECONDS, batch, self._limiter)
        if found is not None:
            return found
        for one in batch:
            self._lose(one)
        return [None] * len(batch)

    async def _ask_about(self, batch: Sequence[_LookUp]) -> Sequence[_Found | None]:
        found = await _within(EXISTS_SECONDS, batch, self._certain) or [None] * len(batch)
        return [
            known or _Found(is_directory=False, process=one.thread)
            for one, known in zip(batch, found, strict=True)
        ]

    def _acknowledge(self, batch: Sequence[_LookUp]) -> None:
        numbers = b"".join(ACKNOWLEDGED.pack(one.number) for one in batch)
        try:
            self.sock.send(numbers)
        except OSError:  # it has ended, or does not read: it answers without an acknowledgement
            return


class _Found(msgspec.Struct, frozen=True):
    is_directory: bool
    process: int
    real: str | None = None


def _access(one: _LookUp) -> FileAccess:
    return "Write" if one.creates else "Read"


def _reason(file: DeniedFile) -> str:
    if file.real is None or file.real == file.path:
        return NOT_GRANTED
    return leading_to(file.real)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


async def _within(
    seconds: float, batch: Sequence[_LookUp], limiter: trio.CapacityLimiter
) -> list[_Found | None] | None:
    """Ask the host in a thread; None if it did not answer in time, or every thread hangs."""
    if batch and limiter.available_tokens:
        with trio.move_on_after(seconds):
            return await in_thread(find_files, batch, limiter=limiter)
    return None if batch else []


def find_files(batch: Sequence[_LookUp]) -> list[_Found | None]:
    """Ask the host about each look-up of a batch. Runs in a thread: a dead mount blocks it."""
    return [_found(one) for one in batch]


def _found(one: _LookUp) -> _Found | None:
    process = _process_of(one.thread)
    try:
        mode = known_mode(one.path)
        real = _text(_real(one.path, is_link=stat.S_ISLNK(mode)))
    except (OSError, ValueError):
        return _Found(is_directory=False, process=process) if one.creates else None
    return _Found(stat.S_ISDIR(mode), process, real)


def _real(path: bytes, *, is_link: bool) -> bytes:
    """The path without symlinks. A file system that is mounted at `path` itself is not asked: it
    may hang."""
    if is_link:
        return followed(path)
    directory, _, name = path.rpartition(b"/")
    return os.path.join(os.path.realpath(directory or b"/"), name)


def _process_of(thread: int) -> int:
    """Return the process of a waiting thread; the thread's own number if it has ended."""
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            for line in file:
                if line.startswith(_TGID):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return thread
