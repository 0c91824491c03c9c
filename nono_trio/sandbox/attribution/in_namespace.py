"""Finds the programs of a cage with a network of its own: by the sockets that its processes have.

The kernel is asked for the inode of a connection's socket, and the inode is looked for among the
descriptors of the cage's processes. Both happen on the loop when a batch of records is about to be
committed: in an ordinary cage that takes less than a millisecond, and it finds every client that
waits for its answer. In a large cage it takes longer: that is done in steps between which others
have their turn, and only the record in question waits for it.

Rules of this file: a hostile child slows down its own records only; it makes neither the loop nor
the records of others wait. A socket whose holder was not found in time is UNKNOWN.
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from nono_trio.core.log.processes import GONE, UNKNOWN, Found, Sought
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.sandbox.attribution import socket_diag
from nono_trio.sandbox.attribution.attribution import Attribution
from nono_trio.sandbox.attribution.cage_processes import CageProcesses
from nono_trio.sandbox.attribution.search import Search
from nono_trio.sandbox.attribution.socket_diag import SocketDiag
from nono_trio.sandbox.attribution.sweep import Sweep, link_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from nono_trio.core.log.processes import Holder, RecordOrigin
    from nono_trio.sandbox.attribution.process import Process

MAX_SOUGHT: Final = 256  # sockets that wait for a look in steps; one more is UNKNOWN at once
STEP_SECONDS: Final = 0.0005  # of processor time, before others have their turn
MOST_SECONDS: Final = 0.2  # of processor time: 50,000 descriptors, or 4,000 ordinary processes
LARGE_SECONDS: Final = 0.02  # a look at more than 400 ordinary processes


class _Asked(NamedTuple):
    sought: Sought
    tell: Callable[[Found], None]


class InNamespace(Attribution):
    """Asks `diag`, a netlink socket of the cage's own network, and looks below `launcher`."""

    def __init__(
        self,
        diag: socket.socket,
        launcher: int,
        record_lines: Callable[[bytes], None],
        shown: Callable[[str], str] = str,
    ) -> None:
        super().__init__(record_lines, shown)
        self._diag = SocketDiag(diag)
        self._processes = CageProcesses(launcher)
        self._search = Search(self._processes, self._changed)
        self._asked: list[_Asked] = []
        self._under_way: list[_Asked] = []
        self._is_asked = trio.Event()

    def close(self) -> None:
        """Give the descriptors back; what is asked later is gone."""
        self._search.close()

    def _find(self, origins: Sequence[RecordOrigin]) -> Sequence[Found | Sought]:
        ends = [origin for origin in origins if isinstance(origin, Endpoints)]
        inodes = self._diag.inodes(ends)
        holders, is_complete = self._search.holders({inode for inode in inodes if inode > 0})
        found: list[Found | Sought] = []
        for asked, inode in zip(ends, inodes, strict=True):
            if inode in holders:
                found.append(_together(holders[inode]))
            elif inode > 0 and not is_complete:
                found.append(Sought(asked, inode))
            else:
                found.append(self._without_holder(asked))
        return found

    def _without_holder(self, ends: Endpoints) -> Found:
        # Nobody was seen to have it: closed meanwhile, or in hands that can't be looked into.
        (inode,) = self._diag.inodes([ends])
        return GONE if inode == socket_diag.GONE else UNKNOWN

    def search(self, sought: Sought, tell: Callable[[Found], None]) -> None:
        """As FindsPrograms."""
        if self._nursery is None or len(self._asked) >= MAX_SOUGHT:
            tell(self._without_holder(sought.ends))
            return
        self._asked.append(_Asked(sought, tell))
        self._is_asked.set()

    async def _work(self) -> None:
        """Look for sockets in steps, until cancelled."""
        try:
            while True:
                await self._is_asked.wait()
                self._is_asked = trio.Event()
                self._under_way, self._asked = self._asked, []
                seconds = await self._look()
                if seconds > LARGE_SECONDS:  # a child that asks for ever has half of the time
                    await trio.sleep(seconds)
        finally:
            self._nursery = None
            for asked in [*self._under_way, *self._asked]:
                asked.tell(self._without_holder(asked.sought.ends))

    async def _look(self) -> float:
        """Look for all that are under way, and tell; return the seconds that it took."""
        inodes = {asked.sought.inode for asked in self._under_way}
        looking = Sweep(self._processes, map(link_of, inodes))
        with closing(looking):
            while not looking.is_complete and looking.seconds < MOST_SECONDS:
                looking.go_on(STEP_SECONDS)
                await trio.lowlevel.checkpoint()
        holders = self._search.settle(inodes, looking)
        under_way, self._under_way = self._under_way, []
        for sought, tell in under_way:
            found = holders.get(sought.inode)
            tell(self._without_holder(sought.ends) if found is None else _together(found))
        return looking.seconds

    def _changed(self, process: Process, holder: Holder) -> None:
        self._name(holder.program)
        try:
            directory, image = process.copy()
        except OSError:
            holder.program.is_settled = True
            return
        if not self._describe(holder.program, partial(self._look_at, directory, image)):
            os.close(directory)
            image.close()


def _together(holders: list[Holder]) -> Found:
    return holders[0].alone if len(holders) == 1 else Found("found", tuple(holders))
