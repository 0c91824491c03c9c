"""`home_seed`: the user's own files that a new kept home begins with.

Rules of this file: each file is named before it is copied; only files of the real home are, to the
same place in the cage's; a link is followed to a file of the real home and never out of it; what is
protected, or looks as if it held a secret, is left out and said (a person can grant it for
reading); files, their number and their sizes are bounded.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nono_trio.core.policy.secret_files import looks_secret
from nono_trio.posix.paths import home_directory, is_below
from nono_trio.sandbox.launcher.hostile_tree import find_directory, make_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Settings are kilobytes; what is larger is a cache or a database, which a new home makes itself.
MAX_BYTES: Final = 1 << 20
MAX_FILES: Final = 100

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Seeds:
    """Paths to copy, with the profile's lines that name them. `closing` returns the closed path
    that one lies in; `tell` gets each sentence at once."""

    paths: Sequence[tuple[str, str]]
    closing: Callable[[str], str | None]
    tell: Callable[[str], None]

    def copy(self, home: int, name: str) -> list[str]:
        """Copy into the open directory `home`, and return the paths in it; OSError where that can't
        be written."""
        copied = []
        for path, source in self.paths[:MAX_FILES]:
            try:
                inside, content = self._read(path)
            except FileNotFoundError:  # a profile of many users names what some don't have
                continue
            except _LeftOut as why:
                self.tell(f"{source}: {path} is not copied: {why}")
                continue
            self.tell(f"home {name} is new: copying {path} into it ({len(content)} bytes)")
            _write(home, inside, content)
            copied.append(inside)
        for path, source in self.paths[MAX_FILES:]:
            self.tell(f"{source}: {path} is not copied: more than {MAX_FILES} files")
        return copied

    def _read(self, path: str) -> tuple[str, bytes]:
        """The place in the home, and the content; raises _LeftOut, FileNotFoundError."""
        given = os.path.normpath(home_directory())
        home = os.path.realpath(given)
        real = os.path.realpath(path)
        base = next((one for one in (given, home) if is_below(os.path.normpath(path), one)), None)
        if base is None:
            raise _LeftOut("it is not in the home")
        if not is_below(real, home):
            raise _LeftOut(f"a link leads out of the home to {real}")
        closed = self.closing(path)
        if closed is not None:
            raise _LeftOut(f"{closed} is protected")
        content = _content(home, os.path.relpath(real, home))
        if looks_secret(os.path.basename(path), content):
            raise _LeftOut("it looks as if it held a secret (--read-file gives it all the same)")
        return os.path.relpath(os.path.normpath(path), base), content


class _LeftOut(Exception):
    """A file that is not copied, and why."""


def _content(home: str, inside: str) -> bytes:
    """A file's bytes; raises _LeftOut, FileNotFoundError."""
    *above, name = inside.split("/")
    try:
        with (
            _Opened(home) as top,
            _Opened(find_directory(top, above, heal=False)) as parent,
            os.fdopen(os.open(name, _READ, dir_fd=parent), "rb") as file,
        ):
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _LeftOut("it is no file")
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _LeftOut(error.strerror or str(error)) from error
    if len(content) > MAX_BYTES:
        raise _LeftOut(f"it is larger than {MAX_BYTES} bytes")
    return content


class _Opened:
    """A directory's descriptor, by its path or as it is, closed at the end."""

    def __init__(self, directory: str | int) -> None:
        if isinstance(directory, str):
            directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptor = directory

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _write(home: int, inside: str, content: bytes) -> None:
    *above, name = inside.split("/")
    with (
        _Opened(make_directories(home, above)) as parent,
        os.fdopen(os.open(name, _NEW, 0o600, dir_fd=parent), "wb") as file,
    ):
        file.write(content)
