"""TCP connections to addresses that policy has checked: happy eyeballs after RFC 8305.

Rules of this file: only literal addresses come in, so nothing is resolved here; a second lookup
could return what was never checked. Every socket that is not handed out is closed.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import trio

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.upstream.interfaces import DialFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.proxy.limits import Limits


class TcpDialler:
    """Dials within `limits.dial` seconds, giving each address a head start over the next."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def __call__(self, addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
        """As `contracts.Dialler`; no checkpoint when the first address answers at once."""
        queue = _alternate(addresses)
        first = _start(queue[0], port)
        if first.sock is not None and first.problem == 0:
            return first.sock, first.address
        race = _Race(port, self._limits.attempt)
        with trio.move_on_after(self._limits.dial):
            return await race.run(first, queue[1:])
        reason = format_reason(DenialCode.DIAL_TIMEOUT, seconds=self._limits.dial)
        raise DialFailed(reason, 504)


@dataclass(slots=True)
class _Attempt:
    """A socket on its way to `address`, and the errno it stands at: 0 is there."""

    address: str
    sock: socket.socket | None
    problem: int

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


def _start(address: str, port: int) -> _Attempt:
    """Begin a connection without waiting for it.

    The second `connect` costs 0.7 us and tells whether the handshake is over, which on loopback
    it always is; waiting for the socket to become writable would cost ten times that.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = _non_blocking(family)
    except OSError as error:  # no descriptor left, or no IPv6 on this machine
        return _Attempt(address, None, error.errno or errno.EMFILE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    problem = sock.connect_ex((address, port))
    if problem == errno.EINPROGRESS:
        problem = _ask_again(sock, address, port)
    return _Attempt(address, sock, problem)


if sys.platform == "linux":

    def _non_blocking(family: socket.AddressFamily) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def _ask_again(sock: socket.socket, address: str, port: int) -> int:
        return sock.connect_ex((address, port))

else:

    def _non_blocking(family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    def _ask_again(_sock: socket.socket, _address: str, _port: int) -> int:
        return errno.EALREADY  # elsewhere a second connect may begin anew: it is waited for


class _Race:
    """Attempts on several addresses at once; the first that connects wins."""

    def __init__(self, port: int, head_start: float) -> None:
        self._port = port
        self._head_start = head_start
        self._problem = errno.EHOSTUNREACH
        self._winner: tuple[socket.socket, str] | None = None

    async def run(self, first: _Attempt, others: Sequence[str]) -> tuple[socket.socket, str]:
        """The winner. Raises DialFailed; if cancelled, no socket is left open."""
        try:
            async with trio.open_nursery() as nursery:
                await self._enter(first, nursery)
                for address in others:
                    await self._enter(_start(address, self._port), nursery)
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise DialFailed(os.strerror(self._problem).lower())
        return self._winner

    async def _enter(self, attempt: _Attempt, nursery: trio.Nursery) -> None:
        """Let one attempt run until it has lost or its head start is over."""
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
                self._winner = (attempt.sock, attempt.address)
                attempt.sock = None  # no longer ours to close
                nursery.cancel_scope.cancel(reason="one address answered")
        finally:
            attempt.close()


def _alternate(addresses: Sequence[str]) -> list[str]:
    """Families by turns (RFC 8305 4), the resolver's first choice first."""
    if len(addresses) == 1:
        return [addresses[0]]
    first_family = ":" in addresses[0]
    mine = [address for address in addresses if (":" in address) == first_family]
    other = [address for address in addresses if (":" in address) != first_family]
    turns = chain.from_iterable(zip_longest(mine, other))
    return [address for address in turns if address is not None]
