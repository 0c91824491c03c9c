"""The credentials of a session as the proxy needs them: by the origin of a request, and by name.

Rules of this file:
- A stand-in that is not bound to the origin of a request is searched for in that request. A bound
  one is swapped there, and may be anywhere in it.
- The command chooses hosts, so what is remembered of them is bounded.
- No `repr` here shows a stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.search import StandInSearch
from nono_trio.core.credentials.swap import Swap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.net.host import Host
    from nono_trio.proxy.credentials.interfaces import HeldCredential

MAX_ORIGINS: Final = 1024  # remembered; all are dropped when full. Each is 200 bytes


@dataclass(frozen=True, slots=True, eq=False)
class OriginCredentials:
    """What holds for the requests to one origin. The searches are None if they search for nothing.

    `bound` are swapped there, `swaps` say how, without a secret. `refused` finds the stand-ins that
    must not go there, `passed` those that may and are noted.
    """

    bound: tuple[HeldCredential, ...] = ()
    swaps: tuple[Swap, ...] = field(default=(), repr=False)
    refused: NamedSearch | None = None
    passed: NamedSearch | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NamedSearch:
    """A search, and the names of the credentials whose stand-ins it finds."""

    search: StandInSearch
    names: tuple[str, ...]

    def find(self, data: bytes) -> str | None:
        """Return the name of a credential whose stand-in occurs in `data`."""
        found = self.search.find(data)
        return None if found is None else self.names[found]


class Credentials:
    """All credentials of a session. `held` are those that have a stand-in.

    It is made once, before the proxy serves, and given to `Proxy`.
    """

    def __init__(self, held: Sequence[HeldCredential]) -> None:
        self._held = tuple(held)
        self._origins: dict[tuple[str, str, int], OriginCredentials] = {}
        self._by_bound: dict[tuple[int, ...], OriginCredentials] = {}

    def __repr__(self) -> str:
        return f"Credentials({len(self._held)})"

    def at(self, scheme: str, host: Host, port: int) -> OriginCredentials:
        """Return what holds for requests to an origin; `scheme` is http or https."""
        key = (scheme, host.name, port)
        found = self._origins.get(key)
        if found is None:
            bound = tuple(
                number
                for number, one in enumerate(self._held)
                if one.credential.is_bound_to(scheme, host, port)
            )
            found = self._by_bound.get(bound)
            if found is None:
                found = self._by_bound[bound] = self._made(bound)
            if len(self._origins) >= MAX_ORIGINS:
                self._origins.clear()
            self._origins[key] = found
        return found

    def _made(self, bound: tuple[int, ...]) -> OriginCredentials:
        others = [one for number, one in enumerate(self._held) if number not in bound]
        here = tuple(self._held[number] for number in bound)
        return OriginCredentials(
            here,
            tuple(map(_swap, here)),
            _search([one for one in others if one.credential.elsewhere == "deny"]),
            _search([one for one in others if one.credential.elsewhere == "audit"]),
        )


def _search(held: Sequence[HeldCredential]) -> NamedSearch | None:
    if not held:
        return None
    search = StandInSearch([one.stand_in for one in held])
    return NamedSearch(search, tuple(one.credential.name for one in held))


def _swap(held: HeldCredential) -> Swap:
    """How a stand-in is swapped, with itself for the secret."""
    one = held.credential
    stand_in = held.stand_in
    return Swap(one.name, stand_in, stand_in, one.places, one.headers, one.parameters)
