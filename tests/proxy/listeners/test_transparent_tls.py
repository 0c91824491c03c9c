"""The transparent network: TLS connections are decided with the name in their hello."""

from __future__ import annotations

import ssl

import pytest
import trio
from hellos import ECH, hello, message, openssl_hello, record, records, server_name
from origin import serving, tls_context
from running_proxy import BOUND, QUICK
from transparent_cage import (
    ACCESS_DENIED,
    DECODE_ERROR,
    INTERNAL_ERROR,
    LITERAL,
    REAL,
    UNRECOGNIZED_NAME,
    alert,
    cage,
    get,
    reads_all,
)

from nono_trio.testing import FakeResolver


async def test_a_real_handshake_goes_through(tmp_path):
    server, trust = tls_context(tmp_path)
    context = ssl.create_default_context(cafile=str(trust))
    resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
    async with (
        serving(tls=server) as origin,
        cage("localhost", origin=origin, resolver=resolver) as at,
        at.connection("localhost", 443) as wire,
    ):
        stream = trio.SSLStream(wire.stream, context, server_hostname="localhost")
        await stream.send_all(get("localhost"))
        with trio.fail_after(BOUND):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        assert await at.events(1) == [("allow", "localhost", 443, "TLS")]
        assert at.recorder.events[0].mode == "connect"


@pytest.mark.parametrize(
    "raw",
    [hello("allowed.test"), hello("ALLOWED.test"), openssl_hello("allowed.test"),
     records(message(server_name(b"allowed.test")), 9), hello("allowed.test") + b"more"],
    ids=["small", "upper", "openssl", "records", "more"],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 100_000])
async def test_every_byte_of_a_hello_reaches_the_server(raw, piece):
    async with serving(reads_all) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 443) as wire:
            for start in range(0, len(raw), piece):
                await wire.send(raw[start : start + piece])
            await wire.end()
            assert await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)
        assert await at.events(1) == [("allow", "allowed.test", 443, "TLS")]


@pytest.mark.parametrize("raw", [b"", hello("evil.test"), b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_denied_name_is_refused_with_an_alert_whatever_is_sent(raw):
    async with cage() as at:
        assert await at.answer("evil.test", raw) == alert(ACCESS_DENIED)
        assert await at.events(1) == [("deny", "evil.test", 443, "TLS")]
        assert at.resolver.asked == []


@pytest.mark.parametrize(
    ("raw", "target", "reason"),
    [
        (hello("evil.test"), "evil.test", "the TLS hello asks for evil.test, but"),
        (hello("other.test"), "other.test", "the TLS hello asks for other.test, but"),
        (hello(REAL), REAL, f"the TLS hello asks for {REAL}, but"),
        (
            record(message()),
            "allowed.test",
            "the TLS hello names no host (no SNI) (to allow: --allow-domain tls://allowed.test:443)",
        ),
        (
            hello("allowed.test", ECH),
            "allowed.test",
            "the TLS hello hides the host it asks for (ECH)"
            " (to allow: --allow-domain tls://allowed.test:443)",
        ),
        (hello("a b"), "allowed.test", "the TLS hello's server name can't be read"),
    ],
    ids=["denied", "allowed", "literal", "none", "ech", "unreadable"],
)
async def test_a_hello_for_another_host_is_refused_as_misdirected(raw, target, reason):
    async with cage("allowed.test", "other.test") as at:
        assert await at.answer("allowed.test", raw) == alert(UNRECOGNIZED_NAME)
        assert await at.events(1) == [("deny", target, 443, "TLS")]
        assert str(at.reasons[0]).startswith(reason)
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])


async def test_what_is_not_tls_is_reset():
    async with cage() as at:
        assert await at.answer("allowed.test", b"SSH-2.0-x\r\n") is None
        assert await at.events(1) == [("deny", "allowed.test", 443, "TLS")]
        assert at.reasons == [
            "expected a TLS client hello, got something else"
            " (to allow: --allow-domain tcp://allowed.test:443)"
        ]


async def test_a_malformed_hello_is_a_decode_error():
    async with cage() as at:
        assert await at.answer("allowed.test", record(b"\2\0\0\0")) == alert(DECODE_ERROR)
        assert await at.events(1) == [("deny", "allowed.test", 443, "TLS")]


