"""A fault at every await of supervisor, writer and handlers: the log keeps what was acknowledged.

Whatever is cancelled, and whichever await raises, the session ends within its deadlines, and its
log is sealed, or crashed and recoverable. Every answer that a client got is in it.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import trio
from await_faults import STEPS, AwaitFault, Injected
from running_proxy import PATIENT, TOKEN, Wire, connect, http

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import session_record
from nono_trio.audit.write.session_record import SessionFacts, SessionRecord
from nono_trio.config.options import AuditOptions
from nono_trio.core.log.policy_json import SessionPolicy, SupervisorProcess
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.session.supervisor import Supervisor
from nono_trio.testing import FakeResolver, LoopbackDialler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nono_trio.audit.recovery.recover import Recovery
    from nono_trio.audit.write.recorder import AuditSync, Recorder

BOUND = 60.0
ADDRESS = "93.184.216.34"
_RECORDING = (
    "Recorder.record",
    "Client.pause",
    "Proxy.serve",
    f"{STEPS}: HttpConnection._serve HttpConnection._serve_request ConnectionHandler._record",
    f"{STEPS}: ConnectionHandler._run_tunnel Tunnel.carry Relay.run Client.pause_while",
)
_WRITING = (
    "Supervisor._write: Writer.run RecordQueue.next_batch",
    "Supervisor._write: in_thread",
    "Checkpointer.run",
)
PARTS = {"session": _RECORDING + _WRITING, "raise": _RECORDING + _WRITING, "handlers": _RECORDING}
MOST_AWAITS = 2000  # far more than such a session has
CLIENT = "client"  # the name of the clients' tasks: no faults in them


@pytest.fixture(autouse=True)
def of_an_ended_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session counts as crashed, although this process lives."""
    ended = SupervisorProcess(pid=2**22 + 1, start_ticks=1, boot_id="an-earlier-boot")
    monkeypatch.setattr(session_record, "this_process", lambda: ended)


class Session:
    """A supervisor whose service is a proxy and four clients; `told` are the answers they got."""

    def __init__(self, root: Path, fault: AwaitFault, scope: str) -> None:
        self.record = SessionRecord(root, SessionFacts(["agent"], SessionPolicy()))
        # At intervals, what steps record is committed by who runs them.
        sync: AuditSync = "interval" if scope == "handlers" else "always"
        self.supervisor = Supervisor(
            self.record, AuditOptions(root, sync=sync), grace_seconds=0.2, warn=lambda _: None
        )
        self.told: list[tuple[str, str]] = []
        self._fault = fault
        self._scope = scope

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._origin = await nursery.start(
                partial(trio.serve_tcp, _answer, 0, host="127.0.0.1")
            )
            with trio.CancelScope() as whole:
                if self._scope == "session":
                    self._fault.cancel = whole.cancel
                self._fault.is_armed = True
                await self.supervisor.run(self._serve)
            nursery.cancel_scope.cancel()

    async def _serve(self, handlers: trio.Nursery, recorder: Recorder) -> int:
        if self._scope == "handlers":
            self._fault.cancel = handlers.cancel_scope.cancel
        allow = ["allowed.test:*", f"{ADDRESS}:*"]
        policy = Policy.build(allow=allow, resolve=[], search=(), endpoints=[])
        port = self._origin[0].socket.getsockname()[1]
        proxy = Proxy(
            policy, recorder, TOKEN, limits=PATIENT, dialler=LoopbackDialler(port),
            resolver=FakeResolver({"allowed.test": [[ADDRESS]]}),
        )  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0))
        async with trio.open_nursery() as serving:
            serving.start_soon(proxy.serve, listener, handlers)
            async with trio.open_nursery() as clients:
                for ask in (self._plain, self._denied, self._tunnel, self._stepped):
                    clients.start_soon(self._client, ask, listener.getsockname()[1], name=CLIENT)
            serving.cancel_scope.cancel()
        return 0

    async def _client(self, ask: Callable[[Wire], object], port: int) -> None:
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await ask(Wire(stream))

    async def _plain(self, wire: Wire) -> None:
        for path in ("/one", "/two"):
            answer = await wire.exchange(http("GET", f"http://allowed.test{path}"))
            if answer is not None and answer.status == 200:
                self.told.append(("allow", path))

    async def _denied(self, wire: Wire) -> None:
        answer = await wire.exchange(http("GET", "http://denied.test/"))
        if answer is not None and answer.status == 403:
            self.told.append(("deny", "denied.test"))

    async def _tunnel(self, wire: Wire) -> None:
        answer = await wire.exchange(connect("allowed.test:443"), "CONNECT")
        if answer is not None and answer.status == 200:
            self.told.append(("allow", "allowed.test"))
            await wire.send(b"GET /three HTTP/1.1\r\n\r\n")
            await wire.receive()

    async def _stepped(self, wire: Wire) -> None:
        # Nothing is looked up for an address, so the whole tunnel goes on in steps.
        answer = await wire.exchange(connect(f"{ADDRESS}:22"), "CONNECT")
        if answer is not None and answer.status == 200:
            self.told.append(("allow", ADDRESS))
            await wire.send(b"GET /four HTTP/1.1\r\n\r\n")
            await wire.receive()


