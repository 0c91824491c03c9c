"""A real origin on loopback that remembers every byte it saw.

Paths: /small, /bytes/N, /chunked/N (N chunks), /echo (the body, chunked as it comes), /sink (its
size), /status/N (no body), /early (413 before it reads a body), /events (two, the second after
`released`), /until-close, /100mb. `says` makes a behaviour that answers with given bytes.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Stream = trio.abc.HalfCloseableStream

PIECE = b"0123456789abcdef" * 4096  # 64 KiB


class Behaviour(Protocol):
    """Serves one connection of an origin."""

    async def __call__(self, stream: trio.SocketStream) -> None: ...


@dataclass
class Origin:
    """The connections, requests and bytes that came so far."""

    port: int = 0
    connections: int = 0
    open: int = 0
    requests: list[h11.Request] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    bodies: list[int] = field(default_factory=list)
    released: trio.Event = field(default_factory=trio.Event)
    closed: trio.Event = field(default_factory=trio.Event)
    """Set when a connection has ended."""

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve HTTP/1.1 with keep-alive."""
        connection = h11.Connection(h11.SERVER)
        while True:
            request = await self.next_event(connection, stream)
            if not isinstance(request, h11.Request):
                return
            self.requests.append(request)
            if connection.they_are_waiting_for_100_continue and request.target != b"/early":
                await self.say(
                    connection, stream, h11.InformationalResponse(status_code=100, headers=[])
                )
            await self.answer(request, connection, stream)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def next_event(self, connection: h11.Connection, stream: trio.abc.Stream) -> object:
        while (event := connection.next_event()) is h11.NEED_DATA:
            data = await stream.receive_some(65536)
            self.seen += data
            connection.receive_data(data)
        return event

    async def say(
        self, connection: h11.Connection, stream: trio.abc.Stream, event: h11.Event
    ) -> None:
        data = connection.send(event)
        if data:
            await stream.send_all(data)

    async def answer(
        self, request: h11.Request, connection: h11.Connection, stream: trio.abc.Stream
    ) -> None:
        path, _, argument = request.target.decode().lstrip("/").partition("/")
        number = int(argument) if argument.isdigit() else 0

        async def say(event: h11.Event) -> None:
            await self.say(connection, stream, event)

        async def head(status: int, *headers: tuple[str, str]) -> None:
            await say(h11.Response(status_code=status, headers=list(headers)))

        if path == "early":
            await head(413, ("Content-Length", "5"), ("Connection", "close"))
            await say(h11.Data(data=b"early"))
            await say(h11.EndOfMessage())
            return
        if path == "echo":
            await head(200, ("Transfer-Encoding", "chunked"))
        size = 0
        while isinstance(event := await self.next_event(connection, stream), h11.Data):
            size += len(event.data)
            if path == "echo":
                await say(h11.Data(data=bytes(event.data)))
        self.bodies.append(size)
        if path == "echo":
            pass
        elif path == "sink":
            await head(200, ("Content-Length", str(len(str(size)))))
            await say(h11.Data(data=str(size).encode()))
        elif path in ("bytes", "100mb"):
            left = number if path == "bytes" else 100_000_000
            await head(200, ("Content-Length", str(left)))
            while left and request.method != b"HEAD":
                piece = PIECE[:left]
                await say(h11.Data(data=piece))
                left -= len(piece)
        elif path == "chunked":
            await head(200, ("Transfer-Encoding", "chunked"))
            for index in range(number):
                await say(h11.Data(data=b"%d," % index))
        elif path == "status":
            await head(number, *([] if number in (204, 304) else [("Content-Length", "0")]))
        elif path == "events":
            await head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
            await say(h11.Data(data=b"data: one\n\n"))
            await self.released.wait()
            await say(h11.Data(data=b"data: two\n\n"))
        elif path == "until-close":
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            raise trio.EndOfChannel  # no framing: the close is the end
        else:
            await head(200, ("Content-Length", "2"), ("X-Origin", "yes"))
            if request.method != b"HEAD":
                await say(h11.Data(data=b"ok"))
        await say(h11.EndOfMessage())


@asynccontextmanager
async def serving(
    behaviour: Callable[[trio.SocketStream], Awaitable[None]] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Origin]:
    """Yield an origin that serves on a loopback port until the block ends."""
    origin = Origin()

    async def handle(stream: trio.SocketStream) -> None:
        origin.connections += 1
        origin.open += 1
        try:
            async with stream:
                if behaviour is not None:
                    await behaviour(stream)
                elif tls is not None:
                    await origin.serve(trio.SSLStream(stream, tls, server_side=True))
                else:
                    await origin.serve(stream)
        except (OSError, h11.RemoteProtocolError, trio.BrokenResourceError, trio.EndOfChannel):
            pass
        finally:
            origin.open -= 1
            origin.closed.set()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        origin.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield origin
        nursery.cancel_scope.cancel()


def says(*pieces: bytes, read: bool = True) -> Behaviour:
    """Return a behaviour that reads one head, sends `pieces` unchanged, and closes."""

    async def behaviour(stream: trio.SocketStream) -> None:
        seen = b""
        while read and b"\r\n\r\n" not in seen:
            data = await stream.receive_some(65536)
            if not data:
                return
            seen += data
        for piece in pieces:
            await stream.send_all(piece)

    return behaviour


def tls_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context for `localhost` and 127.0.0.1, and the file a client should trust."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    trust, private = directory / "origin.pem", directory / "origin.key"
    trust.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trust, private)
    return context, trust
