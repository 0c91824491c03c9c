"""The system's own look-ups: the hosts file first, then getaddrinfo, in threads that are bounded.

A thread in getaddrinfo can't be stopped: it ends when the C library gives up, which may take a
minute. The owner of a zone can make every name below it hang, so look-ups that hang must leave
room for other zones.

Rules of this file:
- A name is looked up with its final dot, so that no search domain of resolv.conf is appended; the
  supervisor appends them itself (`core.policy.resolver_files`).
- One name takes one thread, however many tasks wait for it.
- A place is free again at the deadline of its look-up, although the thread goes on.
- No zone may have more than its share of places or threads.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.upstream.blocking_look_up import (
    HOSTS_FILE,
    addresses_in,
    addresses_of,
    look_up,
)
from nono_trio.proxy.upstream.interfaces import ResolveFailed
from nono_trio.threads import in_thread, start_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from outcome import Outcome

PLACES: Final = 16  # look-ups at once; more names wait
PLACES_OF_A_ZONE: Final = 4  # so that three zones that hang leave room for a fourth
THREADS: Final = 64  # with those that are over time; 8 MiB of address space each, little of it used
THREADS_OF_A_ZONE: Final = 16


class SystemResolver:
    """A `Resolver` for one session. `hosts_file` and `get_addresses` are the system's unless given;
    the second blocks, and raises OSError."""

    def __init__(
        self,
        hosts_file: Path = HOSTS_FILE,
        get_addresses: Callable[[str], tuple[str, ...]] | None = None,
    ) -> None:
        self._hosts_file = hosts_file
        self._get_addresses = get_addresses or addresses_of
        self._places = trio.CapacityLimiter(PLACES)
        self._zones: dict[str, trio.CapacityLimiter] = {}
        self._threads: Counter[str] = Counter()
        self._running: dict[str, _LookUp] = {}

    async def __call__(self, name: str) -> Sequence[str]:
        """As `Resolver`. If cancelled the look-up goes on; the next look-up of the name joins
        it."""
        running = self._running.get(name)
        if running is not None:
            return await running.result()
        async with self._place(_zone(name)):
            running = self._running.get(name) or await self._start(name)
            return await running.result()

    async def in_hosts_file(self, name: str) -> Sequence[str]:
        """As `Resolver`."""
        return await in_thread(addresses_in, self._hosts_file, name)

    @asynccontextmanager
    async def _place(self, zone: str) -> AsyncGenerator[None]:
        """Wait for a place of the zone and one of all places, and keep both while the body runs."""
        share = self._zones.setdefault(zone, trio.CapacityLimiter(PLACES_OF_A_ZONE))
        try:
            async with share, self._places:
                yield
        finally:
            if not share.borrowed_tokens and not share.statistics().tasks_waiting:
                self._zones.pop(zone, None)

    async def _start(self, name: str) -> _LookUp:
        """Start a thread for `name`. Raises ResolveFailed if too many threads hang already."""
        zone = _zone(name)
        if self._threads.total() >= THREADS or self._threads[zone] >= THREADS_OF_A_ZONE:
            raise ResolveFailed(format_reason(DenialCode.RESOLVER_BUSY))
        look_up = self._running[name] = _LookUp()
        self._threads[zone] += 1
        token = trio.lowlevel.current_trio_token()

        def end(result: Outcome[tuple[str, ...]]) -> None:
            look_up.end(result)
            self._forget(name, zone)

        def deliver(result: Outcome[tuple[str, ...]]) -> None:
            with suppress(trio.RunFinishedError):  # the session is over and no task waits
                token.run_sync_soon(end, result)

        try:
            await start_thread(partial(self._look_up, name), deliver)
        except BaseException:  # cancelled before there was a thread: fail for those that joined
            look_up.fail(OSError("there was no thread for it"))
            self._forget(name, zone)
            raise
        return look_up

    def _forget(self, name: str, zone: str) -> None:
        del self._running[name]
        self._threads -= Counter({zone: 1})

    def _look_up(self, name: str) -> tuple[str, ...]:
        """In a thread: look in the hosts file, then ask the system's name services."""
        return look_up(name, self._hosts_file, self._get_addresses)


class _LookUp:
    """One running look-up, for all tasks that wait for it."""

    def __init__(self) -> None:
        self._ended = trio.Event()
        self._addresses: tuple[str, ...] = ()
        self._error: Exception | None = None

    def end(self, result: Outcome[tuple[str, ...]]) -> None:
        """Set the thread's result or exception."""
        try:
            self._addresses = result.unwrap()
        except Exception as error:
            self._error = error
        self._ended.set()

    def fail(self, error: Exception) -> None:
        """Set the error."""
        self._error = error
        self._ended.set()

    async def result(self) -> tuple[str, ...]:
        """The addresses. Raises ResolveFailed."""
        await self._ended.wait()
        error = self._error
        if isinstance(error, socket.gaierror):
            unknown = error.errno in _UNKNOWN
            reason = format_reason(DenialCode.NAME_UNKNOWN, detail=str(error.strerror))
            raise ResolveFailed(reason, unknown=unknown)
        if isinstance(error, (OSError, UnicodeError)):  # UnicodeError: no name that DNS could have
            raise ResolveFailed(format_reason(DenialCode.NAME_UNRESOLVABLE))
        if error is not None:
            raise RuntimeError("a look-up failed by a bug") from error
        return self._addresses


# Errors of a name that does not exist; the others mean that no server gave an answer.
_UNKNOWN: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def _zone(name: str) -> str:
    """The zone of `name`, by its last two labels."""
    return ".".join(name.split(".")[-2:])
