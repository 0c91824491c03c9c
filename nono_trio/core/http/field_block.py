"""The field lines of an accepted head, as one block: split, and ready to go on.

A program sends the same fields with each request to a host, whatever it asks for, and a server may
answer with the same ones. So blocks are remembered, with the results of splitting them.

Rules of this file:
- Only an accepted block is remembered. Its results depend on no request line and on no time.
- A remembered block can have no secret: all its names are in `_HARMLESS`. The token of the
  session is the exception, once it was compared. A proxy that ends has all blocks forgotten: the
  memory is the process's, which may have other sessions.
- A block with any other name may have a secret, so it is split each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import msgspec

from nono_trio.core.http.header_fields import end_to_end_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.core.http.header_fields import Field

_Block = TypeVar("_Block")

# The bounds of each memory: blocks of requests, of responses, and whole heads (authorizer.py).
MAX_REMEMBERED: Final = 1024  # bytes of a block, or of a head
MOST_FIELDS: Final = 16  # in it, as browsers send; each takes up to 0.8 KiB here
MEMORY: Final = 256  # of them; with what is made of them less than 4 MiB
MOST_SEEN: Final = 1024  # hashes of blocks that have come once

# Without those that name the user, and without opaque values that a server has chosen (ETags).
_HARMLESS: Final = frozenset(
    {
        b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control",
        b"connection", b"content-encoding", b"content-language", b"content-length",
        b"content-type", b"date", b"dnt", b"expect", b"host", b"if-modified-since",
        b"if-unmodified-since", b"keep-alive", b"max-forwards", b"pragma", b"priority",
        b"proxy-connection", b"range", b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site",
        b"sec-fetch-user", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"upgrade-insecure-requests", b"user-agent",
    }
)  # fmt: skip
_TOKEN: Final = b"proxy-authorization"
_HARMLESS_OR_TOKEN: Final = _HARMLESS | {_TOKEN}


@final
class WrittenFields(tuple["Field", ...]):
    """Fields that were written before: `lines` are the bytes of exactly these."""

    lines: bytes

    @classmethod
    def of(cls, fields: Iterable[Field]) -> WrittenFields:
        """Write the fields."""
        written = cls(fields)
        written.lines = written_lines(written)
        return written


def written_lines(fields: Iterable[Field]) -> bytes:
    """Return the lines of fields, as HTTP/1.1 sends them."""
    return b"\r\n".join([*map(b": ".join, fields), b""])


@final
class FieldBlock(msgspec.Struct, frozen=True, gc=False):
    """The fields of one head, in their order, with lower-case names.

    `raw` are their lines with the blank one. `spelled` are the fields with the names of the wire.
    `guarded` has those that the proxy reads, lists joined by commas. `host_fault`: the reason if
    Host is malformed. They may carry secrets, so `repr` shows none. Nobody may change them.
    """

    raw: bytes
    fields: tuple[Field, ...] = ()
    spelled: Sequence[Field] = ()
    names: frozenset[bytes] = frozenset()
    guarded: dict[bytes, bytes] = {}
    host_fault: str | None = None
    closes: bool = False
    """Connection names `close`."""
    passed_on: dict[frozenset[bytes], WrittenFields] = {}

    @property
    def has_only_token(self) -> bool:
        """True if no field can carry a secret other than the token of a proxy."""
        return self.names <= _HARMLESS_OR_TOKEN

    def end_to_end(self, dropped: frozenset[bytes]) -> WrittenFields:
        """The fields that go on, with the names of the wire, without `dropped` (lower case)."""
        found = self.passed_on.get(dropped)
        if found is None:
            found = WrittenFields.of(end_to_end_fields(self.spelled, dropped))
            self.passed_on[dropped] = found
        return found

    def __repr__(self) -> str:
        return f"FieldBlock({len(self.fields)} fields)"


class BlockMemory(Generic[_Block]):
    """Blocks that have come at least twice, by their exact lines with the blank one.

    A block that comes once (another date, another length) costs little and replaces nothing.
    """

    def __init__(self) -> None:
        self._blocks: dict[bytes, _Block] = {}
        self._seen: set[int] = set()
        self.find = self._blocks.get
        """Return the block with exactly these lines; None if it is not remembered."""

    def keep(self, raw: bytes, block: _Block) -> None:
        """Remember a block that can have no secret, if it has come before."""
        if len(raw) > MAX_REMEMBERED:
            return
        seen = hash(raw)
        if seen not in self._seen:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen.add(seen)
        elif raw not in self._blocks and raw.count(b"\n") <= MOST_FIELDS + 1:  # and the blank line
            if len(self._blocks) >= MEMORY:  # all at once, since others choose them
                self._blocks.clear()
            self._blocks[raw] = block

    def forget_all(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self._seen.clear()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)


requests: Final[BlockMemory[FieldBlock]] = BlockMemory()


def remember(block: FieldBlock, *, has_right_token: bool = False) -> None:
    """Remember a block of a request if it may be. `has_right_token`: its token is the session's."""
    if block.names <= (_HARMLESS_OR_TOKEN if has_right_token else _HARMLESS):
        requests.keep(block.raw, block)
