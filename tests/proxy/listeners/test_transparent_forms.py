"""The transparent network: what tls:// and tcp:// entries let through, and what they don't."""

from __future__ import annotations

import pytest
from hellos import ECH, hello, message, record
from origin import serving
from running_proxy import connect, http, running
from transparent_cage import (
    ACCESS_DENIED,
    DECODE_ERROR,
    LITERAL,
    REAL,
    UNRECOGNIZED_NAME,
    alert,
    cage,
    get,
    greets,
    reads_all,
)

HIDDEN = record(message(ECH))
NAMELESS = record(message())


async def passes(at, target: str, raw: bytes, port: int = 443) -> bool:
    """Return whether every byte reaches the server, which answers with their number."""
    async with at.connection(target, port) as wire:
        await wire.send(raw)
        await wire.end()
        return await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)


@pytest.mark.parametrize(
    "raw",
    [hello("allowed.test"), hello("allowed.test", ECH), hello("other.test", ECH), NAMELESS, HIDDEN],
    ids=["named", "ech", "ech-other", "nameless", "ech-nameless"],
)
@pytest.mark.parametrize("form", ["tls://allowed.test", "tls://*.test"])
async def test_an_entry_for_tls_lets_hellos_hide_their_name(raw, form):
    async with serving(reads_all) as origin, cage(form, "other.test", origin=origin) as at:
        assert await passes(at, "allowed.test", raw)
        assert await at.events(1) == [("allow", "allowed.test", 443, "TLS")]
        assert at.reasons == [f"--allow-domain {form}"]
        assert (at.resolver.asked, at.dialler.dialled) == (["allowed.test"], [(REAL, 443)])


@pytest.mark.parametrize(
    ("raw", "target", "code", "reason"),
    [
        (hello("evil.test"), "evil.test", UNRECOGNIZED_NAME, "but the connection is to"),
        (hello("other.test"), "other.test", UNRECOGNIZED_NAME, "but the connection is to"),
        (hello("evil.test", ECH), "evil.test", ACCESS_DENIED, "is not on the allowlist"),
        (hello(LITERAL, ECH), LITERAL, ACCESS_DENIED, "is not on the allowlist"),
        (hello("a b", ECH), "allowed.test", UNRECOGNIZED_NAME, "can't be read"),
        (record(b"\2\0\0\0"), "allowed.test", DECODE_ERROR, "no client hello"),
    ],
    ids=["denied", "allowed", "ech-denied", "ech-literal", "unreadable", "malformed"],
)
async def test_an_entry_for_tls_lets_no_other_name_stand_in_the_open(raw, target, code, reason):
    async with cage("tls://allowed.test", "other.test") as at:
        assert await at.answer("allowed.test", raw) == alert(code)
        assert await at.events(1) == [("deny", target, 443, "TLS")]
        assert reason in str(at.reasons[0])
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])


async def test_an_entry_for_tls_is_for_tls_and_for_its_port():
    async with cage("tls://allowed.test") as at:
        assert await at.answer("allowed.test", b"SSH-2.0-x\r\n") is None
        answer = await at.ask("allowed.test", get("allowed.test"))
        assert answer.status == 403
        assert b"--allow-domain allowed.test:80" in answer.body
        assert await at.answer("allowed.test", b"", port=22) is None
        assert [(event[0], event[2]) for event in await at.events(3)] == [
            ("deny", 443), ("deny", 80), ("deny", 22),
        ]  # fmt: skip
        assert str(at.reasons[0]).endswith("(to allow: --allow-domain tcp://allowed.test:443)")


async def test_an_entry_for_tls_on_another_port_has_the_hello_looked_at_there():
    form = "tls://allowed.test:22"
    async with serving(reads_all) as origin, cage(form, "tls://*.test:22", origin=origin) as at:
        assert await passes(at, "allowed.test", hello("allowed.test"), 22)
        assert await passes(at, "allowed.test", HIDDEN, 22)
        assert await at.answer("allowed.test", hello("evil.test"), 22) == alert(UNRECOGNIZED_NAME)
        assert await at.answer("allowed.test", b"SSH-2.0-x\r\n", 22) is None
        assert [event[0] for event in await at.events(4)] == ["allow", "allow", "deny", "deny"]
        assert at.reasons[:2] == [f"--allow-domain {form}"] * 2


@pytest.mark.parametrize("raw", [HIDDEN, NAMELESS, hello("allowed.test", ECH)])
async def test_an_entry_for_an_address_may_say_tls(raw):
    form = f"tls://{LITERAL}"
    async with serving(reads_all) as origin, cage(form, "allowed.test", origin=origin) as at:
        assert await passes(at, LITERAL, raw)
        assert at.dialler.dialled == [(LITERAL, 443)]
        assert await at.answer(LITERAL, hello("evil.test", ECH)) == alert(ACCESS_DENIED)
        assert await at.events(2) == [
            ("allow", LITERAL, 443, "TLS"), ("deny", "evil.test", 443, "TLS"),
        ]  # fmt: skip


