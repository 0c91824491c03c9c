"""The progress of each session at a destination: one small file a session, replaced as a whole.

Rules of this file: a position is saved after the receiver has taken what lies before it. A lost
or damaged file means that its session is sent again, with the same ids. One shipper at a time holds
a destination.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from nono_trio.audit import store
from nono_trio.audit.export.session_reader import Position
from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED
from nono_trio.errors import UsageError, path_hint
from nono_trio.posix.owner import as_owner_of_path, open_shared
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY: Final = "ship"  # in the state directory
_LOCK: Final = "lock"
_DESTINATION: Final = "destination.json"
_SUFFIX: Final = ".cursor"
_MAX_BYTES: Final = 4096


class Sent(msgspec.Struct, kw_only=True, frozen=True):
    """The whole of a session's file. `done`: the session has ended and is sent whole."""

    v: Literal[1] = 1
    position: Position
    done: bool = False


class _Destination(msgspec.Struct, kw_only=True, frozen=True):
    v: Literal[1] = 1
    to: str
    format: str


_encoder = msgspec.json.Encoder()
_decoder = late_decoder(Sent)


class Cursor:
    """The cursor of one destination and format; `state_root` has the sessions below it."""

    def __init__(self, state_root: Path, destination: str, form: str) -> None:
        key = hashlib.sha256(f"{form}\n{destination}".encode()).hexdigest()[:16]
        self._directory = state_root / DIRECTORY / key
        self._destination = _Destination(to=destination, format=form)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the destination for this process; raises UsageError if another one has it, or if no
        progress can be kept."""
        try:
            lock = self._open()
        except OSError as error:
            raise self._not_kept(error) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process ships to {self._destination.to} already",
                    hint=f"look for it: fuser -v {self._directory / _LOCK}",
                ) from None
            try:
                self._replace(_DESTINATION, self._destination)
            except OSError as error:
                raise self._not_kept(error) from error
            yield
        finally:
            os.close(lock)

    def _open(self) -> int:
        """Open the lock, in a directory that is made if it is not there."""
        with as_owner_of_path(self._directory):
            for directory in (self._directory.parent, self._directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open_shared(self._directory / _LOCK, os.O_RDWR)

    def load(self, session_id: str) -> Sent:
        """Return what has been sent of a session; nothing for one that is not known."""
        try:
            return _decoder.decode(read_whole(self._path(session_id), _MAX_BYTES))
        except (OSError, *MALFORMED):
            return Sent(position=Position())

    def save(self, session_id: str, sent: Sent) -> None:
        """Replace a session's file, durably; raises OSError."""
        self._replace(session_id + _SUFFIX, sent)

    def known(self) -> list[str]:
        """Return the sessions that have a file."""
        names = [entry.name for entry in os.scandir(self._directory)]
        ids = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        return [one for one in ids if store.is_session_id(one)]

    def forget(self, session_id: str) -> None:
        """Remove a session's file, as far as possible."""
        with suppress(OSError), as_owner_of_path(self._directory):
            self._path(session_id).unlink()

    def _replace(self, name: str, content: Sent | _Destination) -> None:
        store.replace_file(self._directory, name, _encoder.encode(content) + b"\n")

    def _not_kept(self, error: OSError) -> UsageError:
        return UsageError(
            f"the progress can't be kept in {self._directory}: {error.strerror or error}",
            hint=path_hint(self._directory.parent.parent, error),
        )

    def _path(self, session_id: str) -> Path:
        return self._directory / (session_id + _SUFFIX)
