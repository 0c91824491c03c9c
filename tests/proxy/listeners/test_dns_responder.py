"""The name service: what is answered, what is recorded, and in which order."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
import trio
from dns_messages import code, header, query, wire
from held_credentials import OTHER_STAND_IN, credentials, foreign
from running_proxy import BOUND

from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import LOOK_UPS_TARGET
from nono_trio.core.net import dns
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.core.net.fake_ip import FakeAddresses
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.outcome import is_counted
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.denial_throttle import (
    MAX_NAMES,
    MAX_RECORDS_A_SECOND,
    WINDOW,
    DenialWindow,
)
from nono_trio.proxy.listeners.dns_responder import NameService
from nono_trio.proxy.listeners.dns_server import MAX_CONNECTIONS, serve_connections, serve_datagrams
from nono_trio.testing import FailingRecorder, MemoryRecorder

TXT, HTTPS = 16, 65


class Service:
    """A name service and what is behind it."""

    def __init__(
        self, *allow: str, deny: tuple[str, ...] = (), limit: int = 100, recorder=None, held=None
    ):
        self.names = FakeAddresses(limit)
        self.recorder = recorder or MemoryRecorder()
        policy = Policy.build(allow=list(allow), deny=list(deny))
        self.service = NameService(
            self.names,
            policy,
            self.recorder,
            own_names={"devbox": [IPv4Address("127.0.0.1")]},
            clock_ms=lambda: 1,
            credentials=held,
        )

    async def ask(self, name: str, kind: int = dns.A) -> bytes:
        labels = [label.encode() for label in name.split(".")] if name else []
        reply = await self.service.reply(query(wire(*labels), kind))
        assert reply is not None
        return reply

    async def address(self, name: str, kind: int = dns.A) -> object:
        """Return the one address in the answer, None without one."""
        reply = await self.ask(name, kind)
        assert code(reply) == dns.NO_ERROR
        return (
            ip_address(reply[-4:] if kind == dns.A else reply[-16:]) if header(reply)[3] else None
        )

    @property
    def events(self) -> list[tuple[str, str | None]]:
        return [(event.target, event.reason) for event in self.recorder.events]

    @property
    def left(self) -> list[str | None]:
        return [one.event.reason for one in self.recorder.left if isinstance(one, Network)]


def asked(server: str) -> Endpoints:
    return Endpoints("udp", "192.0.2.200", 5353, server, 53)


async def test_an_allowed_name_has_addresses_that_stand_for_it_and_no_event():
    at = Service("Example.com:22")
    ipv4, ipv6 = await at.address("eXample.com"), await at.address("example.COM", dns.AAAA)
    assert (ipv4, ipv6) == at.names.addresses_of("example.com")
    assert at.names.name_of(ipv4) == "example.com"
    assert at.events == []


@pytest.mark.parametrize(
    ("allow", "deny", "recorded"),
    [
        (["a.test:*"], [], False),
        (["a.test:8443"], [], False),
        (["*.test"], [], False),
        (["*.a.test", "b.test"], [], True),
        (["a.test"], ["a.test"], True),
        (["a.test:*"], ["a.test:443"], False),
    ],
)
async def test_a_query_is_an_event_if_no_port_is_allowed(allow, deny, recorded):
    at = Service(*allow, deny=tuple(deny))
    await at.ask("a.test")
    assert bool(at.events) == recorded


async def test_a_denied_name_gets_addresses_like_any_other_and_one_event():
    at = Service("allowed.test")
    address = await at.address("evil.test")
    assert at.names.name_of(address) == "evil.test"
    assert await at.address("evil.test", dns.AAAA) == IPv6Address("fd6e:6f6e:6f2d::1")
    [event] = at.recorder.events
    assert (event.mode, event.decision, event.target) == ("connect", "deny", "evil.test")
    assert (event.port, event.method, event.denial_category) == (53, "DNS", "host_denied")
    assert event.reason == "the name is not allowed on any port"


async def test_other_types_are_empty_and_take_no_place_in_the_table():
    at = Service("allowed.test")
    for kind in (TXT, HTTPS, 2, 6, 15, 33, 255):
        for name in ("allowed.test", "evil.test"):
            assert await at.address(name, kind) is None
    assert len(at.names) == 0
    assert [target for target, _ in at.events] == ["evil.test"]


@pytest.mark.parametrize(
    "name",
    ["_21780._https.web.test", "_443._tcp.WEB.test", "_dmarc.web.test", "_8000._https.a.localhost",
     "_22._ssh.devbox"],
)  # fmt: skip
async def test_a_service_of_an_allowed_host_is_no_stray(name):
    """Chromium asks for it beside the host's addresses (RFC 9460)."""
    at = Service("web.test:21780")
    for kind in (HTTPS, TXT, 33):
        assert await at.address(name, kind) is None
    assert at.events == []
    assert len(at.names) == 0


