"""A tlog-proof file (C2SP): one record, the proof that a tree includes it, the signed checkpoint.

    c2sp.org/tlog-proof@v1
    extra BASE64                  (the record's data, so that the file is enough to check it)
    index N
    HASH ...                      (leaf's sibling first)
    (an empty line)
    the signed checkpoint, verbatim

Rules of this file: one spelling, nothing after the checkpoint. The extra data is untrusted until
the tree's root was computed from it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import MAX_NOTE
from nono_trio.core.proof.tree import MAX_HASHES
from nono_trio.core.proof.tree_head import parse_number

FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
# The longest record of a log is read whole (audit/read/records.py); base64 makes it 4/3 of that.
MAX_PROOF: Final = 24 * 1024 * 1024


class ProofFile(NamedTuple):
    """The parts of the file; `extra` is None without that line, `checkpoint` is a signed note."""

    leaf_index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        lines = [FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {base64_text.encode(self.extra)}")
        lines.append(f"index {self.leaf_index}")
        lines += map(base64_text.encode, self.hashes)
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint


def parse_proof(data: bytes) -> ProofFile:
    """Return the proof in `data`, all of which must be the file; raises ValueError.

    The checkpoint is not parsed here.
    """
    if len(data) > MAX_PROOF:
        raise ValueError(f"expected at most {MAX_PROOF} bytes")
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or not 0 < len(checkpoint) <= MAX_NOTE:
        raise ValueError("expected a proof, an empty line, and a signed checkpoint")
    if not head.isascii():
        raise ValueError("expected a proof, got bytes that are not ASCII")
    first, *lines = head.decode().split("\n")
    if first != FIRST_LINE:
        raise ValueError(f"expected {FIRST_LINE} as the first line")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = base64_text.decode(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise ValueError("expected a line with the index")
    leaf_index = parse_number(lines.pop(0).removeprefix("index "))
    if len(lines) > MAX_HASHES:
        raise ValueError(f"expected at most {MAX_HASHES} hashes")
    return ProofFile(leaf_index, tuple(map(base64_text.decode_hash, lines)), checkpoint, extra)
