"""Requests by HTTP/2 under intercepted TLS: each is decided, recorded, and forwarded alone."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import trio
from h2.settings import SettingCodes
from http2_peers import Http2Client, Http2Origin, guarded, head, multiplexing
from looked_into import HOST, client_context, looking_into, looking_into_cage, under_tls
from origin import serving
from proxy_server import Upstream, upstream_proxy
from running_proxy import BOUND, QUICK, connect, until
from transparent_cage import get

from nono_trio.core.log.events import NetworkEvent
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.http.http2.peer import Http2Peer
from nono_trio.proxy.intercept.http2_state import MAX_STREAMS
from nono_trio.testing import FailingRecorder, MemoryRecorder

RULES = (f"allow GET,POST https://{HOST}/api/**", f"deny GET https://{HOST}/api/secret")


async def test_streams_are_decided_and_recorded_one_by_one():
    async with multiplexing(*RULES) as at, at.client() as client:
        numbers = [
            client.open(head(path))
            for path in ("/api/x/../small?a=b", "/other?token=s3cret", "/api/secret", "/api/%7ea")
        ]
        await client.flush()
        answers = [await client.answer(number) for number in numbers]
        assert [one.status for one in answers] == [200, 403, 403, 200]
        assert b"fits no endpoint rule" in answers[1].body
        assert b"--allow-endpoint 'GET https://allowed.test/other'" in answers[1].body
        assert (answers[0].body, dict(answers[0].fields)) == (b"ok", {b"x-origin": b"yes"})
        assert sorted(at.requests()) == [
            ("GET", "/api/secret", "deny"),
            ("GET", "/api/small?a=[REDACTED]", "allow"),
            ("GET", "/api/~a", "allow"),
            ("GET", "/other?token=[REDACTED]", "deny"),
        ]
        assert sorted(one[":path"] for one in at.origin.requests) == ["/api/small?a=b", "/api/~a"]
        assert at.origin.requests[0].fields[:3] == [
            (b":method", b"GET"), (b":scheme", b"https"), (b":authority", HOST.encode()),
        ]  # fmt: skip
        modes = {(e.mode, e.target, e.port) for e in at.at.proxy.recorder.events[1:]}
        assert modes == {("connect_intercept", HOST, 443)}
        assert at.origin.connections == 1
        flows = await at.at.proxy.flows(2)
        assert all(one.status == 200 and one.first_byte_ms is not None for one in flows)
        assert {one.closed_by for one in flows} == {"upstream"}
        assert all(one.bytes_up > 40 and one.bytes_down > 5 for one in flows)


async def test_bodies_and_trailers_go_both_ways():
    async with multiplexing() as at, at.client() as client:
        body = bytes(range(256)) * 2000
        answer = await client.ask(
            "/echo", body, "POST", trailers=[(b"x-sum", b"1")],
            fields=[(b"te", b"trailers"), (b"content-type", b"application/grpc")],
        )  # fmt: skip
        assert (answer.status, bytes(answer.body)) == (200, body)
        assert answer.trailers == [(b"grpc-status", b"0"), (b"x-sum", b"1")]
        assert (b"te", b"trailers") in at.origin.requests[0].fields
        assert len((await client.ask("/bytes/3000000")).body) == 3_000_000
        assert (await client.ask("/sink", bytes(300_000), "POST")).body == b"300000"
        answer = await client.ask("/bytes/10", method="HEAD")
        assert (await client.ask("/interim")).interim == [103]
        answer = await client.ask("/unchanged")
        assert (answer.status, answer.ended) == (304, True)


async def test_a_stream_that_is_not_read_stops_no_other_one():
    async with multiplexing() as at, at.client() as client:
        client.acknowledges = False
        client.h2.increment_flow_control_window(2**30)
        stalled = [client.open(head(f"/bytes/{1 << 20}")) for _ in range(50)]
        await client.flush()
        await client.until(
            lambda: all(len(client.answers[number].body) == 65535 for number in stalled)
        )
        for _ in range(5):
            assert (await client.ask("/x")).body == b"ok"
        held = at.at.proxy.proxy.held_bytes
        assert held <= 50 * 65535 + 65536
        for number in stalled:
            client.h2.reset_stream(number)
        await client.flush()
        await until(lambda: at.at.proxy.proxy.held_bytes == 0)
        assert (await client.ask("/x")).status == 200
        flows = await at.at.proxy.flows(50)
        assert [one.closed_by for one in flows].count("client") == 50


async def test_a_server_that_does_not_read_holds_back_the_client():
    async with multiplexing(origin=Http2Origin(reads=False)) as at, at.client() as client:
        number = client.open(head("/hold", "POST"), ended=False)
        sent, before = 0, -1
        while sent != before:  # a round trip brought no window
            before = sent
            while room := min(client.h2.local_flow_control_window(number), 16384):
                client.h2.send_data(number, bytes(room))
                sent += room
            await client.flush()
            assert (await client.ask("/x")).body == b"ok"
        assert 65535 < sent <= 3 * 65535
        assert at.at.proxy.proxy.held_bytes <= 65535


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


async def test_a_server_that_can_not_be_reached_is_a_502_for_each_stream():
    async with multiplexing(trusts="nobody") as at, at.client(("h2",)) as client:
        for _ in range(2):
            answer = await client.ask("/x")
            assert answer.status == 502
            assert b"self-signed certificate" in answer.body
        assert at.at.proxy.recorder.events[-1].denial_category == "upstream_connect_failed"


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


async def test_many_requests_of_one_connection_are_all_answered():
    async with multiplexing() as at, at.client() as client:
        await client.until(lambda: client.agreed)
        for _ in range(3):
            numbers = [client.open(head(f"/x{index}")) for index in range(100)]
            await client.flush()
            for number in numbers:
                assert (await client.answer(number)).status == 200
        assert len(at.requests()) == len(at.origin.requests) == 300


async def test_when_the_proxy_is_cut_every_flow_is_logged():
    async with multiplexing() as at, at.client() as client:
        client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        at.at.proxy.connections.cancel()
        flows = await at.at.proxy.flows(2)
        assert {one.closed_by for one in flows} == {"shutdown"}
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.at.proxy.proxy.watched_sockets == 0


async def test_no_stream_waits_for_the_record_of_another_one_and_none_goes_out_before_its_own():
    held, released = trio.Event(), trio.Event()

    async def before_commit(event: NetworkEvent) -> None:
        if event.path == "/slow":
            held.set()
            await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = before_commit
    async with multiplexing(recorder=recorder) as at, at.client() as client:
        slow = client.open(head("/slow"))
        await client.flush()
        with trio.fail_after(BOUND):
            await held.wait()
        for _ in range(3):
            assert (await client.ask("/x")).body == b"ok"
        assert [one[":path"] for one in at.origin.requests] == ["/x"] * 3
        released.set()
        assert (await client.answer(slow)).body == b"ok"


@pytest.mark.parametrize("error", [AuditLost("no space left on device"), SessionSealed("sealed")])
async def test_without_a_log_nothing_goes_out(error):
    recorder = FailingRecorder(2, error)
    with contextlib.suppress(BaseExceptionGroup):
        async with multiplexing(recorder=recorder) as at, at.client() as client:
            client.open(head("/x"))
            await client.flush()
            await client.until(lambda: False)
            assert not at.origin.requests
            assert client.ended


async def test_a_log_that_can_not_keep_up_is_a_503_for_the_stream():
    recorder = FailingRecorder(2, AuditBusy("full"))
    async with multiplexing(recorder=recorder) as at, at.client() as client:
        assert (await client.ask("/x")).status == 503
        assert not at.origin.requests


async def test_a_log_that_can_not_keep_up_never_has_http1_sent_on_http2(monkeypatch):
    def busy(*_: object) -> None:
        raise AuditBusy("full")

    monkeypatch.setattr(Http2Peer, "receive", busy)
    async with multiplexing() as at, at.client(started=False) as client:
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(BOUND):
            await client.stream.receive_some()
        [flow] = await at.at.proxy.flows(1)
        assert flow.closed_by == "error"


async def test_what_policy_refuses_is_never_a_lack_of_room_or_a_short_body():
    async with multiplexing(*RULES) as at, at.client() as client:
        state = at.at.interception.http2
        state.open_streams += MAX_STREAMS
        assert (await client.ask("/other")).status == 403
        assert (await client.ask("/api/x")).status == 503
        state.open_streams -= MAX_STREAMS
        short = [(b"content-length", b"3")]
        assert (await client.ask("/other", method="POST", fields=short)).status == 403
        assert (await client.ask("/api/x", method="POST", fields=short)).status == 400


async def test_streams_beyond_the_announced_ones_are_handed_back_and_the_others_served():
    async with multiplexing() as at, at.client() as client:
        numbers = [client.open(head("/sink", "POST"), ended=False) for _ in range(250)]
        await client.flush()
        await client.until(lambda: all(client.answers[one].reset == 7 for one in numbers[100:]))
        assert not client.ended
        assert at.at.interception.http2.open_streams == 100
        for number in numbers[:100]:
            client.h2.end_stream(number)
        await client.flush()
        for number in numbers[:100]:
            assert (await client.answer(number)).body == b"0"
        assert len(at.requests()) == 100


async def test_an_answer_of_ours_that_is_not_read_does_not_keep_its_place():
    async with multiplexing(*RULES) as at, at.client(started=False) as client:
        await client.start({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        held = client.open(head("/api/bytes/10"))
        numbers = [client.open(head("/other")) for _ in range(3)]
        await client.flush()
        for number in numbers:
            answer = await client.answer(number)
            assert (answer.status, answer.reset) == (403, 8)
        assert at.at.interception.http2.open_streams == 1
        assert not client.answers[held].is_over
        assert (await client.ask("/other", method="HEAD")).status == 403


async def test_long_answers_hold_up_no_short_one():
    async with multiplexing() as at, at.client() as client:
        long = [client.open(head(f"/bytes/{3_000_000}")) for _ in range(10)]
        await client.flush()
        for _ in range(10):
            assert (await client.ask("/x")).body == b"ok"
        assert not any(client.answers[number].ended for number in long)
        for number in long:
            assert len((await client.answer(number)).body) == 3_000_000
        assert at.at.proxy.proxy.held_bytes == 0


async def test_through_an_upstream_proxy():
    async with serving(behaviour := Upstream(0)) as upstream:
        settings = upstream_proxy(upstream.port)
        async with multiplexing(*RULES, upstream_proxy=settings) as at:
            behaviour.origin_port = at.at.origin.port
            assert at.at.proxy.dialler is not None
            at.at.proxy.dialler.port = upstream.port
            async with at.client() as client:
                assert (await client.ask("/api/x")).status == 200
                assert (await client.ask("/other")).status == 403
            assert [one.target for one in behaviour.asked] == [f"{HOST}:443".encode()]
            [event, _] = at.at.proxy.recorder.events[2:]
            assert event.upstream == f"127.0.0.1:{upstream.port}"


async def test_a_program_that_knows_of_no_proxy():
    async with looking_into_cage(*RULES, behaviour=guarded(Http2Origin())) as (at, _):
        async with at.connection(HOST, 443) as raw:
            context = client_context(alpn=("h2",))
            async with under_tls(raw, context=context) as secure:
                client = Http2Client(secure.stream)
                await client.start()
                assert (await client.ask("/api/x")).status == 200
                assert (await client.ask("/other")).status == 403
        assert await at.events(3) == [
            ("allow", HOST, 443, "TLS"),
            ("allow", HOST, 443, "GET"),
            ("deny", HOST, 443, "GET"),
        ]


async def test_an_idle_connection_ends_with_goaway_and_a_busy_one_is_kept():
    async with multiplexing(limits=replace(QUICK, idle=30.0)) as at, at.client() as client:
        number = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        await trio.sleep(QUICK.keep_alive * 2)
        at.origin.released.set()
        assert (await client.answer(number)).body == b"held"
        await client.until(lambda: False)
        assert client.going is not None
        assert client.going.error_code == 0