@pytest.mark.parametrize(
    "name",
    ["_443._https.evil.test", "_a._b._c.web.test", "a.web.test", f"_{'x' * 16}.web.test",
     "_443._https.192.0.2.1", "_443._https", "_-a.web.test", "_443._https.denied.test"],
)  # fmt: skip
async def test_what_only_looks_like_a_service_of_an_allowed_host_is_an_event(name):
    at = Service("web.test", "denied.test", deny=("denied.test",))
    await at.ask(name, HTTPS)
    assert [target for target, _ in at.events] == [name]


async def test_an_address_of_a_service_is_a_hosts_and_an_event():
    at = Service("web.test")
    await at.address("_443._https.web.test")
    await at.address("_444._https.web.test", dns.AAAA)
    assert [target for target, _ in at.events] == ["_443._https.web.test", "_444._https.web.test"]


async def test_the_address_leads_back_to_the_name():
    at = Service("allowed.test")
    for kind in (dns.A, dns.AAAA):
        address = await at.address("allowed.test", kind)
        assert isinstance(address, IPv4Address | IPv6Address)
        reply = await at.ask(address.reverse_pointer, dns.PTR)
        assert reply.endswith(b"\x07allowed\x04test\0")
    assert (await at.ask("1.0.0.127.in-addr.arpa", dns.PTR)).endswith(b"\x09localhost\0")
    assert code(await at.ask("1.2.0.192.in-addr.arpa", dns.PTR)) == dns.NO_SUCH_NAME
    assert at.events == []


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "a.b.localhost"])
async def test_localhost_is_the_cage_itself(name):
    at = Service()
    assert await at.address(name) == IPv4Address("127.0.0.1")
    assert await at.address(name, dns.AAAA) == IPv6Address("::1")
    assert await at.address(name, TXT) is None
    assert at.events == []


async def test_the_machines_own_name_is_the_cage_itself():
    at = Service()
    assert await at.address("devbox") == IPv4Address("127.0.0.1")
    assert await at.address("DEVBOX", dns.AAAA) is None
    assert at.events == []


async def test_the_root_is_empty():
    at = Service()
    assert await at.address("", 2) is None
    assert await at.address("") is None
    assert at.events == []


@pytest.mark.parametrize(
    "name",
    ["a b.test", "-.test", "192.0.2.1", "0x7f000001", "a\n.test", "*.a.test", "x" * 62 + "!"],
)
async def test_a_name_that_no_host_has_does_not_exist_and_is_an_event(name):
    at = Service("*.test")
    assert code(await at.ask(name)) == dns.NO_SUCH_NAME
    [(target, reason)] = at.events
    assert target.isprintable()
    assert reason == "the name is not one that a host can have"
    assert len(at.names) == 0


async def test_a_full_table_is_a_server_failure_for_new_names():
    at = Service("*.test", limit=1)
    first = await at.address("a.test")
    assert code(await at.ask("b.test")) == dns.SERVER_FAILURE
    assert await at.address("a.test") == first


async def test_a_message_that_is_no_query_is_an_event_of_its_server():
    at = Service("allowed.test")
    assert await at.service.reply(b"exfil", asked("192.0.2.1")) is None
    assert await at.service.reply(b"exfil", asked("192.0.2.1")) is None
    reply = await at.service.reply(query() + b"\0", asked("192.0.2.2"))
    assert reply is not None
    assert code(reply) == dns.FORMAT_ERROR
    no_query = "expected a DNS query, got something else: "
    assert at.events == [
        ("192.0.2.1", f"{no_query}the message has no whole header"),
        ("192.0.2.2", f"{no_query}there are bytes behind the question"),
    ]


