"""Finds the program that each network record of a cage came from: what both ways share.

A record's holder is found before the record is committed, so before its client is answered.
Threads read a program's arguments and hash (description.py): an answer waits for the arguments
(recorder.DESCRIBED_SECONDS at most), a line of processes.ndjson until all is done.

Rules of this file: nothing here blocks the loop or raises. Every record with an origin gets a line;
at the end of the cage the last lines are written with the facts known then.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from nono_trio.core.log.processes import UNKNOWN, Found
from nono_trio.sandbox.attribution.description import FileHashes, Looked, look_at
from nono_trio.sandbox.attribution.process import Process, process_of
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.log.processes import Holder, Program, RecordOrigin, Sought
    from nono_trio.sandbox.attribution.image import Image

logger = logging.getLogger(__name__)

MAX_THREADS: Final = 4  # one hashes, one looks, and two may hang
MOST_THREADS: Final = 12  # with those that hang: each file system that is dead may hold one
DESCRIBE_SECONDS: Final = 20.0  # a file of 300 MB on a busy machine; after that it stays unknown
MAX_DESCRIBED: Final = 256  # programs at a time; a child that starts more has some without a hash
MAX_WAITING: Final = 4096  # lines of one program; what comes later is written without its hash
MAX_PORTS: Final = 4096
MAX_PROCESSES: Final = 24  # held, with three descriptors each


class _Describing:
    """One program whose description is under way, and the lines that wait for it."""

    def __init__(self) -> None:
        self.looked = trio.Event()
        self.lines: list[tuple[int, Found]] = []


class Attribution(ABC):
    """The base of both ways: descriptions of programs, and the lines that wait for them.

    `record_lines` takes lines of processes.ndjson; it neither waits nor raises. `shown` returns a
    path or an argument as a line may have it; it is called in threads too.
    """

    def __init__(
        self, record_lines: Callable[[bytes], None], shown: Callable[[str], str] = str
    ) -> None:
        self._record_lines = record_lines
        self._shown = shown
        self._describing: dict[Program, _Describing] = {}
        self._hashes = FileHashes()
        self._nursery: trio.Nursery | None = None
        self._settled = trio.Event()
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    async def run(self) -> None:
        """Describe programs until cancelled; then every line that waits is written as it is."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._work()
        finally:
            self._nursery = None
            for program in [*self._describing]:
                self._settle(program)

    async def settle(self) -> None:
        """Wait until nothing is being described. The caller gives it a deadline."""
        if self._describing:
            self._settled = trio.Event()
            await self._settled.wait()

    async def _work(self) -> None:
        """Work until cancelled."""
        await trio.sleep_forever()

    def find(self, origins: Sequence[RecordOrigin]) -> Sequence[Found | Sought]:
        """As FindsPrograms."""
        try:
            return self._find(origins)
        except Exception as error:  # one odd process must not end the session
            logger.error("a program was not looked for by a bug: %s", type(error).__name__)  # noqa: TRY400
            logger.debug("its cause", exc_info=True)
            return [UNKNOWN] * len(origins)

    @abstractmethod
    def _find(self, origins: Sequence[RecordOrigin]) -> Sequence[Found | Sought]:
        """Return the result for each origin."""

    def search(self, sought: Sought, tell: Callable[[Found], None]) -> None:
        """As FindsPrograms."""
        tell(UNKNOWN)

    def described(self, found: Found) -> trio.Event | None:
        """Return the event that is set once the arguments are known; None if nothing is awaited."""
        if not self._describing:
            return None
        for holder in found.holders:
            describing = self._describing.get(holder.program)
            if describing is not None and not describing.looked.is_set():
                return describing.looked
        return None

    def lines(self, sequence: int, found: Found) -> bytes:
        """The lines of a record; those that are not known yet are recorded later."""
        if not self._describing:
            return found.lines(sequence)
        for holder in found.holders:
            describing = self._describing.get(holder.program)
            if describing is not None and len(describing.lines) < MAX_WAITING:
                describing.lines.append((sequence, found))
                return b""
        return found.lines(sequence)

    def _name(self, program: Program) -> None:
        """Give a new program the path that its lines have."""
        if program.exe is not None:
            program.exe = self._shown(program.exe)

    def _look_at(self, directory: int, image: Image) -> Looked:
        """As `look_at`, with the arguments that lines have."""
        looked = look_at(directory, image, self._hashes)
        argv = None if looked.argv is None else [*map(self._shown, looked.argv)]
        return replace(looked, argv=argv)

    def _describe(self, program: Program, look: Callable[[], Looked]) -> bool:
        """Have a program described by `look`, in a thread; False if there is no room for it."""
        if self._nursery is None or len(self._describing) >= MAX_DESCRIBED:
            program.is_settled = True
            return False
        self._describing[program] = _Describing()
        self._nursery.start_soon(self._fill_in, program, look)
        return True

    async def _fill_in(self, program: Program, look: Callable[[], Looked]) -> None:
        try:
            with trio.move_on_after(DESCRIBE_SECONDS) as describing:
                looked = await in_thread(look, limiter=self._limiter)
                program.argv = looked.argv
                program.exe_sha256 = looked.sha256
                self._describing[program].looked.set()
                if looked.file >= 0:
                    program.exe_sha256 = await in_thread(
                        self._hashes.sha256, looked.file, limiter=self._limiter
                    )
            if describing.cancelled_caught and self._limiter.total_tokens < MOST_THREADS:
                self._limiter.total_tokens += 1  # in place of the one that hangs
        finally:
            self._settle(program)

    def _settle(self, program: Program) -> None:
        describing = self._describing.pop(program, None)
        if describing is None:
            return
        program.is_settled = True
        describing.looked.set()
        # A record with several holders may have to wait for another of them now.
        lines = b"".join(self.lines(sequence, found) for sequence, found in describing.lines)
        if lines:
            self._record_lines(lines)
        if not self._describing:
            self._settled.set()


