"""Hostile and unusual requests under intercepted TLS: what is matched is sent and recorded."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager

import pytest
import trio
from checkout import TESTS
from hellos import ECH, hello
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looked_into import HOST, LookedInto, client_context, looking_into, origin_context, under_tls
from msgspec.structs import replace
from origin import serving
from proxy_server import Upstream, upstream_proxy
from running_proxy import BOUND, PATIENT, Wire, connect, until
from transparent_cage import get
from tunnels import is_reset
from websocket_peer import FIELDS, agreeing, head_of

from nono_trio.core.log.redaction import redact_path
from nono_trio.errors import AuditBusy
from nono_trio.testing import FailingRecorder

MACRO = re.compile(r"\{([^{}]{1,8})\*(\d+)\}", re.DOTALL)
RULES = (f"allow * https://{HOST}/ok/**", f"deny * https://{HOST}/ok/secret/**")
FORWARDED = "http://localhost-origin.test"


def collection() -> list[dict[str, str]]:
    """The attacks of the plain path by syntax, framing and control characters."""
    cases = json.loads((TESTS / "data" / "hostile-inputs.json").read_text("utf-8"))
    kinds = ("get-syntax", "smuggling", "line-syntax", "log-injection")
    return [one for one in cases if one["category"] in kinds]


def in_origin_form(request: str) -> bytes:
    """The same attack on the host of the tunnel, below a path that is allowed."""
    request = request.replace(f"{FORWARDED}/", "/ok/").replace(FORWARDED, "/ok")
    request = request.replace("localhost-origin.test", HOST).replace("{AUTH}", "Basic x")
    request = request.replace("{PROXY}", HOST).replace("{CRLF*1000}", "\r\n" * 1000)
    return MACRO.sub(lambda match: match[1] * int(match[2]), request).encode("latin-1")


def allowed(at: LookedInto) -> list[tuple[str | None, str | None]]:
    events = at.proxy.recorder.events
    return [(e.method, e.path) for e in events if e.decision == "allow" and e.path is not None]


def seen(at: LookedInto) -> list[tuple[str, str]]:
    requests = at.origin.requests
    return [(one.method.decode(), redact_path(one.target.decode())) for one in requests]


async def test_no_attack_of_the_collection_reaches_the_origin_unrecorded():
    cases = collection()
    assert len(cases) > 60
    # Quick where a case waits for the end, patient where a loaded machine would miss it.
    limits = replace(PATIENT, head=3.0, keep_alive=0.3)
    async with looking_into(*RULES, limits=limits) as at:
        for case in cases:
            before = len(at.origin.requests)
            async with at.tunnel() as wire:
                with trio.move_on_after(BOUND):
                    try:
                        await wire.send(in_origin_form(case["request"]))
                        while await wire.receive():
                            pass
                    except trio.BrokenResourceError:
                        pass
            with trio.move_on_after(BOUND):
                await until(lambda: seen(at) == allowed(at))
            assert seen(at) == allowed(at), case["name"]
            forbidden = case.get("origin_must_not_see") or []
            new = b"".join(one.target for one in at.origin.requests[before:])
            for text in [forbidden] if isinstance(forbidden, str) else forbidden:
                assert text.encode() not in new, case["name"]
        assert all(method == method.upper() for method, _ in seen(at))


PIECES = st.sampled_from(
    ["ok", "secret", "x", ".", "..", "%2e", "%2E%2e", "%2F", "%5c", ";a=1", "..;", "%41", "%7E",
     "%25%32%65", "", "a b", "é", "%", "%zz", "Ok", "%00", "\\"]
)  # fmt: skip
TARGETS = st.builds(
    lambda pieces, query: "/" + "/".join(pieces) + query,
    st.lists(PIECES, min_size=1, max_size=5),
    st.sampled_from(["", "?", "?q=/ok/../secret", "?token=1&x", "#f", "?a#b"]),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(targets=st.lists(TARGETS, min_size=30, max_size=40))
async def test_what_is_matched_is_sent_and_recorded(targets):
    async with looking_into(*RULES) as at, connecting(at) as ask:
        for target in ["/ok/x", *targets]:
            before = len(at.origin.requests)
            status = await ask(target)
            new = at.origin.requests[before:]
            assert (status == 200) == bool(new)
            for request in new:
                path = request.target.decode().partition("?")[0]
                assert path == "/ok" or path.startswith("/ok/")
                assert not path.startswith("/ok/secret/")
                assert "/../" not in path + "/"
        assert seen(at) == allowed(at)
        assert ("GET", "/ok/x") in seen(at)


@asynccontextmanager
async def connecting(at: LookedInto):
    """Ask in one tunnel, and in the next one after an answer that has ended it."""
    async with trio.open_nursery() as nursery:
        wires: list[Wire] = []
        done = trio.Event()

        async def hold(task_status: trio.TaskStatus[Wire]) -> None:
            async with at.tunnel() as wire:
                task_status.started(wire)
                await done.wait()

        async def ask(target: str) -> int:
            if not wires:
                wires.append(await nursery.start(hold))
            request = f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            answer = await wires[0].exchange(request)
            assert answer is not None
            if answer.headers.get("connection") == "close":
                wires.clear()
            return answer.status

        yield ask
        done.set()


class Dribbling(trio.abc.HalfCloseableStream):
    """Sends byte by byte."""

    def __init__(self, below: trio.SocketStream) -> None:
        self.below = below

    async def send_all(self, data: bytes) -> None:
        for at in range(len(data)):
            await self.below.send_all(data[at : at + 1])

    async def wait_send_all_might_not_block(self) -> None:
        await self.below.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.below.receive_some(1))

    async def send_eof(self) -> None:
        await self.below.send_eof()

    async def aclose(self) -> None:
        await self.below.aclose()


async def test_handshake_and_requests_may_come_byte_by_byte():
    async with looking_into(*RULES) as at, at.proxy.client() as wire:
        assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
        async with under_tls(Wire(Dribbling(wire.stream))) as secure:
            body = "Content-Length: 5"
            request = get(HOST, "/ok/sink", body).replace(b"GET", b"POST") + b"12345"
            assert (await secure.exchange(request)).status == 200
        assert allowed(at) == seen(at) == [("POST", "/ok/sink")]


async def test_a_websocket_goes_through_and_its_flow_has_the_status():
    server = agreeing(b"\x81\x02hi")
    tls = await origin_context()

    async def behaviour(stream: trio.SocketStream) -> None:
        await server(trio.SSLStream(stream, tls, server_side=True))

    async with looking_into(*RULES, behaviour=behaviour) as at:
        async with at.tunnel() as wire:
            await wire.send(get(HOST, "/ok/chat?key=1", *FIELDS))
            assert (await head_of(wire)).startswith(b"HTTP/1.1 101 ")
            assert await wire.receive_exactly(4) == b"\x81\x02hi"
            await wire.send(b"echo")
            assert await wire.receive_exactly(4) == b"echo"
        flows = await at.proxy.flows(2)
        flow = next(one for one in flows if one.status == 101)
        assert (flow.bytes_up, flow.bytes_down) == (len(server.seen), len(server.answer) + 4)
        assert allowed(at) == [("GET", "/ok/chat?key=[REDACTED]")]


async def test_through_an_upstream_proxy_requests_go_by_connect_and_end_to_end():
    tls = await origin_context()
    async with serving(tls=tls) as origin, serving(behaviour := Upstream(origin.port)) as upstream:
        settings_of = upstream_proxy(upstream.port)
        async with looking_into(*RULES, upstream_proxy=settings_of) as at:
            at.proxy.dialler.port = upstream.port
            async with at.tunnel() as wire:
                assert (await wire.exchange(get(HOST, "/ok/small"))).status == 200
                assert (await wire.exchange(get(HOST, "/no"))).status == 403
            assert [one.target for one in behaviour.asked] == [f"{HOST}:443".encode()]
            [request] = origin.requests
            assert request.target == b"/ok/small"
            event = at.proxy.recorder.events[2]
            assert (event.mode, event.path) == ("connect_intercept", "/ok/small")
            assert event.upstream == f"127.0.0.1:{upstream.port}"


async def test_the_hello_decides_on_a_connection_to_an_address():
    """A host with rules is not reached uninspected by its address."""
    address = "192.0.2.1"
    async with looking_into(*RULES, allow=(HOST, f"{address}:443", "other.test")) as at:
        async with at.tunnel(f"{address}:443", HOST) as wire:
            assert (await wire.exchange(get(HOST, "/no"))).status == 403
            assert (await wire.exchange(get(HOST, "/ok/x"))).status == 200
        assert [one.target for one in at.origin.requests] == [b"/ok/x"]
        async with at.proxy.client() as wire:
            assert (await wire.exchange(connect(f"{address}:443"), "CONNECT")).status == 200
            context = client_context(trusts="origin")
            context.check_hostname = False
            async with under_tls(wire, "other.test", context) as secure:  # a tunnel
                assert (await secure.exchange(get("other.test", "/no"))).status == 200


async def test_a_request_that_is_cut_is_logged_and_the_server_sees_no_end():
    async with looking_into(*RULES) as at:
        async with at.proxy.client() as wire:
            await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
            async with under_tls(wire) as secure:
                head = get(HOST, "/ok/sink", "Content-Length: 10").replace(b"GET", b"POST")
                await secure.send(head + b"123")
                await until(lambda: len(at.origin.requests) == 1)
                wire.reset()
        flows = await at.proxy.flows(2)
        assert {one.closed_by for one in flows} == {"client"}
        await until(lambda: at.origin.open == 0)
        assert at.origin.bodies == []


async def test_when_the_proxy_is_cut_every_flow_is_logged():
    async with looking_into(*RULES, f"allow GET https://{HOST}/events") as at, at.tunnel() as wire:
        await wire.exchange(get(HOST, "/ok/x"))
        await wire.send(get(HOST, "/events"))
        await until(lambda: len(allowed(at)) == 2)
        at.proxy.connections.cancel()
        flows = await at.proxy.flows(3)
        assert [one.closed_by for one in flows] == ["upstream", "shutdown", "shutdown"]
        await until(lambda: at.proxy.proxy.open_connections == 0)
        assert at.proxy.proxy.watched_sockets == 0


async def test_raw_bytes_to_an_address_of_the_server_do_not_lead_around_the_rules():
    address = "192.0.2.1"
    allow = (HOST, f"tcp://{address}:8443", "tcp://other.test:8443")
    async with looking_into(*RULES, allow=allow) as at:
        for target in (address, "other.test"):
            async with at.proxy.client() as wire:
                await wire.exchange(connect(f"{target}:8443"), "CONNECT")
                with pytest.raises(trio.BrokenResourceError):
                    async with under_tls(Wire(Dribbling(wire.stream))):
                        pass
        event = at.proxy.recorder.events[-1]
        assert (event.decision, event.reason) == (
            "deny",
            "the TLS hello asks for allowed.test, whose requests must be seen, on a connection to"
            " other.test",
        )
        assert not at.origin.requests
        context = client_context(trusts="origin")
        context.check_hostname = False
        async with at.proxy.client() as wire:
            await wire.exchange(connect(f"{address}:8443"), "CONNECT")
            async with under_tls(wire, "other.test", context) as secure:
                assert (await secure.exchange(get("x"))).status == 200


async def test_a_log_that_is_too_busy_for_that_record_cuts_the_tunnel_without_an_answer():
    recorder = FailingRecorder(1, AuditBusy("full"))
    allow = (HOST, "tcp://other.test:8443")
    async with (
        looking_into(*RULES, allow=allow, recorder=recorder) as at,
        at.proxy.client() as wire,
    ):
        await wire.exchange(connect("other.test:8443"), "CONNECT")
        assert await is_reset(wire, hello(HOST))


@asynccontextmanager
async def strict(at: LookedInto):
    """A client that takes an end without close_notify for a cut."""
    async with at.proxy.client() as wire:
        await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
        stream = trio.SSLStream(wire.stream, client_context(), server_hostname=HOST)
        yield Wire(stream)
        await trio.aclose_forcefully(stream)


async def test_methods_versions_and_expectations():
    async with looking_into() as at:
        async with at.tunnel() as wire:
            head = await wire.exchange(get(HOST, "/bytes/5").replace(b"GET", b"HEAD"), "HEAD")
            assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")
            fields = ("Content-Length: 3", "Expect: 100-continue")
            await wire.send(get(HOST, "/sink", *fields).replace(b"GET", b"PUT"))
            assert await wire.receive_exactly(12) == b"HTTP/1.1 100"
            wire.unread = b""
            await wire.send(b"abc")
            assert (await wire.answer()).body == b"3"
            chunked = get(HOST, "/echo", "Transfer-Encoding: chunked").replace(b"GET", b"POST")
            answer = await wire.exchange(chunked + b"3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n")
            assert answer.body == b"abc"
        for fields, version in ((("Connection: close",), "1.1"), ((), "1.0")):
            async with strict(at) as wire:
                await wire.send(get(HOST, "/small", *fields, version=version))
                got = b""
                while data := await wire.receive():  # raises for an end without close_notify
                    got += data
                assert got.endswith(b"ok")


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_response_until_the_end_is_whole_only_with_close_notify(says_goodbye):
    tls = await origin_context()

    async def behaviour(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await secure.receive_some()
        await secure.send_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        if says_goodbye:
            await secure.unwrap()

    async with looking_into(behaviour=behaviour) as at:
        async with at.tunnel() as wire:
            answer = await wire.exchange(get(HOST, "/x"))
            assert (answer.body, answer.complete) == (b"until the end", says_goodbye)
        async with strict(at) as wire:
            await wire.send(get(HOST, "/x", version="1.0"))
            try:
                while await wire.receive():
                    pass
            except trio.BrokenResourceError:
                assert not says_goodbye
            else:
                assert says_goodbye


async def test_a_slow_reader_slows_the_server_down():
    """At most 256 KiB wait in the proxy, whatever the server has to send."""
    sent = 0
    tls = await origin_context()

    async def behaviour(stream: trio.SocketStream) -> None:
        nonlocal sent
        secure = trio.SSLStream(stream, tls, server_side=True)
        await secure.receive_some()
        await secure.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await secure.send_all(bytes(100_000))
            sent += 100_000

    async with looking_into(behaviour=behaviour) as at:
        async with at.tunnel() as wire:
            await wire.send(get(HOST, "/x"))
            await wire.receive()
            before = -1
            while sent != before:  # until the server is stopped
                before = sent
                await trio.sleep(0.2)
            assert sent < 40_000_000, "kernel buffers are all that fills"
            received = 0
            with trio.fail_after(BOUND):
                while sent == before:
                    received += len(await wire.receive())
        await until(lambda: at.proxy.proxy.open_connections == 0)


async def test_requests_that_come_together_are_decided_one_by_one():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        await wire.send(get(HOST, "/ok/a") + get(HOST, "/no") + get(HOST, "/ok/b"))
        assert [(await wire.answer()).status for _ in range(3)] == [200, 403, 200]
        assert seen(at) == allowed(at) == [("GET", "/ok/a"), ("GET", "/ok/b")]


async def test_a_hello_without_a_name_gets_the_certificate_of_the_connection():
    async with looking_into(*RULES) as at, at.proxy.client() as wire:
        await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
        context = client_context()
        context.check_hostname = False
        async with under_tls(wire, None, context) as secure:
            assert (await secure.exchange(get(HOST, "/ok/a"))).status == 200
            assert (await secure.exchange(get(HOST, "/no"))).status == 403


@pytest.mark.parametrize(
    ("name", "status"), [("evil.test", None), (HOST.upper(), 200), ("other.test", None)]
)
async def test_the_hello_must_ask_for_the_host_of_the_connection(name, status):
    async with looking_into(*RULES, allow=(HOST, "other.test")) as at, at.proxy.client() as wire:
        await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
        try:
            async with under_tls(wire, name) as secure:
                assert (await secure.exchange(get(HOST, "/ok/a"))).status == status
        except trio.BrokenResourceError:
            assert status is None
            event = at.proxy.recorder.events[-1]
            assert (event.decision, event.target) == ("deny", name)
            assert at.origin.connections == 0


@pytest.mark.parametrize("is_grease", [True, False])
async def test_a_hello_that_seems_to_hide_its_name_is_answered(is_grease):
    """Here the hello ends, so nobody is behind the name that can be read."""
    async with looking_into(*RULES) as at, at.proxy.client() as wire:
        await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
        await wire.send(hello(HOST if is_grease else "cover.test", ECH))
        await wire.ends()
        events = at.proxy.recorder.events
        if is_grease:
            assert (events[1].mode, events[1].decision) == ("connect_intercept", "allow")
        else:
            assert [one.decision for one in events] == ["allow", "deny"]
        assert at.origin.connections == 0
