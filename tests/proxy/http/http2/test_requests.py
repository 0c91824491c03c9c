"""The requests of an HTTP/2 client: each is decided about, recorded and forwarded alone."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from http2_peers import Http2Client, Http2Origin, guarded, head, multiplexing
from looked_into import HOST, client_context, looking_into_cage, under_tls
from origin import serving
from proxy_server import Upstream, upstream_proxy

from nono_trio.proxy.intercept.http2_state import MAX_STREAMS

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


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (b"application/grpc", b"7"), (b"Application/gRPC+proto", b"7"),
        (b"application/grpc;x=y", b"7"), (b"application/grpc-web", None),
        (b"application/grpcx", None), (b"x/application/grpc", None),
    ],
)  # fmt: skip
async def test_a_call_of_grpc_is_refused_by_its_own_status(kind, code):
    async with multiplexing(*RULES) as at, at.client() as client:
        answer = await client.ask("/100%25", b"x", "POST", fields=[(b"content-type", kind)])
        fields = dict(answer.fields)
        assert at.requests()[-1][2] == "deny"
        if code is None:
            assert (answer.status, fields.get(b"grpc-status")) == (403, None)
            return
        assert (answer.status, answer.body, answer.ended) == (200, b"", True)
        assert fields[b"grpc-status"] == code
        text = unquote(fields[b"grpc-message"].decode())
        assert text.startswith(f"nono-trio: POST https://{HOST}/100%25")
        assert "\nhint: allow it with --allow-endpoint" in text


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
