"""A transparent network on real loopback sockets, and the view of a program in the cage.

It needs no namespace: the listeners are on loopback, and the test gives a connection's destination,
which the kernel gives in a cage.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import trio
from origin import Origin
from running_proxy import PATIENT, TOKEN, Wire, until

from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.credentials.credentials import Credentials
from nono_trio.proxy.intercept.interfaces import Intercepts
from nono_trio.proxy.limits import ProxyLimits
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.proxy.listeners.transparent import Transparent
from nono_trio.testing import FakeResolver, LoopbackDialler, MemoryRecorder

REAL = "192.0.2.1"  # the address of allowed.test for the supervisor
LITERAL = "192.0.2.99"  # an address that no name got
RESOLVER = {"allowed.test": [[REAL]], "other.test": [[REAL]]}
ACCESS_DENIED, UNRECOGNIZED_NAME, DECODE_ERROR, INTERNAL_ERROR = 49, 112, 50, 80


def alert(code: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([code])


@dataclass
class Cage:
    """The network that a program in the cage sees, and the fakes behind it."""

    recorder: MemoryRecorder
    resolver: FakeResolver
    dialler: LoopbackDialler
    transparent: Transparent
    ports: dict[str, int] = field(default_factory=dict)
    wanted: dict[int, tuple[str, int]] = field(default_factory=dict)
    """The destinations of connections, by their own port."""
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)

    def address(self, name: str) -> str:
        """The address that a program gets for a name; a literal address is returned as it is."""
        if name[0].isdigit() or ":" in name:
            return name
        found = self.transparent.names.addresses_of(name)
        assert found is not None
        return str(found[0])

    def open(self, target: str, port: int) -> trio.SocketStream:
        """Open a connection to a name or literal address.

        It does not use trio's connect, which sometimes fails if a reset comes at once.
        """
        sock = socket.create_connection(("127.0.0.1", self.ports[f"tcp4:{port}"]))
        self.wanted[sock.getsockname()[1]] = (self.address(target), port)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    @asynccontextmanager
    async def connection(self, target: str, port: int):
        async with self.open(target, port) as stream:
            yield Wire(stream)

    async def ask(self, target: str, request: bytes, port: int = 80):
        async with self.connection(target, port) as wire:
            await wire.send(request)
            return await wire.answer()

    async def answer(self, target: str, raw: bytes, port: int = 443) -> bytes | None:
        """Send `raw` and return all bytes that come back; None for a reset."""
        async with self.connection(target, port) as wire:
            try:
                if raw:
                    await wire.send(raw)
                found = b""
                while more := await wire.receive():
                    found += more
            except trio.BrokenResourceError:
                return None
            return found

    async def events(self, count: int) -> list[tuple[object, ...]]:
        """All events in short form, once there are `count`."""
        await until(lambda: len(self.recorder.events) >= count)
        return [(e.decision, e.target, e.port, e.method) for e in self.recorder.events]

    @property
    def reasons(self) -> list[str | None]:
        return [event.reason for event in self.recorder.events]


@asynccontextmanager
async def cage(
    *allow: str,
    origin: Origin | None = None,
    recorder: MemoryRecorder | None = None,
    resolver: FakeResolver | None = None,
    limits: ProxyLimits = PATIENT,
    endpoints: Sequence[str] = (),
    intercept: Sequence[str] = (),
    interception: Intercepts | None = None,
    credentials: Credentials | None = None,
):
    """Yield a transparent network that serves until the block ends."""
    recorder, resolver = recorder or MemoryRecorder(), resolver or FakeResolver(RESOLVER)
    dialler = LoopbackDialler(None if origin is None else origin.port)
    policy = Policy.build(
        allow=list(allow or ["allowed.test", "allowed.test:22"]),
        endpoints=endpoints,
        intercept=intercept,
    )
    proxy = Proxy(
        policy, recorder, TOKEN, resolver=resolver, dialler=dialler, limits=limits,
        interception=interception, credentials=credentials,
    )  # fmt: skip
    transparent = Transparent(
        proxy,
        policy,
        recorder,
        own_names={"devbox": [IPv4Address("127.0.0.1")]},
        destination=lambda sock: found.wanted[sock.getpeername()[1]],
    )
    found = Cage(recorder, resolver, dialler, transparent)
    sockets = {
        f"tcp4:{port}": socket.create_server(("127.0.0.1", 0), backlog=512)
        for port in (80, 443, 22, 25)
    }
    sockets["dns-udp4"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sockets["dns-udp4"].bind(("127.0.0.1", 0))
    sockets["dns-tcp4"] = socket.create_server(("127.0.0.1", 0))
    untouched = sockets["proxy"] = socket.create_server(("127.0.0.1", 0))
    found.ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}

    async def host() -> None:
        async with trio.open_nursery() as handlers:
            with found.accepting:
                await transparent.serve(sockets, handlers)

    with untouched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            yield found
            nursery.cancel_scope.cancel()
        assert untouched.fileno() >= 0, "the network closed a socket that it does not own"


def get(host: str, path: str = "/small", *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def greets(stream: trio.SocketStream) -> None:
    await stream.send_all(b"hello ")
    async for data in stream:
        await stream.send_all(data)


async def reads_all(stream: trio.SocketStream) -> None:
    size = 0
    async for data in stream:
        size += len(data)
    await stream.send_all(b"%d" % size)
