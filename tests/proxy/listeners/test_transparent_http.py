"""The transparent network: plain HTTP, as an origin server gets it."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from origin import serving
from transparent_cage import (
    LITERAL,
    REAL,
    cage,
    get,
)


async def test_plain_requests_are_forwarded_and_the_connection_is_kept():
    async with serving() as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 80) as wire:
            for host in ("allowed.test", "ALLOWED.test", "allowed.test:80", "allowed.test."):
                answer = await wire.exchange(get(host, "/small?token=s3cr3t"))
                assert answer is not None
                assert answer.body == b"ok"
        assert await at.events(4) == [("allow", "allowed.test", 80, "GET")] * 4
        assert {event.mode for event in at.recorder.events} == {"reverse"}
        assert {event.path for event in at.recorder.events} == {"/small?token=[REDACTED]"}
        assert {event.auth_outcome for event in at.recorder.events} == {UNSET}
        assert {dict(request.headers)[b"host"] for request in origin.requests} == {b"allowed.test"}
        assert {request.target for request in origin.requests} == {b"/small?token=s3cr3t"}
        assert at.dialler.dialled == [(REAL, 80)]


async def test_a_request_without_host_goes_to_the_name():
    async with serving() as origin, cage(origin=origin) as at:
        answer = await at.ask("allowed.test", get("", version="1.0"))
        assert answer is not None
        assert answer.body == b"ok"
        assert dict(origin.requests[0].headers)[b"host"] == b"allowed.test"


async def test_a_body_goes_through():
    request = get("allowed.test", "/sink", "Content-Length: 5").replace(b"GET", b"POST") + b"12345"
    async with serving() as origin, cage(origin=origin) as at:
        answer = await at.ask("allowed.test", request)
        assert answer is not None
        assert answer.body == b"5"


async def test_each_request_has_to_ask_for_the_host_of_its_connection():
    async with serving() as origin, cage("allowed.test", "other.test", origin=origin) as at:
        async with at.connection("allowed.test", 80) as wire:
            for host, status in (("allowed.test", 200), ("other.test", 403), ("allowed.test", 200)):
                answer = await wire.exchange(get(host))
                assert answer is not None
                assert answer.status == status
        assert await at.events(3) == [
            ("allow", "allowed.test", 80, "GET"),
            ("deny", "other.test", 80, "GET"),
            ("allow", "allowed.test", 80, "GET"),
        ]
        assert at.reasons[1] == (
            "the Host field asks for other.test, but the connection is to allowed.test"
        )
        assert "other.test" not in at.resolver.asked


@pytest.mark.parametrize("target", [LITERAL, "evil.test"])
async def test_a_connection_to_a_denied_host_is_recorded_also_if_nothing_is_asked(target):
    async with cage() as at:
        async with at.connection(target, 80) as wire:
            await wire.end()
            assert await wire.ends()
        assert await at.events(1) == [("deny", target, 80, None)]


@pytest.mark.parametrize("target", [LITERAL, "evil.test"])
async def test_half_a_request_to_a_denied_host_is_a_denied_attempt(target):
    """Half a request to an allowed host is a failure, which a run is not judged by."""
    async with cage() as at:
        for host in (target, "allowed.test"):
            async with at.connection(host, 80) as wire:
                await wire.send(b"GET / HT")
                await wire.end()
                assert await wire.answer() is not None
        await at.events(2)
        assert at.reasons == [
            f"{target}:80 is not on the allowlist",
            "the connection was closed in the middle of a head",
        ]


async def test_a_connection_to_an_allowed_host_that_asks_for_nothing_is_not_recorded():
    async with cage() as at:
        async with at.connection("allowed.test", 80) as wire:
            await wire.end()
            assert await wire.ends()
        assert at.recorder.events == []


async def test_a_denied_name_gets_a_403_with_text_and_a_hint():
    async with cage() as at:
        answer = await at.ask("evil.test", get("evil.test"))
        assert answer is not None
        assert answer.status == 403
        assert b"evil.test:80 is not on the allowlist" in answer.body
        assert b"hint: allow it with --allow-domain evil.test:80" in answer.body
        assert await at.events(1) == [("deny", "evil.test", 80, "GET")]
        assert at.resolver.asked == []


@pytest.mark.parametrize(
    ("host", "status", "target"),
    [("allowed.test", 200, "allowed.test"), ("evil.test", 403, "evil.test"),
     (LITERAL, 403, LITERAL), ("", 403, LITERAL)],
)  # fmt: skip
async def test_on_a_literal_address_the_host_field_decides(host, status, target):
    async with serving() as origin, cage(origin=origin) as at:
        answer = await at.ask(LITERAL, get(host, version="1.1" if host else "1.0"))
        assert answer is not None
        assert answer.status == status
        [event] = await at.events(1)
        assert event[:3] == ("allow" if status == 200 else "deny", target, 80)
        assert at.dialler.dialled == ([(REAL, 80)] if status == 200 else [])


async def test_an_allowed_literal_is_dialled_for_requests_to_itself():
    async with serving() as origin, cage(LITERAL, origin=origin) as at:
        answer = await at.ask(LITERAL, get(LITERAL))
        assert answer is not None
        assert answer.status == 200
        assert at.dialler.dialled == [(LITERAL, 80)]


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("allowed.test:8080"),
        get("allowed.test", "http://allowed.test/"),
        get("allowed.test", "*"),
        get("allowed.test", "/a#b"),
        get("allowed.test", "/a\\b"),
        get("127.1"),
        get("", version="1.1"),
        b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        b"\x16\x03\x01",
        b"hello\r\n\r\n",
        get("allowed.test", "/", "Host: evil.test"),
        get("allowed.test", "/", "Content-Length: 1", "Transfer-Encoding: chunked"),
    ],
)
async def test_what_is_no_request_to_an_origin_is_a_400(request_bytes):
    async with cage() as at:
        answer = await at.ask("allowed.test", request_bytes)
        assert answer is not None
        assert answer.status == 400
        assert await at.events(1) == [("deny", "allowed.test", 80, None)]
        assert at.resolver.asked == []


async def test_options_of_the_whole_server_goes_through():
    async with serving() as origin, cage(origin=origin) as at:
        request = get("allowed.test", "*").replace(b"GET", b"OPTIONS")
        answer = await at.ask("allowed.test", request)
        assert answer is not None
        assert origin.requests[0].target == b"*"
