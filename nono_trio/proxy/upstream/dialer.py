"""TCP connections to addresses that policy has checked: happy eyeballs after RFC 8305.

Rules of this file: only a `CheckedAddress` is dialled, so nothing is resolved here; a second
look-up could return an address that was never checked. Every socket that is not returned is closed.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from errno import EINPROGRESS
from itertools import chain, zip_longest
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_NODELAY
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.upstream.interfaces import DialFailed
from nono_trio.steps import become_task, stepwise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.upstream.interfaces import CheckedAddress

_IS_LINUX: Final = sys.platform == "linux"
if sys.platform == "linux":
    _KIND: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
else:
    _KIND: Final = socket.SOCK_STREAM


class TcpDialler:
    """Dials within `limits.dial` seconds; each address has a head start over the next one."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._limits = limits

    @stepwise
    async def __call__(self, addresses: Sequence[CheckedAddress]) -> tuple[socket.SocketType, str]:
        """As `Dialler`; no checkpoint when the first address answers at once."""
        queue = addresses if len(addresses) == 1 else alternate_families(addresses)
        target = queue[0]
        sock, problem = _start(target)
        if problem == 0 and sock is not None:
            return sock, target.address
        await become_task()
        race = _Race(self._limits.attempt)
        with trio.move_on_after(self._limits.dial):
            return await race.run(_Attempt(target, sock, problem), queue[1:])
        reason = format_reason(DenialCode.DIAL_TIMEOUT, seconds=self._limits.dial)
        raise DialFailed(reason, 504)


class _Attempt(msgspec.Struct):
    """An attempt to reach `target`, with what `_start` returned."""

    target: CheckedAddress
    sock: socket.SocketType | None
    problem: int

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


def _start(target: CheckedAddress) -> tuple[socket.SocketType | None, int]:
    """Begin a connection without waiting for it. Returns its socket, and its errno so far: 0 once
    it is connected.

    The second `connect` costs 0.7 us and returns whether the handshake is complete, as it always is
    on loopback. A wait until the socket is writable would cost ten times that.
    """
    name = target.address
    address = (name, target.port)
    try:
        sock = socket.SocketType(AF_INET6 if ":" in name else AF_INET, _KIND, 0)
    except OSError as error:  # no descriptor left, or no IPv6 on this machine
        return None, error.errno or errno.EMFILE
    if not _IS_LINUX:
        sock.setblocking(False)
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    problem = sock.connect_ex(address)
    if problem == EINPROGRESS:
        # On other systems a second `connect` may begin another connection, so they wait instead.
        problem = sock.connect_ex(address) if _IS_LINUX else errno.EALREADY
    return sock, problem


class _Race:
    """Attempts on several addresses at once; the first that connects wins."""

    def __init__(self, head_start: float) -> None:
        self._head_start = head_start
        self._problem = errno.EHOSTUNREACH
        self._winner: tuple[socket.SocketType, str] | None = None

    async def run(
        self, first: _Attempt, others: Sequence[CheckedAddress]
    ) -> tuple[socket.SocketType, str]:
        """Return the winner. Raises DialFailed; if cancelled, no socket is left open."""
        try:
            async with trio.open_nursery() as nursery:
                await self._enter(first, nursery)
                for target in others:
                    await self._enter(_Attempt(target, *_start(target)), nursery)
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise DialFailed(os.strerror(self._problem).lower())
        return self._winner

    async def _enter(self, attempt: _Attempt, nursery: trio.Nursery) -> None:
        """Start one attempt, and wait until it has failed or its head start is over."""
        lost = trio.Event()
        nursery.start_soon(self._finish, attempt, lost, nursery)
        with trio.move_on_after(self._head_start):
            await lost.wait()

    async def _finish(self, attempt: _Attempt, lost: trio.Event, nursery: trio.Nursery) -> None:
        try:
            if attempt.sock is not None and attempt.problem == errno.EALREADY:
                await trio.lowlevel.wait_writable(attempt.sock)
                attempt.problem = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if attempt.sock is None or attempt.problem != 0:
                self._problem = attempt.problem
                lost.set()
            elif self._winner is None:
                self._winner = (attempt.sock, attempt.target.address)
                attempt.sock = None  # the caller closes it
                nursery.cancel_scope.cancel(reason="one address answered")
        finally:
            attempt.close()


def alternate_families(addresses: Sequence[CheckedAddress]) -> list[CheckedAddress]:
    """Return the addresses with their families in turn (RFC 8305 4), the resolver's first choice
    first."""
    first_family = ":" in addresses[0].address
    same = [one for one in addresses if (":" in one.address) == first_family]
    other = [one for one in addresses if (":" in one.address) != first_family]
    turns = chain.from_iterable(zip_longest(same, other))
    return [one for one in turns if one is not None]
