"""The transparent network: programs that know of no proxy, on real loopback sockets.

No namespace is needed: the listeners are on loopback, and where a connection was meant to go is
told by the test instead of the kernel.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
import trio
from hellos import ECH, hello, message, openssl_hello, record, records, server_name
from msgspec import UNSET
from origin import Origin, serving, tls_context
from running_proxy import BOUND, QUICK, TOKEN, Wire, until
from test_dns import query, wire

from nono_trio.core.policy import Policy
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.limits import Limits
from nono_trio.proxy.server import Proxy
from nono_trio.proxy.transparent import Transparent, wanted_address
from nono_trio.testing import FailingRecorder, FakeResolver, LoopbackDialler, MemoryRecorder

REAL = "192.0.2.1"  # where allowed.test is, to the supervisor
LITERAL = "192.0.2.99"  # an address that was never handed out
RESOLVER = {"allowed.test": [[REAL]], "other.test": [[REAL]]}
ACCESS_DENIED, UNRECOGNIZED_NAME, DECODE_ERROR, INTERNAL_ERROR = 49, 112, 50, 80


def alert(code: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([code])


@dataclass
class Cage:
    """What a program in the cage sees, and what is behind it."""

    recorder: MemoryRecorder
    resolver: FakeResolver
    dialler: LoopbackDialler
    transparent: Transparent
    ports: dict[str, int] = field(default_factory=dict)
    wanted: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Where connections were meant to go, by their own port."""
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)

    def address(self, name: str) -> str:
        """The address that a program was given for a name; a literal is its own."""
        if name[0].isdigit() or ":" in name:
            return name
        found = self.transparent.names.addresses_of(name)
        assert found is not None
        return str(found[0])

    def open(self, target: str, port: int) -> trio.SocketStream:
        """A connection to a name or literal address.

        Not by trio's connect: a reset that comes at once would make it fail now and then.
        """
        sock = socket.create_connection(("127.0.0.1", self.ports[f"tcp4:{port}"]))
        self.wanted[sock.getsockname()[1]] = (self.address(target), port)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    @asynccontextmanager
    async def connection(self, target: str, port: int):
        async with self.open(target, port) as stream:
            yield Wire(stream)

    async def ask(self, target: str, request: bytes, port: int = 80):
        async with self.connection(target, port) as wire:
            await wire.send(request)
            return await wire.answer()

    async def answer(self, target: str, raw: bytes, port: int = 443) -> bytes | None:
        """All that comes back for `raw`; None for a reset."""
        async with self.connection(target, port) as wire:
            try:
                if raw:
                    await wire.send(raw)
                found = b""
                while more := await wire.receive():
                    found += more
            except trio.BrokenResourceError:
                return None
            return found

    async def events(self, count: int) -> list[tuple[object, ...]]:
        """All events in short, once there are `count`."""
        await until(lambda: len(self.recorder.events) >= count)
        return [(e.decision, e.target, e.port, e.method) for e in self.recorder.events]

    @property
    def reasons(self) -> list[str | None]:
        return [event.reason for event in self.recorder.events]


@asynccontextmanager
async def cage(
    *allow: str,
    origin: Origin | None = None,
    recorder: MemoryRecorder | None = None,
    resolver: FakeResolver | None = None,
    limits: Limits = QUICK,
):
    """A transparent network that serves until the block ends."""
    recorder, resolver = recorder or MemoryRecorder(), resolver or FakeResolver(RESOLVER)
    dialler = LoopbackDialler(None if origin is None else origin.port)
    policy = Policy.build(allow=list(allow or ["allowed.test", "allowed.test:22"]))
    proxy = Proxy(policy, recorder, TOKEN, resolver=resolver, dialler=dialler, limits=limits)
    transparent = Transparent(
        proxy,
        policy,
        recorder,
        own_names=["devbox"],
        wanted=lambda sock: found.wanted[sock.getpeername()[1]],
    )
    found = Cage(recorder, resolver, dialler, transparent)
    sockets = {
        f"tcp4:{port}": socket.create_server(("127.0.0.1", 0), backlog=512)
        for port in (80, 443, 22, 25)
    }
    sockets["dns-udp4"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sockets["dns-udp4"].bind(("127.0.0.1", 0))
    sockets["dns-tcp4"] = socket.create_server(("127.0.0.1", 0))
    untouched = sockets["proxy"] = socket.create_server(("127.0.0.1", 0))
    found.ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}

    async def host() -> None:
        async with trio.open_nursery() as handlers:
            with found.accepting:
                await transparent.serve(sockets, handlers)

    with untouched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            yield found
            nursery.cancel_scope.cancel()
        assert untouched.fileno() >= 0, "a socket that is none of ours was closed"


