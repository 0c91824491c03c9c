"""Java's trust stores: the roots of a JDK's cacerts, with the session's authority beside them.

Rules of this file:
- Its own roots are kept. A store that can't be read whole is not replaced (None).
- JKS (Debian's and most JDKs' before 18): an entry is appended, and all other bytes stay. The
  digest at its end is made with the password that every JDK ships, `changeit`.
- PKCS12: written anew, unencrypted and without a MAC, as the JDK's own since 18. The JVM opens
  cacerts without a password, and then reads an encrypted store as an empty one, without an error.
  With a password it checks a MAC if there is one, and cryptography's is of the empty password.
"""

from __future__ import annotations

import hashlib
import struct
import time
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.serialization import pkcs12

_JKS: Final = b"\xfe\xed\xfe\xed"
_JKS_HEADER: Final = struct.Struct(">4sII")  # magic, version, number of entries
_JKS_VERSION: Final = 2
_TRUSTED: Final = 2  # an entry's kind: a certificate without a key
_X509: Final = b"X.509"
_DIGEST_BYTES: Final = 20
_SALT: Final = b"Mighty Aphrodite"  # sun.security.provider.JavaKeyStore
_PASSWORD: Final = "changeit"
_PASSWORDS: Final = (None, _PASSWORD.encode())
ALIAS: Final = "nono-trio session"


def with_authority(store: bytes, certificates: Sequence[bytes]) -> bytes | None:
    """Return a trust store with `certificates` (DER) added; None if it is of no known kind."""
    if store.startswith(_JKS):
        return _extended_jks(store, certificates)
    if store.startswith(b"\x30"):  # an ASN.1 sequence
        return _extended_pkcs12(store, certificates)
    return None


def _extended_jks(store: bytes, certificates: Sequence[bytes]) -> bytes | None:
    if len(store) < _JKS_HEADER.size + _DIGEST_BYTES:
        return None
    _, version, count = _JKS_HEADER.unpack_from(store)
    if version != _JKS_VERSION:
        return None
    added = b"".join(_jks_entry(f"{ALIAS} {n}", one) for n, one in enumerate(certificates))
    header = _JKS_HEADER.pack(_JKS, version, count + len(certificates))
    data = header + store[_JKS_HEADER.size : -_DIGEST_BYTES] + added
    keyed = _PASSWORD.encode("utf-16-be") + _SALT + data
    return data + hashlib.sha1(keyed, usedforsecurity=False).digest()


def _jks_entry(alias: str, certificate: bytes) -> bytes:
    milliseconds = time.time_ns() // 1_000_000
    return b"".join(
        (
            struct.pack(">I", _TRUSTED),
            _jks_text(alias.encode()),
            struct.pack(">Q", milliseconds),
            _jks_text(_X509),
            struct.pack(">I", len(certificate)),
            certificate,
        )
    )


def _jks_text(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _extended_pkcs12(store: bytes, certificates: Sequence[bytes]) -> bytes | None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    with warnings.catch_warnings():  # a root with a serial number of zero
        warnings.simplefilter("ignore")
        own = _read_pkcs12(store)
        if own is None:
            return None
        added = [
            pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(one), f"{ALIAS} {n}".encode())
            for n, one in enumerate(certificates)
        ]
        return _without_mac(pkcs12.serialize_java_truststore([*own, *added], NoEncryption()))


def _read_pkcs12(store: bytes) -> list[pkcs12.PKCS12Certificate] | None:
    """The certificates of a store with their names; None if it can't be read, or has keys too."""
    from cryptography.hazmat.primitives.serialization import pkcs12

    for password in _PASSWORDS:
        try:
            found = pkcs12.load_pkcs12(store, password)
        except ValueError:
            continue
        if found.key is not None or found.cert is not None:
            return None
        return list(found.additional_certs)
    return None


def _without_mac(store: bytes) -> bytes:
    """Leave out the MAC of a PFX: a sequence of version, content and MAC (RFC 7292 4)."""
    begin, _ = _der_content(store, 0)
    _, end_of_version = _der_content(store, begin)
    _, end_of_content = _der_content(store, end_of_version)
    return _der_sequence(store[begin:end_of_content])


def _der_sequence(content: bytes) -> bytes:
    """A DER sequence; its length takes as few bytes as it can."""
    size = len(content)
    if size < 0x80:
        return bytes((0x30, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x30, 0x80 | len(length))) + length + content


def _der_content(data: bytes, at: int) -> tuple[int, int]:
    """Return begin and end of the content of the DER value at `at`."""
    first = data[at + 1]
    if first < 0x80:
        return at + 2, at + 2 + first
    begin = at + 2 + (first & 0x7F)
    return begin, begin + int.from_bytes(data[at + 2 : begin], "big")
