"""What the proxy needs from the network around it: a resolver and a dialler.

Both are protocols, so that tests hand in a fake of twenty lines (`nono_trio.testing`); what it
needs from the audit is `nono_trio.audit.write.recorder.RecordsDecisions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class CheckedAddress:
    """An IP address and port that may be dialled. Only the resolver makes one (a test holds it):
    after policy has allowed the address for a host and port, or for the upstream proxy that whoever
    started the session has named. So a dialler can't be given anything unchecked."""

    address: str
    port: int


class ResolveFailed(Exception):
    """A name has no address; `reason` is one printable sentence without a full stop.

    `unknown`: there is no such name, as opposed to nobody who could be asked.
    """

    def __init__(self, reason: str, *, unknown: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unknown = unknown


class DialFailed(Exception):
    """No address answered; `status` is 502, or 504 when the time was up. `hint` is what the
    client is told beside the reason."""

    def __init__(self, reason: str, status: int = 502, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.hint = hint


class Resolver(Protocol):
    """Turns a canonical name into the addresses to check and to dial."""

    async def __call__(self, name: str) -> Sequence[str]:
        """All addresses of `name` as it stands, best first; nothing is ever appended to it. Raises
        ResolveFailed. Cancellable at once."""
        ...

    async def in_hosts_file(self, name: str) -> Sequence[str]:
        """What the system's hosts file has for `name`, often nothing. Cancellable at once."""
        ...


class Dialler(Protocol):
    """Opens a TCP connection to one of some addresses."""

    async def __call__(self, addresses: Sequence[CheckedAddress]) -> tuple[socket.socket, str]:
        """Return a connected non-blocking socket, and the IP address that it reached.

        Raises DialFailed. If cancelled, every socket it opened is closed.
        """
        ...
