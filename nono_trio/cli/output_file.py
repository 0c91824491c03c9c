"""The file of `--output FILE`: made whole or not at all, and refused with the errors of that flag.

posix/new_file.py makes it. Rules of this file: only a regular file is replaced, and no symlink is
followed, because the directory may be one that a command could write. No file is made among the
sessions, where it could take the place of a log or of the ledger.
"""

from __future__ import annotations

import os
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from nono_trio.cli.ending import ending_at_sigterm
from nono_trio.errors import UsageError, path_hint, unreadable
from nono_trio.posix.account import expand_home
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT: Final = "-"


def output_place(output: str) -> Path:
    """Return the absolute path that the flag names."""
    return Path(os.path.abspath(expand_home(output)))


def require_outside(flag: str, path: Path, sessions: Path) -> None:
    """Raise UsageError if a file to write is in the directory of the sessions."""
    if is_in(os.path.realpath(path), os.path.realpath(sessions)):
        raise UsageError(
            f"{flag}: {path} is in the directory of the sessions, where logs are kept",
            hint=f"name a file elsewhere, for example {shlex.quote(path.name)}",
        )


def require_output(output: str, sessions: Path | None, *, replace: bool) -> None:
    """Raise UsageError if no file can be made there: before the work that gives its content.

    `sessions` is the directory of the sessions, or None where they are at a URL.
    """
    from nono_trio.posix.new_file import require_place

    if sessions is not None:
        require_outside("--output", output_place(output), sessions)
    try:
        require_place(output_place(output), replace=replace)
    except OSError as error:
        raise _refused(output, error) from error


@contextmanager
def output_file(output: str, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file to write to, which gets its name when the block ends well.

    Raises UsageError if it can't be made, and LogUnreadable for an OSError of the block that names
    another file.
    """
    from nono_trio.posix.new_file import new_file

    place = output_place(output)
    try:
        with ending_at_sigterm(), new_file(place, replace=replace) as file:
            yield file
    except OSError as error:
        if error.filename is None or _is_about(place, Path(os.fsdecode(error.filename))):
            raise _refused(output, error) from error
        raise unreadable(error.filename, error) from error


def _is_about(place: Path, path: Path) -> bool:
    """Return True for the file, another name in its directory, and the directory."""
    return place.parent in (path, path.parent)


def _refused(output: str, error: OSError) -> UsageError:
    if isinstance(error, FileExistsError):
        return UsageError(
            f"--output: {output} is there already", hint="name another file, or add --force"
        )
    return UsageError(
        f"--output: {output} can't be written: {error.strerror or error}",
        hint=path_hint(output_place(output).parent, error, "its directory"),
    )