async def test_a_name_in_another_class_is_an_event_of_its_name():
    at = Service("allowed.test")
    hesiod = query(wire(b"secret", b"evil", b"test"))[:-1] + b"\4"
    reply = await at.service.reply(hesiod, asked("192.0.2.1"))
    assert reply is not None
    assert code(reply) == dns.REFUSED
    assert [target for target, _ in at.events] == ["secret.evil.test"]


async def test_lost_queries_are_told_at_the_end():
    at = Service()
    at.service.lost = 7
    await at.service.record_suppressed()
    assert at.events == [(LOOK_UPS_TARGET, "7 queries came too fast to be read")]


async def test_repeated_queries_are_counted_in_the_next_record(autojump_clock):
    at = Service()
    for _ in range(5):
        await at.ask("evil.test")
    assert len(at.events) == 1
    await trio.sleep(WINDOW)
    await at.ask("evil.test")
    await at.ask("evil.test")
    assert at.events[1][1] == ("the name is not allowed on any port; 4 more since the last record")
    await at.service.record_suppressed()
    assert at.events[2:] == [(LOOK_UPS_TARGET, "1 more queries for denied names")]


async def test_a_flood_of_names_is_counted_and_told_at_the_end(autojump_clock):
    at = Service(limit=MAX_NAMES * 2)
    for number in range(MAX_NAMES + 500):
        await at.ask(f"{number}.evil.test")
    assert len(at.events) == MAX_RECORDS_A_SECOND
    await at.service.record_suppressed()
    count = MAX_NAMES + 500 - MAX_RECORDS_A_SECOND
    assert at.left == [f"{count} more denied attempts without a record of their own"]


async def test_nothing_untold_is_no_record():
    at = Service("allowed.test")
    await at.ask("allowed.test")
    await at.ask("evil.test")
    await at.service.record_suppressed()
    assert len(at.events) == 1


async def test_an_answer_waits_for_its_record_and_so_does_one_that_is_only_counted():
    at = Service("allowed.test")
    held, released = trio.Event(), trio.Event()
    answered: list[str] = []

    async def hold(_event: object) -> None:
        held.set()
        await released.wait()

    async def ask(name: str) -> None:
        await at.ask(name)
        answered.append(name)

    at.recorder.before_commit = hold
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "evil.test")
            await held.wait()
            nursery.start_soon(ask, "evil.test")
            nursery.start_soon(ask, "allowed.test")
            await trio.testing.wait_all_tasks_blocked()
            assert answered == ["allowed.test"]
            released.set()
    assert answered[1:] == ["evil.test", "evil.test"]
    assert len(at.events) == 1


async def test_a_busy_log_is_a_server_failure_and_not_forgotten():
    at = Service()

    async def full(_event):
        raise AuditBusy("full")

    ready, at.recorder.before_commit = at.recorder.before_commit, full
    for _ in range(2):
        assert code(await at.ask("evil.test")) == dns.SERVER_FAILURE
    assert len(at.names) == 0
    at.recorder.before_commit = ready
    await at.service.record_suppressed()
    assert at.events == [("nono-trio:dns", "1 more queries for denied names")]
    assert at.left == ["1 more denied attempts without a record of their own"]


async def test_what_a_busy_log_refused_is_recorded_as_soon_as_it_can_be():
    """Not counted behind a record that was never written."""
    at = Service()

    async def full(_event):
        raise AuditBusy("full")

    ready, at.recorder.before_commit = at.recorder.before_commit, full
    for _ in range(2):
        assert code(await at.ask("evil.test")) == dns.SERVER_FAILURE
    at.recorder.before_commit = ready
    await at.ask("evil.test")
    assert at.events == [
        ("evil.test", "the name is not allowed on any port; 2 more since the last record")
    ]
    await at.service.record_suppressed()
    assert len(at.events) == 1


@pytest.mark.parametrize("error", [AuditLost("gone"), SessionSealed("over")])
async def test_a_lost_or_sealed_log_answers_nothing(error):
    at = Service(recorder=FailingRecorder(error=error))
    with pytest.raises(type(error)):
        await at.ask("evil.test")
    await at.service.record_suppressed()  # must not raise on the way out


