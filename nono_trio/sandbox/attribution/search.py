"""From a socket's inode to the processes that have it open, the cheapest look first.

1. Where the socket was seen before: by an earlier request of its connection, or by a look at
   everything that was for another socket.
2. The process that had the last connection, at the descriptors that it used for connections: the
   one that was found longest ago is the one that is free again.
3. Every descriptor of every process of the cage, the newest process first.

The third look also finds the other holders of a socket. It happens whenever the first two found no
holder, and otherwise as long as all such looks together take no more than 0.3 % of the time.

Rules of this file: it runs on the event loop, so each call is bounded in processor time, and
nothing waits (see process.py). A socket that was not found gets no holder: nothing is guessed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.sandbox.attribution.process import Process, sockets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nono_trio.core.log.processes import Holder
    from nono_trio.sandbox.attribution.cage_processes import CageProcesses

MAX_KNOWN: Final = 24  # processes held, with three descriptors each
RECENT: Final = 4  # processes looked at before all others
MOST_SLOTS: Final = 96  # descriptors of one of them: as long as a look at all of a process takes
MAX_PLACES: Final = 4096  # sockets of which the place is remembered
# Of one call. A look into 50 ordinary processes takes a few milliseconds.
SWEEP_SECONDS: Final = 0.010
SHARE: Final = 0.003  # of the time, for looks at who else has a socket
MOST_SAVED: Final = 0.010  # seconds: what a quiet time leaves for the next burst


class Search:
    """Finds holders in `processes`. `changed` is called with each process that is seen for the
    first time, or runs another program than before."""

    def __init__(
        self, processes: CageProcesses, changed: Callable[[Process, Holder], None]
    ) -> None:
        self._processes = processes
        self._changed = changed
        self._known: OrderedDict[int, Process] = OrderedDict()
        self._places: dict[str, tuple[int, str]] = {}
        self._turn = 0
        self._saved = MOST_SAVED
        self._last_cost = 0.0
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Give the descriptors back."""
        while self._known:
            self._known.popitem()[1].close()
        self._places.clear()

    def holders(self, inodes: Iterable[int]) -> dict[int, list[Holder]]:
        """Return the holders of each socket; a socket without one is left out."""
        self._turn += 1
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        found: dict[str, dict[int, Holder]] = {}
        self._look_at_places(wanted, found)
        if len(found) < len(wanted):
            self._look_at_recent(wanted, found)
        if len(found) < len(wanted) or self._may_look_at_all():
            began = time.thread_time()
            self._look_at_all(wanted, found, began)
            self._last_cost = time.thread_time() - began
            self._saved -= self._last_cost
        return {wanted[link]: [*holders.values()] for link, holders in found.items()}

    def _may_look_at_all(self) -> bool:
        """Return True if a look at everything stays within its share of the time."""
        now = time.monotonic()
        self._saved = min(MOST_SAVED, self._saved + (now - self._saved_at) * SHARE)
        self._saved_at = now
        return self._saved >= self._last_cost

    def _look_at_places(self, wanted: dict[str, int], found: dict[str, dict[int, Holder]]) -> None:
        for link in wanted:
            place = self._places.pop(link, None)
            if place is None:
                continue
            pid, descriptor = place
            with suppress(OSError):
                process = self._process(pid)
                if process.holds(descriptor, link):
                    self._take(process, descriptor, link, found)

    def _look_at_recent(self, wanted: dict[str, int], found: dict[str, dict[int, Holder]]) -> None:
        for process in [*reversed(self._known.values())][:RECENT]:
            missing = wanted.keys() - found.keys()
            if not missing:
                return
            for descriptor, link in process.sockets(missing, most=MOST_SLOTS):
                self._take(process, descriptor, link, found)

    def _look_at_all(
        self, wanted: dict[str, int], found: dict[str, dict[int, Holder]], began: float
    ) -> None:
        for pid in self._processes.newest_first():
            used = time.thread_time() - began
            if used > SWEEP_SECONDS or (used > self._saved and len(found) == len(wanted)):
                break
            with suppress(OSError):
                self._look_at(pid, wanted, found)
        missing = wanted.keys() - found.keys()
        if missing:
            self._look_at_threads(missing, found, began)

    def _look_at(
        self, pid: int, wanted: dict[str, int], found: dict[str, dict[int, Holder]]
    ) -> None:
        for descriptor, link in sockets_of(pid):
            if link in wanted:
                process = self._process(pid)
                if process.holds(descriptor, link):
                    self._take(process, descriptor, link, found)
            elif link not in self._places:  # the next record may be about it
                self._remember(link, pid, descriptor)

    def _process(self, pid: int) -> Process:
        """The process that has this number now, held; raises OSError."""
        process = self._known.get(pid)
        if process is not None and process.is_alive():
            return process
        if process is not None:
            self._known.pop(pid).close()
        process = Process(pid)
        while len(self._known) >= MAX_KNOWN:
            self._known.popitem(last=False)[1].close()
        self._known[pid] = process
        return process

    def _remember(self, link: str, pid: int, descriptor: str) -> None:
        if len(self._places) >= MAX_PLACES:
            self._places.clear()
        self._places[link] = pid, descriptor

    def _look_at_threads(
        self, missing: Iterable[str], found: dict[str, dict[int, Holder]], began: float
    ) -> None:
        """The last look: threads that share no descriptors with the rest of their process."""
        missing = {*missing}
        for pid in self._processes.newest_first():
            if time.thread_time() - began > SWEEP_SECONDS:
                return
            with suppress(OSError):
                process = self._known.get(pid) or Process(pid)
                is_known = pid in self._known
                try:
                    for link in process.every_socket_of_threads(missing):
                        self._note(process, link, found)
                finally:
                    if not is_known:
                        process.close()

    def _take(
        self, process: Process, descriptor: str, link: str, found: dict[str, dict[int, Holder]]
    ) -> None:
        process.remember(descriptor)
        self._remember(link, process.pid, descriptor)
        self._known.move_to_end(process.pid)
        self._note(process, link, found)

    def _note(self, process: Process, link: str, found: dict[str, dict[int, Holder]]) -> None:
        try:
            holder, is_new = process.holder(self._turn)
        except (OSError, ValueError):  # it has ended since
            return
        if is_new:
            self._changed(process, holder)
        found.setdefault(link, {})[process.pid] = holder
