"""Servers: what is trusted, what is refused and why."""

from __future__ import annotations

import datetime
import ssl

import pytest
import tls_handshake
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nono_trio.errors import UsageError
from nono_trio.proxy.intercept.ca import Authority, new_authority
from nono_trio.proxy.intercept.memory_chain import load_chain
from nono_trio.proxy.intercept.session_authority import SessionAuthority
from nono_trio.proxy.intercept.tls_failures import UNTRUSTED, client_failure, upstream_failure
from nono_trio.proxy.intercept.upstream_tls import HostTls, UpstreamTls

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
PKCS8, PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def der(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.DER)


def context_of(certificates: bytes, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, certificates, key.private_bytes(PEM, PKCS8, PLAIN))
    return context


def server(authority: Authority, host: str, at: datetime.datetime = NOW) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = authority.sign_leaf(host, key.public_key(), at)
    return context_of(leaf.public_bytes(PEM) + authority.pem(), key)


def self_signed(host: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - DAY, NOW + DAY)
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return context_of(certificate.public_bytes(PEM), key)


TRUSTED, OTHER = new_authority("trusted", NOW - 100 * DAY), new_authority("other", NOW)
SERVERS = {
    "certificate expired": lambda: server(TRUSTED, "a.example", NOW - 60 * DAY),
    "certificate not valid yet": lambda: server(TRUSTED, "a.example", NOW + 5 * DAY),
    "name does not match": lambda: server(TRUSTED, "b.example"),
    "self-signed certificate": lambda: self_signed("a.example"),
    "self-signed certificate in the chain": lambda: server(OTHER, "a.example"),
}


async def test_a_server_of_a_trusted_authority_is_accepted() -> None:
    context = await UpstreamTls([der(TRUSTED)]).client_context("a.example")
    tls_handshake.shake_hands(server(TRUSTED, "a.example"), context, "a.example")


@pytest.mark.parametrize("reason", SERVERS)
async def test_another_server_is_refused_with_its_reason(reason) -> None:
    context = await UpstreamTls([der(TRUSTED)]).client_context("a.example")
    with pytest.raises(ssl.SSLError) as error:
        tls_handshake.shake_hands(SERVERS[reason](), context, "a.example")
    assert upstream_failure(error.value) == reason


async def test_without_roots_nothing_is_trusted() -> None:
    context = await UpstreamTls([]).client_context("a.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_handshake.shake_hands(server(TRUSTED, "a.example"), context, "a.example")


async def test_an_address_must_be_in_the_certificate() -> None:
    context = await UpstreamTls([der(TRUSTED)]).client_context("192.0.2.1")
    with pytest.raises(ssl.SSLError) as error:
        tls_handshake.shake_hands(server(TRUSTED, "192.0.2.2"), context, "192.0.2.1")
    assert upstream_failure(error.value) == "address does not match"


async def test_a_hosts_own_authority_replaces_the_roots_for_it_alone() -> None:
    upstream = UpstreamTls([der(TRUSTED)], {"own.example": HostTls(ca=OTHER.pem())})
    own = await upstream.client_context("own.example")
    tls_handshake.shake_hands(server(OTHER, "own.example"), own, "own.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_handshake.shake_hands(server(TRUSTED, "own.example"), own, "own.example")
    other = await upstream.client_context("a.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_handshake.shake_hands(server(OTHER, "a.example"), other, "a.example")


async def test_hosts_without_files_share_a_context() -> None:
    upstream = UpstreamTls([der(TRUSTED)])
    first = await upstream.client_context("a.example")
    assert await upstream.client_context("b.example") is first
    assert await upstream.client_context("b.example", ("h2",)) is not first


async def test_a_client_certificate_is_shown_where_it_belongs() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = OTHER.sign_leaf("client.example", key.public_key(), NOW)  # serverAuth: see `asking`
    files = HostTls(None, own.public_bytes(PEM), key.private_bytes(PEM, PKCS8, PLAIN))
    upstream = UpstreamTls([der(TRUSTED)], {"a.example": files})
    asking = server(TRUSTED, "a.example")
    asking.load_verify_locations(cadata=TRUSTED.pem().decode())
    asking.verify_mode = ssl.CERT_OPTIONAL
    asking.verify_flags = ssl.VERIFY_DEFAULT
    context = await upstream.client_context("a.example")
    with pytest.raises(ssl.SSLError) as error:  # it is shown: the server objects to its issuer
        tls_handshake.shake_hands(asking, context, "a.example")
    assert "CERTIFICATE_VERIFY_FAILED" in str(error.value)
    elsewhere = await upstream.client_context("b.example")
    tls_handshake.shake_hands(asking, elsewhere, "a.example")


@pytest.mark.parametrize(
    "files",
    [
        HostTls(ca=b"nothing"),
        HostTls(certificate=b"nothing", key=b"nothing"),
        HostTls(certificate=TRUSTED.pem(), key=b"-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_files_that_cannot_be_used_are_refused_early(files) -> None:
    with pytest.raises(UsageError, match=r"a\.example") as error:
        files.check("a.example")
    assert "BEGIN" not in str(error.value)


async def test_a_server_that_ends_without_goodbye_is_an_error() -> None:
    """Else a body that ends with its connection could be cut unseen."""
    context = await UpstreamTls([der(TRUSTED)]).client_context("a.example")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    theirs = server(TRUSTED, "a.example").wrap_bio(outgoing, incoming, server_side=True)
    tls_handshake.finish(ours, theirs)
    incoming.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        ours.read(1)


async def test_a_key_log_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = await UpstreamTls([der(TRUSTED)]).client_context("a.example")
    tls_handshake.shake_hands(server(TRUSTED, "a.example"), context, "a.example")
    assert not (tmp_path / "keys").exists()


async def test_a_program_that_does_not_trust_us_is_named_so() -> None:
    authority = SessionAuthority(TRUSTED)
    context = await authority.server_context("a.example")
    client = tls_handshake.trusting(OTHER.pem())
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="a.example")
    theirs = context.wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_handshake.finish(ours, theirs)
    with pytest.raises(ssl.SSLError) as error:
        theirs.do_handshake()
    assert client_failure(error.value) == UNTRUSTED


@pytest.mark.parametrize(
    ("sent", "client", "upstream"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the program speaks plain HTTP", None),
        (b"HTTP/1.1 400 no\r\n\r\n", None, "the server does not speak TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the program does not speak TLS",
         "the server does not speak TLS"),
    ],
)  # fmt: skip
async def test_another_protocol_is_named_so(sent, client, upstream) -> None:
    contexts = {
        client: (await SessionAuthority(TRUSTED).server_context("a.example"), client_failure),
        upstream: (await UpstreamTls([]).client_context("a.example"), upstream_failure),
    }
    contexts.pop(None, None)
    for reason, (context, plain) in contexts.items():
        incoming = ssl.MemoryBIO()
        incoming.write(sent)
        is_server = plain is client_failure
        name = None if is_server else "a.example"
        side = context.wrap_bio(incoming, ssl.MemoryBIO(), is_server, name)
        with pytest.raises(ssl.SSLError) as error:
            side.do_handshake()
        assert plain(error.value) == reason