async def test_a_bug_costs_one_answer(caplog):
    at = Service(recorder=FailingRecorder(error=ZeroDivisionError()))
    assert await at.service.reply(query(wire(b"evil"))) is None
    assert "ZeroDivisionError" in caplog.text


def test_names_that_were_dropped_keep_their_counts():
    denied = DenialWindow()
    now, claimed, asked = 0.0, 0, 3 * MAX_NAMES
    for number in range(asked):
        now += 0.01
        name = str(number % (2 * MAX_NAMES))
        claimed += denied.claim(name, now, lambda: True) is not None
    counts = denied.suppressed
    assert counts.unrecorded + counts.repeats == asked - claimed
    assert claimed > MAX_RECORDS_A_SECOND


@asynccontextmanager
async def datagrams(at: Service, family: int, address: str):
    """The service on a UDP socket; yields its port."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_datagrams, sock, at.service)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()


# 0.0.0.0 stands for every loopback address here: none of them may be another one's answer
@pytest.mark.parametrize(
    ("family", "bound", "server"),
    [
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.8.8.8"),
        (socket.AF_INET6, "::", "::1"),
    ],
)
async def test_a_datagram_is_answered_from_the_address_it_was_sent_to(family, bound, server):
    at = Service("allowed.test")
    async with datagrams(at, family, bound) as port:
        client = trio.socket.socket(family, socket.SOCK_DGRAM)
        with client:
            await client.connect((server, port))  # takes nothing from any other address
            for message in (b"", b"\0", query(flags=0x8000), query(wire(b"allowed", b"test"))):
                await client.send(message)
            with trio.fail_after(BOUND):
                reply = await client.recv(600)
            assert reply[-4:] == IPv4Address("198.18.0.1").packed


async def test_a_query_that_waits_for_its_record_holds_up_no_other():
    """Neither an allowed name nor another denied one."""
    at = Service("allowed.test")
    released = trio.Event()

    async def slow(event):
        if event.target.startswith("slow"):
            await released.wait()

    at.recorder.before_commit = slow
    async with datagrams(at, socket.AF_INET, "127.0.0.1") as port:
        client = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            await client.connect(("127.0.0.1", port))
            answered = []
            for name in (b"slow-1", b"slow-2", b"slow-2", b"quick", b"allowed", b"quick"):
                await client.send(query(wire(name, b"test")))
            with trio.fail_after(BOUND):
                answered += [question(await client.recv(600)) for _ in range(3)]
                assert sorted(answered) == ["allowed.test", "quick.test", "quick.test"]
                assert [target for target, _ in at.events] == ["quick.test"]
                released.set()
                answered = [question(await client.recv(600)) for _ in range(3)]
            assert sorted(answered) == ["slow-1.test", "slow-2.test", "slow-2.test"]
    assert sorted(target for target, _ in at.events) == ["quick.test", "slow-1.test", "slow-2.test"]


def question(reply: bytes) -> str:
    """The name that a reply is about."""
    labels, place = [], 12
    while size := reply[place]:
        labels.append(reply[place + 1 : place + 1 + size].decode())
        place += 1 + size
    return ".".join(labels)


async def test_an_oversized_datagram_is_a_format_error_and_the_next_one_is_fine():
    at = Service("allowed.test")
    async with datagrams(at, socket.AF_INET, "127.0.0.1") as port:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", port))
            await client.send(query() + bytes(60_000))
            with trio.fail_after(BOUND):
                assert code(await client.recv(600)) == dns.FORMAT_ERROR
            await client.send(query())
            with trio.fail_after(BOUND):
                assert code(await client.recv(600)) == dns.NO_ERROR


@asynccontextmanager
async def connections(at: Service):
    """The service on a TCP socket; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connections, listener, at.service)
        yield listener.getsockname()[1]
        nursery.cancel_scope.cancel()


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


