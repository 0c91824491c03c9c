"""Finds the addresses of an allowed host and has policy check them.

Rules of this file:
- A name is looked up once, after the decision that allows it is in the log.
- The names that are looked up are those that policy has checked: `Policy.look_up_names`.
- Every address is checked. One bad address denies the whole name, because a resolver that mixes
  good and bad addresses may be hostile.
- The addresses that were checked are dialled; the name is not looked up again.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ALLOW_FLAG
from nono_trio.proxy.upstream.interfaces import CheckedAddress, DialFailed, ResolveFailed
from nono_trio.proxy.upstream.local_addresses import is_local
from nono_trio.steps import become_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.upstream.interfaces import Resolver

MEMORY: Final = 256  # hosts without DNS whose addresses are remembered; the policy has few of them
MAX_ADDRESSES: Final = 32  # of one name; a DNS answer over UDP holds about that many


class AddressDenied(Exception):
    """An allowed name has an address that is denied; `reason` and `hint` as in a verdict."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class HostAddresses(msgspec.Struct, frozen=True):
    """Checked addresses of a host. `name` is the full name that has them, or None if that is the
    host's name."""

    addresses: Sequence[CheckedAddress]
    name: str | None = None


class AddressResolver:
    """Finds and checks the addresses of allowed hosts."""

    def __init__(
        self,
        policy: Policy,
        resolver: Resolver,
        limits: ProxyLimits,
        is_local: Callable[[str], bool] = is_local,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._limits = limits
        self._is_local = is_local
        self._own_ports: set[int] = set()
        self._fixed: dict[tuple[str, int], HostAddresses] = {}

    def add_own(self, listener: socket.socket) -> None:
        """From now on deny connections to `listener`, which the proxy itself accepts from."""
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            self._own_ports.add(listener.getsockname()[1])
            self._fixed.clear()

    def is_own(self, address: str, port: int) -> bool:
        """Return whether a connection to an IP address would come back to the proxy.

        Only the listener's port is compared, since one bound to 0.0.0.0 has many addresses.
        """
        return port in self._own_ports and self._is_local(address)

    def known(self, host: Host, port: int) -> HostAddresses | None:
        """Return the addresses that may be dialled, if they were checked before and need no
        look-up."""
        return self._fixed.get((host.name, port))

    async def addresses(self, host: Host, port: int) -> HostAddresses:
        """Return the addresses that may be dialled for `host`: its pins, the address itself if it
        is a literal, or the result of the look-up.

        Raises AddressDenied, and DialFailed when the name has no address or its look-up took too
        long.
        """
        found = self.known(host, port) or self._find_fixed(host, port)
        return found or await self._resolve(host, port)

    async def proxy_addresses(self, proxy: UpstreamProxy) -> Sequence[CheckedAddress]:
        """Return the addresses of the upstream proxy. Policy is not asked, because the user has
        named the proxy. Raises DialFailed."""
        host, port = proxy.host, proxy.port
        if host.address is not None:
            return (CheckedAddress(host.name, port),)
        with trio.move_on_after(self._limits.resolve):
            try:
                addresses = await self._resolver(host.name)
            except ResolveFailed as error:
                code = DenialCode.UPSTREAM_UNRESOLVED
                reason = format_reason(code, proxy=proxy.shown, detail=error.reason)
                raise DialFailed(reason) from error
            return [CheckedAddress(address, port) for address in addresses]
        raise DialFailed(format_reason(DenialCode.UPSTREAM_RESOLVE_TIMEOUT), 504)

    def _find_fixed(self, host: Host, port: int) -> HostAddresses | None:
        """The addresses of a host that needs no look-up. They are checked once."""
        addresses = self._policy.addresses(host, port)
        if addresses is None and host.address is not None:
            addresses = (host.name,)
        if addresses is None:
            return None
        checked = self._check(host, port, addresses)
        if len(self._fixed) >= MEMORY:
            self._fixed.clear()
        found = self._fixed[host.name, port] = HostAddresses(checked)
        return found

    async def _resolve(self, host: Host, port: int) -> HostAddresses:
        await become_task()
        with trio.move_on_after(self._limits.resolve):
            try:
                addresses, name = await self._look_up(host)
            except ResolveFailed as error:
                hint = self._full_names(host, port) if error.unknown else None
                raise DialFailed(error.reason, hint=hint) from error
            if not addresses:
                raise DialFailed(format_reason(DenialCode.NAME_WITHOUT_ADDRESS))
            if len(addresses) > MAX_ADDRESSES:
                code = DenialCode.NAME_WITH_MANY_ADDRESSES
                raise DialFailed(format_reason(code, count=MAX_ADDRESSES))
            return HostAddresses(self._check(host, port, addresses), name)
        seconds = self._limits.resolve
        raise DialFailed(format_reason(DenialCode.RESOLVE_TIMEOUT, seconds=seconds), 504)

    async def _look_up(self, host: Host) -> tuple[Sequence[str], str | None]:
        """The addresses of the first of the host's full names that exists, and that name; None
        for the name if it is the host's own. Raises ResolveFailed."""
        *extended, name = self._policy.look_up_names(host)
        if extended and (addresses := await self._resolver.in_hosts_file(name)):
            return addresses, None
        for one in extended:
            try:
                return await self._resolver(one), one
            except ResolveFailed as error:
                if not error.unknown:  # the next name may belong to another host
                    raise
        return await self._resolver(name), None

    def _full_names(self, host: Host, port: int) -> str | None:
        """A hint for a name that exists only with a search domain appended, as in Kubernetes."""
        names = [f"{host.name}.{domain}" for domain in self._policy.search]
        if "." not in host.name or not names:
            return None
        entries = " or ".join(f"{ALLOW_FLAG} {name}:{port}" for name in names)
        return f"a name with a dot is looked up as it stands; use the full name, with {entries}"

    def _check(self, host: Host, port: int, addresses: Sequence[str]) -> tuple[CheckedAddress, ...]:
        for address in addresses:
            local = self._is_local(address)
            verdict = self._policy.check_address(host, port, address, is_local=local)
            if not verdict.allowed:
                raise AddressDenied(verdict.reason or "the address is not allowed", verdict.hint)
            if local and port in self._own_ports:
                raise AddressDenied(format_reason(DenialCode.ADDRESS_IS_PROXY))
        return tuple(CheckedAddress(address, port) for address in addresses)
