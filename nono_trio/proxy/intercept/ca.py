"""A certificate authority: its key, its certificates, and the certificates that it signs for hosts.

Rules of this file:
- The key is in memory only. It has no method that gives it out and no text form.
- A leaf names its host in the SAN (dNSName or iPAddress): clients read nothing else.
- A leaf has what the strict checks of Python 3.13, Go and BoringSSL ask for: SKI and AKI, key
  usage, extended key usage serverAuth, CA:FALSE.
- A leaf is valid from an hour ago, because the clock of a virtual machine may be behind, and never
  longer than its authority.
- A user's own authority is checked before the session starts, not at the first connection.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nono_trio.core.net.host import parse_host
from nono_trio.errors import UsageError

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# Years: a sidecar may run that long. The key ends with the process, so a long life gives nothing
# away.
SESSION_CA_DAYS: Final = 10 * 365
# Apple's verifier refuses leaves of more than 825 days. A cached leaf is renewed when half of its
# life is over.
LEAF_DAYS: Final = 30
BACKDATED: Final = datetime.timedelta(hours=1)
MAX_COMMON_NAME: Final = 64  # characters, RFC 5280 appendix A
MIN_RSA_BITS: Final = 2048  # OpenSSL's security level 2 refuses shorter keys
_ORGANIZATION: Final = "nono-trio"

_PLAIN_KEY_HINT: Final = (
    "write it unencrypted: openssl pkey -in KEY -out PLAIN-KEY; chmod 600 PLAIN-KEY"
)
_NEW_CA_HINT: Final = (
    "make one: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc "
    "-subj /CN=my-ca -days 365 -keyout ca.key -out ca.pem"
)


class AuthorityExpired(Exception):
    """The user's own authority has expired, so no client would accept a leaf of it."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that signs leaves: its own certificate first in `chain`, those above it next."""

    chain: tuple[x509.Certificate, ...]
    _key: AuthorityKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that leaves are signed under."""
        return self.chain[0]

    def pem(self) -> bytes:
        """The certificates of the chain, as programs are to trust them."""
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in self.chain)

    def sign_leaf(
        self, host: str, key: ec.EllipticCurvePublicKey, now: datetime.datetime
    ) -> x509.Certificate:
        """Sign a server certificate for a canonical host; raises AuthorityExpired."""
        ends = min(now + datetime.timedelta(days=LEAF_DAYS), self.certificate.not_valid_after_utc)
        if ends <= now:
            raise AuthorityExpired(f"the certificate of the authority expired on {ends:%Y-%m-%d}")
        subject = _leaf_subject(host)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_san(host)]), critical=not list(subject))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_issued_by(self.certificate), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def new_authority(session_id: str, now: datetime.datetime) -> Authority:
    """Make a session's authority with a new P-256 key; it may sign only leaves."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Each session's name is its own: stores that look an issuer up by name find the right one.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"nono-trio session {session_id}"[:MAX_COMMON_NAME]
            ),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=SESSION_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority((certificate,), key)


def own_authority(certificates: bytes, key: bytes, now: datetime.datetime) -> Authority:
    """Make an authority of a user's PEM files, the signing certificate first; raises UsageError."""
    chain = _parse_chain(certificates)
    private = _parse_key(key)
    if chain[0].public_key() != private.public_key():
        raise UsageError(
            "--tls-ca-key: expected the key of the first certificate in --tls-ca-cert, "
            "got the key of another certificate",
            hint="compare: openssl pkey -in KEY -pubout; openssl x509 -in CERT -noout -pubkey",
        )
    for certificate in chain:
        _require_ca(certificate)
        _require_valid(certificate, now)
    return Authority(chain, private)


def _parse_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise UsageError(
            "--tls-ca-cert: expected certificates in PEM, got something else", hint=_NEW_CA_HINT
        ) from None


def _parse_key(data: bytes) -> AuthorityKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:  # how cryptography says that it wants a password
        raise UsageError(
            "--tls-ca-key: expected an unencrypted key, got an encrypted one", hint=_PLAIN_KEY_HINT
        ) from None
    except (ValueError, UnsupportedAlgorithm):  # the text may hold the key's bytes
        raise UsageError(
            "--tls-ca-key: expected a private key in PEM, got something else", hint=_NEW_CA_HINT
        ) from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise UsageError(
                f"--tls-ca-key: expected an RSA key of at least {MIN_RSA_BITS} bits, "
                f"got {key.key_size}",
                hint=_NEW_CA_HINT,
            )
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    raise UsageError(
        "--tls-ca-key: expected an RSA or an elliptic curve key, got a key of another kind",
        hint=_NEW_CA_HINT,
    )


def _require_ca(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        is_ca = constraints.value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        raise UsageError(
            "--tls-ca-cert: expected a certificate with CA:TRUE, got one without", hint=_NEW_CA_HINT
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return
    if not usage.value.key_cert_sign:
        raise UsageError(
            "--tls-ca-cert: expected a certificate that may sign certificates (keyCertSign), "
            "got one that may not",
            hint=_NEW_CA_HINT,
        )


def _require_valid(certificate: x509.Certificate, now: datetime.datetime) -> None:
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < starts:
        raise UsageError(
            "--tls-ca-cert: expected a valid certificate, "
            f"got one that starts on {starts:%Y-%m-%d}",
            hint="check the clock: date",
        )
    if now >= ends:
        raise UsageError(
            f"--tls-ca-cert: expected a valid certificate, got one that expired on {ends:%Y-%m-%d}",
            hint=_NEW_CA_HINT,
        )


def _leaf_subject(host: str) -> x509.Name:
    """The host, for people who look at a chain; empty if it is too long for a common name."""
    if len(host) > MAX_COMMON_NAME:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])


def _san(host: str) -> x509.GeneralName:
    address = parse_host(host).address
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _issued_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authority's own identifier where it has one, so that the two are always equal."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
