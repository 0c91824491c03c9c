"""The format `nono-ingest`: the envelope of upstream's audit delivery protocol, version 1.

Rules of this file: `session_metadata_json` has the exact bytes that the session digest covers, and
`events_ndjson` the exact bytes of the log, which is too long for the memory: it is encoded piece by
piece. The id of a delivery follows from the session, so the same session sent twice is one
delivery. The enrolment gives the tenant and the shipper.
"""

from __future__ import annotations

import codecs
import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.log.session_json import digest_payload, session_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono_trio.core.log.session_json import SessionMetadata


class Envelope(msgspec.Struct, kw_only=True, frozen=True):
    """The envelope without its last key, `events_ndjson`."""

    ingest_id: str
    tenant_id: str
    session_id: str
    shipper_id: str
    principal_id: str | None = None
    profile_ref: str | None = None
    merkle_root: str
    hash_chain_head: str
    started_at: str
    ended_at: str
    session_metadata_json: str
    session_digest: str


_encoder = msgspec.json.Encoder()
_END: Final = b'"}\n'


def envelope(metadata: SessionMetadata, tenant: str, shipper: str) -> Envelope:
    """Return the envelope of a sealed session; raises ValueError for one that is not sealed."""
    integrity = metadata.audit_integrity
    if integrity is None or metadata.ended is None:
        raise ValueError("the session is not sealed")
    digest = session_digest(metadata)
    return Envelope(
        ingest_id=_ingest_id(metadata.ended, digest),
        tenant_id=tenant,
        session_id=metadata.session_id,
        shipper_id=shipper,
        merkle_root=integrity.merkle_root,
        hash_chain_head=integrity.chain_head,
        started_at=metadata.started,
        ended_at=metadata.ended,
        session_metadata_json=digest_payload(metadata).decode(),
        session_digest=digest,
    )


def encode(head: Envelope, log: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the envelope with the log in pieces, as one line of JSON.

    Raises UnicodeDecodeError for a log that is not UTF-8.
    """
    yield _encoder.encode(head).removesuffix(b"}") + b',"events_ndjson":"'
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in log:
        yield _encoder.encode(decoder.decode(piece))[1:-1]
    decoder.decode(b"", final=True)
    yield _END


def _ingest_id(ended: str, digest: str) -> str:
    """Return a UUID of version 7: its time is the session's end, its rest is from the digest."""
    try:
        unix_ms = max(0, int(datetime.fromisoformat(ended).timestamp() * 1000)) & (2**48 - 1)
    except (ValueError, OverflowError):
        unix_ms = 0
    rest = int.from_bytes(hashlib.sha256(digest.encode()).digest()[:10], "big")
    number = unix_ms << 80 | rest
    number = number & ~(0xF << 76) | 0x7 << 76  # the version
    number = number & ~(0x3 << 62) | 0x2 << 62  # the variant
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
