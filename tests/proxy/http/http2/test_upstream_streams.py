"""The connections to the server: they are left, lost, and not reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing
from h2.settings import SettingCodes
from http2_peers import Http2Origin, head, multiplexing, streams_held
from looked_into import HOST, client_context, looking_into, under_tls
from running_proxy import connect, until
from transparent_cage import get

from nono_trio.proxy.http.http2.stream import UpstreamPeer
from nono_trio.proxy.http.http2.upstreams import MAX_UPSTREAMS, Upstreams

if TYPE_CHECKING:
    from nono_trio.proxy.access.decision import Recorded
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.http.http2.peer import Http2Peer

RULES = (f"allow GET,POST https://{HOST}/api/**", f"deny GET https://{HOST}/api/secret")


async def test_when_the_server_leaves_its_streams_are_answered_and_others_get_a_new_connection():
    origin = Http2Origin(leaves_after=2)
    async with multiplexing(origin=origin) as at, at.client() as client:
        first = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(origin.requests) == 1)
        assert (await client.ask("/x")).body == b"ok"
        assert (await client.ask("/y")).body == b"ok"
        assert origin.connections == 2
        origin.released.set()
        assert (await client.answer(first)).body == b"held"
        assert at.requests() == [("GET", "/hold", "allow"), ("GET", "/x", "allow"),
                                 ("GET", "/y", "allow")]  # fmt: skip


async def test_a_server_that_leaves_each_connection_is_a_502_with_the_reason():
    origin = Http2Origin(leaves_each_after=2)
    async with multiplexing(origin=origin) as at, at.client() as client:
        held = []
        for count in range(MAX_UPSTREAMS):
            held.append(client.open(head("/hold")))
            await client.flush()
            await until(lambda seen=2 * count + 1: len(origin.requests) == seen)
            assert (await client.ask("/x")).body == b"ok"
        answer = await client.ask("/x")
        assert answer.status == 502
        assert b"4 connections to the server are open and take no more requests" in answer.body
        origin.released.set()
        for number in held:
            assert (await client.answer(number)).body == b"held"
        assert (await client.ask("/x")).body == b"ok"
        assert origin.connections == MAX_UPSTREAMS + 1


async def test_a_server_that_can_not_be_reached_is_a_502_for_each_stream():
    async with multiplexing(trusts="nobody") as at, at.client(("h2",)) as client:
        for _ in range(2):
            answer = await client.ask("/x")
            assert answer.status == 502
            assert b"self-signed certificate" in answer.body
        assert at.at.proxy.recorder.events[-1].denial_category == "upstream_connect_failed"


async def test_an_http1_server_gets_http1_and_a_client_of_both_too():
    async with looking_into(*RULES) as at:
        for _ in range(2):
            async with at.proxy.client() as wire:
                await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
                context = client_context(alpn=("h2", "http/1.1"))
                async with under_tls(wire, context=context) as secure:
                    assert secure.stream.selected_alpn_protocol() == "http/1.1"
                    assert (await secure.exchange(get(HOST, "/api/x"))).status == 200
        assert at.origin.connections == 2, "the first one served to ask, too"


async def test_a_stream_that_was_reset_does_not_wait_on_for_a_busy_server():
    origin = Http2Origin(settings={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    async with multiplexing(origin=origin) as at, at.client() as client:
        held = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(origin.requests) == 1)
        for count in range(5):
            number = client.open(head("/reset"))
            await client.flush()
            await until(lambda seen=count + 2: len(at.requests()) == seen)
            client.h2.reset_stream(number, 8)
            await client.flush()
        await until(lambda: streams_held("/reset") == 0)
        last = client.open(head("/y"))
        await client.flush()
        origin.released.set()
        assert (await client.answer(held)).body == b"held"
        assert (await client.answer(last)).body == b"ok"


async def test_who_waited_for_a_connection_that_was_lost_at_once_gets_another_one():
    class Open:
        is_going = False

    class Dialling(Upstreams):
        def __init__(self) -> None:
            self.all, self._dial, self._unreached = [], None, None
            self.may_connect, self.dialled = trio.Event(), 0

        async def _connect_http2(self, recorded: Recorded) -> UpstreamPeer:
            await self.may_connect.wait()
            self.dialled += 1
            return UpstreamPeer(cast("Upstream", None), cast("Http2Peer", Open()))

    upstreams, found, recorded = Dialling(), list[UpstreamPeer](), cast("Recorded", None)

    async def lose_it() -> None:
        upstreams.all.remove(await upstreams.find(recorded))

    async def find_one() -> None:
        found.append(await upstreams.find(recorded))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_it)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(find_one)
        await trio.testing.wait_all_tasks_blocked()
        upstreams.may_connect.set()
    assert (upstreams.dialled, found) == (2, upstreams.all)


@pytest.mark.parametrize("block", [b"\x88", b"\x08\x03103"], ids=["200", "103"])
async def test_a_head_that_was_on_its_way_to_a_stream_that_was_reset_stops_no_other_one(block):
    async with multiplexing() as at, at.client() as client:
        held = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        number = client.open(head("/sink", "POST"), ended=False)
        await client.flush()
        await until(lambda: len(at.origin.requests) == 2)
        at.origin.raw = bytes([0, 0, len(block), 1, 4, 0, 0, 0, 3]) + block
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: not at.origin.raw)
        at.origin.released.set()
        assert (await client.answer(held)).body == b"held"


async def test_an_answer_to_a_stream_that_was_reset_stops_no_other_one():
    async with multiplexing() as at, at.client() as client:
        number = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: at.origin.requests[0].reset is not None)
        at.origin.raw = bytes([0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]) + bytes(
            [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
        )
        for _ in range(3):
            assert (await client.ask("/x")).body == b"ok"
        assert at.origin.connections == 1
        [flow, *_] = await at.at.proxy.flows(4)
        assert (flow.closed_by, flow.bytes_down) == ("client", 0)
