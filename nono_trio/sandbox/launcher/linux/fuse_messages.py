"""The messages of the kernel's FUSE protocol (include/uapi/linux/fuse.h) that the view needs.

Rules of this file: bytes in, values out and back, no descriptor and no decision. What the kernel
sends is cut by its own lengths; a message that is too short raises struct.error. Everything is in
the machine's byte order and without alignment of its own, as the kernel's structures have it.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
STATFS: Final = 17
RELEASE: Final = 18
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
INTERRUPT: Final = 36
CREATE: Final = 35
DESTROY: Final = 38
BATCH_FORGET: Final = 42
RENAME2: Final = 45
TMPFILE: Final = 51

ROOT: Final = 1  # the number of the file system's first directory
# A request has at most a name and a header; the kernel wants room for a write of MAX_WRITE, and for
# many numbers to be forgotten at once.
MAX_WRITE: Final = 4096
READ_SIZE: Final = 64 << 10

_MAJOR, _MINOR = 7, 31
# Each exec follows links of the root (/bin, /lib64): the kernel must not ask for them each time.
_PARALLEL_DIRECTORIES, _CACHED_LINKS = 1 << 18, 1 << 23
# Nothing of the view ever changes: the kernel need not ask again within the session.
_FOR_EVER: Final = 1 << 31  # seconds

_HEADER: Final = struct.Struct("=IIQQIIIHH")
_ANSWER: Final = struct.Struct("=IiQ")
_INIT: Final = struct.Struct("=IIII")
_INIT_ANSWER: Final = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct("=QQQQII")
_ATTRIBUTES_ANSWER: Final = struct.Struct("=QII")
_OPEN_ANSWER: Final = struct.Struct("=QII")
_READ: Final = struct.Struct("=QQI")
_DIRECTORY_ENTRY: Final = struct.Struct("=QQII")
_SPACE: Final = struct.Struct("=QQQQQIII28x")
_BLOCK: Final = 4096
_LONGEST_NAME: Final = 255


class Request(NamedTuple):
    """One request: `thread` is the caller's, in the PID namespace in which the view was mounted."""

    operation: int
    unique: int
    node: int
    thread: int
    body: bytes

    @property
    def name(self) -> bytes:
        """The name in a look-up."""
        return self.body.partition(b"\0")[0]


class Attributes(NamedTuple):
    """The attributes of a node; `mode` with the file's type."""

    node: int
    mode: int
    uid: int
    gid: int
    size: int = 0

    def packed(self) -> bytes:
        """As the kernel has it."""
        links = 2 if self.mode & 0o040000 else 1
        return _ATTRIBUTES.pack(
            self.node, self.size, 0, 0, 0, 0, 0, 0, 0,
            self.mode, links, self.uid, self.gid, 0, _BLOCK, 0,
        )  # fmt: skip


def parse_request(message: bytes) -> Request:
    """Cut one message that was read from /dev/fuse."""
    length, operation, unique, node, _, _, thread, _, _ = _HEADER.unpack_from(message)
    return Request(operation, unique, node, thread, message[_HEADER.size : length])


def answer(unique: int, body: bytes = b"") -> bytes:
    """An answer that succeeds."""
    return _ANSWER.pack(_ANSWER.size + len(body), 0, unique) + body


def refusal(unique: int, number: int) -> bytes:
    """An answer that fails with an errno."""
    return _ANSWER.pack(_ANSWER.size, -number, unique)


def init_body(request: Request) -> bytes:
    """The answer's body to the kernel's first request."""
    _, _, readahead, flags = _INIT.unpack_from(request.body)
    return _INIT_ANSWER.pack(
        _MAJOR,
        _MINOR,
        readahead,
        flags & (_PARALLEL_DIRECTORIES | _CACHED_LINKS),
        0,
        0,
        MAX_WRITE,
        0,
        0,
        0,
        0,
    )


def entry_body(attributes: Attributes) -> bytes:
    """Return the answer's body to a LOOKUP that succeeds."""
    head = _ENTRY.pack(attributes.node, 0, _FOR_EVER, _FOR_EVER, 0, 0)
    return head + attributes.packed()


def missing_body() -> bytes:
    """Return the answer's body to a LOOKUP of a name that is missing until the end."""
    return _ENTRY.pack(0, 0, _FOR_EVER, 0, 0, 0) + bytes(_ATTRIBUTES.size)


def attributes_body(attributes: Attributes) -> bytes:
    """The answer's body to GETATTR."""
    return _ATTRIBUTES_ANSWER.pack(_FOR_EVER, 0, 0) + attributes.packed()


def open_body() -> bytes:
    """The answer's body to OPENDIR."""
    return _OPEN_ANSWER.pack(0, 0, 0)


def space_body() -> bytes:
    """The answer's body to STATFS: nothing is free."""
    return _SPACE.pack(0, 0, 0, 0, 0, _BLOCK, _LONGEST_NAME, _BLOCK)


def directory_body(request: Request, entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """The part of a directory that READDIR asks for; `entries` are names, numbers and modes."""
    _, offset, size = _READ.unpack_from(request.body)
    body = b""
    for place, (name, node, mode) in enumerate(entries[offset:], start=offset + 1):
        entry = _DIRECTORY_ENTRY.pack(node, place, len(name), mode >> 12) + name
        entry += b"\0" * (-len(entry) % 8)
        if len(body) + len(entry) > size:
            break
        body += entry
    return body
