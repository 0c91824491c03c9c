"""Fakes for tests of programs that use nono-trio: typed, in memory, with hooks instead of mocks.

They do what the protocols of `proxy` and `audit` require; each records its calls in a plain list.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from nono_trio.errors import AuditLost
from nono_trio.proxy.upstream.interfaces import DialFailed, ResolveFailed
from nono_trio.steps import become_task, stepwise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from nono_trio.core.log.events import Flow, NetworkEvent, Payload
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.proxy.upstream.interfaces import CheckedAddress


class MemoryRecorder:
    """A recorder whose log is a list. `before_commit` runs before an event counts as recorded: let
    it wait to hold the request up, or raise to fail it."""

    def __init__(self) -> None:
        self.events: list[NetworkEvent] = []
        self.origins: list[RecordOrigin | None] = []
        self.flows: list[Flow] = []
        self.left: list[Payload] = []
        self.before_commit: Callable[[NetworkEvent], Awaitable[None]] | None = None

    @stepwise
    async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
        """Append `event`; its place is its sequence. No checkpoint unless the hook has one."""
        if self.before_commit is not None:
            await become_task()
            await self.before_commit(event)
        self.events.append(event)
        self.origins.append(origin)
        return len(self.events) - 1

    def record_flow(self, flow: Flow) -> None:
        """Append `flow`."""
        self.flows.append(flow)

    def leave_for_end(self, payload: Payload) -> None:
        """Append `payload` to `left`."""
        self.left.append(payload)


class FailingRecorder(MemoryRecorder):
    """A recorder that fails with `error` once `good` events are recorded, as a full disk does."""

    def __init__(self, good: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self._good = good
        self._error = error or AuditLost("no space left on device")

    @stepwise
    async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
        """Append `event`, or raise."""
        if len(self.events) >= self._good:
            raise self._error
        return await super().record(event, origin)


class FakeResolver:
    """A resolver with a table. Names outside it have no address; `asked` keeps every question.

    An entry may hold several answers, one a question; the last one stays. `hosts` is its hosts
    file.
    """

    def __init__(
        self,
        table: Mapping[str, Sequence[Sequence[str]]] | None = None,
        hosts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.table = {name: list(answers) for name, answers in (table or {}).items()}
        self.hosts = dict(hosts or {})
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        """The next answer for `name`. No checkpoint. Raises ResolveFailed."""
        self.asked.append(name)
        answers = self.table.get(name)
        if not answers:
            raise ResolveFailed("the name is not in the table", unknown=True)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def in_hosts_file(self, name: str) -> Sequence[str]:
        """Return the addresses of `name` in `hosts`. No checkpoint."""
        return self.hosts.get(name, ())


class LoopbackDialler:
    """A dialler that reaches one loopback port whatever is dialled; `dialled` keeps the rest.

    Without a port everything is refused.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.dialled: list[tuple[str, int]] = []

    @stepwise
    async def __call__(self, addresses: Sequence[CheckedAddress]) -> tuple[socket.SocketType, str]:
        """Connect to the loopback port, as if it were the first of `addresses`. No checkpoint."""
        self.dialled += [(one.address, one.port) for one in addresses]
        if self.port is None:
            raise DialFailed("connection refused")
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setblocking(False)
        return sock, addresses[0].address
