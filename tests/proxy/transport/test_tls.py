"""TLS as a transport: any fragmentation, ends and cuts, hostile peers, full sockets."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from origin import tls_context
from running_proxy import BOUND, until

from nono_trio.proxy.transport import tls, tls_feed
from nono_trio.proxy.transport.epoll import Readiness
from nono_trio.proxy.transport.relay import Relay, RelayBuffer
from nono_trio.proxy.transport.tls import TlsTransport
from nono_trio.proxy.transport.tls_records import BATCH, RecordBatches
from nono_trio.proxy.transport.transport import SideFailed, TcpTransport, reset
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
versions = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A server's context, and a client's that trusts it."""
    server, trust = tls_context(tmp_path_factory.mktemp("tls"))
    server.options |= ssl.OP_NO_RENEGOTIATION
    return server, ssl.create_default_context(cafile=str(trust))


@dataclass
class Ends:
    """A TLS transport, and a peer whose every byte the test sends."""

    ours: TlsTransport
    wire: socket.socket
    waker: Waker
    peer: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    piece: int = 1 << 20
    """The peer's ciphertext is sent in pieces of so many bytes."""
    taken: int = 0

    async def pause(self) -> None:
        with trio.fail_after(BOUND):
            await self.waker.sleep()

    async def say(self) -> None:
        """Send what the peer has to say, piece by piece, and let our task run between them."""
        data = self.outgoing.read()
        while data:
            with suppress(BlockingIOError):
                data = data[self.wire.send(data[: self.piece]) :]
            await trio.lowlevel.checkpoint()

    def hear(self) -> None:
        with suppress(BlockingIOError):
            while data := self.wire.recv(1 << 20):
                self.taken += len(data)
                self.incoming.write(data)

    async def peer_handshake(self) -> None:
        while True:
            try:
                self.peer.do_handshake()
            except ssl.SSLWantReadError:
                await self.say()
                self.hear()
                await trio.lowlevel.checkpoint()
            else:
                await self.say()
                return

    async def handshake(self) -> None:
        while not self.ours.try_handshake():
            await self.pause()

    async def shake_hands(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.peer_handshake)
            nursery.start_soon(self.handshake)

    async def receive(self, most: int = 1 << 20) -> bytes:
        while (data := self.ours.try_receive(most)) is None:
            await self.pause()
        return data

    async def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await self.receive()
            assert more
            data += more
        return data

    def read_peer(self) -> bytes:
        """All plaintext that has reached the peer."""
        self.hear()
        data = b""
        with suppress(ssl.SSLWantReadError):
            while more := self.peer.read(1 << 20):
                data += more
        return data


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A unix socket holds too few small pieces."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    for sock in (near, wire):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, wire


@asynccontextmanager
async def ends(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *,
    client: bool = False,
    client_context: ssl.SSLContext | None = None,
    name: str = "localhost",
    transport: type[TcpTransport] = TcpTransport,
) -> AsyncIterator[Ends]:
    """`client`: our end is the client's. `transport`: what our end's TLS goes through."""
    server_context, trusting = contexts
    theirs = client_context or trusting
    near, wire = tcp_pair()
    readiness, waker = Readiness(), Waker()
    below = transport(near, "upstream" if client else "client", waker, readiness)
    below.register()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context.maximum_version = version
    if client:
        ours = TlsTransport(below, theirs, server_name=name)
        peer = server_context.wrap_bio(incoming, outgoing, server_side=True)
    else:
        ours = TlsTransport(below, server_context)
        peer = theirs.wrap_bio(incoming, outgoing, server_hostname=name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.dispatch)
        with near, wire:
            yield Ends(ours, wire, waker, peer, incoming, outgoing)
            ours.close()
        nursery.cancel_scope.cancel()
    readiness.close()


@versions
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
async def test_bytes_arrive_however_the_records_are_cut(contexts, version, client, piece):
    async with ends(contexts, version, client=client) as two:
        two.piece = piece
        await two.shake_hands()
        sent = bytes(range(256)) * 2
        two.peer.write(sent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.say)
            assert await two.receive_exactly(len(sent)) == sent
        assert two.ours.try_receive() is None
        assert not two.ours.readable
        assert two.ours.try_send(sent) == len(sent)
        assert two.read_peer() == sent


