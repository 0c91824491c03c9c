"""A TLS client's second hello, after a HelloRetryRequest, has to name the host of the first."""

from __future__ import annotations

import ssl

import pytest
import trio
from hellos import ECH, hello, message, record, records, vector
from origin import serving, tls_context
from running_proxy import BOUND, connect, running, until
from transparent_cage import cage, get
from tunnels import is_reset, opened, short

from nono_trio.core.net.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.net.hello_retry import HelloRetry, OtherHello
from nono_trio.testing import FakeResolver, LoopbackDialler

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
FIRST = hello("allowed.test")
OTHER = hello("other.test")
CHANGE = record(b"\1", kind=20)
EARLY_DATA = record(bytes(300), kind=23)
WARNING = record(b"\1\x70", kind=21)  # unrecognized_name, which a server may send before its hello


def server_hello(random: bytes) -> bytes:
    """The handshake message, without a record around it."""
    return b"\2" + vector(3, b"\3\3" + random + b"\0\x13\x01\0")


ASKS = record(server_hello(RETRY))
GOES_ON = record(server_hello(bytes(32)))


def followed(first: bytes = FIRST) -> HelloRetry:
    retry = HelloRetry()
    parsed = read_client_hello(first)
    assert isinstance(parsed, ClientHello)
    retry.first = parsed
    return retry


def told(tell, data: bytes, size: int) -> bool:
    """Return whether no more bytes are needed after `data` in pieces."""
    return any(tell(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("before", [b"", CHANGE, EARLY_DATA, CHANGE + EARLY_DATA])
@pytest.mark.parametrize("asks", [ASKS, WARNING + ASKS, records(server_hello(RETRY), 3)])
@pytest.mark.parametrize("foreseen", [False, True])
def test_another_name_is_found(size, before, asks, foreseen):
    retry = followed()
    assert not told(retry.client_says, FIRST, size)
    if not foreseen:
        assert told(retry.server_says, asks, size)
    with pytest.raises(OtherHello) as found:
        told(retry.client_says, before + OTHER, size)
    assert found.value.hello.server_name == "other.test"


@pytest.mark.parametrize(
    "second",
    [record(message()), hello("allowed.test", ECH), hello("allowed.test."), hello("x")],
    ids=["none", "hidden", "dot", "short"],
)
def test_what_is_not_quite_the_same_is_another(second):
    retry = followed()
    retry.client_says(FIRST)
    assert retry.server_says(ASKS)
    with pytest.raises(OtherHello):
        retry.client_says(second)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("name", ["allowed.test", "none", "hidden"])
def test_the_same_name_goes_on_and_is_the_last_that_is_looked_at(size, name):
    first = {"none": record(message()), "hidden": hello("allowed.test", ECH)}.get(name, FIRST)
    retry = followed(first)
    assert not told(retry.client_says, first, size)
    assert told(retry.server_says, ASKS, size)
    assert told(retry.client_says, CHANGE + first, size)
    assert retry.client_says(OTHER), "it is encrypted from here on"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("answer", [GOES_ON, b"SSH-2.0-x\r\n", WARNING + GOES_ON, EARLY_DATA])
def test_without_a_request_nothing_more_is_looked_at(size, answer):
    retry = followed()
    assert not told(retry.client_says, FIRST, size)
    assert told(retry.server_says, answer, size)
    assert retry.client_says(OTHER)


def test_a_foreseen_hello_that_fits_is_enough():
    retry = followed()
    assert not retry.client_says(FIRST + FIRST)
    assert retry.server_says(ASKS)
    assert retry.client_says(OTHER)


@pytest.mark.parametrize("second", [record(b"\x0e\0\0\0"), record(b"\1\xff\xff\xff")])
def test_what_is_no_second_hello_is_refused(second):
    retry = followed()
    with pytest.raises(BadHello):
        retry.client_says(FIRST + second)


def asks_again(seen: bytearray):
    """A server that answers whatever comes first with a HelloRetryRequest."""

    async def serve(stream):
        seen.extend(await stream.receive_some(10_000))
        await stream.send_all(ASKS)
        while more := await stream.receive_some(10_000):
            seen.extend(more)

    return serve


DENIAL = "the second TLS hello of the connection asks for another host than the first"


@pytest.mark.parametrize("foreseen", [False, True])
async def test_in_a_connect_it_is_recorded_and_reset(foreseen):
    seen = bytearray()
    async with (
        serving(asks_again(seen)) as origin,
        opened("allowed.test:443", origin) as (proxy, wire),
    ):
        if foreseen:
            assert await is_reset(wire, FIRST + OTHER)
        else:
            await wire.send(FIRST)
            assert await wire.receive_exactly(len(ASKS)) == ASKS
            assert await is_reset(wire, OTHER)
        await until(lambda: len(proxy.recorder.flows) == 1)
        assert short(proxy) == [
            ("allow", "allowed.test", 443, "CONNECT"), ("deny", "other.test", 443, "TLS"),
        ]  # fmt: skip
        assert proxy.recorder.events[1].reason == DENIAL
        assert proxy.recorder.flows[0].closed_by == "error"
    assert bytes(seen) in (b"", FIRST)


async def test_on_a_transparent_connection_it_is_recorded_and_reset():
    seen = bytearray()
    async with serving(asks_again(seen)) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 443) as wire:
            await wire.send(FIRST)
            assert await wire.receive_exactly(len(ASKS)) == ASKS
            assert await is_reset(wire, OTHER)
        assert await at.events(2) == [
            ("allow", "allowed.test", 443, "TLS"), ("deny", "other.test", 443, "TLS"),
        ]  # fmt: skip
    assert bytes(seen) == FIRST


@pytest.mark.parametrize("transparent", [False, True])
async def test_a_real_handshake_with_a_retry_goes_through(tmp_path, transparent):
    server, trust = tls_context(tmp_path)
    server.set_ecdh_curve("secp521r1")  # which no client sends a key for at first
    context = ssl.create_default_context(cafile=str(trust))
    resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
    async with serving(tls=server) as origin:
        if transparent:
            async with (
                cage("localhost", origin=origin, resolver=resolver) as at,
                at.connection("localhost", 443) as wire,
            ):
                await asks_by_tls(wire.stream, context)
                assert await at.events(1) == [("allow", "localhost", 443, "TLS")]
        else:
            dialler = LoopbackDialler(origin.port)
            async with (
                running(["localhost"], resolver=resolver, dialler=dialler) as proxy,
                proxy.client() as wire,
            ):
                await wire.send(connect("localhost:443"))
                assert (await wire.answer("CONNECT")).status == 200
                await asks_by_tls(wire.stream, context)
                assert short(proxy) == [("allow", "localhost", 443, "CONNECT")]


async def asks_by_tls(transport, context: ssl.SSLContext) -> None:
    stream = trio.SSLStream(transport, context, server_hostname="localhost")
    await stream.send_all(get("localhost"))
    with trio.fail_after(BOUND):
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
