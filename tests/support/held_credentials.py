"""Credentials for the proxy without sources: secrets that a test chooses and changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from looked_into import HOST

from nono_trio.core.credentials.credential import (
    DEFAULT_PLACES,
    Credential,
    Elsewhere,
    Place,
    parse_bound_host,
)
from nono_trio.proxy.credentials.credentials import Credentials
from nono_trio.proxy.credentials.interfaces import SecretUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

# As `stand_in_like` makes them.
STAND_IN = b"sk-ant-api03-Zq8vK2mX0aLr7TyWc4NfHb1Ej9RoPd5SgUi3"
SECRET = b"sk-ant-api03-REALREALREALREAL0123456789abcdefghij"
OTHER_STAND_IN = b"ghp_Qw3rTy8uIo1pAs5dFg7hJk2lZx9cVb4nM6Qe"
OTHER_SECRET = b"ghp_REALREALREALREAL0123456789abcdefghij"
ELSEWHERE = "elsewhere.test"


@dataclass
class Held:
    """A `HeldCredential`; `value` is its secret, or why there is none."""

    credential: Credential
    stand_in: bytes = field(default=STAND_IN, repr=False)
    value: bytes | SecretUnavailable = field(default=SECRET, repr=False)
    asked: int = 0
    refusals: int = 0
    opened: trio.Event = field(default_factory=trio.Event)
    """The secret comes only after it is set."""

    def __post_init__(self) -> None:
        self.opened.set()

    def refused(self) -> None:
        self.refusals += 1

    def shown(self) -> tuple[bytes, ...]:
        return (self.stand_in,)

    async def secret(self) -> bytes:
        self.asked += 1
        await self.opened.wait()
        if isinstance(self.value, SecretUnavailable):
            raise self.value
        return self.value


def held(
    *hosts: str,
    name: str = "model",
    places: Iterable[Place] = DEFAULT_PLACES,
    elsewhere: Elsewhere = "deny",
    stand_in: bytes = STAND_IN,
    secret: bytes = SECRET,
) -> Held:
    """A credential for `hosts`, or for HOST."""
    bound = tuple(parse_bound_host(name, text) for text in hosts or [HOST])
    one = Credential(name, "env://X", bound, frozenset(places), elsewhere=elsewhere)
    return Held(one, stand_in, secret)


def foreign(name: str = "git", elsewhere: Elsewhere = "deny") -> Held:
    """A credential that is bound to another host than HOST."""
    return held(
        ELSEWHERE, name=name, elsewhere=elsewhere, stand_in=OTHER_STAND_IN, secret=OTHER_SECRET
    )


def credentials(*some: Held) -> Credentials:
    """All credentials of a session."""
    return Credentials(some)
