"""The field lines of an accepted request head, as one block: split, and as they go on.

A program sends the same fields with each request to a host, whatever it asks for. So blocks are
remembered, with what is made of them.

Rules of this file:
- Only an accepted block is remembered, and nothing of it depends on a request line or on time.
- No block is remembered that may have a secret: all its names are in `_HARMLESS`. The token of the
  session is the exception, once it was compared: the proxy has it as long as the session lives.
- A block of a program's own names may have a secret; it is split each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

from nono_trio.core.http.header_fields import end_to_end_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.http.message import Field

MAX_REMEMBERED: Final = 1024  # bytes of a block that is remembered
MEMORY: Final = 256  # such blocks; with what is made of them less than 1 MiB

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
    return b"".join([b"%b: %b\r\n" % field for field in fields])


@final
class FieldBlock(msgspec.Struct, frozen=True, gc=False):
    """The fields of one head, in their order, with lower-case names.

    `raw` are their lines with the blank one. `spelled` are the fields with the names of the wire.
    `guarded` has those that the proxy reads, lists joined
    by commas. `host_fault`: the reason if Host is malformed. They may carry secrets, so `repr`
    shows none. Nobody may change them.
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
        """The fields that go on, as they were spelled, without `dropped` (lower case)."""
        found = self.passed_on.get(dropped)
        if found is None:
            found = WrittenFields.of(end_to_end_fields(self.spelled, dropped))
            self.passed_on[dropped] = found
        return found

    def __repr__(self) -> str:
        return f"FieldBlock({len(self.fields)} fields)"


_remembered: dict[bytes, FieldBlock] = {}


def remembered(raw: bytes) -> FieldBlock | None:
    """Return the block with exactly these lines, if it is remembered."""
    return _remembered.get(raw)


def remember(block: FieldBlock, *, has_right_token: bool = False) -> None:
    """Remember a block if it may be. `has_right_token`: the token in it is the session's."""
    if len(block.raw) > MAX_REMEMBERED or block.raw in _remembered:
        return
    if block.names <= (_HARMLESS_OR_TOKEN if has_right_token else _HARMLESS):
        if len(_remembered) >= MEMORY:  # all at once, since the child chooses them
            _remembered.clear()
        _remembered[block.raw] = block


def forget_all() -> None:
    """Forget all blocks."""
    _remembered.clear()


def remembered_blocks() -> list[FieldBlock]:
    """Return the blocks that are remembered."""
    return [*_remembered.values()]
