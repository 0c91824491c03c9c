"""The interface of a credential for the proxy, the failure of asking for its secret, and the one of
a request that must not go on.

They are apart from the modules that swap and search, which only a session with credentials imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nono_trio.core.credentials.credential import Credential
    from nono_trio.proxy.access.decision import Refusal


class SecretUnavailable(Exception):
    """The secret is not available now. `reason` is one sentence without a full stop; it must not
    contain the secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MustNotGoOn(Exception):
    """A request that was allowed must not go on. `refusal` is for its second record, and for its
    answer. The text has neither a secret nor a stand-in."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class HeldCredential(Protocol):
    """A credential of this session; session/credentials has the implementation.

    No implementation may show the secret or the stand-in in its `repr`.
    """

    @property
    def credential(self) -> Credential:
        """Its settings."""
        ...

    @property
    def stand_in(self) -> bytes:
        """The value that the command has instead of the secret, the same for the whole session."""
        ...

    def shown(self) -> tuple[bytes, ...]:
        """Return all values that the command has instead of secrets: the stand-in, or one for each
        part of a key."""
        ...

    async def secret(self) -> bytes:
        """Return the real value now; it may differ from the one before.

        Raises SecretUnavailable. The time is bounded. If cancelled, nothing has changed for others
        who wait for the same value.
        """
        ...

    def refused(self) -> None:
        """A bound host has answered that the secret is not valid. Neither waits nor raises."""
        ...
