"""A WebSocket handshake, and a server that accepts it."""

from __future__ import annotations

import base64
import hashlib

import trio

KEY = base64.b64encode(bytes(16)).decode()


FIELDS = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)


def proof(key: str) -> str:
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


class Server:
    """Answers one head with a head and `frames`, then echoes; `seen` has all received bytes."""

    def __init__(self, *fields: str, status: str = "101 Switching", frames: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status}", *fields]
        self.answer = "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + frames
        self.seen = b""

    async def __call__(self, stream: trio.SocketStream) -> None:
        while b"\r\n\r\n" not in self.seen:
            self.seen += await stream.receive_some(1000)
        await stream.send_all(self.answer)
        async for data in stream:
            self.seen += data
            await stream.send_all(data)


def agreeing(frames: bytes = b"") -> Server:
    return Server(
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {proof(KEY)}",
        "Sec-WebSocket-Protocol: chat",
        frames=frames,
    )


async def head_of(wire) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await wire.receive()
    head, _, wire.unread = data.partition(b"\r\n\r\n")
    return head