async def test_half_a_hello_is_refused_in_time():
    async with cage(limits=QUICK) as at:
        raw = hello("allowed.test")[:-1]
        assert await at.answer("allowed.test", raw) == alert(DECODE_ERROR)
        assert at.reasons == ["the TLS hello was not complete within 0.3 seconds"]
        async with at.connection("allowed.test", 443) as wire:
            await wire.send(raw)
            await wire.end()
            assert await wire.receive_exactly(7) == alert(DECODE_ERROR)
        assert at.reasons[1] == "the connection was closed in the middle of the TLS hello"


@pytest.mark.parametrize("ends", [True, False])
async def test_nothing_at_all_on_an_allowed_name_asks_for_nothing(ends):
    async with cage(limits=QUICK) as at:
        async with at.connection("allowed.test", 443) as wire:
            if ends:
                await wire.end()
            assert await wire.ends()
        assert at.recorder.events == []


@pytest.mark.parametrize("ends", [True, False])
async def test_nothing_at_all_on_a_denied_literal_is_a_denied_attempt(ends):
    async with cage(limits=QUICK) as at:
        async with at.connection(LITERAL, 443) as wire:
            if ends:
                await wire.end()
            assert await wire.receive_exactly(7) == alert(ACCESS_DENIED)
        assert await at.events(1) == [("deny", LITERAL, 443, "TLS")]


async def test_on_a_literal_address_the_hello_tells_the_name_and_the_name_is_dialled():
    async with serving(reads_all) as origin, cage(origin=origin) as at:
        async with at.connection(LITERAL, 443) as wire:
            await wire.send(hello("allowed.test"))
            await wire.end()
            await wire.receive()
        assert await at.events(1) == [("allow", "allowed.test", 443, "TLS")]
        assert (at.resolver.asked, at.dialler.dialled) == (["allowed.test"], [(REAL, 443)])


@pytest.mark.parametrize(
    ("raw", "target", "code"),
    [
        (hello("evil.test"), "evil.test", ACCESS_DENIED),
        (record(message()), LITERAL, ACCESS_DENIED),
        (hello("evil.test", ECH), "evil.test", ACCESS_DENIED),
        (hello("allowed.test", ECH), "allowed.test", UNRECOGNIZED_NAME),
        (record(message(ECH)), LITERAL, ACCESS_DENIED),
        (hello(LITERAL), LITERAL, ACCESS_DENIED),
        (record(b"\2\0\0\0"), LITERAL, ACCESS_DENIED),
    ],
    ids=["denied", "none", "ech-denied", "ech", "ech-none", "literal", "malformed"],
)
async def test_a_denied_literal_is_opened_by_the_name_of_an_allowed_host_only(raw, target, code):
    async with cage() as at:
        assert await at.answer(LITERAL, raw) == alert(code)
        assert await at.events(1) == [("deny", target, 443, "TLS")]


async def test_the_hint_for_a_hidden_name_without_an_entry_is_the_entry_that_lets_it_through():
    async with cage() as at:
        await at.answer(LITERAL, hello("evil.test", ECH))
        assert at.reasons == [
            "evil.test:443 is not on the allowlist (to allow: --allow-domain tls://evil.test:443)"
        ]


async def test_an_entry_for_an_address_expects_no_name():
    async with serving(reads_all) as origin, cage(LITERAL, origin=origin) as at:
        async with at.connection(LITERAL, 443) as wire:
            await wire.send(record(message()))
            await wire.end()
            await wire.receive()
        assert at.dialler.dialled == [(LITERAL, 443)]
        assert await at.answer(LITERAL, hello("evil.test")) == alert(ACCESS_DENIED)
        assert await at.answer(LITERAL, record(message(ECH))) == alert(UNRECOGNIZED_NAME)
        assert await at.answer(LITERAL, b"SSH-2.0-x\r\n") is None
        assert [event[0] for event in await at.events(4)] == ["allow", "deny", "deny", "deny"]


async def test_an_upstream_out_of_reach_is_an_internal_error():
    async with cage() as at:
        assert await at.answer("allowed.test", hello("allowed.test")) == alert(INTERNAL_ERROR)
        assert [event[0] for event in await at.events(2)] == ["allow", "deny"]


async def test_openssl_understands_the_refusal():
    context = ssl.create_default_context()
    async with cage() as at:
        for target, name, words in (
            ("evil.test", "evil.test", "access denied"),
            ("allowed.test", "evil.test", "unrecognized name"),
        ):
            async with at.connection(target, 443) as wire:
                stream = trio.SSLStream(wire.stream, context, server_hostname=name)
                with pytest.raises(trio.BrokenResourceError) as caught, trio.fail_after(BOUND):
                    await stream.do_handshake()
                assert words in str(caught.value.__cause__).lower().replace("_", " ")
