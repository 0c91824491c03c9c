"""From a socket's inode to the processes that have it open, the cheapest look first.

1. Where the socket was seen before: by an earlier request of its connection, or by a look at
   everything that was for another socket.
2. The processes that had the last connections, at the descriptors that they are likely to use.
3. Every descriptor of every process of the cage (sweep.py), the newest process first.

The third look also finds the other holders of a socket. It happens whenever the first two found no
holder, and otherwise as long as all such looks together take no more than 0.1 % of the time.

Rules of this file: it runs on the event loop, so each call is bounded in processor time, and
nothing waits (see process.py). A look at a larger cage is made in steps: `settle` takes its
result. A socket that was not found gets no holder: nothing is guessed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.sandbox.attribution.process import Process
from nono_trio.sandbox.attribution.sweep import Sweep, link_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nono_trio.core.log.processes import Holder
    from nono_trio.sandbox.attribution.cage_processes import CageProcesses

    Holders = dict[str, list[Holder]]

MAX_KNOWN: Final = 24  # processes held, with four descriptors each
MOST_LOOKS: Final = 64  # at likely descriptors in one call, 0.2 ms
MAX_PLACES: Final = 4096  # sockets of which the place is remembered
# Of one look at everything: 30 ordinary processes. A larger cage is searched in steps.
SWEEP_SECONDS: Final = 0.001
LARGE_SECONDS: Final = 1.0  # that a cage counts as large after such a look was not enough
SHARE: Final = 0.05  # of the time, for such looks for sockets that were not found
SHARE_OF_OTHERS: Final = 0.001  # of the time, for looks at who else has a socket
# Seconds that a quiet time leaves for the next burst, of each.
MOST_SAVED: Final = 0.010
MOST_SAVED_FOR_OTHERS: Final = 0.001


class Result(NamedTuple):
    """The holders by inode. `is_complete`: a socket that is left out has no holder in the cage;
    otherwise one may be found by a longer look."""

    holders: dict[int, list[Holder]]
    is_complete: bool


class _Share:
    """A share of the time that may be spent; at most `most` seconds of it are saved."""

    def __init__(self, share: float, most: float) -> None:
        self._share = share
        self._saved = self._most = most
        self._saved_at = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that may be spent now."""
        now = time.monotonic()
        self._saved = min(self._most, self._saved + (now - self._saved_at) * self._share)
        self._saved_at = now
        return self._saved

    def spend(self, seconds: float) -> None:
        """Count what was spent."""
        self._saved -= seconds


class Search:
    """Finds holders in `processes`. `changed` is called with each process that is seen for the
    first time, or runs another program than before."""

    def __init__(
        self, processes: CageProcesses, changed: Callable[[Process, Holder], None]
    ) -> None:
        self.processes = processes
        self._changed = changed
        self._known: OrderedDict[int, Process] = OrderedDict()
        self._places: dict[str, tuple[int, str]] = {}
        self._turn = 0
        self._for_missing = _Share(SHARE, MOST_SAVED)
        self._for_others = _Share(SHARE_OF_OTHERS, MOST_SAVED_FOR_OTHERS)
        self._last_cost = 0.0
        self._large_until = float("-inf")

    def close(self) -> None:
        """Give the descriptors back."""
        while self._known:
            self._known.popitem()[1].close()
        self._places.clear()

    def holders(self, inodes: Iterable[int]) -> Result:
        """Return the holders of each socket; a socket without one is left out."""
        self._turn += 1
        wanted = {link_of(inode): inode for inode in inodes}
        found: Holders = {}
        self._look_at_places(wanted, found)
        if len(found) < len(wanted):
            self._look_at_known(wanted, found)
        is_complete = len(found) == len(wanted)
        if not is_complete:
            is_complete = self._sweep(wanted, found)
        elif self._for_others.left >= self._last_cost:
            self._sweep(wanted, found)
        return Result({wanted[link]: holders for link, holders in found.items()}, is_complete)

    def settle(self, inodes: Iterable[int], swept: Sweep) -> dict[int, list[Holder]]:
        """Return the holders of each socket, of which `swept` has seen the place."""
        self._turn += 1
        wanted = {link_of(inode): inode for inode in inodes}
        found: Holders = {}
        self._look_where_seen(swept, wanted, found)
        return {wanted[link]: holders for link, holders in found.items()}

    def _look_at_places(self, wanted: dict[str, int], found: Holders) -> None:
        places = self._places
        for link in wanted:
            if link in places:
                self._look_at(*places.pop(link), link, found)

    def _look_at_known(self, wanted: dict[str, int], found: Holders) -> None:
        most = MOST_LOOKS
        for process in [*reversed(self._known.values())]:
            missing = wanted.keys() - found.keys() if found else wanted.keys()
            if not missing or not most:
                return
            sockets, most = process.sockets(missing, most=most)
            if sockets:
                self._take(process, sockets, found)

    def _sweep(self, wanted: dict[str, int], found: Holders) -> bool:
        """Look at everything, if there is time for it; return True if nothing was left out."""
        missing = wanted.keys() - found.keys()
        seconds = min(SWEEP_SECONDS, self._for_missing.left) if missing else SWEEP_SECONDS
        if seconds <= 0 or time.monotonic() < self._large_until:
            return False
        looking = Sweep(self.processes, missing or wanted)
        looking.go_on(seconds, self._for_others.left)
        looking.close()
        (self._for_missing if missing else self._for_others).spend(looking.seconds)
        self._last_cost = looking.seconds
        if not looking.is_complete and looking.seconds >= SWEEP_SECONDS:
            self._large_until = time.monotonic() + LARGE_SECONDS
        self._look_where_seen(looking, wanted, found)
        return looking.is_complete or wanted.keys() == found.keys()

    def _look_where_seen(self, swept: Sweep, wanted: dict[str, int], found: Holders) -> None:
        for pid, descriptor, link in swept.seen:
            if link in wanted:
                self._look_at(pid, descriptor, link, found)
            elif link not in self._places:  # the next record may be about it
                self._make_room(1)
                self._places[link] = pid, descriptor

    def _look_at(self, pid: int, descriptor: str, link: str, found: Holders) -> None:
        known = self._known.get(pid)
        if known is not None and known.holds(descriptor, link):
            self._take(known, [(descriptor, link)], found)
            return
        with suppress(OSError):
            process = self._process(pid)
            if process is not known and process.holds(descriptor, link):
                self._take(process, [(descriptor, link)], found)

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

    def _make_room(self, count: int) -> None:
        if len(self._places) + count > MAX_PLACES:
            self._places.clear()

    def _take(self, process: Process, sockets: Sequence[tuple[str, str]], found: Holders) -> None:
        """A process has these sockets."""
        self._known.move_to_end(process.pid)
        process.remember(sockets)
        self._make_room(len(sockets))
        places, its_places = self._places, process.places
        for descriptor, link in sockets:
            places[link] = its_places[descriptor]
        try:
            holder, is_new = process.holder(self._turn)
        except (OSError, ValueError):  # it has ended since
            return
        if is_new:
            self._changed(process, holder)
        for _, link in sockets:
            holders = found.get(link)
            if holders is None:
                found[link] = [holder]
            elif holder not in holders:
                holders.append(holder)