class ByThread(Attribution):
    """Knows who connected from the seccomp notification of the call that did; the call waits
    meanwhile.

    `look_at_thread` and `connected` are for the helper threads that answer the calls.
    """

    def __init__(
        self, record_lines: Callable[[bytes], None], shown: Callable[[str], str] = str
    ) -> None:
        super().__init__(record_lines, shown)
        self._ports: dict[int, Found] = {}
        self._known: OrderedDict[int, Process] = OrderedDict()
        self._looked: dict[Program, Looked] = {}
        self._turn = 0
        self._changing = threading.Lock()  # held for a moment only: nothing in it waits
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Give the descriptors back."""
        with self._changing:
            while self._known:
                self._known.popitem()[1].close()

    def look_at_thread(self, thread: int) -> Found:
        """The process of a thread whose call waits. Raises nothing."""
        try:
            pid = process_of(thread)
            with self._changing:
                holder, is_new = self._holder(pid)
                copied = self._known[pid].copy() if is_new else None
        except (OSError, ValueError):
            return UNKNOWN
        if copied is not None:
            looked = self._look_at(*copied)
            holder.program.argv = looked.argv
            with self._changing:
                self._looked[holder.program] = looked
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._begin, holder.program)
        return holder.alone

    def _holder(self, pid: int) -> tuple[Holder, bool]:
        self._turn += 1
        process = self._known.pop(pid, None)
        if process is not None and not process.is_alive():
            process.close()
            process = None
        if process is None:
            process = Process(pid)
        self._known[pid] = process
        if len(self._known) > MAX_PROCESSES:
            self._known.popitem(last=False)[1].close()
        holder, is_new = process.holder(self._turn)
        if is_new:
            self._name(holder.program)
        return holder, is_new

    def connected(self, port: int, found: Found) -> None:
        """A connection to the proxy has been made from `port` of loopback."""
        with self._changing:
            self._ports.pop(port, None)
            self._ports[port] = found
            if len(self._ports) > MAX_PORTS:
                del self._ports[next(iter(self._ports))]

    def _find(self, origins: Sequence[RecordOrigin]) -> Sequence[Found]:
        found = [self._of(origin) for origin in origins]
        for one in found:
            for holder in one.holders:
                self._begin(holder.program)
        return found

    def _of(self, origin: RecordOrigin) -> Found:
        if isinstance(origin, Found):
            return origin
        with self._changing:
            return self._ports.get(origin.port, UNKNOWN)

    def _begin(self, program: Program) -> None:
        """Have a program hashed that a helper has looked at."""
        with self._changing:
            looked = self._looked.pop(program, None)
        if looked is None or self._describe(program, lambda: looked):
            return
        if looked.file >= 0:
            os.close(looked.file)
