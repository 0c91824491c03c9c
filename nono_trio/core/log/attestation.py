"""Upstream's attestation of a sealed session: an in-toto statement in a DSSE envelope, in a
Sigstore bundle v0.3, signed with ECDSA P-256.

Rules of this file: no cryptography; bytes are made, and read strictly. What the statement says
follows from session.json, so a reader builds it again and compares, instead of trusting it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from nono_trio.core.log.session_json import BUNDLE_FILENAME, AuditAttestation, SessionMetadata
from nono_trio.core.proof import base64_text

if TYPE_CHECKING:
    from nono_trio.core.proof.public_keys import PublicKeys

PREDICATE_TYPE: Final = "https://nono.sh/attestation/audit-session/alpha"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


class _Signature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload_type: str
    payload: str
    signatures: list[_Signature]


class _Bundle(msgspec.Struct, rename="camel"):
    """A bundle, without what nothing is taken from."""

    dsse_envelope: _Envelope


_encoder = msgspec.json.Encoder()
_bundle_decoder = msgspec.json.Decoder(_Bundle)


def attestation_of(keys: PublicKeys) -> AuditAttestation:
    """Return what session.json says about the bundle of a session signed with these keys."""
    return AuditAttestation(
        predicate_type=PREDICATE_TYPE,
        key_id=keys.key_id,
        public_key=base64_text.encode(keys.bundle),
        bundle_filename=BUNDLE_FILENAME,
    )


def decode_key(said: AuditAttestation) -> bytes:
    """Return the key (DER SubjectPublicKeyInfo) that session.json names; raises ValueError."""
    key = base64_text.decode(said.public_key)
    if hashlib.sha256(key).hexdigest() != said.key_id:
        raise ValueError("the key_id is that of another key")
    return key


def statement(metadata: SessionMetadata, key_id: str) -> dict[str, Any]:
    """Return the statement about a sealed session; raises ValueError without a seal."""
    integrity = metadata.audit_integrity
    if integrity is None:
        raise ValueError("the session has no audit_integrity")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": f"audit-session:{metadata.session_id}",
                "digest": {"sha256": integrity.merkle_root},
            }
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "version": 1,
            "session_id": metadata.session_id,
            "started": metadata.started,
            "ended": metadata.ended,
            "command": metadata.command,
            "audit_log": msgspec.to_builtins(integrity),
            "signer": {"kind": "keyed", "key_id": key_id},
        },
    }


def encode_statement(metadata: SessionMetadata, key_id: str) -> bytes:
    """Return the bytes of the statement, the payload of the envelope."""
    return _encoder.encode(statement(metadata, key_id))


def signed_message(payload: bytes) -> bytes:
    """Return the bytes that are signed for a payload: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode_bundle(payload: bytes, signature: bytes, key_id: str) -> bytes:
    """Return the file audit-attestation.bundle."""
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": key_id},
            "tlogEntries": [],
            "timestampVerificationData": {},
        },
        "dsseEnvelope": {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64_text.encode(payload),
            "signatures": [{"sig": base64_text.encode(signature), "keyid": ""}],
        },
    }
    return msgspec.json.format(_encoder.encode(bundle), indent=2) + b"\n"


def decode_bundle(data: bytes) -> tuple[bytes, bytes]:
    """Return payload and signature of a bundle; raises ValueError, RecursionError.

    Upstream writes base64url without padding, which is accepted too.
    """
    envelope = _bundle_decoder.decode(data).dsse_envelope
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"expected the payload type {PAYLOAD_TYPE}")
    if len(envelope.signatures) != 1:
        raise ValueError("expected one signature")
    return _decode(envelope.payload), _decode(envelope.signatures[0].sig)


def says(payload: bytes, metadata: SessionMetadata, key_id: str) -> bool:
    """Return whether a payload is the statement about this session; upstream may say more."""
    expected = statement(metadata, key_id)
    try:
        got = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(got, dict) or not isinstance(got.get("predicate"), dict):
        return False
    predicate = {key: got["predicate"].get(key) for key in expected["predicate"]}
    return {**got, "predicate": predicate} == expected


def _decode(text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("expected base64") from error
    if base64.b64encode(data).decode("ascii").rstrip("=") != standard:  # unused bits are set
        raise ValueError("expected base64 in its shortest spelling")
    return data