def get(host: str, path: str = "/small", *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def test_the_kernel_tells_where_a_connection_was_to_go():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as accepted:
            assert wanted_address(accepted) == ("127.0.0.1", port)


# --- tunnels by name


async def greets(stream: trio.SocketStream) -> None:
    await stream.send_all(b"hello ")
    async for data in stream:
        await stream.send_all(data)


async def test_a_tunnel_by_name_to_a_server_that_speaks_first():
    async with serving(greets) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 22) as wire:
            assert await wire.receive_exactly(6) == b"hello "
            await wire.send(b"abc")
            assert await wire.receive_exactly(3) == b"abc"
            await wire.end()
            assert await wire.ends()
        assert await at.events(1) == [("allow", "allowed.test", 22, "TCP")]
        assert (at.resolver.asked, at.dialler.dialled) == (["allowed.test"], [(REAL, 22)])
        await until(lambda: bool(at.recorder.flows))
        [flow] = at.recorder.flows
        assert (flow.sequence, flow.target, flow.port, flow.address) == (
            0,
            "allowed.test",
            22,
            REAL,
        )
        assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (3, 9, "client")


@pytest.mark.parametrize("port", [22, 25])
@pytest.mark.parametrize("target", ["evil.test", LITERAL])
async def test_a_denied_tunnel_is_recorded_with_its_port_and_reset(target, port):
    async with cage() as at:
        assert await at.answer(target, b"", port) is None
        assert await at.events(1) == [("deny", target, port, "TCP")]
        assert at.reasons == [f"{target}:{port} is not on the allowlist"]
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])


async def test_a_name_is_denied_on_the_ports_that_no_entry_names():
    async with cage() as at:
        assert await at.answer("allowed.test", b"", 25) is None
        assert await at.events(1) == [("deny", "allowed.test", 25, "TCP")]


async def test_a_literal_that_is_allowed_is_dialled_as_such():
    async with serving(greets) as origin, cage(f"{LITERAL}:22", origin=origin) as at:
        async with at.connection(LITERAL, 22) as wire:
            assert await wire.receive_exactly(6) == b"hello "
        assert at.dialler.dialled == [(LITERAL, 22)]


@pytest.mark.parametrize("literal", ["169.254.169.254", "fe80::1%eth0", "198.19.255.253"])
async def test_protected_and_private_literals_stay_closed(literal):
    async with cage() as at:
        assert await at.answer(literal, b"", 22) is None
        assert await at.events(1) == [("deny", literal.partition("%")[0], 22, "TCP")]


async def test_an_upstream_out_of_reach_is_a_second_event_and_a_reset():
    async with cage() as at:
        assert await at.answer("allowed.test", b"", 22) is None
        assert [event[0] for event in await at.events(2)] == ["allow", "deny"]
        assert at.recorder.events[1].denial_category == "upstream_connect_failed"


async def test_a_name_that_leads_to_a_bad_address_is_not_dialled():
    resolver = FakeResolver({"allowed.test": [["169.254.169.254"]]})
    async with cage(resolver=resolver) as at:
        assert await at.answer("allowed.test", b"", 22) is None
        assert [event[0] for event in await at.events(2)] == ["allow", "deny"]
        assert at.dialler.dialled == []