@versions
async def test_a_large_body_is_returned_in_large_pieces(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.peer.write(bytes(16_000))
        two.peer.write(bytes(16_000))
        two.wire.sendall(two.outgoing.read())
        assert len(await two.receive()) == 32_000
        space = memoryview(bytearray(10))
        two.peer.write(b"0123456789abc")
        two.wire.sendall(two.outgoing.read())
        await until(lambda: two.ours.readable)
        assert (two.ours.try_receive_into(space, 10), bytes(space)) == (10, b"0123456789")
        assert two.ours.readable
        assert (two.ours.try_receive_into(space, 10), bytes(space[:3])) == (3, b"abc")


@versions
async def test_both_directions_end_with_close_notify_one_by_one(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.read_peer()
        for data in (b"a" * 100, b"b" * 100):
            two.peer.write(data)
        two.wire.sendall(two.outgoing.read())
        assert await two.receive(50) == b"a" * 50
        two.ours.shutdown()
        two.hear()
        assert two.peer.read(10) == b"", "our direction has ended"
        assert await two.receive_exactly(150) == b"a" * 50 + b"b" * 100
        two.peer.write(b"more")
        await two.say()
        assert await two.receive() == b"more"
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            two.peer.unwrap()
        await two.say()
        assert [await two.receive(), two.ours.try_receive()] == [b"", b""]


class Full(TcpTransport):
    """Takes no byte until it is opened."""

    is_open = False

    def try_send(self, data: bytes | memoryview) -> int:
        if Full.is_open:
            return super().try_send(data)
        self.want_write()
        return 0


@asynccontextmanager
async def relaying(contexts, version, transport=TcpTransport):
    """Ends of TLS after their handshake, a client without TLS, and the relay between them."""
    async with ends(contexts, version, transport=transport) as two:
        await two.shake_hands()
        two.read_peer()
        near, client = tcp_pair()
        source = TcpTransport(near, "client", two.waker, Readiness())
        with near, client:
            yield two, client, Relay(source, two.ours, RelayBuffer())


@versions
async def test_a_relays_end_that_does_not_fit_goes_out_when_the_socket_takes_bytes(
    contexts, version, monkeypatch
):
    """The other direction has nothing to move meanwhile."""
    monkeypatch.setattr(Full, "is_open", True)
    async with relaying(contexts, version, transport=Full) as (two, client, relay):

        async def rest(move: Callable[[], bool]) -> None:
            assert relay.up.done
            taken = two.taken
            two.hear()
            assert two.taken == taken
            monkeypatch.setattr(Full, "is_open", True)
            while move():
                two.hear()
                with suppress(ssl.SSLError):
                    assert two.peer.read(1) == b"", "the end"
                    two.peer.unwrap()
                await two.say()
                await trio.sleep(0.001)

        monkeypatch.setattr(Full, "is_open", False)
        with trio.fail_after(BOUND):
            client.shutdown(socket.SHUT_WR)
            await relay.run(rest)
        assert relay.closed_by == "client"


@versions
async def test_the_second_end_that_does_not_fit_goes_out_before_the_close(
    contexts, version, monkeypatch
):
    monkeypatch.setattr(Full, "is_open", True)
    async with relaying(contexts, version, transport=Full) as (two, client, relay):
        rested = False

        async def rest(move: Callable[[], bool]) -> None:
            nonlocal rested
            rested = relay.up.done and relay.down.done
            two.hear()
            with pytest.raises(ssl.SSLWantReadError):
                two.peer.unwrap()
            monkeypatch.setattr(Full, "is_open", True)
            while move():
                two.hear()
                await trio.sleep(0.001)

        with suppress(ssl.SSLWantReadError):
            two.peer.unwrap()
        two.wire.sendall(two.outgoing.read())
        await until(lambda: two.ours.readable)
        monkeypatch.setattr(Full, "is_open", False)
        with trio.fail_after(BOUND):
            client.shutdown(socket.SHUT_WR)
            await relay.run(rest)
        assert rested
        two.hear()
        two.peer.unwrap()  # raises without close_notify
        assert relay.closed_by == "client"


@versions
@pytest.mark.parametrize("is_cut", [True, False])
async def test_what_was_cut_off_is_cut_off_for_the_other_side(contexts, version, is_cut):
    async with relaying(contexts, version) as (two, client, relay):

        async def rest(move: Callable[[], bool]) -> None:
            while move():
                two.hear()
                with suppress(ssl.SSLWantReadError):
                    if not two.peer.read(10):
                        two.peer.unwrap()
                        await two.say()
                await trio.sleep(0.001)

        client.sendall(b"half")
        if is_cut:
            reset(client)
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        with trio.fail_after(BOUND):
            await relay.run(rest)
        relay.release()
        two.ours.close()
        two.hear()
        with pytest.raises(ssl.SSLWantReadError) if is_cut else suppress(ssl.SSLZeroReturnError):
            while two.peer.read(10):
                pass


@versions
async def test_the_peers_end_leaves_our_direction_open(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.read_peer()
        with suppress(ssl.SSLWantReadError):
            two.peer.unwrap()
        two.wire.sendall(two.outgoing.read())
        assert await two.receive() == b""
        assert two.ours.ending
        assert two.ours.try_send(b"answer") == 6
        two.hear()
        assert two.peer.read(10) == b"answer"


@versions
@pytest.mark.parametrize("is_cut", [False, True])
async def test_an_end_that_comes_with_the_last_bytes_needs_no_report_of_its_own(
    contexts, version, is_cut
):
    """Callers that look at `readable` first would wait for ever."""
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.read_peer()
        two.peer.write(b"last")
        if is_cut:
            two.outgoing.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        else:
            with suppress(ssl.SSLWantReadError):
                two.peer.unwrap()
        two.wire.sendall(two.outgoing.read())
        assert await two.receive() == b"last"
        assert two.ours.readable
        if is_cut:
            with pytest.raises(SideFailed):
                two.ours.try_receive()
        else:
            assert two.ours.try_receive() == b""


@versions
async def test_an_end_without_close_notify_is_a_cut(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.peer.write(b"half")
        two.wire.sendall(two.outgoing.read())
        two.wire.shutdown(socket.SHUT_WR)
        assert await two.receive() == b"half"
        for _ in range(2):
            with pytest.raises(SideFailed) as raised:
                await two.receive()
            assert raised.value.side == "client"
        assert not two.ours.is_silent()
        assert not two.ours.has_bytes()


@versions
async def test_bytes_that_are_no_record_break_the_connection_and_what_came_before_is_kept(
    contexts, version
):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.peer.write(b"good")
        two.wire.sendall(two.outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await two.receive() == b"good"
        for _ in range(2):
            with pytest.raises(SideFailed):
                await two.receive()


async def test_looking_takes_nothing(contexts):
    async with ends(contexts, client=True) as two:
        await two.shake_hands()
        await two.say()  # the session tickets, which are no bytes for us
        await until(two.ours.is_silent)
        assert not two.ours.has_bytes()
        two.peer.write(b"hello")
        await two.say()
        assert not two.ours.is_silent(), "also before it is reported"
        await until(two.ours.has_bytes)
        assert not two.ours.is_silent()
        assert two.ours.readable
        assert await two.receive(2) == b"he"
        assert await two.receive() == b"llo"
        assert two.ours.is_silent()


async def test_a_full_socket_holds_one_piece_that_must_be_offered_again(contexts):
    async with ends(contexts) as two:
        await two.shake_hands()
        two.read_peer()
        sent, data = 0, bytes(range(256)) * 40_000
        while (count := two.ours.try_send(data[sent:])) > 0:
            sent += count
        assert two.ours.unsent <= tls.PIECE + 4 * 100
        with pytest.raises(AssertionError, match="other bytes"):
            two.ours.try_send(b"x" + data[sent:])
        got = b""
        with trio.fail_after(BOUND):
            while sent < len(data):
                got += two.read_peer()
                sent += two.ours.try_send(data[sent:])
                await trio.lowlevel.checkpoint()
            while len(got) < len(data):
                got += two.read_peer()
        assert got == data


@versions
async def test_the_last_bytes_go_with_close_notify(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.read_peer()
        two.ours.send_last(b"goodbye")
        two.ours.close()
        two.hear()
        assert two.peer.read(10) == b"goodbye"
        assert two.peer.read(10) == b""


@versions
async def test_a_reset_sends_no_close_notify(contexts, version):
    async with ends(contexts, version) as two:
        await two.shake_hands()
        two.read_peer()
        assert two.ours.try_send(b"half") == 4
        two.ours.reset()
        two.ours.close()
        with suppress(ConnectionResetError):
            two.hear()
        assert two.peer.read(10) == b"half"
        two.incoming.write_eof()
        with pytest.raises(ssl.SSLEOFError):
            two.peer.read(10)


# -- handshakes -----------------------------------------------------------------------------------


async def failure(two: Ends) -> OSError:
    """Let both ends shake hands; ours must fail."""
    found: list[OSError] = []

    async def peer() -> None:
        with suppress(OSError):
            try:
                await two.peer_handshake()
            except ssl.SSLError:
                await two.say()  # the alert

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        try:
            await two.handshake()
        except OSError as error:
            found.append(error)
        nursery.cancel_scope.cancel()
    return found[0]


@versions
async def test_a_client_that_does_not_trust_us_says_so(contexts, version):
    async with ends(contexts, version, client_context=ssl.create_default_context()) as two:
        error = await failure(two)
        assert isinstance(error, ssl.SSLError)
        assert error.reason == "TLSV1_ALERT_UNKNOWN_CA"


@versions
@pytest.mark.parametrize(("name", "trusts"), [("localhost", False), ("other.test", True)])
async def test_a_servers_certificate_is_checked(contexts, version, name, trusts):
    context = None if trusts else ssl.create_default_context()
    async with ends(contexts, version, client=True, client_context=context, name=name) as two:
        assert isinstance(await failure(two), ssl.SSLCertVerificationError)


async def test_a_handshake_that_ends_fails(contexts):
    async with ends(contexts) as two:
        two.wire.shutdown(socket.SHUT_RDWR)
        assert isinstance(await failure(two), ssl.SSLEOFError | SideFailed)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(99_999),
        b"\x15\x03\x01\x00\x02\x02\x30",
    ],
    ids=["http", "long", "alert"],
)
async def test_what_is_no_handshake_fails(contexts, raw):
    async with ends(contexts) as two:
        two.wire.send(raw)
        with pytest.raises(ssl.SSLError), trio.fail_after(BOUND):
            await two.handshake()
        two.ours.close()


async def test_a_handshake_of_too_many_bytes_fails(contexts, monkeypatch):
    monkeypatch.setattr(tls_feed, "MAX_BARE", 100)
    async with ends(contexts, client=True) as two:
        assert isinstance(await failure(two), SideFailed)  # the certificate alone has more


async def test_bytes_that_bring_no_plaintext_are_bounded(contexts, monkeypatch):
    async with ends(contexts, client=True) as two:
        await two.shake_hands()
        monkeypatch.setattr(tls_feed, "MAX_BARE", 100)  # two tickets have 500
        await two.say()
        two.peer.write(b"late")
        await two.say()
        with pytest.raises(SideFailed):
            await two.receive()


async def test_tickets_and_a_burst_of_short_records_are_all_taken(contexts):
    async with ends(contexts, client=True) as two:
        await two.shake_hands()
        await two.say()  # the server's two tickets
        assert two.ours.try_receive() is None
        sent = b"".join(b"%d," % number for number in range(4 * BATCH))
        for number in range(4 * BATCH):
            two.peer.write(b"%d," % number)  # a record each, as of a server that flushes its lines
        await two.say()
        got = b""
        while len(got) < len(sent):
            got += await two.receive()
        assert got == sent


def test_one_whole_record_is_a_batch_and_the_next_may_come_in_parts():
    batches, record = RecordBatches(), b"\x17\x03\x03\x00\x02ab"
    assert batches.take(record) == record
    assert (batches.has_batch, batches.records) == (False, 1)
    assert batches.take(record[:6]) == record[:6]
    assert batches.take(record[6:] + record) == record[6:] + record  # its length is in no header
    assert batches.records == 3


@given(st.lists(st.binary(max_size=40), max_size=200), st.lists(st.integers(1, 900), min_size=1))
def test_batches_are_all_the_bytes_and_end_with_records(bodies, sizes):
    sent = b"".join(b"\x17\x03\x03" + len(body).to_bytes(2, "big") + body for body in bodies)
    batches, got, at = RecordBatches(), [], 0
    for size in [*sizes, len(sent) + 1]:
        if at < len(sent):
            before = batches.records
            got.append(batches.take(sent[at : at + size]))
            assert batches.records - before <= BATCH
            at += size
        while batches.has_batch:
            before = batches.records
            got.append(batches.next())
            assert batches.records - before <= BATCH
    assert b"".join(got) + batches.rest() == sent
    assert batches.records == len(bodies)


class Forger:
    """Makes records of a TLS 1.3 client, which only its own library could make otherwise."""

    def __init__(self, keys: Path, cipher: str) -> None:
        self.hash = hashes.SHA384() if "SHA384" in cipher else hashes.SHA256()
        lines = (line.split() for line in keys.read_text().splitlines())
        [secret] = [one[2] for one in lines if one[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self.take(bytes.fromhex(secret))

    def take(self, secret: bytes) -> None:
        self.secret, self.sent = secret, 0
        self.key = AESGCM(self.expand(b"key", 32 if self.hash.name == "sha384" else 16))
        self.nonce = int.from_bytes(self.expand(b"iv", 12), "big")

    def expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self.hash, length, info).derive(self.secret)

    def record(self, kind: int, data: bytes) -> bytes:
        head = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        nonce = (self.nonce ^ self.sent).to_bytes(12, "big")
        self.sent += 1
        return head + self.key.encrypt(nonce, data + bytes([kind]), head)

    def new_keys(self) -> bytes:
        """A KeyUpdate that asks for the other side's too."""
        record = self.record(22, b"\x18\0\0\1\1")
        self.take(self.expand(b"traffic upd", self.hash.digest_size))
        return record


async def test_new_keys_without_end_neither_hold_the_loop_nor_fill_memory(contexts, tmp_path):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.keylog_filename = str(tmp_path / "keys")
    async with ends(contexts, client_context=context) as two:
        await two.shake_hands()
        cipher = two.peer.cipher()
        assert cipher is not None
        if "CHACHA" in cipher[0]:
            pytest.skip("this OpenSSL prefers ChaCha20")
        forger = Forger(tmp_path / "keys", cipher[0])
        flood = b"".join(forger.new_keys() + forger.record(23, b"x") for _ in range(500))
        two.wire.sendall(flood)
        got = [await two.receive() for _ in range(3)]
        assert all(0 < len(one) <= BATCH for one in got)
        assert two.ours.unsent <= tls.MAX_ANSWERS
        while len(b"".join(got)) < 500:
            got.append(await two.receive())
        two.wire.sendall(b"".join(forger.new_keys() for _ in range(tls_feed.MAX_BARE_RECORDS + 1)))
        with pytest.raises(SideFailed):
            await two.receive()


# -- what OpenSSL's own client can send -----------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
async def test_a_renegotiation_is_refused_and_new_keys_are_taken(contexts, option):
    """In s_client a line "R" asks for a renegotiation, a line "K" for new keys of both sides."""
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener[0].socket.getsockname()[1]
    contexts[0].maximum_version = ssl.TLSVersion.TLSv1_3
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", option]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    readiness, waker = Readiness(), Waker()
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.dispatch)
        stream = await listener[0].accept()
        sock = socket.socket(fileno=stream.socket.detach())
        ours = TlsTransport(TcpTransport(sock, "client", waker, readiness), contexts[0])
        with trio.fail_after(BOUND), suppress(SideFailed):
            while not ours.try_handshake():  # noqa: ASYNC110 - what real sockets do sets no event
                await trio.sleep(0.001)
            assert process.stdin is not None
            await process.stdin.send_all(b"one\n")
            sent = False
            while got != b"one\ntwo\n":
                data = ours.try_receive()
                assert data != b""
                got += data or b""
                if got == b"one\n" and not sent:
                    sent = True
                    await process.stdin.send_all(b"R\n" if option == "-tls1_2" else b"K\n")
                    await trio.sleep(0.05)
                    with suppress(trio.BrokenResourceError):
                        await process.stdin.send_all(b"two\n")
                await trio.sleep(0.001)
        ours.close()
        nursery.cancel_scope.cancel()
    process.kill()
    await process.wait()
    await listener[0].aclose()
    readiness.close()
    assert got == (b"one\n" if option == "-tls1_2" else b"one\ntwo\n")
