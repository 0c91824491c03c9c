"""WebSockets through the proxy: only a complete handshake opens a tunnel."""

from __future__ import annotations

import pytest
from origin import serving
from running_proxy import http, running
from transparent_cage import cage, get
from websocket_peer import FIELDS, KEY, Server, agreeing, head_of, proof

LOOPBACK = ["127.0.0.1:*"]


@pytest.mark.parametrize("frames", [b"", b"\x81\x02hi"])
async def test_a_handshake_turns_the_connection_into_a_tunnel(frames):
    server = agreeing(frames)
    async with serving(server) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/chat", *FIELDS) + b"early")
        head = await head_of(wire)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket" in head
        assert await wire.receive_exactly(len(frames) + 5) == frames + b"early"
        await wire.send(b"GET / HTTP/1.1\r\n\r\n")  # no request any more
        assert await wire.receive_exactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        await wire.end()
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"
        assert flow.bytes_down == len(server.answer) + 5 + 18
        assert flow.bytes_up == len(server.seen)
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" in server.seen
        assert await proxy.events(1) == [("allow", "127.0.0.1", origin.port)]


async def test_on_the_transparent_network_too():
    async with serving(agreeing()) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 80) as wire:
            await wire.send(get("allowed.test", "/chat", *FIELDS))
            assert (await head_of(wire)).startswith(b"HTTP/1.1 101 ")
            await wire.send(b"echo")
            assert await wire.receive_exactly(4) == b"echo"
        async with at.connection("allowed.test", 80) as wire:
            await wire.send(get("evil.test", "/chat", *FIELDS))
            answer = await wire.answer()
            assert answer is not None
            assert answer.status == 403


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("Upgrade: websocket", "Connection: Upgrade"), "without a WebSocket handshake"),
        (
            ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {KEY}"),
            "without a WebSocket handshake",
        ),
        (
            ("Upgrade: h2c", "Connection: Upgrade", f"Sec-WebSocket-Accept: {proof(KEY)}"),
            "without a WebSocket handshake",
        ),
        (
            ("Upgrade: websocket", f"Sec-WebSocket-Accept: {proof(KEY)}"),
            "without a WebSocket handshake",
        ),
        (
            (
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {proof(KEY)}",
                "Content-Length: 5",
            ),
            "without a WebSocket handshake",
        ),
    ],
    ids=["no-proof", "another-proof", "another-protocol", "no-connection", "framing"],
)
async def test_a_status_101_alone_opens_nothing(fields, words):
    """A server that a client can make send 101 would run the next request without a record."""
    server = Server(*fields)
    async with serving(server) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/"
        await wire.send(http("GET", url, *FIELDS) + b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 502
        assert words.encode() in answer.body
        assert await wire.ends()
        assert b"/hidden" not in server.seen


@pytest.mark.parametrize(
    "fields",
    [
        FIELDS[1:],
        (FIELDS[0], *FIELDS[2:]),
        (FIELDS[0], "Upgrade: h2c", *FIELDS[2:]),
        (FIELDS[0], "Upgrade: websocket, h2c", *FIELDS[2:]),
        (*FIELDS, "Upgrade: h2c"),
        (*FIELDS[:2], FIELDS[3]),
        (*FIELDS[:2], "Sec-WebSocket-Key: short", FIELDS[3]),
        FIELDS[:3],
        (*FIELDS, "Content-Length: 3"),
    ],
)
async def test_an_incomplete_handshake_is_forwarded_without_its_upgrade(fields):
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        body = b"abc" if fields[-1].startswith("Content-Length") else b""
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/small", *fields, body=body))
        answer = await wire.answer()
        assert answer is not None
        assert answer.body == b"ok"
        assert b"upgrade" not in bytes(origin.seen).lower()


async def test_a_declined_handshake_leaves_http_as_it_was():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/small"
        for fields in (FIELDS, ()):
            answer = await wire.exchange(http("GET", url, *fields))
            assert answer is not None
            assert answer.body == b"ok"
        assert await proxy.events(2) == [("allow", "127.0.0.1", origin.port)] * 2
