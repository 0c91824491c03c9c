"""Upstream's attestation of a sealed session: an in-toto statement in a DSSE envelope, in a
Sigstore bundle v0.3, signed with ECDSA P-256.

Rules of this file: no cryptography; bytes are made, and read strictly. What the statement says
follows from session.json, so a reader builds it again and compares, instead of trusting it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.session_json import (
    BUNDLE_FILENAME,
    AuditAttestation,
    AuditIntegrity,
    SessionMetadata,
)
from nono_trio.core.proof import base64_text

if TYPE_CHECKING:
    from nono_trio.core.proof.public_keys import PublicKeys

PREDICATE_TYPE: Final = "https://nono.sh/attestation/audit-session/alpha"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


class Subject(msgspec.Struct, kw_only=True, frozen=True):
    """The session whose log is attested: its name, and the Merkle root as `sha256`."""

    name: str
    digest: dict[str, str]


class Signer(msgspec.Struct, kw_only=True, frozen=True):
    """The signer: SHA-256 (hex) of the DER SubjectPublicKeyInfo of its key."""

    kind: Literal["keyed"] = "keyed"
    key_id: str


class Predicate(msgspec.Struct, kw_only=True, frozen=True):
    """Facts about the session, all of them from session.json."""

    version: Literal[1] = 1
    session_id: str
    started: str
    ended: str | None
    command: list[str]
    audit_log: AuditIntegrity
    signer: Signer


class Statement(msgspec.Struct, kw_only=True, frozen=True):
    """The in-toto statement v1, which is the payload of the envelope."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(
        default=STATEMENT_TYPE, name="_type"
    )
    subject: list[Subject]
    predicate_type: str = msgspec.field(default=PREDICATE_TYPE, name="predicateType")
    predicate: Predicate


class KeyHint(msgspec.Struct, kw_only=True, frozen=True):
    """The key_id of the signer's key."""

    hint: str


class VerificationMaterial(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The key's name; there is no certificate and no entry of a transparency log."""

    public_key: KeyHint
    tlog_entries: list[dict[str, Any]]
    timestamp_verification_data: dict[str, Any]


class DsseSignature(msgspec.Struct, kw_only=True, frozen=True):
    """An ECDSA signature (base64) over the payload's pre-authentication encoding."""

    sig: str
    keyid: str = ""


class DsseEnvelope(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The statement (base64) and its signature."""

    payload_type: str = PAYLOAD_TYPE
    payload: str
    signatures: list[DsseSignature]


class AttestationBundle(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The whole of audit-attestation.bundle."""

    media_type: str = MEDIA_TYPE
    verification_material: VerificationMaterial
    dsse_envelope: DsseEnvelope


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
_bundle_decoder = late_decoder(_Bundle)


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
    digest = {"sha256": integrity.merkle_root}
    said = Statement(
        subject=[Subject(name=f"audit-session:{metadata.session_id}", digest=digest)],
        predicate=Predicate(
            session_id=metadata.session_id,
            started=metadata.started,
            ended=metadata.ended,
            command=metadata.command,
            audit_log=integrity,
            signer=Signer(key_id=key_id),
        ),
    )
    plain: dict[str, Any] = msgspec.to_builtins(said)
    return plain


def encode_statement(metadata: SessionMetadata, key_id: str) -> bytes:
    """Return the bytes of the statement, the payload of the envelope."""
    return _encoder.encode(statement(metadata, key_id))


def signed_message(payload: bytes) -> bytes:
    """Return the bytes that are signed for a payload: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode_bundle(payload: bytes, signature: bytes, key_id: str) -> bytes:
    """Return the file audit-attestation.bundle."""
    bundle = AttestationBundle(
        verification_material=VerificationMaterial(
            public_key=KeyHint(hint=key_id), tlog_entries=[], timestamp_verification_data={}
        ),
        dsse_envelope=DsseEnvelope(
            payload=base64_text.encode(payload),
            signatures=[DsseSignature(sig=base64_text.encode(signature))],
        ),
    )
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
    if metadata.audit_integrity is None:  # nothing is said about a session without a seal
        return False
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
