"""The bytes of an archive: a plain tar of regular files, in one canonical form.

    ID/archive.json        the form and the session's id
    ID/NAME ...            the files of the session and of its proof, in the order of MEMBERS
    two blocks of zeros

Rules of this file: name and size determine every byte of a member's header (USTAR; owner 0, mode
0600, time 0, no link), and the padding is zeros. So a reader parses two fields and compares the
rest. Another type, a path elsewhere, a second file of one name, another order, an extended header,
a hole or a byte after the end is refused. The same session makes the same archive everywhere.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from nono_trio.audit import store
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK: Final = 512
COPIED_AT_ONCE: Final = 1024 * 1024
END: Final = bytes(2 * BLOCK)
MANIFEST: Final = "archive.json"
FORMAT: Final = "nono-trio session archive"

_MIB: Final = 1024 * 1024
# The largest size that eleven octal digits can express; some eight million records fit.
MAX_FILE: Final = 8 * 1024**3 - 1
_SMALL: Final = 64 * 1024
# Each file of an archive and the most bytes of it, in the order of the archive.
MEMBERS: Final = dict(
    sorted(
        {
            MANIFEST: _SMALL,
            store.LOG: MAX_FILE,
            store.CHECKPOINTS: MAX_FILE,
            store.FLOWS: MAX_FILE,
            store.PROCESSES: MAX_FILE,
            store.SESSION: store.MAX_SESSION_BYTES,
            store.POLICY: 64 * _MIB,
            store.SUMMARY: 64 * _MIB,
            store.BUNDLE: _MIB,
            **dict.fromkeys(store.TORN_FILES, 64 * _MIB),
            **dict.fromkeys(store.CARRIED, _SMALL),
        }.items()
    )
)
# Without one of these a directory is no session that can be proved.
REQUIRED: Final = frozenset(
    {MANIFEST, store.LOG, store.CHECKPOINTS, store.SESSION, store.POLICY, store.SUMMARY,
     store.LEDGER_LINE}
)  # fmt: skip


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """archive.json: `format` and `v` are always the same, `session_id` names the session."""

    format: str = FORMAT
    v: int = 1
    session_id: str


class Member(NamedTuple):
    """One file of an archive: its name in the session, its size, and where its bytes begin."""

    name: str
    size: int
    offset: int


def is_own_id(text: str) -> bool:
    """Return whether a text has the form of the ids that nono-trio gives its sessions."""
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def encode_manifest(session_id: str) -> bytes:
    """Return the bytes of archive.json."""
    return msgspec.json.encode(Manifest(session_id=session_id)) + b"\n"


def header(path: str, size: int) -> bytes:
    """Return the header of a regular file: USTAR, 512 bytes."""
    before = path.encode("ascii").ljust(100, b"\0") + b"0000600\0" + 2 * b"0000000\0"
    before += b"%011o\0" % size + b"%011o\0" % 0
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(BLOCK - 265)
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after


def padding(size: int) -> int:
    """Return the number of zeros after a file of `size` bytes."""
    return -size % BLOCK


def is_tar(beginning: bytes) -> bool:
    """Return whether a file that begins so is a tar, of ours or not."""
    return beginning[257:262] == b"ustar"


def members(file: BinaryIO, path: Path, session_id: str) -> Iterator[Member]:
    """Yield the files of the archive of a session; `file` is at its beginning.

    The caller must read (or skip) the bytes of each member before it asks for the next. Raises
    LogUnreadable for anything but a whole archive, also after its last member, and OSError.
    """
    left, offset = list(MEMBERS), 0
    while (block := _read(file, BLOCK, offset, path)) != bytes(BLOCK):
        name, size = _member(block, offset, session_id, left, path)
        missing = [one for one in left[: left.index(name)] if one in REQUIRED]
        if missing:
            raise refused(path, offset, missing[0], name)
        del left[: left.index(name) + 1]
        offset += BLOCK
        if name == MANIFEST:
            _check_manifest(file, size, offset, session_id, path)
        else:
            yield Member(name, size, offset)
        offset += size
        if _read(file, padding(size), offset, path).strip(b"\0"):
            raise refused(path, offset, "zeros", "other bytes")
        offset += padding(size)
    missing = [one for one in left if one in REQUIRED]
    if missing:
        raise refused(path, offset, missing[0], "the end")
    _check_end(file, offset + BLOCK, path)


def _member(
    block: bytes, offset: int, session_id: str, left: list[str], path: Path
) -> tuple[str, int]:
    """Return name and size in a header, which must be that of one of the files that are left."""
    name, size = _parsed(block, offset, path)
    short = name.removeprefix(f"{session_id}/")
    if short not in left or name != f"{session_id}/{short}":
        raise refused(path, offset, "a file of the session in its place", ascii(name))
    if size > MEMBERS[short]:
        raise refused(path, offset, f"at most {MEMBERS[short]} bytes of {short}", str(size))
    if block != header(name, size):
        raise refused(path, offset, f"the header of a plain file {short}", "another")
    return short, size


def session_id_of(beginning: bytes) -> str:
    """Return the session's id by the first header of an archive; "" if it has none."""
    name = beginning[:100].partition(b"\0")[0].decode("ascii", "replace")
    session_id, _, first = name.partition("/")
    return session_id if first == MANIFEST and is_own_id(session_id) else ""


def refused(path: Path, offset: int, expected: str, got: str) -> LogUnreadable:
    """Return the error about a file that is no whole archive."""
    return LogUnreadable(
        f"{path} is no whole archive of a session: at byte {offset} expected {expected}, got {got}",
        hint="`nono-trio audit export-session SESSION -o FILE` makes one",
    )


def _parsed(block: bytes, offset: int, path: Path) -> tuple[str, int]:
    name = block[:100].rstrip(b"\0").decode("ascii", "replace")
    digits = block[124:135].decode("ascii", "replace")
    if set(digits) - set("01234567"):
        raise refused(path, offset, "the header of a file", "other bytes")
    return name, int(digits, 8)


def _check_manifest(file: BinaryIO, size: int, offset: int, session_id: str, path: Path) -> None:
    if _read(file, size, offset, path) != encode_manifest(session_id):
        raise refused(path, offset, f"version 1 of {MANIFEST} for {session_id}", "another")


def _check_end(file: BinaryIO, offset: int, path: Path) -> None:
    if _read(file, BLOCK, offset, path) != bytes(BLOCK):
        raise refused(path, offset, "a second block of zeros", "other bytes")
    if file.read(1):
        raise refused(path, offset + BLOCK, "the end", "more bytes")


def _read(file: BinaryIO, size: int, offset: int, path: Path) -> bytes:
    """Return exactly `size` bytes, which must be few."""
    data = file.read(size)
    if len(data) != size:
        raise refused(path, offset + len(data), f"{size - len(data)} more bytes", "the end")
    return data


def too_large(name: str, size: int) -> OSError:
    """Return the error about a file that does not fit into an archive."""
    return OSError(errno.EFBIG, f"expected at most {MEMBERS[name]} bytes, got {size}", name)
