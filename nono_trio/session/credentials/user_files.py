"""The user's files that a command sees with stand-ins in the place of secrets.

Rules of this file:
- A file is read once, at the start: a regular one of bounded size that stays the same meanwhile. It
  must have its credential's secret; all other secrets of the session are replaced in it too.
- With a mount view, a copy is mounted at the file's path, read-only. Without one, the copy lies in
  the cage's own home, at the same place below it. A file elsewhere refuses the run there.
- A copy is for its user alone (0600) and goes with the session. A file that the command could read
  itself, without a mount over it, refuses the run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.core.credentials.replace import with_stand_ins
from nono_trio.errors import UsageError
from nono_trio.posix.paths import home_directory, is_below
from nono_trio.session.credentials.readers import SourceFailed, read_unchanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.session.credentials.held_secret import HeldSecret
    from nono_trio.session.homes.session_home import RunHome
    from nono_trio.session.opened_files import OpenedFiles

MAX_FILE: Final = 1 << 20  # bytes; settings are kilobytes
MAX_FILES: Final = 64  # of a session


class CopiedFile(NamedTuple):
    """A file of the user's (`given`), where the command sees it, and the copy's content.

    `is_granted`: the host's file is in a grant, and a mount must be over it.
    """

    given: str
    path: str
    data: bytes
    is_granted: bool


def below(path: str, home: str | None) -> str | None:
    """Return a path relative to the home that it is in."""
    return os.path.relpath(path, home) if home is not None and is_below(path, home) else None


def copies(
    held: Sequence[HeldSecret], opened: OpenedFiles, home: RunHome, *, has_view: bool
) -> list[CopiedFile]:
    """Read the files of all credentials; nothing is written. Raises UsageError."""
    pairs = [pair for one in held for pair in one.pairs()]
    found: dict[str, CopiedFile] = {}
    for one in held:
        for given in one.credential.files:
            name = one.credential.name
            file = _copy(name, given, one.pairs(), pairs, opened, home, has_view=has_view)
            found.setdefault(file.path, file)
    if len(found) > MAX_FILES:
        raise UsageError(
            f"credentials name {len(found)} files, expected at most {MAX_FILES}",
            hint="name the files alone that hold a secret",
        )
    return list(found.values())


def _copy(
    name: str,
    given: str,
    own: Sequence[tuple[bytes, bytes]],
    pairs: Sequence[tuple[bytes, bytes]],
    opened: OpenedFiles,
    home: RunHome,
    *,
    has_view: bool,
) -> CopiedFile:
    path = os.path.abspath(given)
    data = _read(name, path)
    changed = with_stand_ins(data, pairs)
    if with_stand_ins(data, own) == data:
        raise UsageError(
            f"credential {name}: the file {path!a} does not have its secret",
            hint="take it out of `files`, or see whether it has another one",
        )
    is_granted = opened.reader(path) is not None
    if not is_granted and opened.reader(os.path.dirname(path)) is not None:
        raise UsageError(
            f"credential {name}: {path} is a link in a grant, to a file that is not granted",
            hint=f"name the file itself: {os.path.realpath(path)}",
        )
    shown = _place(name, path, home, is_granted=is_granted, has_view=has_view)
    return CopiedFile(path, shown, changed, is_granted)


def _read(name: str, path: str) -> bytes:
    try:
        _, data = read_unchanged(path, MAX_FILE)
    except OSError as error:
        reason = (error.strerror or "it fails").lower()
        raise UsageError(
            f"credential {name}: the file {path!a} can't be read: {reason}",
            hint="see `files` of the credential",
        ) from None
    except SourceFailed as failed:
        raise UsageError(f"credential {name}: {failed.reason}", hint="try again") from None
    if data is None or len(data) > MAX_FILE:
        raise UsageError(
            f"credential {name}: the file {path!a} has more than {MAX_FILE} bytes",
            hint="name a smaller one in `files`",
        )
    return data


def _place(name: str, path: str, home: RunHome, *, is_granted: bool, has_view: bool) -> str:
    """Return where the command sees a copy; raises UsageError."""
    if has_view and is_granted:
        return os.path.realpath(path)
    if is_granted:
        raise UsageError(
            f"credential {name}: the command may read {path} itself, and without namespaces nothing"
            " can be mounted over it",
            hint="grant directories beside it, or run with --isolation namespace",
        )
    inside = _below_home(path)
    if inside is not None and home.path is not None:
        return os.path.join(home.path, inside)
    if has_view:
        directory = os.path.realpath(os.path.dirname(path))
        return os.path.join(directory, os.path.basename(path))
    raise UsageError(
        f"credential {name}: the file {path} can't be shown to the command without namespaces: it"
        " is outside of the home, or the cage has no home",
        hint="run with --isolation namespace, or leave the file out of `files`",
    )


def _below_home(path: str) -> str | None:
    homes = (os.path.normpath(home_directory()), os.path.realpath(home_directory()))
    return next((inside for home in homes if (inside := below(path, home)) is not None), None)
