"""A look at every descriptor of every process of a cage, for sockets, in small steps.

Rules of this file: the child chooses how many processes, threads and descriptors there are, so the
look can stop after any few of them, and go on later. It tells places where sockets were; a caller
must check them again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.sandbox.attribution.process import sockets_of, sockets_of_threads

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from nono_trio.sandbox.attribution.cage_processes import CageProcesses


MAX_OTHERS: Final = 1024  # sockets of other connections, of which the next record may be


def link_of(inode: int) -> str:
    """The link of a descriptor that is this socket."""
    return f"socket:[{inode}]"


class Seen(NamedTuple):
    """The place of a socket: a descriptor of a process, as `Process.holds` takes it."""

    pid: int
    descriptor: str
    link: str


class Sweep:
    """Looks for the links `wanted`, the newest process first.

    `seen` has those that were seen and some other sockets, `missing` those wanted that were not.
    `is_complete` is True after the last step. `seconds`: processor time so far.
    """

    def __init__(self, processes: CageProcesses, wanted: Iterable[str]) -> None:
        self.seen: list[Seen] = []
        self._wanted = frozenset(wanted)
        self.missing = {*self._wanted}
        self.is_complete = False
        self.seconds = 0.0
        self._steps = self._look(processes)

    def go_on(self, seconds: float, seconds_if_found: float | None = None) -> None:
        """Look for `seconds` more of processor time, and for less once a holder of each socket is
        found: others are looked for as long as `seconds_if_found`. Raises nothing."""
        if_found = seconds if seconds_if_found is None else min(seconds, seconds_if_found)
        began = now = time.thread_time()
        for _ in self._steps:
            now = time.thread_time()
            if now - began >= (seconds if self.missing else if_found):
                break
        else:
            self.is_complete = True
        self.seconds += now - began

    def close(self) -> None:
        """Look no further."""
        self._steps.close()

    def _look(self, processes: CageProcesses) -> Generator[None]:
        """Look at processes, then, if sockets are still missing, at threads with descriptor tables
        of their own."""
        for sockets_of_one in (sockets_of, sockets_of_threads):
            for pid in processes.newest_first():
                yield
                if pid:
                    yield from self._look_into(sockets_of_one(pid), pid)
            if not self.missing:
                return

    def _look_into(self, sockets: Iterator[tuple[str, str]], pid: int) -> Iterator[None]:
        with suppress(OSError):  # it has ended since, or can't be looked into
            for descriptor, link in sockets:
                if not link:
                    yield
                elif link in self._wanted or len(self.seen) < MAX_OTHERS:
                    self.seen.append(Seen(pid, descriptor, link))
                    self.missing.discard(link)
