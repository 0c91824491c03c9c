"""A proxy server that our proxy can go through."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import trio

from nono_trio.core.policy.upstream_proxy import parse_upstream_proxy


@dataclass
class Upstream:
    """A forward proxy that leads everything to one origin, and remembers what it was asked.

    `credentials`: what it asks for, if it does. `answer`: what it says instead of leading anywhere.
    `early`: what the origin of a tunnel says before it is spoken to.
    """

    origin_port: int
    credentials: bytes | None = None
    answer: bytes | None = None
    early: bytes = b""
    interim: int = 0
    asked: list[h11.Request] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        parser = h11.Connection(h11.SERVER)
        while (event := parser.next_event()) is h11.NEED_DATA:
            data = await stream.receive_some(65536)
            self.seen += data
            parser.receive_data(data)
        if not isinstance(event, h11.Request):
            return
        self.asked.append(event)
        presented = dict(event.headers).get(b"proxy-authorization")
        if self.answer is not None:
            await stream.send_all(self.answer)
        elif presented != self.credentials:
            await stream.send_all(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n")
        else:
            await self.lead_on(stream, event, parser)

    async def lead_on(
        self, stream: trio.abc.Stream, request: h11.Request, parser: h11.Connection
    ) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self.origin_port) as origin:
            if request.method == b"CONNECT":
                early = b"HTTP/1.1 100 Wait\r\n\r\n" * self.interim
                await stream.send_all(early + b"HTTP/1.1 200 There\r\n\r\n" + self.early)
                await origin.send_all(parser.trailing_data[0] or b"")
            else:
                head = bytes(self.seen).partition(b"\r\n\r\n")
                await origin.send_all(head[0].replace(request.target, b"/small", 1) + b"\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, origin)
                await copy(origin, stream)
                nursery.cancel_scope.cancel()


async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    while data := await source.receive_some(65536):
        await sink.send_all(data)


def upstream_proxy(port: int, *bypass: str, user: bytes | None = None, scheme: str = "http"):
    user_text = "jo@" if user else ""
    url = f"{scheme}://{user_text}127.0.0.1:{port}"
    return parse_upstream_proxy(url, bypass, b"p w" if user else None, {})
