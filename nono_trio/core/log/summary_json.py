"""summary.json: the totals of one session, bound by the record directly before `session_ended`.

Rules of this file: it has every fact of a sealed session that commands show and that is neither in
the log nor in policy.json. A digest covers the first `bytes` bytes of a file beside the log; a
missing file counts as empty.
"""

import hashlib
from typing import Literal

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.session_json import ExecutableIdentity, NonoTrioFacts


class FileDigest(msgspec.Struct, kw_only=True, frozen=True):
    """Length and SHA-256 (hex) of a file, or of its beginning."""

    bytes: int
    sha256: str


class SealSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The whole of summary.json.

    `facts` are session.json's `nono_trio` without its status; `event_count` is that of the sealed
    log; `recovered`: written by `audit recover`, because the supervisor was lost. Of
    `checkpoints` the digest covers the lines that were there when the summary was written.
    """

    v: Literal[1] = 1
    recovered: bool
    event_count: int
    flows: FileDigest
    processes: FileDigest
    checkpoints: FileDigest
    executable_identity: ExecutableIdentity | None = None
    facts: NonoTrioFacts


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = late_decoder(SealSummary)


def encode_summary(summary: SealSummary) -> bytes:
    """The bytes of summary.json: compact, sorted keys, one line."""
    return _encoder.encode(summary) + b"\n"


def decode_seal_summary(data: bytes) -> SealSummary:
    """The summary in a file; raises msgspec.DecodeError, UnicodeDecodeError, RecursionError."""
    return _decoder.decode(data)


def digest_of(data: bytes) -> FileDigest:
    """The digest of a whole file's bytes."""
    return FileDigest(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