# --- TLS


async def reads_all(stream: trio.SocketStream) -> None:
    size = 0
    async for data in stream:
        size += len(data)
    await stream.send_all(b"%d" % size)


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
        (record(message()), "allowed.test", "the TLS hello names no host (no SNI)"),
        (hello("allowed.test", ECH), "allowed.test", "the TLS hello hides the host"),
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
        assert at.reasons == ["expected a TLS client hello, got something else"]


async def test_a_malformed_hello_is_a_decode_error():
    async with cage() as at:
        assert await at.answer("allowed.test", record(b"\2\0\0\0")) == alert(DECODE_ERROR)
        assert await at.events(1) == [("deny", "allowed.test", 443, "TLS")]


async def test_half_a_hello_is_refused_in_time():
    async with cage() as at:
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
    async with cage() as at:
        async with at.connection("allowed.test", 443) as wire:
            if ends:
                await wire.end()
            assert await wire.ends()
        assert at.recorder.events == []


@pytest.mark.parametrize("ends", [True, False])
async def test_nothing_at_all_on_a_denied_literal_is_a_denied_attempt(ends):
    async with cage() as at:
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
        (hello("allowed.test", ECH), LITERAL, ACCESS_DENIED),
        (hello(LITERAL), LITERAL, ACCESS_DENIED),
        (record(b"\2\0\0\0"), LITERAL, ACCESS_DENIED),
    ],
    ids=["denied", "none", "ech", "literal", "malformed"],
)
async def test_a_denied_literal_is_opened_by_the_name_of_an_allowed_host_only(raw, target, code):
    async with cage() as at:
        assert await at.answer(LITERAL, raw) == alert(code)
        assert await at.events(1) == [("deny", target, 443, "TLS")]


async def test_an_entry_for_an_address_expects_no_name():
    async with serving(reads_all) as origin, cage(LITERAL, origin=origin) as at:
        async with at.connection(LITERAL, 443) as wire:
            await wire.send(record(message()))
            await wire.end()
            await wire.receive()
        assert at.dialler.dialled == [(LITERAL, 443)]
        assert await at.answer(LITERAL, hello("evil.test")) == alert(ACCESS_DENIED)
        assert await at.answer(LITERAL, hello("x.test", ECH)) == alert(UNRECOGNIZED_NAME)
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


# --- plain HTTP


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


# --- record before act, limits, ends

ATTEMPTS = {
    "tunnel": ("allowed.test", 22, b""),
    "denied tunnel": ("evil.test", 22, b""),
    "tls": ("allowed.test", 443, hello("allowed.test")),
    "denied tls": ("evil.test", 443, hello("evil.test")),
    "fronting": ("allowed.test", 443, hello("evil.test")),
    "http": ("allowed.test", 80, get("allowed.test")),
    "denied http": ("evil.test", 80, get("evil.test")),
    "malformed": ("allowed.test", 80, b"\0"),
}


