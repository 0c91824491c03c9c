"""Host entries by host and port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.policy.rule import ANY_PORT, TCP_SCHEME, with_parents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.rule import Rule


class RuleTable:
    """Entries by host and port: two dict reads for the host, and two for each parent of it."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[tuple[str, int], list[Rule]] = {}
        self._by_suffix: dict[tuple[str, int], list[Rule]] = {}
        self.ports: set[int] = set()
        self.every_port: list[Rule] = []
        """The entries with `:*`."""
        self.tunnelled: set[int] = set()
        """Ports of tcp:// entries, with ANY_PORT for `:*`."""
        for rule in rules:
            self.ports.update(port for port in rule.ports if port != ANY_PORT)
            if ANY_PORT in rule.ports:
                self.every_port.append(rule)
            if rule.scheme == TCP_SCHEME:
                self.tunnelled.update(rule.ports)
            table = self._by_suffix if rule.wildcard else self._exact
            for port in rule.ports:
                table.setdefault((rule.host.name, port), []).append(rule)

    def find(self, host: Host, port: int) -> Iterator[Rule]:
        """The entries for a host and port: exact before wildcard, the nearest suffix first."""
        yield from _rules_at(self._exact, host.name, port)
        if host.address is not None or not self._by_suffix:
            return
        parents = with_parents(host.name)
        next(parents)  # *.example.com does not cover example.com
        for name in parents:
            yield from _rules_at(self._by_suffix, name, port)


def _rules_at(table: dict[tuple[str, int], list[Rule]], name: str, port: int) -> Iterator[Rule]:
    yield from table.get((name, port), ())
    yield from table.get((name, ANY_PORT), ())