async def receive(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(BOUND):
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.receive_some()
            assert more, "the connection ended"
            data += more
    return data[2:]


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0\x10half", b"\xff\xff"])
async def test_a_connection_without_a_query_is_an_event(raw):
    at = Service()
    async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(raw)
        await stream.send_eof()
        with trio.fail_after(BOUND):
            assert await stream.receive_some() == b""
    assert [target for target, _ in at.events] == ["127.0.0.1"]


@pytest.mark.parametrize("raw", [b"\0", b"\0\0", b"\0\x10half", b"\xff\xffrubbish"])
async def test_rubbish_behind_a_query_is_an_event(raw):
    """Before: one allowed query, and nothing else on its connection was seen."""
    at = Service("allowed.test")
    async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(framed(query(wire(b"allowed", b"test"))))
        await receive(stream)
        assert at.events == []
        with trio.fail_after(BOUND), suppress(trio.BrokenResourceError):
            await stream.send_all(raw)
            await stream.send_eof()
            assert await stream.receive_some() == b""
    assert [target for target, _ in at.events] == ["127.0.0.1"]


async def test_a_connection_that_only_carried_queries_is_no_event():
    at = Service("allowed.test")
    async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(framed(query(wire(b"allowed", b"test"))))
        await receive(stream)
        await stream.send_eof()
        with trio.fail_after(BOUND):
            assert await stream.receive_some() == b""
    assert at.events == []


async def test_what_has_arrived_before_the_end_is_an_event():
    at = Service()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        client.sendto(query(wire(b"first", b"test")), server.getsockname())
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(framed(query(wire(b"second", b"test"))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_datagrams, server, at.service)
            nursery.start_soon(serve_connections, listener, at.service)
            nursery.cancel_scope.cancel()
    assert sorted(target for target, _ in at.events) == ["first.test", "second.test"]


async def test_a_connection_carries_several_messages_in_any_pieces():
    at = Service("allowed.test")
    async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        message = framed(query(wire(b"allowed", b"test")))
        await stream.send_all(message)
        first = await receive(stream)
        for octet in message:
            await stream.send_all(bytes([octet]))
        assert await receive(stream) == first
        assert first[-4:] == IPv4Address("198.18.0.1").packed


@pytest.mark.parametrize("raw", [b"\0\0", b"\xff\xff", framed(b"\0"), framed(query(flags=0x8000))])
async def test_a_message_that_gets_no_answer_ends_its_connection(raw):
    at = Service()
    async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(raw)
        with trio.fail_after(BOUND):
            assert await stream.receive_some() == b""


async def test_connections_are_bounded_and_their_places_come_back():
    at = Service()
    async with connections(at) as port:
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with trio.fail_after(BOUND):
                assert await stream.receive_some() == b""
        assert [target for target, _ in at.events] == ["127.0.0.1"]
        for stream in held:
            await stream.aclose()
        with trio.fail_after(BOUND):
            while True:
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    try:
                        await stream.send_all(framed(query()))
                        if await stream.receive_some():
                            break
                    except trio.BrokenResourceError:
                        pass


async def test_a_lost_log_ends_the_sockets():
    at = Service(recorder=FailingRecorder(error=AuditLost("gone")))
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with connections(at) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(framed(query()))
            await trio.sleep(BOUND)


@pytest.mark.parametrize("allow", [(), ("*.evil.test",)])
async def test_a_name_with_a_stand_in_does_not_exist_and_its_record_does_not_show_it(allow):
    at = Service(*allow, held=credentials(foreign()))
    text = OTHER_STAND_IN.hex()
    for name in (f"{OTHER_STAND_IN.decode()}.evil.test", f"a.{text[:50]}.{text[50:]}.x.evil.test"):
        assert code(await at.ask(name)) == dns.NO_SUCH_NAME
        assert code(await at.ask(name)) == dns.NO_SUCH_NAME
    reason = "exfiltration detected: the host name has the stand-in of credential git"
    assert at.events == [("[REDACTED].evil.test", reason)]
    assert is_counted(at.recorder.events[0])
    assert code(await at.ask("plain.evil.test")) == dns.NO_ERROR
    passing = Service(held=credentials(foreign(elsewhere="audit")))
    await passing.ask(f"{OTHER_STAND_IN.decode()}.evil.test")
    assert passing.events == [("[REDACTED].evil.test", "the name is not allowed on any port")]
