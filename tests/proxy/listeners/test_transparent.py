"""The transparent network: tunnels by name, the order of things, limits and ends."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from dns_messages import query, wire
from hellos import hello
from msgspec.structs import replace
from origin import serving
from running_proxy import BOUND, PATIENT, until
from transparent_cage import (
    ACCESS_DENIED,
    INTERNAL_ERROR,
    LITERAL,
    REAL,
    alert,
    cage,
    get,
    greets,
)

from nono_trio.core.log.events import Network
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.limits import ProxyLimits
from nono_trio.proxy.listeners.transparent import destination_of
from nono_trio.testing import FailingRecorder, FakeResolver, MemoryRecorder


def test_the_kernel_tells_where_a_connection_was_to_go():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as accepted:
            assert destination_of(accepted) == ("127.0.0.1", port)


async def test_a_tunnel_by_name_to_a_server_that_speaks_first():
    async with serving(greets) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 22) as wire:
            assert await wire.receive_exactly(6) == b"hello "
            await wire.send(b"abc")
            assert await wire.receive_exactly(3) == b"abc"
            await wire.end()
            assert await wire.ends()
        assert await at.events(1) == [("allow", "allowed.test", 22, "TCP")]
        assert (at.resolver.asked, at.dialler.dialled) == (["allowed.test"], [(REAL, 22)])
        await until(lambda: bool(at.recorder.flows))
        [flow] = at.recorder.flows
        assert (flow.sequence, flow.target, flow.port, flow.address) == (
            0,
            "allowed.test",
            22,
            REAL,
        )
        assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (3, 9, "client")


@pytest.mark.parametrize("port", [22, 25])
@pytest.mark.parametrize("target", ["evil.test", LITERAL])
async def test_a_denied_tunnel_is_recorded_with_its_port_and_reset(target, port):
    async with cage() as at:
        assert await at.answer(target, b"", port) is None
        assert await at.events(1) == [("deny", target, port, "TCP")]
        assert at.reasons == [f"{target}:{port} is not on the allowlist"]
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])


async def test_a_name_is_denied_on_the_ports_that_no_entry_names():
    async with cage() as at:
        assert await at.answer("allowed.test", b"", 25) is None
        assert await at.events(1) == [("deny", "allowed.test", 25, "TCP")]


async def test_a_literal_that_is_allowed_is_dialled_as_such():
    async with serving(greets) as origin, cage(f"{LITERAL}:22", origin=origin) as at:
        async with at.connection(LITERAL, 22) as wire:
            assert await wire.receive_exactly(6) == b"hello "
        assert at.dialler.dialled == [(LITERAL, 22)]


@pytest.mark.parametrize("literal", ["169.254.169.254", "fe80::1%eth0", "198.19.255.253"])
async def test_protected_and_private_literals_stay_closed(literal):
    async with cage() as at:
        assert await at.answer(literal, b"", 22) is None
        assert await at.events(1) == [("deny", literal.partition("%")[0], 22, "TCP")]


async def test_an_upstream_out_of_reach_is_a_second_event_and_a_reset():
    async with cage() as at:
        assert await at.answer("allowed.test", b"", 22) is None
        assert [event[0] for event in await at.events(2)] == ["allow", "deny"]
        assert at.recorder.events[1].denial_category == "upstream_connect_failed"


async def test_a_name_that_leads_to_a_bad_address_is_not_dialled():
    resolver = FakeResolver({"allowed.test": [["169.254.169.254"]]})
    async with cage(resolver=resolver) as at:
        assert await at.answer("allowed.test", b"", 22) is None
        assert [event[0] for event in await at.events(2)] == ["allow", "deny"]
        assert at.dialler.dialled == []


ATTEMPTS = {
    "tunnel": ("allowed.test", 22, b""),
    "denied tunnel": ("evil.test", 22, b""),
    "tls": ("allowed.test", 443, hello("allowed.test")),
    "denied tls": ("evil.test", 443, hello("evil.test")),
    "fronting": ("allowed.test", 443, hello("evil.test")),
    "http": ("allowed.test", 80, get("allowed.test")),
    "denied http": ("evil.test", 80, get("evil.test")),
    "malformed": ("allowed.test", 80, b"\0"),
}


@pytest.mark.parametrize(("target", "port", "raw"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
async def test_nothing_happens_until_the_decision_is_recorded(target, port, raw):
    held, released = trio.Event(), trio.Event()

    async def hold(_event: object) -> None:
        held.set()
        await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = hold
    async with cage(recorder=recorder) as at, at.connection(target, port) as wire:
        if raw:
            await wire.send(raw)
        with trio.fail_after(BOUND):
            await held.wait()
        with trio.move_on_after(0.05) as waiting:
            await wire.stream.receive_some(1)
        assert waiting.cancelled_caught, "a byte or an end came before the decision was recorded"
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])
        released.set()
        try:
            await wire.receive()
        except trio.BrokenResourceError:
            assert port == 22


@pytest.mark.parametrize(
    ("port", "raw", "answer"),
    [(22, b"", None), (443, hello("allowed.test"), alert(INTERNAL_ERROR)),
     (80, get("allowed.test"), b"HTTP/1.1 503")],
)  # fmt: skip
async def test_a_busy_log_does_nothing(port, raw, answer):
    async with cage(recorder=FailingRecorder(error=AuditBusy("full"))) as at:
        found = await at.answer("allowed.test", raw, port)
        assert found == answer or (found is not None and answer and found.startswith(answer))
        assert at.resolver.asked == []


@pytest.mark.parametrize(("target", "port", "raw"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
async def test_a_sealed_log_cuts_the_connection(target, port, raw):
    async with cage(recorder=FailingRecorder(error=SessionSealed("over"))) as at:
        assert not await at.answer(target, raw, port)
        assert at.resolver.asked == []


async def test_a_lost_log_stops_everything():
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with cage(recorder=FailingRecorder(error=AuditLost("gone"))) as at:
            assert not await at.answer("allowed.test", b"", 22)
            await trio.sleep(BOUND)


async def test_a_full_proxy_says_so_to_each_in_its_own_way():
    limits = ProxyLimits(connections=0, refusals=4, head=0.3, linger=0.3, sweep=0.02)
    async with cage(limits=limits) as at:
        assert await at.answer("allowed.test", b"", 22) is None
        raw = hello("allowed.test")
        assert await at.answer("allowed.test", raw) == alert(INTERNAL_ERROR)
        answer = await at.ask("allowed.test", get("allowed.test"))
        assert answer is not None
        assert answer.status == 503
        assert [event[0] for event in await at.events(3)] == ["deny"] * 3


async def test_what_policy_refuses_is_no_lack_of_room():
    """A full proxy is a failure, which a run is not judged by."""
    limits = ProxyLimits(connections=0, refusals=4, head=0.3, linger=0.3, sweep=0.02)
    async with cage(limits=limits) as at:
        assert await at.answer("evil.test", b"", 22) is None
        assert await at.answer("evil.test", hello("evil.test")) == alert(ACCESS_DENIED)
        answer = await at.ask("evil.test", get("evil.test"))
        assert answer is not None
        assert answer.status == 403
        await at.events(3)
        assert at.reasons == [f"evil.test:{port} is not on the allowlist" for port in (22, 443, 80)]


async def test_several_listeners_wait_for_room_and_all_of_them_get_it():
    limits = ProxyLimits(connections=1, refusals=0, head=5, linger=0.3, sweep=0.02)
    async with serving(greets) as origin, cage(origin=origin, limits=limits) as at:
        answers: list[int] = []

        async def use(port: int) -> None:
            async with at.open("evil.test", port) as stream:
                with suppress(trio.BrokenResourceError), trio.fail_after(BOUND):
                    while await stream.receive_some():
                        pass
            answers.append(port)

        async with at.connection("allowed.test", 22) as first, trio.open_nursery() as nursery:
            await first.receive_exactly(6)
            for port in (443, 22, 25):
                nursery.start_soon(use, port)
            await trio.sleep(0.1)
            assert answers == []
            await first.stream.aclose()
        assert sorted(answers) == [22, 25, 443]
        assert len(at.recorder.events) == 4


async def test_idle_connections_end_when_accepting_does_and_tunnels_go_on():
    async with (
        serving(greets) as origin,
        cage(origin=origin, limits=replace(PATIENT, keep_alive=60)) as at,
        at.connection("allowed.test", 22) as tunnel,
        at.connection("evil.test", 80) as idle,
    ):
        await tunnel.receive_exactly(6)
        assert await idle.exchange(get("evil.test")) is not None
        at.accepting.cancel()
        assert await idle.ends()
        await tunnel.send(b"still")
        assert await tunnel.receive_exactly(5) == b"still"


async def test_what_has_connected_before_the_end_is_seen():
    """Before: what was still in the backlog was dropped without a record or a count."""
    async with cage() as at, AsyncExitStack() as clients:
        for _ in range(200):  # several times ACCEPT_BATCH, and no turn for the loop between
            await clients.enter_async_context(at.open(LITERAL, 22))
        at.accepting.cancel()
        assert await at.events(200) == [("deny", LITERAL, 22, "TCP")] * 200
        assert at.recorder.left == []


async def test_what_the_log_was_too_slow_for_at_the_end_is_counted():
    released, held = trio.Event(), []

    async def hold(event: object) -> None:
        held.append(event)
        await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = hold
    limits = ProxyLimits(connections=1, refusals=1, head=5, linger=0.3, sweep=0.02)
    async with cage(recorder=recorder, limits=limits) as at, AsyncExitStack() as clients:
        for number in range(1, 6):
            await clients.enter_async_context(at.open(LITERAL, 22))
            # Of two that come at once, the second would take the first one's place.
            await until(lambda number=number: len(held) == min(number, 2))
        at.accepting.cancel()
        await until(lambda: bool(recorder.left))
        released.set()
        assert await at.events(2) == [("deny", LITERAL, 22, "TCP")] * 2
        [lost] = recorder.left
    assert isinstance(lost, Network)
    assert lost.event.reason == "3 connections came too late to be decided"


async def test_a_name_that_was_asked_for_leads_to_its_own_tunnel_and_the_end_tells_the_rest():
    async with serving(greets) as origin, cage(origin=origin) as at:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", at.ports["dns-udp4"]))
            for name in (b"evil", b"evil", b"allowed"):
                await client.send(query(wire(name, b"test")))
                with trio.fail_after(BOUND):
                    reply = await client.recv(600)
        async with at.connection(socket.inet_ntoa(reply[-4:]), 22) as tunnel:
            assert await tunnel.receive_exactly(6) == b"hello "
        assert await at.events(2) == [
            ("deny", "evil.test", 53, "DNS"),
            ("allow", "allowed.test", 22, "TCP"),
        ]
        at.accepting.cancel()
        assert (await at.events(3))[2] == ("deny", "nono-trio:dns", 53, "DNS")
