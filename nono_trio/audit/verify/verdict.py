"""The answer of `audit verify`: the verdict, its exit code and the JSON shape.

Rules of this file: the exit code follows from the verdict alone, so it is the same with and without
--json. `verified` means that the content was hashed again and compared with a seal. Of several
sessions the worst decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.audit.stored_session import FirstBad  # noqa: TC001  (for msgspec)
from nono_trio.errors import JSON_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable


# `consistent` is --since's: the log goes on from the checkpoint, what is before it was not hashed.
# `undamaged` is --quick's: the checksums fit, so no accident happened, but nothing was proved.
Verdict: TypeAlias = Literal[
    "verified", "consistent", "undamaged", "missing", "tampered", "open", "crashed", "unreadable"
]
# The rules that a session was judged by: upstream's are weaker, and only apply on request.
Rules: TypeAlias = Literal["nono-trio", "nono"]

EXIT_CODES: dict[Verdict, int] = {
    "verified": 0,
    "consistent": 0,
    "undamaged": 0,
    "missing": 1,
    "tampered": 1,
    "unreadable": 2,
    "open": 5,
    "crashed": 6,
}
# Tampering (a missing session too) is worse than an unreadable file, which is worse than a crash,
# which is worse than a running session.
_WORST_FIRST: tuple[Verdict, ...] = (
    "tampered",
    "missing",
    "unreadable",
    "crashed",
    "open",
    "undamaged",
    "consistent",
    "verified",
)


class Stored(msgspec.Struct, kw_only=True, frozen=True):
    """The counts and hashes in session.json; None for a missing one."""

    event_count: int | None = None
    chain_head: str | None = None
    merkle_root: str | None = None


class CheckpointsSeen(msgspec.Struct, kw_only=True, frozen=True):
    """The checkpoints that the log was compared with; `matches` is None without checkpoints."""

    count: int = 0
    last_sequence: int | None = None
    matches: bool | None = None


class LedgerSeen(msgspec.Struct, kw_only=True, frozen=True):
    """The session's line in the ledger; None if there was nothing to compare.

    `imported`: the session is another machine's. The line is that of its import, or in an archive
    the one that came with it. `removed`: the session is not there, and was removed on purpose.
    """

    found: bool = False
    imported: bool = False
    removed: bool = False
    matches: bool | None = None
    chain_verified: bool | None = None


class AttestationSeen(msgspec.Struct, kw_only=True, frozen=True):
    """The signatures of a session.

    `signature_verified`: there are some, and all of them are good. `signed_through` is the last
    sequence that they cover. `pinned`: they are of the key that the verifier was given.
    """

    present: bool = False
    signature_verified: bool = False
    key_id: str | None = None
    pinned: bool = False
    signed_through: int | None = None


class Verification(msgspec.Struct, kw_only=True):
    """The answer for one session; event_count, chain_head and merkle_root are computed."""

    schema: int = JSON_SCHEMA
    verdict: Verdict
    session_id: str | None = None
    path: str
    event_count: int = 0
    chain_head: str | None = None
    merkle_root: str | None = None
    sealed: bool = False
    rules: Rules = "nono-trio"
    stored: Stored = msgspec.field(default_factory=Stored)
    checkpoints: CheckpointsSeen = msgspec.field(default_factory=CheckpointsSeen)
    ledger: LedgerSeen = msgspec.field(default_factory=LedgerSeen)
    attestation: AttestationSeen = msgspec.field(default_factory=AttestationSeen)
    first_bad: FirstBad | None = None
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_CODES[self.verdict]


def worst(verdicts: Iterable[Verdict]) -> int:
    """The exit code for several sessions; 0 for none."""
    found = set(verdicts)
    return next((EXIT_CODES[verdict] for verdict in _WORST_FIRST if verdict in found), 0)
