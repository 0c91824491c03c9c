"""Other programs of the machine reach the port: they take no place, fill no log, fail no job."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import pytest
import trio
from msgspec import UNSET
from msgspec.structs import replace
from origin import serving
from running_proxy import AUTH, PATIENT, Wire, http, running, until

from nono_trio.errors import AuditBusy
from nono_trio.testing import FailingRecorder

LOOPBACK = ["127.0.0.1:*"]
BARE = http("GET", "http://a.test/").replace(f"Proxy-Authorization: {AUTH}\r\n".encode(), b"")
WRONG = http("GET", "http://a.test/").replace(AUTH.encode(), b"Basic eDp5")


async def test_started_heads_lose_their_place_to_a_client_with_the_token():
    limits = replace(PATIENT, connections=10, refusals=2)
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        AsyncExitStack() as stack,
    ):
        started = []
        for _ in range(100):
            started.append(await stack.enter_async_context(proxy.client()))
            await started[-1].send(b"GET http://a.test/ HTTP/1.1\r\n")
        for _ in range(3):
            answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
            assert answer is not None
            assert answer.status == 200
        assert await started[0].ends()
        assert {event.decision for event in proxy.recorder.events} == {"allow"}


async def test_a_client_with_the_token_keeps_its_place():
    limits = replace(PATIENT, connections=5, refusals=2)
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        proxy.client() as owner,
        AsyncExitStack() as stack,
    ):
        request = http("GET", f"http://127.0.0.1:{origin.port}/small")
        assert await owner.exchange(request) is not None
        for _ in range(50):
            knocking = await stack.enter_async_context(proxy.client())
            await knocking.send(b"GET ")
        answer = await owner.exchange(request)  # on the connection that was idle meanwhile
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize("request_bytes", [BARE, WRONG, b"garbage\r\n\r\n", b"\x16\x03\x01"])
async def test_a_flood_without_the_token_is_one_record_and_a_count(request_bytes):
    count = 50
    async with running(shared=True) as proxy:
        for _ in range(count):
            answer = await proxy.ask(request_bytes)
            assert answer is not None
            assert answer.status in (400, 407)
        proxy.accepting.cancel()
        await until(proxy.ended.is_set)
        events = proxy.recorder.events
        assert {event.denial_category for event in events} == {"authentication_failed"}
        told = [
            int(word) for event in events for word in str(event.reason).split() if word.isdigit()
        ]
        firsts = [event for event in events if "more requests" not in str(event.reason)]
        assert len(firsts) + sum(told) == count
        assert len(events) < count / 2


async def test_suppressed_failures_are_recorded_within_the_next_second():
    async with running() as proxy:
        for _ in range(2):
            await proxy.ask(BARE)
        await until(lambda: len(proxy.recorder.events) == 2)
        assert str(proxy.recorder.events[1].reason).startswith("1 more requests without the right")


async def test_a_failure_that_could_not_be_recorded_stays_counted():
    recorder = FailingRecorder(error=AuditBusy("the audit queue stayed full"))
    async with running(recorder=recorder) as proxy:
        for _ in range(3):
            answer = await proxy.ask(BARE)
            assert answer is not None
            assert answer.status == 503
        assert proxy.proxy.unrecorded_failures == 3


async def test_a_shared_port_is_not_the_only_one_where_bad_tokens_are_counted():
    """A caged program may send as fast; its malformed requests are attempts of its own."""
    async with running() as proxy:
        for request in (WRONG, WRONG, b"garbage\r\n\r\n"):
            await proxy.ask(request)
        categories = [event.denial_category for event in proxy.recorder.events]
        assert categories == ["authentication_failed", UNSET]


async def test_a_malformed_request_after_the_token_is_a_denial():
    async with running(shared=True) as proxy, proxy.client() as wire:
        await wire.exchange(http("GET", "http://evil.test/"))
        await wire.exchange(b"garbage\r\n\r\n")
        assert [event.denial_category for event in proxy.recorder.events] == ["host_denied", UNSET]


async def test_a_client_that_is_not_admitted_is_reset_unread():
    admitted: set[int] = set()
    async with running(admits=lambda address: address[1] in admitted) as proxy:
        async with proxy.client() as wire:
            assert await wire.ends()
        with (
            socket.socket() as mine
        ):  # like the connect broker: the source port is known before it is used
            mine.bind(("127.0.0.1", 0))
            admitted.add(mine.getsockname()[1])
            mine.connect(("127.0.0.1", proxy.port))
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(mine))
            answer = await Wire(stream).exchange(http("GET", "http://evil.test/"))
            assert answer is not None
            assert answer.status == 403
        assert proxy.proxy.turned_away == 1
        assert len(proxy.recorder.events) == 1


async def test_a_storm_of_resets_costs_the_owner_no_request():
    limits = replace(PATIENT, connections=5, refusals=2)
    async with serving() as origin, running(LOOPBACK, limits=limits) as proxy:

        async def storm() -> None:
            for _ in range(60):
                async with proxy.client() as wire:
                    await wire.send(b"G")
                    await trio.sleep(0.01)  # until it is accepted
                    wire.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(storm)
            for _ in range(20):
                answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
                assert answer is not None
                assert answer.status == 200
            nursery.cancel_scope.cancel()