@pytest.mark.parametrize(("target", "port", "raw"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
async def test_nothing_happens_until_the_decision_is_recorded(target, port, raw):
    held, released = trio.Event(), trio.Event()

    async def hold(_event: object) -> None:
        held.set()
        await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = hold
    async with cage(recorder=recorder) as at, at.connection(target, port) as wire:
        if raw:
            await wire.send(raw)
        with trio.fail_after(BOUND):
            await held.wait()
        with trio.move_on_after(0.05) as waiting:
            await wire.stream.receive_some(1)
        assert waiting.cancelled_caught, "a byte or an end came before the decision was recorded"
        assert (at.resolver.asked, at.dialler.dialled) == ([], [])
        released.set()
        try:
            await wire.receive()
        except trio.BrokenResourceError:
            assert port == 22


@pytest.mark.parametrize(
    ("port", "raw", "answer"),
    [(22, b"", None), (443, hello("allowed.test"), alert(INTERNAL_ERROR)),
     (80, get("allowed.test"), b"HTTP/1.1 503")],
)  # fmt: skip
async def test_a_busy_log_does_nothing(port, raw, answer):
    async with cage(recorder=FailingRecorder(error=AuditBusy("full"))) as at:
        found = await at.answer("allowed.test", raw, port)
        assert found == answer or (found is not None and answer and found.startswith(answer))
        assert at.resolver.asked == []


@pytest.mark.parametrize(("target", "port", "raw"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
async def test_a_sealed_log_cuts_the_connection(target, port, raw):
    async with cage(recorder=FailingRecorder(error=SessionSealed("over"))) as at:
        assert not await at.answer(target, raw, port)
        assert at.resolver.asked == []


async def test_a_lost_log_stops_everything():
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with cage(recorder=FailingRecorder(error=AuditLost("gone"))) as at:
            assert not await at.answer("allowed.test", b"", 22)
            await trio.sleep(BOUND)


async def test_a_full_proxy_says_so_to_each_in_its_own_way():
    limits = Limits(connections=0, refusals=4, head=0.3, linger=0.3, sweep=0.02)
    async with cage(limits=limits) as at:
        assert await at.answer("allowed.test", b"", 22) is None
        raw = hello("allowed.test")
        assert await at.answer("allowed.test", raw) == alert(INTERNAL_ERROR)
        answer = await at.ask("allowed.test", get("allowed.test"))
        assert answer is not None
        assert answer.status == 503
        assert [event[0] for event in await at.events(3)] == ["deny"] * 3


async def test_several_listeners_wait_for_room_and_all_of_them_get_it():
    limits = Limits(connections=1, refusals=0, head=5, linger=0.3, sweep=0.02)
    async with serving(greets) as origin, cage(origin=origin, limits=limits) as at:
        answers: list[int] = []

        async def use(port: int) -> None:
            async with at.open("evil.test", port) as stream:
                with suppress(trio.BrokenResourceError), trio.fail_after(BOUND):
                    while await stream.receive_some():
                        pass
            answers.append(port)

        async with at.connection("allowed.test", 22) as first, trio.open_nursery() as nursery:
            await first.receive_exactly(6)
            for port in (443, 22, 25):
                nursery.start_soon(use, port)
            await trio.sleep(0.1)
            assert answers == []
            await first.stream.aclose()
        assert sorted(answers) == [22, 25, 443]
        assert len(at.recorder.events) == 4


async def test_idle_connections_end_when_accepting_does_and_tunnels_go_on():
    async with (
        serving(greets) as origin,
        cage(origin=origin, limits=replace(QUICK, keep_alive=60)) as at,
        at.connection("allowed.test", 22) as tunnel,
        at.connection("evil.test", 80) as idle,
    ):
        await tunnel.receive_exactly(6)
        assert await idle.exchange(get("evil.test")) is not None
        at.accepting.cancel()
        assert await idle.ends()
        await tunnel.send(b"still")
        assert await tunnel.receive_exactly(5) == b"still"


async def test_a_name_that_was_asked_for_leads_to_its_own_tunnel_and_the_end_tells_the_rest():
    async with serving(greets) as origin, cage(origin=origin) as at:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", at.ports["dns-udp4"]))
            for name in (b"evil", b"evil", b"allowed"):
                await client.send(query(wire(name, b"test")))
                with trio.fail_after(BOUND):
                    reply = await client.recv(600)
        async with at.connection(socket.inet_ntoa(reply[-4:]), 22) as tunnel:
            assert await tunnel.receive_exactly(6) == b"hello "
        assert await at.events(2) == [
            ("deny", "evil.test", 53, "DNS"),
            ("allow", "allowed.test", 22, "TCP"),
        ]
        at.accepting.cancel()
        assert (await at.events(3))[2] == ("deny", "nono-trio:dns", 53, "DNS")
