"""From an allowed name to the addresses that may be dialled for it.

Rules of this file: a name is looked up once, after its allow decision is in the log; every address
is checked; one bad address denies the whole name (a resolver that mixes good and bad ones is
trying something); what was checked is what is dialled.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.audit.threads import in_thread
from nono_trio.proxy.contracts import DialFailed, ResolveFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.hosts import Host
    from nono_trio.core.policy import Policy
    from nono_trio.proxy.contracts import Resolver
    from nono_trio.proxy.limits import Limits

RESOLVER_THREADS: Final = 16  # getaddrinfo blocks its thread for up to a minute; more names wait
MEMORY: Final = 256  # hosts without DNS whose addresses are remembered; the policy has few of them
MAX_ADDRESSES: Final = 32  # of one name; a DNS answer over UDP holds about that many


class AddressDenied(Exception):
    """An address that an allowed name must not lead to; `reason` and `hint` as in a verdict."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class SystemResolver:
    """getaddrinfo in threads of its own, so that slow names don't hold up other thread work."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(RESOLVER_THREADS)

    async def __call__(self, name: str) -> Sequence[str]:
        """As `contracts.Resolver`. If cancelled the thread is left to itself; its slot stays taken
        until the lookup returns."""
        try:
            return await in_thread(_look_up, name, limiter=self._threads)
        except socket.gaierror as error:
            raise ResolveFailed(f"the name has no address ({error.strerror})") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: labels that IDNA can't take
            raise ResolveFailed("the name can't be looked up") from error


def _look_up(name: str) -> tuple[str, ...]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Directory:
    """Finds and checks the addresses of allowed hosts."""

    def __init__(self, policy: Policy, resolver: Resolver, limits: Limits) -> None:
        self._policy = policy
        self._resolver = resolver
        self._limits = limits
        self._own_ports: set[int] = set()
        self._fixed: dict[tuple[str, int], Sequence[str]] = {}

    def add_own(self, listener: socket.socket) -> None:
        """From now on never lead a request back to `listener`, which the proxy accepts from."""
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            self._own_ports.add(listener.getsockname()[1])
            self._fixed.clear()

    def is_own(self, address: str, port: int) -> bool:
        """Whether a connection to an IP address would come back to the proxy.

        The address that was bound is not asked for: 0.0.0.0 stands for many others.
        """
        return port in self._own_ports and _is_here(address)

    async def addresses(self, host: Host, port: int) -> Sequence[str]:
        """What may be dialled for `host`: its pins, itself if it is a literal, or its DNS.

        Raises AddressDenied, and DialFailed when the name has no address or its lookup took too
        long.
        """
        key = (host.name, port)
        return (
            self._fixed.get(key) or self._find_fixed(host, port) or await self._resolve(host, port)
        )

    def _find_fixed(self, host: Host, port: int) -> Sequence[str] | None:
        """The addresses of a host that needs no DNS, remembered once they are checked."""
        addresses = self._policy.addresses(host, port)
        if addresses is None and host.address is not None:
            addresses = (host.name,)
        if addresses is not None:
            self._check(host, port, addresses)
            if len(self._fixed) >= MEMORY:
                self._fixed.clear()
            self._fixed[host.name, port] = addresses
        return addresses

    async def _resolve(self, host: Host, port: int) -> Sequence[str]:
        with trio.move_on_after(self._limits.resolve):
            try:
                found = tuple(await self._resolver(host.name))
            except ResolveFailed as error:
                raise DialFailed(error.reason) from error
            if not found:
                raise DialFailed("the name has no address")
            if len(found) > MAX_ADDRESSES:
                raise DialFailed(f"the name has more than {MAX_ADDRESSES} addresses")
            self._check(host, port, found)
            return found
        raise DialFailed(f"the name was not resolved within {self._limits.resolve:g} seconds", 504)

    def _check(self, host: Host, port: int, addresses: Sequence[str]) -> None:
        for address in addresses:
            verdict = self._policy.check_address(host, port, address)
            if not verdict.allowed:
                raise AddressDenied(verdict.reason or "the address is not allowed", verdict.hint)
            if self.is_own(address, port):
                raise AddressDenied("the address is the proxy itself")


def _is_here(address: str) -> bool:
    """Whether an address belongs to this machine: then, and only then, it can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
