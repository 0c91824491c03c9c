"""A sieve says which bytes of a relay may go, and when."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio
from relay_ends import ends, read_all
from running_proxy import BOUND

if TYPE_CHECKING:
    from collections.abc import Callable


class Sieve:
    """Holds all bytes until they are recorded."""

    def __init__(self) -> None:
        self.unrecorded: list[str] = []
        self.held = b""

    def take(self, data: bytes) -> bytes:
        self.held += data
        self.unrecorded.append("git")
        return self.ready()

    def ready(self) -> bytes:
        if self.unrecorded:
            return b""
        held, self.held = self.held, b""
        return held


async def test_what_waits_for_its_record_goes_before_the_end_that_has_come_with_it():
    sieve = Sieve()

    async def rest(move: Callable[[], bool]) -> None:
        assert sieve.unrecorded
        sieve.unrecorded.clear()
        while move():
            if two.relay.up.done:
                two.server.shutdown(socket.SHUT_WR)
            await trio.sleep(0.001)

    with ends() as two, trio.fail_after(BOUND):
        two.relay.up.put_through(sieve)
        two.client.send(b"a message")
        two.client.shutdown(socket.SHUT_WR)
        await two.relay.run(rest)
        assert read_all(two.server) == b"a message"
        assert (two.relay.up.moved, two.relay.closed_by) == (9, "client")
