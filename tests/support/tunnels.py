"""Tunnels through a running proxy, and how they end."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio
from running_proxy import connect, running
from transparent_cage import REAL

from nono_trio.testing import FakeResolver, LoopbackDialler

ALLOWED = ("allowed.test", "other.test", REAL)


@asynccontextmanager
async def opened(target, origin, allow=ALLOWED, early=b"", **settings):
    """Yield a tunnel whose CONNECT got a 200; `early` is sent in one piece with the CONNECT."""
    resolver = FakeResolver({name: [[REAL]] for name in ("allowed.test", "other.test")})
    dialler = LoopbackDialler(origin.port)
    async with (
        running(allow, resolver=resolver, dialler=dialler, **settings) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(connect(target) + early)
        answer = await wire.answer("CONNECT")
        assert answer is not None
        assert answer.status == 200
        yield proxy, wire


async def is_reset(wire, *pieces: bytes) -> bool:
    """True if a reset and no byte comes while or after the pieces are sent."""
    try:
        for piece in pieces:
            await wire.send(piece)
        data = await wire.receive()
    except trio.BrokenResourceError as broken:
        return isinstance(broken.__cause__, (ConnectionResetError, BrokenPipeError))
    raise AssertionError(f"got {data!r}")


def short(proxy):
    return [
        (event.decision, event.target, event.port, event.method) for event in proxy.recorder.events
    ]
