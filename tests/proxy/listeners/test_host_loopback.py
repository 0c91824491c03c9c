"""Records of tries of this machine's loopback: none is lost without a word."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing
from running_proxy import until

from nono_trio.errors import AuditBusy
from nono_trio.proxy.listeners.host_loopback import HostLoopback
from nono_trio.testing import MemoryRecorder


def reset_from(port: int) -> bytes:
    """The kernel's answer to a try of 127.0.0.1:PORT."""
    loopback = bytes([127, 0, 0, 1])
    head = struct.pack("!2B3H2BH", 0x45, 0, 40, 0, 0, 64, 6, 0)
    return head + loopback * 2 + struct.pack("!2H", port, 40000) + bytes(16)


@pytest.mark.parametrize("kind", ["busy", "slow"])
async def test_a_try_that_the_log_could_not_take_is_told_and_the_next_one_is_recorded(
    kind: str,
) -> None:
    recorder = MemoryRecorder()
    refuse = [True]

    async def before_commit(_event: object) -> None:
        if refuse:
            refuse.clear()
            if kind == "busy":
                raise AuditBusy("the queue is full")
            await trio.sleep_forever()

    recorder.before_commit = before_commit
    watched = HostLoopback(recorder, lambda: {5432}, relayed=[6000])
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel:
        for port in (5432, 6000, 7000, 5432, 5432):
            kernel.send(reset_from(port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.serve, ours)
            await until(lambda: bool(recorder.events))
            nursery.cancel_scope.cancel()
    assert [(event.target, event.port) for event in recorder.events] == [("127.0.0.1", 5432)]
    assert watched.ports == [5432]
    lost, told = watched.notes()
    assert lost.startswith("tries of loopback without a record: 1 ")
    assert "--open-port 5432" in told


async def test_a_log_that_hangs_holds_the_end_up_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Before: each port that was left took a second, of minutes of which nothing was recorded."""
    recorder = MemoryRecorder()

    async def before_commit(_event: object) -> None:
        await trio.sleep_forever()

    recorder.before_commit = before_commit
    ports = range(5000, 5090)
    watched = HostLoopback(recorder, lambda: frozenset(ports))
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.serve, ours)
            await trio.testing.wait_all_tasks_blocked()
            for port in ports:
                kernel.send(reset_from(port))
            nursery.cancel_scope.cancel()
            began = trio.current_time()
        assert trio.current_time() - began <= 1.0
    assert watched.lost == len(ports)