async def test_on_a_denied_address_the_name_outside_tells_where_to_go():
    async with serving(reads_all) as origin, cage("tls://allowed.test", origin=origin) as at:
        assert await passes(at, LITERAL, hello("allowed.test", ECH))
        assert await at.events(1) == [("allow", "allowed.test", 443, "TLS")]
        assert at.dialler.dialled == [(REAL, 443)]


@pytest.mark.parametrize("port", [80, 443, 22])
@pytest.mark.parametrize("target", ["allowed.test", LITERAL])
@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", hello("evil.test")]
)
async def test_an_entry_for_a_tunnel_looks_at_nothing(port, target, raw):
    form = f"tcp://{target}:{port}"
    async with serving(reads_all) as origin, cage(form, origin=origin) as at:
        assert await passes(at, target, raw, port)
        assert await at.events(1) == [("allow", target, port, "TCP")]
        assert at.recorder.events[0].mode == "connect"
        assert at.reasons == [f"--allow-domain {form}"]


@pytest.mark.parametrize("port", [80, 443])
async def test_in_a_tunnel_the_server_may_speak_first(port):
    form = f"tcp://allowed.test:{port}"
    async with serving(greets) as origin, cage(form, origin=origin) as at:
        async with at.connection("allowed.test", port) as wire:
            assert await wire.receive_exactly(6) == b"hello "
        assert await at.events(1) == [("allow", "allowed.test", port, "TCP")]


async def test_a_tunnel_beside_the_web_is_for_its_own_host_only():
    form = "tcp://allowed.test:*"
    async with serving(reads_all) as origin, cage(form, "other.test", origin=origin) as at:
        assert await passes(at, "allowed.test", b"anything", 443)
        assert await at.answer("other.test", b"anything", 443) is None
        assert await at.answer("other.test", HIDDEN, 443) == alert(UNRECOGNIZED_NAME)
        assert (await at.ask("other.test", b"anything\r\n\r\n")).status == 400
        assert await at.answer("evil.test", b"anything", 443) == alert(ACCESS_DENIED)


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        ("127.0.0.1:*", b"SSH"),
        ("tcp://127.0.0.1:{port}", b"SSH"),
        ("tls://127.0.0.1:{port}", HIDDEN),
    ],
)
async def test_through_the_proxy_every_form_is_a_tunnel(form, raw):
    async with serving(reads_all) as origin:
        form = form.format(port=origin.port)
        async with running([form]) as proxy, proxy.client() as wire:
            await wire.send(connect(f"127.0.0.1:{origin.port}"))
            answer = await wire.answer("CONNECT")
            assert answer is not None
            assert answer.status == 200
            await wire.send(raw)
            await wire.end()
            assert await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)
            [event] = proxy.recorder.events
            note = f"--allow-domain {form}" if "://" in form else None
            assert (event.decision, event.method, event.reason) == ("allow", "CONNECT", note)


async def test_through_the_proxy_an_entry_for_tls_is_for_tls_on_its_port_too():
    async with serving(reads_all) as origin:
        form = f"tls://127.0.0.1:{origin.port}"
        async with running([form]) as proxy, proxy.client() as wire:
            await wire.send(connect(f"127.0.0.1:{origin.port}") + b"SSH-2.0-x\r\n")
            await wire.answer("CONNECT")
            assert await wire.ends()
            assert [event.decision for event in proxy.recorder.events] == ["allow", "deny"]
            assert str(proxy.recorder.events[1].reason).endswith(
                f"(to allow: --allow-domain tcp://127.0.0.1:{origin.port})"
            )


async def test_plain_http_through_the_proxy_is_something_that_a_tunnel_may_carry():
    async with serving() as origin:
        form = f"tcp://127.0.0.1:{origin.port}"
        async with running([form]) as proxy:
            answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"ok")
            [event] = proxy.recorder.events
            assert (event.mode, event.reason) == ("reverse", f"--allow-domain {form}")


@pytest.mark.parametrize("also", [[], ["127.0.0.1:{port}"]])
async def test_plain_http_through_the_proxy_is_not_tls(also):
    async with serving() as origin:
        forms = ["tls://127.0.0.1:{port}", *also]
        async with running([form.format(port=origin.port) for form in forms]) as proxy:
            answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
            assert answer is not None
            assert answer.status == (200 if also else 403)
            [event] = proxy.recorder.events
            assert event.decision == ("allow" if also else "deny")
            if not also:
                text = f"--allow-domain 127.0.0.1:{origin.port}"
                assert text in answer.body.decode()
                assert str(event.reason).endswith(f"(to allow: {text})")


@pytest.mark.parametrize("also", ["127.0.0.1", "127.0.0.1:443", "127.0.0.1:*"])
async def test_a_plain_entry_beside_one_for_tls_still_allows_plain_http(also):
    async with running(["tls://127.0.0.1", also]) as proxy:
        await proxy.ask(http("GET", "http://127.0.0.1:443/small"))
        assert proxy.recorder.events[0].decision == "allow"
