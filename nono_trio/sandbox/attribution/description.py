"""Reads a program's first arguments and the SHA-256 of its file.

Both belong to the child. The arguments lie in its memory, and the file may be large, so a thread
reads them; one that hangs is abandoned. A file on a file system that may stop answering is not
read (file_system.py). Rules of this file:
the size of a file and the bytes hashed in a session are bounded. A hash is of the file that was
opened and did not change meanwhile; it is cached by device, inode, size, mtime and ctime. If the
process executed another program meanwhile, the result is empty.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.log.processes import shown_argv
from nono_trio.sandbox.attribution.file_system import may_hang
from nono_trio.sandbox.attribution.image import read_stat

if TYPE_CHECKING:
    from typing import TypeAlias

    from nono_trio.sandbox.attribution.image import Image

    _Identity: TypeAlias = tuple[int, int, int, int, int]

MAX_FILE: Final = 512 * 1024 * 1024  # far over any interpreter; a browser has 300 MB
MAX_HASHED: Final = 8 * 1024 * 1024 * 1024  # of one session: a child that makes programs is bounded
MAX_REMEMBERED: Final = 512
_MOST_ARGUMENTS: Final = 8192  # bytes: the first arguments, or what is read of them
_MOST_WORDS: Final = 16  # an interpreter's options may stand before its script
_BLOCK: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A file that changed a moment ago may change again without another time stamp.
_SETTLED_SECONDS: Final = 2.0


class Looked(msgspec.Struct, frozen=True):
    """The arguments of a program, and its hash if that was known. Otherwise `file` is open as a
    place; it is -1 if there is nothing to hash."""

    argv: list[str] | None
    sha256: str | None
    file: int


def look_at(directory: int, image: Image, hashes: FileHashes) -> Looked:
    """Read about the program `image` of the process whose directory in /proc is open as
    `directory`; takes both over. If the process has executed another program since, the arguments
    are None."""
    argv = None
    try:
        argv = _arguments(directory, image)
        if not image.is_of(read_stat(directory, image.where)):
            argv = None
    except OSError:
        argv = None  # it has ended
    finally:
        os.close(directory)
    file, image.file = image.file, -1
    image.close()
    if file < 0:
        return Looked(argv, None, file)
    hangs = may_hang(file)
    known = None if hangs else hashes.known(file)
    if hangs or known is not None:
        os.close(file)
        file = -1
    return Looked(argv, known, file)


def _arguments(directory: int, image: Image) -> list[str] | None:
    descriptor = os.open(f"{image.where}cmdline", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = os.read(descriptor, _MOST_ARGUMENTS)
    finally:
        os.close(descriptor)
    if not text:
        return None
    arguments = text.removesuffix(b"\0").split(b"\0")[:_MOST_WORDS]
    return shown_argv(image.path, [os.fsdecode(argument) for argument in arguments])


class FileHashes:
    """Hashes open files, once each. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[_Identity, str] = {}
        self._changing = threading.Lock()
        self._hashing: dict[_Identity, threading.Lock] = {}
        self._left = MAX_HASHED

    def known(self, place: int) -> str | None:
        """Return the digest of a file that is open as a place, if it was hashed before."""
        try:
            return self._known.get(_identity(os.fstat(place)))
        except OSError:
            return None

    def sha256(self, place: int) -> str | None:
        """Return the digest (hex) of a file that is open as a place, or None; closes that."""
        try:
            return self._of(place)
        except OSError:
            return None
        finally:
            os.close(place)

    def _of(self, place: int) -> str | None:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
            return None
        identity = _identity(found)
        with self._changing:
            if len(self._hashing) >= MAX_REMEMBERED:
                self._hashing.clear()
            hashing = self._hashing.setdefault(identity, threading.Lock())
        with hashing:  # fifty processes of one program: its file is read once
            known = self._known.get(identity)
            if known is not None or found.st_size > self._left:
                return known
            self._left -= found.st_size
            file = os.open(f"/proc/self/fd/{place}", _READ)
            try:
                digest = _digest(file, found.st_size)
                if _identity(os.fstat(file)) != identity:
                    return None
            finally:
                os.close(file)
            if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_SECONDS:
                self._keep(identity, digest)
            return digest

    def _keep(self, identity: _Identity, digest: str) -> None:
        with self._changing:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[identity] = digest


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(file: int, size: int) -> str:
    """The digest of the first `size` bytes: a file that grows meanwhile ends nothing."""
    hasher = hashlib.sha256()
    place = 0
    while place < size and (block := os.pread(file, min(_BLOCK, size - place), place)):
        hasher.update(block)
        place += len(block)
    return hasher.hexdigest()
