"""A client's connection: its end is waited for, and no longer than its deadline."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from running_proxy import BOUND, until

from nono_trio.proxy.transport.client import Client, ClientTable
from nono_trio.proxy.transport.epoll import Readiness

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1000.0  # the deadline, which only a sweep of the table enforces


class FullTransport:
    """Its end fits at the third look."""

    looks = 0

    def finish(self) -> bool:
        self.looks += 1
        return self.looks > 2


@pytest.fixture
def client() -> Iterator[Client]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        one = Client(near, Readiness(), ClientTable(1))
        one.transport = cast("Any", FullTransport())
        yield one


@pytest.mark.parametrize("expires", [False, True])
async def test_an_end_that_does_not_fit_is_waited_for_until_the_deadline(client, expires) -> None:
    ended = trio.Event()

    async def finish() -> None:
        await client.finish(SECONDS)
        ended.set()

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            await until(lambda: client.transport.looks == 1)
            if expires:
                client.expire()
            else:
                client.tcp.waker.wake()
                await until(lambda: client.transport.looks == 2)
                assert not ended.is_set()
                client.tcp.waker.wake()
            await ended.wait()
    assert client.transport.looks == (1 if expires else 3)
