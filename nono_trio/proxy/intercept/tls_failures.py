"""The plain reason of a TLS failure, for the record, the 502 and the person who reads them.

Rules of this file: OpenSSL's own words name sources and functions, so each known failure has words
of ours; an unknown one keeps OpenSSL's short name. Nothing that a peer sent is in a reason: neither
names nor dates of its certificate.
"""

from __future__ import annotations

import ssl
from typing import Final

from nono_trio.core.late import late_pattern

# X509_V_ERR_*, of openssl/x509_vfy.h: the numbers have been the same since OpenSSL 1.0.2.
_CERTIFICATE: Final = {
    2: "unknown issuer",
    3: "revocation list missing",
    7: "certificate signature does not match",
    9: "certificate not valid yet",
    10: "certificate expired",
    13: "certificate has a malformed date",
    14: "certificate has a malformed date",
    18: "self-signed certificate",
    19: "self-signed certificate in the chain",
    20: "unknown issuer",
    21: "unknown issuer",
    22: "certificate chain too long",
    23: "certificate revoked",
    24: "issuer is not a certificate authority",
    25: "certificate chain longer than its authority allows",
    26: "certificate not for servers",
    27: "certificate not trusted",
    28: "certificate rejected",
    47: "name outside what the issuer may certify",
    48: "name outside what the issuer may certify",
    62: "name does not match",
    64: "address does not match",
    66: "certificate key too weak",
    67: "issuer key too weak",
    68: "certificate signed with a weak hash",
}
# SSLError.reason of what a server sends or does.
_UPSTREAM: Final = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS",
    "HTTP_REQUEST": "the server does not speak TLS",
    "PACKET_LENGTH_TOO_LONG": "the server does not speak TLS",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the server offers nothing newer than TLS 1.1",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no TLS version in common",
    "NO_PROTOCOLS_AVAILABLE": "no TLS version in common",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refused the handshake",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "the server refused the handshake",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants a client certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the server does not know this name",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "no application protocol in common",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not accept our client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept our client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the server does not accept our client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not accept our client certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "the server does not accept our client certificate",
    "TLSV1_ALERT_INTERNAL_ERROR": "the server failed",
    "DH_KEY_TOO_SMALL": "the server's key exchange is too weak",
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "the server can only renegotiate unsafely",
    "NO_SHARED_CIPHER": "no cipher in common",
    "EE_KEY_TOO_SMALL": "certificate key too weak",
    "CA_MD_TOO_WEAK": "certificate signed with a weak hash",
}
# SSLError.reason of what a program in the cage sends or does.
UNTRUSTED: Final = "the program does not trust the session's certificate authority"
_CLIENT: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": UNTRUSTED,
    "SSLV3_ALERT_BAD_CERTIFICATE": UNTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": UNTRUSTED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the program refused the certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the program takes the certificate for expired",
    "TLSV1_ALERT_DECRYPT_ERROR": "the program refused the handshake",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the program refused the handshake",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no TLS version in common",
    "UNSUPPORTED_PROTOCOL": "the program offers nothing newer than TLS 1.1",
    "WRONG_VERSION_NUMBER": "the program does not speak TLS",
    "HTTP_REQUEST": "the program speaks plain HTTP",
    "HTTPS_PROXY_REQUEST": "the program speaks plain HTTP",
    "NO_SHARED_CIPHER": "no cipher in common",
    "NO_SHARED_GROUP": "no key exchange in common",
    "TLSV1_ALERT_USER_CANCELLED": "the program gave up",
}
_TEXT: Final = late_pattern(r"\[SSL\] ([a-z0-9 ]{1,64}) \(_ssl")
_CLOSED: Final = "the connection was closed during the handshake"


def upstream_failure(error: ssl.SSLError) -> str:
    """Why the handshake with a server failed, as the end of a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _CERTIFICATE.get(error.verify_code)
        # Codes above 75 are of OpenSSL's strict checks, which differ between its versions.
        return known or f"certificate refused (code {error.verify_code})"
    return _plain(error, _UPSTREAM)


def client_failure(error: ssl.SSLError) -> str:
    """Why the handshake with a program of the cage failed, as the end of a sentence."""
    return _plain(error, _CLIENT)


def _plain(error: ssl.SSLError, known: dict[str, str]) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _CLOSED
    reason = error.reason or _reason_in(error)
    if reason == "UNEXPECTED_EOF_WHILE_READING":
        return _CLOSED
    words = known.get(reason)
    if words is not None:
        return words
    return f"TLS error {reason.lower().replace('_', ' ')}" if reason else "TLS error"


def _reason_in(error: ssl.SSLError) -> str:
    """The reason in OpenSSL's own text, for codes that this Python has no name for."""
    match = _TEXT.search(str(error))
    return "" if match is None else match[1].strip().upper().replace(" ", "_")
