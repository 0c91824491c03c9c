"""The add-checkpoint call of a witness (C2SP tlog-witness), and its cosignatures.

    old SIZE                  (of the last checkpoint that the witness has cosigned)
    HASH ...                  (consistency from there)
    (an empty line)
    the signed checkpoint

Rules of this file: it does no cryptography. An answer is untrusted: it is parsed as strictly as a
note, and counts only for the checkpoint that the call sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import (
    COSIGNATURE,
    Signature,
    key_id,
    parse_note,
    parse_verifier_key,
    verifier_key,
)
from nono_trio.core.proof.tree_head import MAX_SIZE, parse_number

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL: Final = "/add-checkpoint"
_TIME_BYTES: Final = 8
_BYTES: Final = _TIME_BYTES + 64


class WitnessKey(NamedTuple):
    """The name and the Ed25519 key (32 bytes) of a witness."""

    name: str
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that its signatures begin with."""
        return key_id(self.name, self.key, COSIGNATURE)

    def text(self) -> str:
        """Return the verifier key, as `parse_witness_key` reads it."""
        return verifier_key(self.name, self.key, COSIGNATURE)


class Cosignature(NamedTuple):
    """The time (POSIX seconds) and the signature of a cosignature/v1."""

    time: int
    signature: bytes


def parse_witness_key(text: str) -> WitnessKey:
    """Return the key in NAME+ID+KEY; raises ValueError."""
    return WitnessKey(*parse_verifier_key(text, COSIGNATURE))


def encode_request(old: int, proof: Sequence[bytes], checkpoint: bytes) -> bytes:
    """Return the body of the call."""
    lines = [f"old {old}", *map(base64_text.encode, proof), "", ""]
    return "\n".join(lines).encode() + checkpoint


def parse_cosigned(checkpoint: bytes, answer: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """Return the checkpoint with the lines that a witness answered, and these lines.

    Raises ValueError unless they are lines of signatures, and of other keys than before.
    """
    if not answer:
        raise ValueError("expected at least one line with a signature")
    cosigned = checkpoint + answer
    before, after = parse_note(checkpoint), parse_note(cosigned)
    if after.text != before.text:
        raise ValueError("expected lines with signatures alone")
    return cosigned, after.signatures[len(before.signatures) :]


def cosignature_of(signatures: Sequence[Signature], key: WitnessKey) -> Cosignature | None:
    """Return the cosignature by a key, unverified; None without one. Raises ValueError."""
    for one in signatures:
        if (one.name, one.key_id) != (key.name, key.key_id):
            continue
        if len(one.signature) != _BYTES:
            raise ValueError(f"expected {_BYTES} bytes of a cosignature")
        time = int.from_bytes(one.signature[:_TIME_BYTES], "big")
        if time > MAX_SIZE:
            raise ValueError("expected a time of 63 bits")
        return Cosignature(time, one.signature[_TIME_BYTES:])
    return None


def cosigned_message(time: int, text: str) -> bytes:
    """Return what the signature of a cosignature covers, for the text of a note."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def parse_size(answer: bytes) -> int:
    """Return the size that a witness answers to a conflict; raises ValueError."""
    line = answer.decode("ascii")
    if not line.endswith("\n"):
        raise ValueError("expected a line with a size")
    return parse_number(line[:-1])