async def _answer(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(65536):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def of_the_session(name: str) -> bool:
    return name.startswith("nono_trio.") or name.endswith("Session.run")


def of_what_waits_rarely(name: str) -> bool:
    """Faults of all tasks may miss it."""
    return name == STEPS or name.endswith("Proxy.serve")


def sessions(
    memory_path: Path, scope: str, counts: Callable[[str], bool]
) -> Iterator[tuple[Session, AwaitFault]]:
    """Run a session for each of its awaits, until one has fewer."""
    for at in range(MOST_AWAITS):
        fault = AwaitFault(at, counts)
        session = Session(memory_path / counts.__name__ / str(at) / "audit", fault, scope)

        async def bounded(session: Session = session) -> None:
            with trio.fail_after(BOUND):
                await session.run()

        try:
            trio.run(bounded, instruments=[fault])
        except* (Injected, trio.Cancelled):
            assert fault.has_fired
        yield session, fault
        if not fault.has_fired:
            return
    pytest.fail(f"more than {MOST_AWAITS} awaits")


def recorded(session: Session) -> set[tuple[str, str]]:
    """The decisions of the whole lines of a log, as `told` has them."""
    told = set()
    for line in (session.record.directory / store.LOG).read_bytes().split(b"\n")[:-1]:
        event = json.loads(line)["event"]
        if event["type"] == "network":
            made = event["event"]
            told.add((made["decision"], made.get("path") or made["target"]))
            told.add((made["decision"], made["target"]))
    return told


def recovered(directory: Path) -> Recovery:
    """Recover, once a thread of the session that still works has let its log go."""
    deadline = time.monotonic() + BOUND
    while (outcome := recover(directory)).outcome == "running" and time.monotonic() < deadline:
        time.sleep(0.01)
    return outcome


@pytest.mark.parametrize("scope", ["session", "handlers", "raise"])
def test_what_was_acknowledged_is_in_a_log_that_is_sealed_or_recoverable(
    memory_path: Path, scope: str
) -> None:
    places, verdicts, told = set(), set(), 0
    both = (of_the_session, of_what_waits_rarely)
    every = chain.from_iterable(sessions(memory_path, scope, counts) for counts in both)
    for session, fault in every:
        places.add(fault.place)
        told += len(session.told)
        directory = session.record.directory
        before = verify(directory)
        verdicts.add(before.verdict)
        assert before.verdict in ("crashed", "verified"), (fault.place, before.first_bad)
        assert {*session.told} <= recorded(session), fault.place
        session.supervisor.close()  # the process' end would
        outcome = recovered(directory)
        after = verify(directory)
        assert (after.verdict, after.first_bad) == ("verified", None), (fault.place, outcome)
        assert {*session.told} <= recorded(session), fault.place
        report = ledger.verify(directory.parent)
        assert (report.count, report.first_bad, report.torn_tail) == (1, None, False), fault.place
    assert len(session.told) == 5  # the last one had no fault
    assert before.verdict == "verified"
    for part in PARTS[scope]:
        assert any(part in place for place in places), part
    assert told > len(places)  # there were answers before the faults
    assert (scope == "handlers") or "crashed" in verdicts
