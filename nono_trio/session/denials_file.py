"""NONO_TRIO_DENIALS: a file in which a program of the cage can read why it was refused.

A program that only sees a TLS alert or a reset can show its user no reason; here it finds one line
a denial, with the flag that would have allowed it. A denial that is repeated has one line.

Rules of this file: a line is written before the refusal is answered, and nothing that the command
does delays it: it is a regular file of ours, written through the descriptor that made it, so no
link is followed and no name is looked up again. It lies in the state directory, which no command
can be granted; the cage sees it read-only. It is bounded, and goes with the session.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.events import Network
from nono_trio.core.log.text_limits import bounded_text
from nono_trio.core.policy.allow_entry import denial_text
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.paths import ON_MACOS, is_in
from nono_trio.sandbox.filesystem.plan import PRIVATE
from nono_trio.sandbox.launcher.cage_plan import MountOp
from nono_trio.session.abandoned_entries import hold, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nono_trio.core.log.events import Payload
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation

VARIABLE: Final = "NONO_TRIO_DENIALS"
DIRECTORY: Final = "denials"
# Some 600 lines: a command that was denied more than that needs its log, not this file.
MAX_BYTES: Final = 64 * 1024
FULL: Final = "more was denied than fits here: nono-trio audit show {}\n"
_ROOM_FOR_END: Final = 256
# Paths of the view that never show the host's files: the first that no grant covers is taken.
_SHOWN: Final = ("/run/nono-trio/denials", *(f"{path}/.nono-trio-denials" for path in PRIVATE))


class DenialsFile:
    """The file of one session; `path` is the name that the command knows it by."""

    def __init__(self, state_root: Path, path: str | None = None) -> None:
        """Make it, empty, below `state_root`; raises OSError. `path`: where a view shows it."""
        directory = state_root / DIRECTORY
        self._file = directory / os.urandom(8).hex()
        with as_owner_of_path(self._file):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._file, flags, 0o600)
        hold(self._descriptor)
        self.source = os.path.realpath(self._file)
        self.path = path or self.source
        self.session_id = "latest"
        self._room = MAX_BYTES - _ROOM_FOR_END
        self._told: set[str] = set()

    def mounts(self) -> list[MountOp]:
        """Return the mount that shows it in a view; nothing if the command sees the file itself."""
        if self.path == self.source:
            return []
        found = os.fstat(self._descriptor)
        identity = (found.st_dev, found.st_ino)
        return [MountOp("host_file", self.path, source=self.source, identity=identity)]

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Write the line of a denial, unless it has one. Never raises OSError."""
        text = denial_text(payload.event) if isinstance(payload, Network) else None
        if text is None or self._room <= 0 or text in self._told:
            return
        self._told.add(text)
        line = f"{_printable(bounded_text(text))}\n".encode()
        self._room -= len(line)
        if self._room < 0:
            line = FULL.format(self.session_id).encode()
        with suppress(OSError):  # no room on the disk: the log says so, and ends the session
            os.write(self._descriptor, line)

    def close(self) -> None:
        """Remove it; the command has ended."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        self._room = 0
        with suppress(OSError), as_owner_of_path(self._file):
            self._file.unlink()


def open_denials(
    state_root: Path, files: FilePlan, isolation: Isolation, *, sandbox: bool
) -> DenialsFile | None:
    """Make the file where the cage can show it read-only; None where it can't, or none is made."""
    if ON_MACOS:
        return None
    path = None
    if isolation == "namespace" and sandbox:
        path = _shown_at(grant.real for grant in (*files.grants, *files.sockets))
        if path is None:
            return None
    with suppress(OSError):  # the log reports a state directory that can't be written
        return DenialsFile(state_root, path)
    return None


def _shown_at(granted: Iterable[str]) -> str | None:
    """The first place that is the view's own, whatever was granted."""
    taken = [*granted]
    for path in _SHOWN:
        private = next((one for one in PRIVATE if is_in(path, one)), "/")
        # A private directory is over what surrounds it, but not over a grant of it or in it.
        if not any(is_in(path, one) and is_in(one, private) for one in taken):
            return path
    return None


def _printable(text: str) -> str:
    """One line, whatever a program asked for."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
