"""A CONNECT to 443 or 80 carries the same protocols as a connection without a proxy."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest
import trio
from hellos import ECH, hello, message, openssl_hello, record, records, server_name
from msgspec.structs import replace
from origin import serving, tls_context
from running_proxy import AUTH, PATIENT, QUICK, TOKEN, connect, running, until
from transparent_cage import REAL, get, greets, reads_all
from tunnels import is_reset, opened, short
from websocket_peer import FIELDS, agreeing, head_of

from nono_trio.errors import AuditBusy
from nono_trio.testing import FailingRecorder, FakeResolver, LoopbackDialler

SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
H2C = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)] if size else []


NAMED = hello("allowed.test")


@pytest.mark.parametrize(
    "raw",
    [NAMED, hello("ALLOWED.test"), openssl_hello("allowed.test"), NAMED + b"more",
     records(message(server_name(b"allowed.test")), 9)],
    ids=["small", "upper", "openssl", "more", "records"],
)  # fmt: skip
@pytest.mark.parametrize("piece", [0, 1, 100_000])
async def test_every_byte_of_a_fitting_hello_reaches_the_server(raw, piece):
    early = b"" if piece else raw
    async with (
        serving(reads_all) as origin,
        opened("allowed.test:443", origin, early=early) as (proxy, wire),
    ):
        for each in cut(raw, piece):
            await wire.send(each)
        await wire.end()
        assert await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)
        assert short(proxy) == [("allow", "allowed.test", 443, "CONNECT")]
        [flow] = await proxy.flows(1)
        assert flow.bytes_up == len(raw)


@pytest.mark.parametrize(
    ("raw", "target", "reason"),
    [
        (hello("evil.test"), "evil.test", "the TLS hello asks for evil.test, but"),
        (hello("other.test"), "other.test", "the TLS hello asks for other.test, but"),
        (hello("a b"), "allowed.test", "the TLS hello's server name can't be read"),
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
        (
            SSH,
            "allowed.test",
            "expected a TLS client hello, got something else"
            " (to allow: --allow-domain tcp://allowed.test:443)",
        ),
        (record(b"\2\0\0\0"), "allowed.test", "the first TLS message is no client hello"),
    ],
    ids=["denied", "allowed", "unreadable", "none", "ech", "ssh", "malformed"],
)
@pytest.mark.parametrize("piece", [0, 1, 100_000])
async def test_another_hello_is_recorded_and_reset(raw, target, reason, piece):
    seen = bytearray()

    async def listens(stream):
        await stream.send_all(b"held until then")
        async for data in stream:
            seen.extend(data)

    early = b"" if piece else raw
    async with (
        serving(listens) as origin,
        opened("allowed.test:443", origin, early=early) as (proxy, wire),
    ):
        assert await is_reset(wire, *cut(raw, piece))
        await until(lambda: len(proxy.recorder.flows) == 1)
        assert short(proxy) == [
            ("allow", "allowed.test", 443, "CONNECT"), ("deny", target, 443, "TLS"),
        ]  # fmt: skip
        denial = proxy.recorder.events[1]
        assert str(denial.reason).startswith(reason)
        assert (denial.denial_category, denial.auth_outcome) == ("host_denied", "succeeded")
        [flow] = proxy.recorder.flows
        assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (0, 0, "error")
    assert seen == b""


async def test_half_a_hello_is_recorded_and_reset_in_time():
    async with (
        serving(reads_all) as origin,
        opened("allowed.test:443", origin, early=NAMED[:-1], limits=QUICK) as (proxy, wire),
    ):
        assert await is_reset(wire)
        assert (
            proxy.recorder.events[1].reason == "the TLS hello was not complete within 0.3 seconds"
        )
    async with (
        serving(reads_all) as origin,
        opened("allowed.test:443", origin, early=NAMED[:-1], limits=QUICK) as (proxy, wire),
    ):
        await wire.end()
        assert await is_reset(wire)
        assert "in the middle of the TLS hello" in str(proxy.recorder.events[1].reason)


@pytest.mark.parametrize("port", [443, 80])
async def test_a_silent_client_may_stay_as_long_as_an_idle_tunnel(port):
    limits = replace(PATIENT, head=0.3, idle=2.5)
    async with (
        serving(reads_all) as origin,
        opened(f"allowed.test:{port}", origin, limits=limits) as (proxy, wire),
    ):
        with trio.move_on_after(0.8) as waiting:
            await wire.receive()
        assert waiting.cancelled_caught
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert (flow.closed_by, flow.bytes_up, flow.bytes_down) == ("idle", 0, 0)
        assert len(proxy.recorder.events) == 1, "who says nothing asks for nothing"


@pytest.mark.parametrize("port", [443, 80])
@pytest.mark.parametrize("closes", [False, True])
async def test_the_record_of_a_server_that_speaks_first_names_the_entry(port, closes):
    async def speaks_first(stream):
        await stream.send_all(b"220 mail.example.com ESMTP\r\n")
        if not closes:
            await stream.receive_some(100)

    async with (
        serving(speaks_first) as origin,
        opened(f"allowed.test:{port}", origin, limits=QUICK) as (proxy, wire),
    ):
        assert await is_reset(wire)
        await until(lambda: len(proxy.recorder.events) == 2)
        reason = str(proxy.recorder.events[1].reason)
        assert reason.startswith("the server spoke first, where a")
        assert reason.endswith(f"(to allow: --allow-domain tcp://allowed.test:{port})")


@pytest.mark.parametrize("port", [443, 80])
async def test_the_end_of_a_silent_server_is_passed_on(port):
    async def leaves(_stream):
        pass

    async with (
        serving(leaves) as origin,
        opened(f"allowed.test:{port}", origin, limits=PATIENT) as (proxy, wire),
    ):
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "upstream"
        assert len(proxy.recorder.events) == 1


@pytest.mark.parametrize("port", [443, 80])
@pytest.mark.parametrize("resets", [False, True])
async def test_a_client_that_leaves_without_a_byte_has_no_denial(port, resets):
    async with (
        serving(reads_all) as origin,
        opened(f"allowed.test:{port}", origin, limits=PATIENT) as (proxy, wire),
    ):
        if resets:
            wire.reset()
        else:
            await wire.end()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"
        assert len(proxy.recorder.events) == 1


@pytest.mark.parametrize("port", [443, 80])
async def test_the_flow_says_that_the_session_ended(port):
    async with (
        serving(reads_all) as origin,
        opened(f"allowed.test:{port}", origin, limits=PATIENT) as (proxy, wire),
    ):
        proxy.connections.cancel()
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "shutdown"


@pytest.mark.parametrize(
    ("target", "raw", "asked"),
    [
        (REAL, record(message()), None),
        (REAL, hello("allowed.test"), None),
        (REAL, hello("evil.test"), "evil.test"),
        (REAL, hello("allowed.test", ECH), "allowed.test"),
    ],
    ids=["nameless", "allowed", "denied", "ech"],
)
async def test_a_literal_address_needs_no_name_but_takes_an_allowed_one(target, raw, asked):
    async with (
        serving(reads_all) as origin,
        opened(f"{target}:443", origin, early=raw) as (proxy, wire),
    ):
        if asked is None:
            await wire.end()
            assert await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)
            assert short(proxy) == [("allow", target, 443, "CONNECT")]
        else:
            assert await is_reset(wire)
            assert short(proxy)[1] == ("deny", asked, 443, "TLS")


@pytest.mark.parametrize(
    ("form", "port", "raw"),
    [
        ("tls://allowed.test", 443, hello("allowed.test", ECH)),
        ("tls://allowed.test", 443, record(message())),
        ("tcp://allowed.test:443", 443, SSH),
        ("tcp://allowed.test:80", 80, H2C),
        ("tcp://allowed.test:80", 80, get("evil.test")),
        ("allowed.test:22", 22, SSH),
        ("allowed.test:25", 25, hello("evil.test")),
        ("allowed.test:*", 8080, H2C),
    ],
)
async def test_an_entry_with_a_scheme_allows_it(form, port, raw):
    async with (
        serving(reads_all) as origin,
        opened(f"allowed.test:{port}", origin, [form]) as (proxy, wire),
    ):
        await wire.send(raw)
        await wire.end()
        assert await wire.receive_exactly(len(str(len(raw)))) == b"%d" % len(raw)
        assert short(proxy) == [("allow", "allowed.test", port, "CONNECT")]


@pytest.mark.parametrize("port", [25, 5432])
async def test_on_other_ports_the_server_may_speak_first(port):
    async with (
        serving(greets) as origin,
        opened(f"allowed.test:{port}", origin, ["allowed.test:*"]) as (_, wire),
    ):
        assert await wire.receive_exactly(6) == b"hello "


# --- port 80 ---


@pytest.mark.parametrize("early", [False, True])
async def test_requests_in_a_tunnel_are_recorded_one_by_one(early):
    first = get("allowed.test", "/small?token=s3cr3t")
    async with (
        serving() as origin,
        opened("allowed.test:80", origin, early=first if early else b"") as (proxy, wire),
    ):
        if not early:
            await wire.send(first)
        for _ in range(3):
            answer = await wire.answer()
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"ok")
            await wire.send(get("ALLOWED.test:80"))
        answer = await wire.answer()
        assert answer is not None
        assert origin.connections == 1, "the CONNECT's own"
        assert short(proxy) == [
            ("allow", "allowed.test", 80, "CONNECT"), *[("allow", "allowed.test", 80, "GET")] * 4,
        ]  # fmt: skip
        assert {event.auth_outcome for event in proxy.recorder.events} == {"succeeded"}
        assert proxy.recorder.events[1].path == "/small?token=[REDACTED]"
        await wire.end()
        assert await wire.ends()
        flows = await proxy.flows(5)
        assert flows[-1].sequence == 0, "the tunnel's own, at its end; its requests have the bytes"
        assert (flows[-1].bytes_up, flows[-1].bytes_down, flows[-1].closed_by) == (0, 0, "client")


async def test_the_first_request_need_not_be_repeatable():
    request = get("allowed.test", "/sink", "Content-Length: 5").replace(b"GET", b"POST") + b"12345"
    async with serving() as origin, opened("allowed.test:80", origin) as (_, wire):
        for _ in range(2):
            answer = await wire.exchange(request)
            assert answer is not None
            assert answer.body == b"5"
        assert origin.connections == 2


@pytest.mark.parametrize("first", [b"", get("allowed.test")])
@pytest.mark.parametrize(
    ("raw", "target", "reason"),
    [
        (get("evil.test"), "evil.test", "the Host field asks for evil.test, but the connection is"),
        (get("other.test"), "other.test", "the Host field asks for other.test, but"),
        (get("evil.test", "/", *FIELDS), "evil.test", "the Host field asks for evil.test, but"),
        (get("allowed.test:8080"), "allowed.test", "the host field names another port"),
        (get("allowed.test", "http://evil.test/"), "allowed.test", "expected a path"),
        (connect("evil.test:443"), "allowed.test", "expected a path"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "allowed.test", "the head has a line feed without"),
        (
            get("allowed.test", "/", f"A: {'a' * 40_000}"),
            "allowed.test",
            "the request head is long",
        ),
        (
            get("allowed.test", "/", "Host: evil.test"),
            "allowed.test",
            "the host field is there more",
        ),
    ],
)
async def test_another_request_is_recorded_and_reset(first, raw, target, reason):
    async with serving() as origin, opened("allowed.test:80", origin) as (proxy, wire):
        if first:
            assert await wire.exchange(first) is not None
        assert await is_reset(wire, raw)
        denial = proxy.recorder.events[-1]
        assert (denial.decision, denial.target, denial.port) == ("deny", target, 80)
        assert str(denial.reason).startswith(reason)
        assert len(origin.requests) == bool(first)


@pytest.mark.parametrize("raw", [SSH, H2C, hello("allowed.test"), b"EHLO a\r\n", b"EHLO a\n"])
async def test_the_record_of_bytes_that_are_no_http_names_the_entry(raw):
    async with (
        serving() as origin,
        opened("allowed.test:80", origin, early=raw) as (proxy, wire),
    ):
        assert await is_reset(wire)
        await until(lambda: len(proxy.recorder.events) == 2)
        assert proxy.recorder.events[1].reason == (
            "expected an HTTP/1.1 request, got something else"
            " (to allow: --allow-domain tcp://allowed.test:80)"
        )
        assert bytes(origin.seen) == b""


async def test_a_websocket_in_a_tunnel_goes_to_the_tunnels_host():
    async with (
        serving(agreeing()) as origin,
        opened("allowed.test:80", origin) as (_, wire),
    ):
        await wire.send(get("allowed.test", "/chat", *FIELDS))
        assert (await head_of(wire)).startswith(b"HTTP/1.1 101 ")
        await wire.send(b"echo")
        assert await wire.receive_exactly(4) == b"echo"


async def test_on_a_literal_address_each_request_is_decided_and_dialled_by_its_host():
    async with serving() as origin, opened(f"{REAL}:80", origin) as (proxy, wire):
        for host in (REAL, "allowed.test"):
            answer = await wire.exchange(get(host))
            assert answer is not None
            assert answer.status == 200
        assert proxy.resolver.asked == ["allowed.test"]
        assert await is_reset(wire, get("evil.test"))


@pytest.mark.parametrize(
    ("port", "raw"), [(443, hello("evil.test")), (80, get("evil.test")), (80, SSH)]
)
async def test_a_log_that_is_too_busy_for_the_denial_cuts_the_tunnel_without_an_answer(port, raw):
    recorder = FailingRecorder(1, AuditBusy("the audit queue stayed full"))
    async with (
        serving(reads_all) as origin,
        opened(f"allowed.test:{port}", origin, recorder=recorder) as (_, wire),
    ):
        assert await is_reset(wire, raw)


# --- real programs ---


def run(port: int, *command: str) -> subprocess.CompletedProcess[bytes]:
    proxy = f"http://nono:{TOKEN}@127.0.0.1:{port}"
    filled = [word.format(proxy=proxy, port=port, auth=AUTH) for word in command]
    return subprocess.run(
        filled, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


async def test_openssl_gets_through_by_its_own_name_only(tmp_path):
    server, trust = tls_context(tmp_path)
    context = ssl.create_default_context(cafile=str(trust))
    async with serving(tls=server) as origin:
        for name, works in (("localhost", True), ("evil.test", False)):
            resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
            async with (
                running(
                    ["localhost"], resolver=resolver, dialler=LoopbackDialler(origin.port)
                ) as proxy,
                proxy.client() as wire,
            ):
                await wire.send(connect("localhost:443"))
                await wire.answer("CONNECT")
                stream = trio.SSLStream(wire.stream, context, server_hostname=name)
                if works:
                    await stream.send_all(get("localhost"))
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                else:
                    with pytest.raises(trio.BrokenResourceError):
                        await stream.do_handshake()
                    await until(lambda proxy=proxy: len(proxy.recorder.events) == 2)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_through_tunnels_to_both_ports(tmp_path):
    server, trust = tls_context(tmp_path)
    resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
    flags = (
        "curl",
        "--silent",
        "--show-error",
        "--proxy",
        "{proxy}",
        "--proxytunnel",
        "--max-time",
        "30",
    )
    async with serving() as plain, serving(tls=server) as tls:

        class ByPort(LoopbackDialler):
            async def __call__(self, addresses):
                self.port = tls.port if addresses[0].port == 443 else plain.port
                return await super().__call__(addresses)

        async with running(["localhost"], resolver=resolver, dialler=ByPort()) as proxy:

            async def curl(*more: str) -> subprocess.CompletedProcess[bytes]:
                return await trio.to_thread.run_sync(run, proxy.port, *flags, *more)

            done = await curl("http://localhost/small", "http://localhost/bytes/3")
            assert done.stdout == b"ok012", done.stderr
            done = await curl("--cacert", str(trust), "https://localhost/small")
            assert done.stdout == b"ok", done.stderr
            done = await curl("--header", "Host: evil.test", "http://localhost/small")
            assert (done.returncode, done.stdout) == (56, b""), done.stderr  # reset
            denied = [event.target for event in proxy.recorder.events if event.decision == "deny"]
            assert denied == ["evil.test"]
