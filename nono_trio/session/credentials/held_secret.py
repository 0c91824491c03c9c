"""A credential with its stand-in, as the session holds it.

Rules of this file: no `repr` shows a stand-in or a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nono_trio.core.credentials.credential import Credential
    from nono_trio.session.credentials.sources import SecretSource


@dataclass(frozen=True, slots=True, eq=False)
class HeldSecret:
    """A credential with its stand-in; proxy/credentials/interfaces.py has the protocol.

    `at_start` is the secret as it was when the session began; `hidden` is another one by which the
    source gets it, for which the command gets the same stand-in.
    """

    credential: Credential
    stand_in: bytes = field(repr=False)
    at_start: bytes = field(repr=False)
    source: SecretSource
    hidden: bytes | None = field(default=None, repr=False)

    async def secret(self) -> bytes:
        """Return the real value now. Raises SecretUnavailable."""
        return (await self.source.current()).reveal()

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return each secret of it at the start, with the text that is shown instead."""
        shown = ((self.at_start, self.stand_in),)
        return shown if self.hidden is None else (*shown, (self.hidden, self.stand_in))

    def shown(self) -> tuple[bytes, ...]:
        """Return what the command has instead of secrets."""
        return tuple(stand_in for _, stand_in in self.pairs())

    def values(self) -> dict[str, bytes]:
        """Return the values of the credential's variables for the command."""
        return dict.fromkeys(self.credential.variables, self.stand_in)

    def refused(self) -> None:
        """A bound host answered that the secret is not valid."""
        if self.credential.oauth2 is not None:
            self.source.refused()
