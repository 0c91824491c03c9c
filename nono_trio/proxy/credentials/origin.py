"""The credentials at one origin: whose stand-ins are swapped in requests to it, and whose are only
searched for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nono_trio.core.credentials.search import StandInSearch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.credentials.swap import Swap
    from nono_trio.proxy.credentials.interfaces import HeldCredential
    from nono_trio.proxy.credentials.signing import SigningCredential


@dataclass(frozen=True, slots=True, eq=False)
class OriginCredentials:
    """The credentials for requests to one origin. A search is None if it has nothing to find.

    The stand-ins of `bound` are swapped there; `swaps` say how, without a secret. `refused` finds
    the stand-ins that must not go there, `passed` those that may and are noted. `in_bodies` finds
    those that are swapped in bodies. The keys of `signing` sign requests there.
    """

    bound: tuple[HeldCredential, ...] = ()
    swaps: tuple[Swap, ...] = field(default=(), repr=False)
    refused: NamedSearch | None = None
    passed: NamedSearch | None = None
    in_bodies: NamedSearch | None = None
    signing: tuple[SigningCredential, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class NamedSearch:
    """A search, and the names of the credentials whose stand-ins it finds."""

    search: StandInSearch
    names: tuple[str, ...]

    def find(self, data: bytes) -> str | None:
        """Return the name of a credential whose stand-in occurs in `data`."""
        found = self.search.find(data)
        return None if found is None else self.names[found]

    def find_in_fields(self, names: Iterable[bytes]) -> str | None:
        """As `find`, in names of fields: HTTP/2 has them in lower case."""
        found = self.search.find_in_name(b"\n".join(names))
        return None if found is None else self.names[found]


def search_for(held: Sequence[HeldCredential]) -> NamedSearch | None:
    """Return the search for the stand-ins of some credentials; None for no credentials."""
    if not held:
        return None
    shown = [(one.credential.name, text) for one in held for text in one.shown()]
    search = StandInSearch([text for _, text in shown])
    return NamedSearch(search, tuple(name for name, _ in shown))
