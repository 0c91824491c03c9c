"""One context a host: what clients accept, what is kept, and when it is made anew."""

from __future__ import annotations

import datetime
import resource
import ssl
import subprocess
import sys
import threading

import pytest
import tls_handshake
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from installation import PACKAGE
from trio.testing import wait_all_tasks_blocked

from nono_trio.proxy.intercept import session_authority
from nono_trio.proxy.intercept.ca import Authority, AuthorityExpired, new_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

NOW = datetime.datetime.now(datetime.UTC)
LONG = ".".join(["a-label-of-thirty-characters-xx"] * 4) + ".example.com"


class Counting:
    """The authority with its leaves counted; `gate` holds each one back until it is opened."""

    def __init__(self) -> None:
        self.real = new_authority("0123456789abcdef", NOW)
        self.hosts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def pem(self) -> bytes:
        return self.real.pem()

    def sign_leaf(self, host, key, now) -> x509.Certificate:
        self.hosts.append(host)
        assert self.gate.wait(60)
        return self.real.sign_leaf(host, key, now)


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


def leaf(context: ssl.SSLContext, authority: SessionAuthority, name: str) -> x509.Certificate:
    client, _ = tls_handshake.shake_hands(context, tls_handshake.trusting(authority.ca_pem()), name)
    data = client.getpeercert(binary_form=True)
    assert data is not None
    return x509.load_der_x509_certificate(data)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(counting, clock) -> SessionAuthority:
    return SessionAuthority(counting, clock=clock)


@pytest.mark.parametrize("host", ["example.com", "a_b.example", "192.0.2.7", "2001:db8::7", LONG])
async def test_a_strict_client_accepts_the_chain(host, authority) -> None:
    certificate = leaf(await authority.server_context(host), authority, host)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(list(names.value)) == 1
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert certificate.not_valid_before_utc <= NOW - datetime.timedelta(minutes=59)


async def test_a_leaf_is_for_its_host_alone(authority) -> None:
    context = await authority.server_context("example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        leaf(context, authority, "www.example.com")


async def test_leaves_share_a_key_and_no_serial_number(authority) -> None:
    one = leaf(await authority.server_context("a.example"), authority, "a.example")
    two = leaf(await authority.server_context("b.example"), authority, "b.example")
    assert one.public_key() == two.public_key()
    assert one.serial_number != two.serial_number


async def test_the_authority_comes_with_the_leaf(authority, counting) -> None:
    """Go and Apple's verifier want the issuer in the chain; TLS 1.2 sends it in the clear."""
    client = tls_handshake.trusting(authority.ca_pem())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    sent = tls_handshake.first_flight(await authority.server_context("a.example"), client)
    assert counting.real.certificate.public_bytes(serialization.Encoding.DER) in sent


async def test_a_host_is_signed_once(authority, counting) -> None:
    first = await authority.server_context("example.com")
    assert await authority.server_context("example.com") is first
    assert await authority.server_context("example.com", ("h2", "http/1.1")) is not first
    assert counting.hosts == ["example.com"] * 2


async def test_many_who_ask_at_once_wait_for_one_leaf(authority, counting) -> None:
    got = []

    async def ask() -> None:
        got.append(await authority.server_context("example.com"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(set(got)) == 1
    assert counting.hosts == ["example.com"]


async def test_who_waits_gets_a_context_when_the_first_is_cancelled(authority, counting) -> None:
    got = []

    async def ask(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await authority.server_context("example.com")
            got.append(name)

    counting.gate.clear()
    first, second = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first", first)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, "second", second)
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        counting.gate.set()
    assert got == ["second"]


async def test_the_least_used_host_is_dropped(authority, counting, monkeypatch) -> None:
    monkeypatch.setattr(session_authority, "MAX_CONTEXTS", 2)
    for host in ("a.example", "b.example", "a.example", "c.example", "a.example", "b.example"):
        await authority.server_context(host)
    assert counting.hosts == ["a.example", "b.example", "c.example", "b.example"]


@pytest.mark.parametrize(("days", "signed"), [(14, 1), (16, 2), (-1, 2)])
async def test_a_leaf_is_renewed_when_half_of_it_is_over(
    days, signed, authority, counting, clock
) -> None:
    await authority.server_context("example.com")
    clock.now += days * 86400
    await authority.server_context("example.com")
    assert len(counting.hosts) == signed


async def test_an_expired_authority_signs_nothing(counting, clock) -> None:
    clock.now += 11 * 365 * 86400
    with pytest.raises(AuthorityExpired):
        await SessionAuthority(counting, clock=clock).server_context("example.com")


async def test_clients_without_tickets_cannot_fill_the_memory(authority, monkeypatch) -> None:
    """OpenSSL keeps 20,480 TLS 1.2 sessions of 1 KiB in each context."""
    monkeypatch.setattr(session_authority, "MAX_SESSIONS", 5)
    client = tls_handshake.trusting(authority.ca_pem())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.options |= ssl.OP_NO_TICKET
    contexts = []
    for _ in range(12):
        contexts.append(await authority.server_context("example.com"))
        tls_handshake.close(*tls_handshake.shake_hands(contexts[-1], client, "example.com"))
    assert len(set(contexts)) == 3


async def test_no_protocol_before_tls_1_2(authority) -> None:
    context = await authority.server_context("example.com")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert ssl.OP_NO_RENEGOTIATION in context.options


async def test_tls_1_3_gives_out_no_ticket(authority) -> None:
    """So there is nothing to resume, and no early data."""
    context = await authority.server_context("example.com")
    client = tls_handshake.trusting(authority.ca_pem())
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    side, _ = tls_handshake.shake_hands(context, client, "example.com")
    assert side.session is None or not side.session.has_ticket


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
async def test_only_the_named_protocols_are_offered(offered, chosen, authority) -> None:
    client = tls_handshake.trusting(authority.ca_pem())
    client.set_alpn_protocols(offered)
    context = await authority.server_context("example.com")
    side, _ = tls_handshake.shake_hands(context, client, "example.com")
    assert side.selected_alpn_protocol() == chosen


_WITHOUT_FILES = f"""
import datetime, resource, signal, sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
import trio
from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
authority = SessionAuthority(new_authority("x", datetime.datetime.now(datetime.UTC)))
trio.run(authority.server_context, "example.com")
"""


def test_no_file_is_written() -> None:
    """With a limit of no bytes for files, in memory or on disk; a pipe is no file."""
    done = subprocess.run([sys.executable, "-c", _WITHOUT_FILES], check=False, timeout=60)
    assert done.returncode == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0


def test_the_key_has_no_text_form(counting) -> None:
    assert "key" not in repr(counting.real)
    assert isinstance(counting.real, Authority)
