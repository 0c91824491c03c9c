"""Hostile HTTP/2: requests that could be read in two ways, and floods.

None of it reaches the origin unrecorded, and each bound ends the connection with a record."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import pytest
import trio
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack import Encoder
from http2_peers import Http2Client, Http2Origin, head, multiplexing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looked_into import HOST
from running_proxy import BOUND, QUICK, until

from nono_trio.core.http.http2_frames import BURST, PER_SECOND, PREFACE
from nono_trio.core.log.redaction import redact_path
from nono_trio.proxy.http.exchange import FAILED

RULES = (f"allow * https://{HOST}/ok/**", f"deny * https://{HOST}/ok/secret/**")
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return (
        len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
    )


def changed(**values: bytes | None) -> list[tuple[bytes, bytes]]:
    """The head of GET /ok/x with other pseudo-headers; None leaves one out."""
    fields = {name.decode().lstrip(":"): value for name, value in head("/ok/x")}
    fields.update(values)
    return [(b":" + name.encode(), value) for name, value in fields.items() if value is not None]


HEADS = [
    (400, changed(path=None)),
    (400, changed(path=b"")),
    (400, changed(path=b"ok/x")),
    (400, changed(path=b"/ok/x HTTP/1.1\r\nHost: other.test")),
    (400, changed(path=b"/ok/\x00")),
    (400, changed(path=b"/ok/x#y")),
    (400, changed(path=b"https://allowed.test/ok/x")),
    (400, changed(path=b"*")),
    (400, changed(path="/ok/é".encode())),
    (400, changed(method=None)),
    (400, changed(method=b"get")),
    (400, changed(method=b"GET /secret")),
    (400, changed(method=b"GET\r\nX: y")),
    (405, changed(method=b"TRACE")),
    (400, changed(method=b"CONNECT")),
    (400, [(b":method", b"CONNECT"), (b":authority", HOST.encode())]),
    (400, [*changed(method=b"CONNECT"), (b":protocol", b"websocket")]),
    (400, changed(scheme=b"http")),
    (400, changed(scheme=None)),
    (400, changed(scheme=b"https://other.test/ok/?")),
    (400, changed(authority=None)),
    (400, [*changed(authority=None), (b"host", HOST.encode())]),
    (400, changed(authority=b"")),
    (400, changed(authority=b"user@allowed.test")),
    (400, changed(authority=b"allowed.test\r\nX: y")),
    (421, changed(authority=b"other.test")),
    (421, changed(authority=b"allowed.test:8443")),
    (421, changed(authority=b"192.0.2.1")),
    (421, changed(authority=b"allowed.test.other.test")),
    (400, [*head("/ok/x"), (b":path", b"/ok/y")]),
    (400, [*head("/ok/x"), (b":method", b"GET")]),
    (400, [*head("/ok/x"), (b":status", b"200")]),
    (400, [*head("/ok/x"), (b":unknown", b"1")]),
    (400, [*head("/ok/x")[:3], (b"accept", b"*/*"), (b":path", b"/ok/x")]),
    (400, [*head("/ok/x"), (b"host", b"other.test")]),
    (400, [*head("/ok/x"), (b"host", HOST.encode()), (b"host", HOST.encode())]),
    (400, [*head("/ok/x"), (b"connection", b"keep-alive")]),
    (400, [*head("/ok/x"), (b"transfer-encoding", b"chunked")]),
    (400, [*head("/ok/x"), (b"upgrade", b"h2c")]),
    (400, [*head("/ok/x"), (b"keep-alive", b"1")]),
    (400, [*head("/ok/x"), (b"proxy-connection", b"close")]),
    (400, [*head("/ok/x"), (b"te", b"gzip")]),
    (400, [*head("/ok/x"), (b"Accept", b"*/*")]),
    (400, [*head("/ok/x"), (b"a b", b"1")]),
    (400, [*head("/ok/x"), (b"", b"1")]),
    (400, [*head("/ok/x"), (b"x:", b"1")]),
    (400, [*head("/ok/x"), (b"x\r\nhost", b"other.test")]),
    (400, [*head("/ok/x"), (b"x", b"1\r\n\r\nGET /ok/secret/ HTTP/1.1")]),
    (400, [*head("/ok/x"), (b"x", b"1\n2")]),
    (400, [*head("/ok/x"), (b"x", b"\x00")]),
    (400, [*head("/ok/x"), (b"x", b" 1")]),
    (400, [*head("/ok/x"), (b"content_length", b"5")]),
    (400, [*head("/ok/x"), (b"content-length", b"5")]),
    (400, [*head("/ok/x"), (b"content-length", b"-1")]),
    (400, [*head("/ok/x"), (b"content-length", b"0"), (b"content-length", b"0")]),
    (403, [*head("/ok/x"), (b"x-http-method-override", b"DELETE")]),
    (403, head("/ok/secret/x")),
    (403, head("/ok/%73ecret/x")),
    (403, head("/ok/y/../secret/x")),
    (400, head("/../ok/x")),
    (403, head("/no")),
    (417, [*head("/ok/x"), (b"expect", b"x")]),
    (431, [*head("/ok/x"), *[(b"x%d" % n, b"") for n in range(140)]]),
]  # fmt: skip


async def test_no_trick_of_a_head_reaches_the_origin_and_other_streams_go_on():
    async with multiplexing(*RULES) as at, at.client() as client:
        for status, fields in HEADS:
            before = len(at.at.proxy.recorder.events)
            number = client.open(fields)
            await client.flush()
            answer = await client.answer(number)
            assert (answer.status, answer.ended) == (status, True), fields
            assert answer.body.startswith(b"nono-trio: ")
            [event] = at.at.proxy.recorder.events[before:]
            assert event.decision == "deny"
            assert event.target in (HOST, dict(fields).get(b":authority", b"").decode())
        assert (await client.ask("/ok/x")).status == 200
        assert [one[":path"] for one in at.origin.requests] == ["/ok/x"]


BODIES = [
    ("the body ends before its content-length", [(b"content-length", b"5")], b"123", None),
    ("the body is longer than its content-length", [(b"content-length", b"2")], b"123", None),
    ("the body begins as a request", [], b"GET /ok/secret/ HTTP/1.1\r\n\r\n", None),
    ("the body begins as a request", [], b"PUT /ok/secret/ HTTP/1.1\r\n\r\n", None),
    ("a trailer field must not change framing", [], b"1", [(b"host", b"other.test")]),
    ("a trailer field must not change framing", [], b"1", [(b"content-length", b"1")]),
    ("a pseudo-header does not belong there", [], b"1", [(b":path", b"/ok/secret/")]),
    ("a trailer may replace", [], b"1", [(b"x-http-method-override", b"DELETE")]),
    ("a trailer may replace", [], b"1", [(b"x.http.method~override", b"DELETE")]),
    ("a trailer may be read as the next request", [], b"1", [(b"get", b"/no HTTP/1.1")]),
    ("a field has characters that it can't have", [], b"1", [(b"x", b"1\r\ny")]),
]  # fmt: skip


async def test_a_bad_body_is_a_second_record_and_the_server_sees_no_end():
    async with multiplexing(*RULES) as at, at.client() as client:
        for reason, fields, body, trailers in BODIES:
            method = "DELETE" if body.startswith(b"GET") else "POST"
            answer = await client.ask("/ok/sink", body, method, trailers=trailers, fields=fields)
            assert answer.status == 400, reason
            assert reason in answer.body.decode()
            assert at.requests()[-2:] == [
                (method, "/ok/sink", "allow"),
                (method, "/ok/sink", "deny"),
            ]
        assert (await client.ask("/ok/sink", b"123", "POST")).body == b"3"
        await until(lambda: all(one.ended or one.reset for one in at.origin.requests))
        assert [one.ended for one in at.origin.requests].count(True) == 1


async def test_bad_answers_are_a_502_or_a_reset_and_other_streams_go_on():
    async with multiplexing(*RULES) as at, at.client() as client:
        answer = await client.ask("/ok/bad")
        assert (answer.status, b"is about the connection" in answer.body) == (502, True)
        answer = await client.ask("/ok/short")
        assert (answer.status, answer.ended, answer.reset) == (200, False, 2)
        assert (await client.ask("/ok/early", b"x" * 200_000, "POST")).status == 413
        assert (await client.ask("/ok/x")).status == 200


PIECES = st.sampled_from(
    ["ok", "secret", "x", ".", "..", "%2e", "%2E%2e", "%2F", "%5c", ";a=1", "..;", "%41", "%7E",
     "%25%32%65", "", "a b", "é", "%", "%zz", "Ok", "%00", "\\"]
)  # fmt: skip
TARGETS = st.builds(
    lambda pieces, query: "/" + "/".join(pieces) + query,
    st.lists(PIECES, min_size=1, max_size=5),
    st.sampled_from(["", "?", "?q=/ok/../secret", "?token=1&x", "#f", "?a#b"]),
)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(targets=st.lists(TARGETS, min_size=30, max_size=40))
async def test_what_is_matched_is_sent_and_recorded(targets):
    async with multiplexing(*RULES) as at, at.client() as client:
        numbers = [client.open(head(target)) for target in ["/ok/x", *targets]]
        await client.flush()
        for number in numbers:
            answer = await client.answer(number)
            assert answer.status in (200, 400, 403)
        seen = sorted((one[":method"], redact_path(one[":path"])) for one in at.origin.requests)
        allowed = [(m, p) for m, p, decision in at.requests() if decision == "allow"]
        assert seen == sorted(allowed)
        assert ("GET", "/ok/x") in seen
        for _, path in seen:
            assert path.partition("?")[0] == "/ok" or path.startswith("/ok/")
            assert not path.startswith("/ok/secret/")
            assert "/../" not in path.partition("?")[0] + "/"


@asynccontextmanager
async def flooding(reason: str, code: int = 11, **settings: object):
    """A client whose flood ends its connection with this record and code."""
    async with multiplexing(*RULES, **settings) as at, at.client(started=False) as client:
        yield at, client
        await client.until(lambda: False)
        if client.going is None:
            assert client.was_reset
        else:
            assert client.going.error_code == code
        events = at.at.proxy.recorder.events
        assert [e.target for e in events if reason in (e.reason or "")] == [HOST]
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.at.proxy.proxy.held_bytes == 0
        assert at.at.interception.http2.open_streams == 0


async def send(client: Http2Client, data: bytes) -> None:
    """Send until the peer has had enough."""
    with trio.fail_after(BOUND):
        for at in range(0, len(data), 20_000):
            try:
                await client.stream.send_all(data[at : at + 20_000])
            except trio.BrokenResourceError:
                client.was_reset = True
                return


FLOODS = {
    "ping": frame(6, 0, 0, bytes(8)) * 5000,
    "ping answers": frame(6, 1, 0, bytes(8)) * 5000,
    "settings answers": frame(4, 1, 0) * 5000,
    "priority": frame(2, 0, 1, (3).to_bytes(4, "big") + b"\x10") * 5000,
    "unknown": frame(0xBE, 0, 0) * 5000,
    "window updates": frame(8, 0, 0, (1).to_bytes(4, "big")) * 5000,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_frames_that_carry_nothing_are_bounded(kind):
    async with flooding("too many frames that carry nothing") as (_, client):
        await send(client, PREFACE + SETTINGS + FLOODS[kind])


async def test_settings_are_bounded():
    async with flooding("too many settings") as (_, client):
        await send(client, PREFACE + SETTINGS * 200)
    many = b"".join(bytes([0xF0, number]) + bytes(4) for number in range(100))
    async with flooding("too many settings") as (_, client):
        await send(client, PREFACE + frame(4, 0, 0, many))


@pytest.mark.parametrize("content", [b"", b"\x03" + bytes(3)])
async def test_empty_body_frames_are_bounded(content):
    async with flooding("too many frames that carry nothing") as (_, client):
        client.h2.initiate_connection()
        number = client.open(head("/ok/sink", "POST"), ended=False)
        data = frame(0, 8 if content else 0, number, content)
        await send(client, client.h2.data_to_send() + data * 5000)


async def test_rapid_resets_are_bounded_and_every_request_that_went_out_is_recorded():
    began = trio.current_time()
    async with flooding("reset faster than they can be served") as (at, client):
        client.h2.initiate_connection()
        data = b""
        for _ in range(3000):
            number = client.open(head("/ok/x"))
            client.h2.reset_stream(number)
            data += client.h2.data_to_send()
        await send(client, data)
    # More are granted while time passes, and this machine may have much other work.
    most = BURST + PER_SECOND * (trio.current_time() - began) + 100
    assert len(at.origin.requests) <= len(at.requests()) <= most


async def test_streams_that_are_handed_back_are_bounded():
    async with flooding("too many frames that carry nothing") as (_, client):
        client.h2.initiate_connection()
        for _ in range(1300):
            client.open(head("/ok/hold"), ended=False)
        await send(client, client.h2.data_to_send())


async def test_continuations_are_bounded():
    async with flooding("a head is longer than") as (_, client):
        await send(client, PREFACE + SETTINGS + frame(1, 0, 1, b"\x82") + frame(9, 0, 1) * 5000)
    async with flooding("a head is longer than") as (_, client):
        more = frame(9, 0, 1, bytes(16000))
        await send(client, PREFACE + SETTINGS + frame(1, 0, 1, b"\x82") + more * 10)


async def test_a_small_head_that_decodes_to_a_large_one_is_refused():
    field = b"\x40\x01x\x7f\xa1\x1e" + bytes(4000).replace(b"\0", b"a")
    block = field + b"\xbe" * 10_000
    async with flooding("ENHANCE_YOUR_CALM") as (_, client):
        await send(client, PREFACE + SETTINGS + frame(1, 5, 1, block))


@pytest.mark.parametrize(
    ("code", "reason", "data"),
    [
        (1, "preface", b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n" + bytes(20)),
        (1, "first frame", PREFACE + frame(6, 0, 0, bytes(8))),
        (6, "longer than", PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1"),
        (1, "push", PREFACE + SETTINGS + frame(5, 4, 1, bytes(4))),
        (1, "continues no head", PREFACE + SETTINGS + frame(9, 4, 1)),
        (1, "between those", PREFACE + SETTINGS + frame(1, 0, 1) + frame(0, 0, 1)),
        (1, "PROTOCOL_ERROR", PREFACE + SETTINGS + frame(1, 5, 2, b"\x82")),
        (1, "PROTOCOL_ERROR", PREFACE + SETTINGS + frame(1, 5, 1, b"\xff\xff\xff\xff\xff")),
        (3, "FLOW_CONTROL", PREFACE + SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff")),
        (1, "rules of HTTP/2", PREFACE + SETTINGS + frame(0, 0, 1, b"x")),
    ],
)  # fmt: skip
async def test_what_is_not_http2_ends_the_connection_with_a_record(code, reason, data):
    async with flooding(reason, code) as (at, client):
        await send(client, data)
    assert not at.origin.requests


async def test_a_head_that_does_not_end_is_cut_in_time():
    async with flooding("was not complete within", 1, limits=QUICK) as (_, client):
        client.answers_settings = False
        await send(client, PREFACE + SETTINGS + frame(1, 0, 1, b"\x82"))


async def test_a_client_can_not_have_us_remember_without_end():
    async with multiplexing(*RULES) as at, at.client(started=False) as client:
        await client.start({SettingCodes.HEADER_TABLE_SIZE: 2**31 - 1})
        client.h2.decoder.max_allowed_table_size = 2**31 - 1
        assert (await client.ask("/ok/x")).status == 200
        assert client.h2.decoder.header_table_size <= 4096
        await at.at.proxy.flows(1)


class Hostile(Http2Origin):
    frames = b""

    def begin(self, peer, number, one, to_send):
        if one[":path"] == "/ok/attack":
            self.raw += self.frames
        else:
            super().begin(peer, number, one, to_send)

    def end(self, peer, number, one, to_send):
        if one[":path"] != "/ok/attack":
            super().end(peer, number, one, to_send)


async def test_a_hostile_server_is_a_502_and_nothing_of_it_reaches_the_client():
    origin = Hostile()
    async with multiplexing(*RULES, origin=origin) as at, at.client() as client:
        for frames, reason in (
            (frame(5, 4, 1, bytes(4)), "a push came"),
            (frame(6, 0, 0, bytes(8)) * 5000, "carry nothing"),
            (frame(1, 0, 1, b"\x88") + frame(9, 0, 1) * 50, "a head is longer"),
            (frame(1, 4, 1, b"\x82"), "a pseudo-header does not belong there"),
        ):
            origin.frames = frames
            connections = origin.connections
            async with at.client() as other:
                answer = await other.ask("/ok/attack")
                assert (answer.status, reason in answer.body.decode()) == (502, True), answer.body
                event = at.at.proxy.recorder.events[-1]
                assert (event.path, event.denial_category) == ("/ok/attack", FAILED), frames
                assert reason in (event.reason or "")
                assert (await other.ask("/ok/x")).status == 200
            assert origin.connections > connections
        assert (await client.ask("/ok/x")).status == 200


BLOCKS = st.sampled_from(
    [
        Encoder().encode(head("/ok/x"), huffman=False),
        Encoder().encode(head("/ok/sink", "POST"), huffman=False),
        Encoder().encode(head("/no"), huffman=False),
        b"\x88", b"\x82", b"\x3f\xe1\x1f", b"\xff\xff", b"",
    ]
)  # fmt: skip
FRAMES = st.builds(
    frame,
    st.sampled_from([0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 10, 0xFF]),
    st.sampled_from([0, 1, 4, 4, 5, 5, 8, 0x20, 0x2D]),
    st.sampled_from([0, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1]),
    BLOCKS | st.binary(max_size=20) | st.sampled_from([bytes(4), bytes(8), b"\0\0\0\1"]),
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(floods=st.lists(st.lists(FRAMES, min_size=1, max_size=12), min_size=30, max_size=30))
async def test_no_frames_of_a_client_break_the_proxy(caplog, floods):
    async with multiplexing(*RULES) as at:
        for frames in floods:
            async with at.client(started=False) as client:
                client.answers_settings = False
                ping = frame(6, 0, 0, b"the last")
                await send(client, PREFACE + SETTINGS + b"".join(frames) + ping)
                with suppress(ProtocolError):
                    await client.until(lambda: client.pinged)
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.at.proxy.proxy.held_bytes == at.at.interception.http2.open_streams == 0
        allowed = [(m, p) for m, p, decision in at.requests() if decision == "allow"]
        seen = [(one[":method"], one[":path"]) for one in at.origin.requests]
        assert len(seen) <= len(allowed)
        assert set(seen) <= {("GET", "/ok/x"), ("POST", "/ok/sink")}
    assert not [one for one in caplog.messages if "bug" in one]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(floods=st.lists(st.lists(FRAMES, min_size=1, max_size=12), min_size=20, max_size=20))
async def test_no_frames_of_a_server_break_the_proxy(caplog, floods):
    async with multiplexing(*RULES, origin=Hostile()) as at:
        assert isinstance(at.origin, Hostile)
        for frames in floods:
            async with at.client() as client:
                at.origin.frames = b"".join([*frames, frame(3, 0, 1, bytes(4))])
                answer = await client.ask("/ok/attack")
                assert answer.is_over or client.ended
                assert (await client.ask("/ok/x")).status in (200, 502, 0)
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.at.proxy.proxy.held_bytes == at.at.interception.http2.open_streams == 0
    assert not [one for one in caplog.messages if "bug" in one]
