"""Records of refused packets, with a listener for every port of some hosts and without it."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import pytest
import trio
import trio.testing
from running_proxy import until

from nono_trio.core.log.events import Network
from nono_trio.core.net.fake_ip import FakeAddresses
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.core.policy.judging import Judging
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.listeners.refused_ports import RefusedPorts
from nono_trio.testing import MemoryRecorder

TCP, UDP = 6, 17
PORT = 7777


def packet(address: IPv4Address, protocol: int, port: int) -> bytes:
    """The first packet of a connection, or a datagram."""
    head = struct.pack("!2B3H2BH", 0x45, 0, 40, 0, 0, 64, protocol, 0)
    ports = struct.pack("!2H", 40000, port)
    return head + bytes([198, 19, 255, 254]) + address.packed + ports + b"\x00" * 16


@pytest.mark.parametrize("has_every_port", [False, True])
async def test_a_connection_that_a_listener_gets_is_not_recorded_here(has_every_port: bool) -> None:
    policy = Policy.build(["every.test:*"])
    names = FakeAddresses(has_every_port=lambda name: policy.decides_every_port(parse_host(name)))
    recorder = MemoryRecorder()
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel:
        for name, protocol in (("every.test", TCP), ("every.test", UDP), ("other.test", TCP)):
            addresses = names.addresses_of(name)
            assert addresses is not None
            kernel.send(packet(addresses[0], protocol, PORT))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(RefusedPorts(names, policy, recorder).serve, ours, has_every_port)
            await until(lambda: recorder.events[-1:] and recorder.events[-1].target == "other.test")
            nursery.cancel_scope.cancel()
    told = [(event.target, event.method, event.reason) for event in recorder.events]
    refused = (
        "every.test",
        None,
        "a program without the proxy needs an entry with the port"
        " (to allow: --allow-domain every.test:7777)",
    )
    assert told == [
        *([] if has_every_port else [refused]),
        ("every.test", "UDP", "every.test:7777 is allowed for TCP, datagrams are not let through"),
        ("other.test", None, "other.test:7777 is not on the allowlist"),
    ]


ALLOWED_ONLY = [(f"n{number}.a.test", PORT) for number in range(30)]
MANY_PORTS = [("every.test", 1000 + number) for number in range(30)]


@pytest.mark.parametrize(("protocol", "flood"), [(UDP, ALLOWED_ONLY), (TCP, MANY_PORTS)])
@pytest.mark.parametrize("guilty", [1, 30])
async def test_attempts_that_failed_hide_no_denied_one(
    autojump_clock: object, protocol: int, flood: list[tuple[str, int]], guilty: int
) -> None:
    """Before: 20 of them a second took the place of a denied one, and the run passed. Of more
    denied ones than have a place each is counted."""
    policy = Policy.build([f"*.a.test:{PORT}", "every.test:*"])
    names = FakeAddresses()
    judging = Judging("policy")
    recorder, tally = MemoryRecorder(), AttemptTally()
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    serving = RefusedPorts(names, policy, recorder, judging.is_reason)
    with kernel:
        kernel.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.serve, ours)
            for name, port in flood:
                kernel.send(packet(names.addresses_of(name)[0], protocol, port))  # type: ignore[index]
                await trio.testing.wait_all_tasks_blocked()
            for number in range(guilty):
                kernel.send(packet(IPv4Address("192.0.2.1"), protocol, 9000 + number))
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    tally.add_all([Network(event=event) for event in recorder.events] + recorder.left)
    assert (tally.denied, tally.repeats) == (guilty, 10)
    assert tally.beyond == max(0, guilty - 20)
    assert judging.exit_code(0, tally) == 3
