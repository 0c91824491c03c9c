"""The text of a signed checkpoint (C2SP tlog-checkpoint): origin, number of leaves, root.

Rules of this file: the text has three lines and no others. The format allows more, but signatures
of some witnesses do not cover them.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import is_name

ORIGIN: Final = "nono-trio/"
LEDGER_ORIGIN: Final = f"{ORIGIN}ledger/"
MAX_SIZE: Final = 2**63 - 1


class TreeHead(NamedTuple):
    """A tree at one size; `root` is its RFC 6962 root, 32 bytes."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> str:
        """Return the text that is signed, with its last newline."""
        return f"{self.origin}\n{self.size}\n{base64_text.encode(self.root)}\n"


def session_origin(session_id: str) -> str:
    """Return the origin of a session's checkpoints, which is also the name of the key in them."""
    return ORIGIN + session_id


def ledger_origin(key: bytes) -> str:
    """Return the origin of the ledger's checkpoints under an Ed25519 key (32 bytes)."""
    return f"{LEDGER_ORIGIN}{hashlib.sha256(key).hexdigest()[:16]}"


def session_of(origin: str) -> str | None:
    """Return the id of the session with this origin; None for any other origin."""
    session_id = origin.removeprefix(ORIGIN)
    return session_id if origin.startswith(ORIGIN) and "/" not in session_id else None


def parse_tree_head(text: str) -> TreeHead:
    """Return the tree head in the text of a note; raises ValueError."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise ValueError("expected three lines: origin, size, root")
    origin, size, root = lines[:3]
    if not is_name(origin):
        raise ValueError("expected an origin without spaces")
    return TreeHead(origin, parse_number(size), base64_text.decode_hash(root))


def parse_number(text: str) -> int:
    """Return a decimal number without leading zeros; raises ValueError."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_SIZE)):
        raise ValueError("expected a decimal number")
    number = int(text)
    if number > MAX_SIZE or str(number) != text:
        raise ValueError("expected a decimal number of 63 bits without leading zeros")
    return number
