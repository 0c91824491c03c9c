"""Credentials that sign, as the proxy needs them, and the room for bodies that are hashed.

They are apart from the modules that sign, which only a session with such a credential imports.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.proxy.credentials.interfaces import HeldCredential

if TYPE_CHECKING:
    from typing import TypeGuard

    from nono_trio.core.credentials.aws_keys import AwsKeys

MAX_BODIES: Final = 128 * 1024 * 1024  # bytes that wait for their hash: 8 of the longest bodies


class SigningCredential(HeldCredential, Protocol):
    """A credential that signs. No implementation may show a key in its `repr`."""

    @property
    def stand_ins(self) -> AwsKeys:
        """The keys that the command has; their id is the credential's `stand_in`."""
        ...

    async def keys(self) -> AwsKeys:
        """Return the real keys now. As `HeldCredential.secret`."""
        ...


class HeldBodies:
    """Counts the bytes of bodies that are held for their hash."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, owner: object, size: int) -> bool:
        """Take room for as long as `owner` lives; return False without room."""
        if self.held + size > MAX_BODIES:
            return False
        self.held += size
        weakref.finalize(owner, self._give_back, size).atexit = False
        return True

    def _give_back(self, size: int) -> None:
        self.held -= size


def is_signing(held: HeldCredential) -> TypeGuard[SigningCredential]:
    """Return True for a credential that signs."""
    return held.credential.kind == "sigv4"
