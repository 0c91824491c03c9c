"""A user's own authority: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import datetime

import pytest
import tls_handshake
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nono_trio.errors import UsageError
from nono_trio.proxy.intercept.ca import new_authority, own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def key_pem(key, password: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate(
    key, *, is_ca=True, starts=NOW - DAY, ends=NOW + DAY, usage=None, algorithm=hashes.SHA256
) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, algorithm() if algorithm else None).public_bytes(PEM)


def signing(allowed: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, allowed, False, False, False)


@pytest.mark.parametrize("key", [EC_KEY, rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"])
@pytest.mark.parametrize("usage", [None, signing(True)], ids=["plain", "usage"])
async def test_leaves_of_an_own_authority_are_accepted(key, usage) -> None:
    authority = SessionAuthority(own_authority(certificate(key, usage=usage), key_pem(key), NOW))
    context = await authority.server_context("example.com")
    # not strict: what a user's own root lacks is the user's affair
    client = tls_handshake.trusting(authority.ca_pem(), strict=False)
    tls_handshake.shake_hands(context, client, "example.com")


REFUSED = {
    "no certificate": (b"nothing", key_pem(EC_KEY), "certificates in PEM"),
    "no key": (certificate(EC_KEY), certificate(EC_KEY), "a private key in PEM"),
    "encrypted": (certificate(EC_KEY), key_pem(EC_KEY, b"secret"), "unencrypted key"),
    "another key": (
        certificate(EC_KEY),
        key_pem(ec.generate_private_key(ec.SECP256R1())),
        "the key of another certificate",
    ),
    "no CA": (certificate(EC_KEY, is_ca=False), key_pem(EC_KEY), "CA:TRUE"),
    "no constraints": (certificate(EC_KEY, is_ca=None), key_pem(EC_KEY), "CA:TRUE"),
    "not to sign": (certificate(EC_KEY, usage=signing(False)), key_pem(EC_KEY), "keyCertSign"),
    "expired": (certificate(EC_KEY, ends=NOW - DAY / 2), key_pem(EC_KEY), "expired on"),
    "not yet": (certificate(EC_KEY, starts=NOW + DAY / 2), key_pem(EC_KEY), "starts on"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_file_is_refused_with_a_sentence(case) -> None:
    certificates, key, sentence = REFUSED[case]
    with pytest.raises(UsageError, match=sentence) as error:
        own_authority(certificates, key, NOW)
    assert error.value.hint
    assert "PRIVATE" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "algorithm", "sentence"),
    [
        (rsa.generate_private_key(65537, 1024), hashes.SHA256, "at least 2048 bits, got 1024"),
        (ed25519.Ed25519PrivateKey.generate(), None, "RSA or an elliptic curve key"),
    ],
    ids=["short", "ed25519"],
)
def test_a_key_that_clients_refuse_is_refused_first(key, algorithm, sentence) -> None:
    with pytest.raises(UsageError, match=sentence):
        own_authority(certificate(key, algorithm=algorithm), key_pem(key), NOW)


def test_a_session_authority_signs_leaves_only() -> None:
    own = new_authority("0123456789abcdef", NOW).certificate
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert "0123456789abcdef" in own.subject.rfc4514_string()
