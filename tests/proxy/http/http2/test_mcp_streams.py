"""MCP rules over HTTP/2: each stream is judged as a request of HTTP/1.1 is."""

from __future__ import annotations

import json

import trio
from http2_peers import Http2Client, Multiplexing, head, multiplexing, streams_held
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looked_into import HOST
from mcp_bodies import ALLOWED, DENIED, JSON, call, message, readings, spellings
from running_proxy import BOUND, QUICK, until

from nono_trio.core.http.mcp_message import MAX_BODY
from nono_trio.core.log.events import NetworkEvent
from nono_trio.proxy.limits import ProxyLimits
from nono_trio.testing import MemoryRecorder

URL = f"https://{HOST}/echo"
RULES = (f"allow mcp {ALLOWED} {URL}",)
TYPE = (b"content-type", JSON.encode())


def records(at: Multiplexing) -> list[tuple[str, str | None]]:
    return [(one.decision, one.reason) for one in at.at.proxy.recorder.events if one.path]


def opened(client: Http2Client, *fields: tuple[bytes, bytes]) -> int:
    return client.open([*head("/echo", "POST"), TYPE, *fields], ended=False)


async def test_a_call_is_judged_and_recorded_before_it_goes_out_and_other_streams_go_on():
    async with multiplexing(*RULES) as at, at.client() as client:
        number = opened(client)
        client.h2.send_data(number, call()[:20])
        await client.flush()
        denied = await client.ask("/echo", call(DENIED, 5), "POST", fields=[TYPE])
        found = json.loads(bytes(denied.body))
        assert (denied.status, found["id"], found["error"]["code"]) == (200, 5, 403)
        assert "--allow-mcp-tool" in found["error"]["message"]
        assert dict(denied.fields)[b"content-type"] == TYPE[1]
        assert at.origin.requests == []
        client.h2.send_data(number, call()[20:], end_stream=True)
        await client.flush()
        assert (await client.answer(number)).body == call()
        assert [one for one, _ in records(at)] == ["deny", "allow"]
        assert (records(at)[1][1] or "").startswith(f"MCP tools/call {ALLOWED} sha256:")


async def test_batches_and_the_rest_of_a_session():
    async with multiplexing(*RULES) as at, at.client() as client:
        good = b"[%b,%b]" % (call(), message("tools/list"))
        assert (await client.ask("/echo", good, "POST", fields=[TYPE])).body == good
        assert len(records(at)) == 2
        bad = b"[%b,%b]" % (call(), call(DENIED))
        assert (await client.ask("/echo", bad, "POST", fields=[TYPE])).status == 403
        assert (await client.ask("/echo")).status == 200
        assert (await client.ask("/echo", call(), "POST")).status == 415
        assert (await client.ask("/echo", None, "POST", fields=[TYPE])).status == 400
        with_body = await client.ask("/echo", call(DENIED), fields=[TYPE])
        assert DENIED in str(with_body.body)


async def test_no_spelling_of_a_denied_call_reaches_the_server():
    async with multiplexing(*RULES, f"deny mcp {DENIED} {URL}") as at, at.client() as client:
        for name, body, kind in spellings():
            before = len(at.origin.requests)
            fields = [(b"content-type", kind.encode())]
            await client.ask("/echo", body or None, "POST", fields=fields)
            for seen in at.origin.requests[before:]:
                found = readings(bytes(seen.body))
                assert not any(DENIED in tool for _, tool in found), name
        assert (await client.ask("/echo", call(), "POST", fields=[TYPE])).body == call()


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cases=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 30), min_size=1, max_size=12)),
        min_size=8,
        max_size=12,
    )
)
async def test_frames_change_nothing(cases):
    async with multiplexing(*RULES) as at, at.client() as client:
        for is_allowed, sizes in cases:
            body, before = call(ALLOWED if is_allowed else DENIED), len(at.origin.requests)
            number, left = opened(client), body
            for size in sizes:
                client.h2.send_data(number, left[:size], pad_length=size % 3 or None)
                left = left[size:]
                await client.flush()
            client.h2.send_data(number, left, end_stream=True)
            await client.flush()
            answer = await client.answer(number)
            assert (answer.body == body) == is_allowed
            assert len(at.origin.requests) - before == is_allowed


async def test_the_longest_body_and_a_longer_one():
    async with multiplexing(*RULES) as at, at.client() as client:
        whole = call() + b" " * (MAX_BODY - len(call()))
        assert (await client.ask("/echo", whole, "POST", fields=[TYPE])).body == whole
        assert (await client.ask("/echo", whole + b" ", "POST", fields=[TYPE])).status == 413
        length = (b"content-length", b"%d" % (MAX_BODY + 1))
        number = opened(client, length)
        await client.flush()
        assert (await client.answer(number)).status == 413
        assert len(at.origin.requests) == 1


async def test_a_client_that_waits_for_a_continue_gets_it_from_the_proxy():
    async with multiplexing(*RULES) as at, at.client() as client:
        number = opened(client, (b"expect", b"100-continue"))
        await client.flush()
        await client.until(lambda: client.answers[number].interim == [100])
        assert at.origin.requests == []
        await client.send_body(number, call())
        assert (await client.answer(number)).body == call()
        assert b"expect" not in dict(at.origin.requests[0].fields)


async def test_a_request_that_was_judged_is_not_held_because_an_earlier_one_waits():
    limits = ProxyLimits(head=10 * BOUND)
    async with multiplexing(*RULES, limits=limits) as at, at.client() as client:
        opened(client)
        for _ in range(5):
            assert (await client.ask("/echo?held", b"x", "POST", fields=[TYPE])).status == 400
        await until(lambda: streams_held("/echo?held") == 0)


async def test_a_body_that_is_cut_off_or_late_or_of_another_length_is_recorded_and_refused():
    async with multiplexing(*RULES, limits=QUICK) as at:
        async with at.client() as client:
            number = opened(client)
            client.h2.send_data(number, call()[:5])
            await client.flush()
            assert (await client.answer(number)).status == 408
            number = opened(client)
            client.h2.reset_stream(number)
            await client.flush()
            await until(lambda: len(records(at)) == 2)
            for length in (b"3", b"300"):
                fields = [TYPE, (b"content-length", length)]
                assert (await client.ask("/echo", call(), "POST", fields=fields)).status == 400
            opened(client)
            await client.flush()
        await until(lambda: len(records(at)) == 5)
        assert {one for one, _ in records(at)} == {"deny"}
        assert records(at)[-1][1] == "the MCP message was cut off"
        assert at.origin.requests == []
        await until(lambda: at.at.interception.http2.open_streams == 0)


async def test_a_batch_is_recorded_whole_though_its_client_leaves_and_none_of_it_goes_out():
    held, released = trio.Event(), trio.Event()

    async def before_commit(event: NetworkEvent) -> None:
        if event.path:
            held.set()
            await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = before_commit
    async with multiplexing(*RULES, recorder=recorder) as at:
        async with at.client() as client:
            batch = b"[%b,%b,%b]" % (call(), message("tools/list"), call())
            await client.send_body(opened(client), batch)
            with trio.fail_after(BOUND):
                await held.wait()
        await until(lambda: at.at.interception.http2.open_streams == 0)
        released.set()
        await until(lambda: len(records(at)) == 3)
        assert {one for one, _ in records(at)} == {"allow"}
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.origin.requests == []
