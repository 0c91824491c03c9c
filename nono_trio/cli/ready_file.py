"""`--ready-file`: the ready line of `proxy` in a file, whole or not at all, and gone at the end.

The line has the token in it. Rules of this file: the file is made anew, readable by its owner
alone, and renamed into place, so that a reader never sees half of it; a file that is there already
is replaced only if it is empty (mktemp makes one) or the ready file of an earlier run.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress

from nono_trio.errors import UsageError

_BEGINS = b'{"schema": 1, "port": '  # every ready line, in the spelling of json.dumps


class ReadyFile:
    """The file at `path`, not written yet. Raises UsageError where it can't be, or must not."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None  # held open: else its inode could be used again
        self._check()

    def write(self, line: str) -> None:
        """Put the line in place. Raises UsageError."""
        fresh = f"{self._path}.{secrets.token_hex(4)}"
        try:
            self._check()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(fresh, flags, 0o600)
            with open(self._descriptor, "w", encoding="utf-8", closefd=False) as file:
                file.write(f"{line}\n")
            os.rename(fresh, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(fresh)
            raise _refused(self._path, f"can't be written: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it, if it is still the one that was written: the token in it is of no use."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path)):
                os.unlink(self._path)
        os.close(self._descriptor)

    def _check(self) -> None:
        """Raise for a place where something else is, or where nothing can be made."""
        directory = os.path.dirname(self._path) or "."
        if not os.access(directory, os.W_OK | os.X_OK):
            raise _refused(self._path, f"the directory {directory!r} can't be written to")
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _refused(self._path, f"can't be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode) or not (status.st_size == 0 or self._is_ours()):
            raise _refused(self._path, "is there already, and is no such file of an earlier run")

    def _is_ours(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        with open(descriptor, "rb") as file:
            return file.read(len(_BEGINS)) == _BEGINS


def _refused(path: str, why: str) -> UsageError:
    return UsageError(
        f"--ready-file {path!r}: {why}",
        hint="name a file that is not there yet, in a directory of yours",
    )
