"""Values by host, for entries that are for every port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from nono_trio.core.net.address import spellings
from nono_trio.core.policy.rule import with_parents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.net.host import Host

Value = TypeVar("Value")


class HostTable(Generic[Value]):
    """Values by host: those for the host itself, and those for a suffix of its name."""

    def __init__(self) -> None:
        self._exact: dict[str, list[Value]] = {}
        self._by_suffix: dict[str, list[Value]] = {}

    def add(self, host: Host, wildcard: bool, value: Value) -> None:
        """Add a value for a host, in every spelling of an address, or for all below a suffix."""
        table = self._by_suffix if wildcard else self._exact
        for name in _names(host):
            table.setdefault(name, []).append(value)

    def __bool__(self) -> bool:
        return bool(self._exact) or bool(self._by_suffix)

    def find(self, host: Host) -> Iterator[Value]:
        """The values for a host: exact before wildcard, the nearest suffix first."""
        for name in _names(host):
            yield from self._exact.get(name, ())
        if host.address is not None or not self._by_suffix:
            return
        parents = with_parents(host.name)
        next(parents)  # *.example.com does not cover example.com
        for name in parents:
            yield from self._by_suffix.get(name, ())


def _names(host: Host) -> list[str]:
    """The names of a host: of an address every spelling (mapped, NAT64)."""
    return [host.name] if host.address is None else [*map(str, spellings(host.address))]
