"""Reads a secret from its source once: a variable, a file, the keyring, a command line.

Rules of this file:
- `read` blocks, and is called in a thread. Nothing here knows the loop.
- A file must be a regular one. Its links are followed at each read, because a rotation may change
  them; that the command can't change them is checked before (access.py). It is read again when it
  has changed, or when it changed so lately that the clock can't tell.
- A secret has 1 byte to MAX_SECRET, and no NUL. One line break at its end is removed.
- The reasons of errors have no part of a secret, nor of a command line, nor what it printed: they
  are in the log, and the caged command gets them.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from nono_trio.core.credentials.credential import COMMAND, ENVIRONMENT, FILE, KEYRING_EXTRA
from nono_trio.core.credentials.secret import Secret, without_line_end
from nono_trio.core.credentials.shape import MAX_SECRET
from nono_trio.posix.account import expand_home
from nono_trio.posix.private_file import program_hint
from nono_trio.posix.safe_open import open_regular
from nono_trio.proxy.credentials.interfaces import SecretUnavailable
from nono_trio.session.credentials.command_line import CommandFailed, CommandLine, find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nono_trio.core.credentials.credential import Source

_LINE_END: Final = 2  # bytes after the secret
# Two writes within a tick of the file system's clock have the same time; the coarsest has 2 s.
RACY_NANOSECONDS: Final = 2_000_000_000
_ALONE: Final = "a source gives the secret alone; see what this one has"
_TRIES: Final = 3  # of reading a file that changes meanwhile


class SourceFailed(SecretUnavailable):
    """A source gives no secret; `hint` says what helps.

    `said` is what its command printed on stderr: for the user's terminal alone, before the cage is
    there.
    """

    def __init__(self, reason: str, hint: str | None = None, said: str = "") -> None:
        super().__init__(reason)
        self.hint = hint
        self.said = said


class Reader(Protocol):
    """Reads one source."""

    def read(self) -> Secret:
        """Return the secret; blocks. Raises SourceFailed."""
        ...

    def stop(self) -> None:
        """End a read that runs in another thread, if that can be done, and let none begin."""
        ...


def make_reader(source: Source, environment: Mapping[str, str]) -> Reader:
    """Return the reader of a source. `environment` is the caller's, for a command line without the
    variables of other credentials. Raises SourceFailed for a program that is not there."""
    if source.kind == ENVIRONMENT:
        return VariableReader(source.words[0], environment)
    if source.kind == FILE:
        return FileReader(expand_home(source.words[0]))
    if source.kind == COMMAND:
        program = find_program(source.words[0], environment)
        if program is None:
            word = source.words[0]
            raise SourceFailed(f"there is no command {word!a}", program_hint(word))
        return CommandReader(program, source.words, environment)
    return KeyringReader(*source.words)


class VariableReader:
    """A variable of the caller's environment, which stays as it was at the start."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self._name = name
        value = environment.get(name)
        self._value = None if value is None else Secret(os.fsencode(value))

    def read(self) -> Secret:
        """Return its value."""
        if self._value is None:
            raise SourceFailed(f"the variable {self._name} is not set", f"export {self._name}=...")
        return checked(self._value.reveal(), f"the variable {self._name}")

    def stop(self) -> None:
        """Nothing waits."""


class Stamp(NamedTuple):
    """Facts about a file; at least one differs once the file was changed."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class FileReader:
    """A file, which may be rotated while it is used."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._last: tuple[Stamp, Secret] | None = None

    def read(self) -> Secret:
        """Return its content, from memory if it has not changed."""
        try:
            return self._read()
        except OSError as error:
            reason = (error.strerror or "it can't be read").lower()
            raise SourceFailed(
                f"the file {self.path!a} can't be read: {reason}",
                f"look at it: ls -ld {shlex.quote(self.path)}",
            ) from None

    def _read(self) -> Secret:
        stamp, data = read_unchanged(self.path, MAX_SECRET + _LINE_END, self._is_known)
        if data is None and self._last is not None:
            return self._last[1]
        secret = checked(data or b"", f"the file {self.path!a}")
        is_old = time.time_ns() - max(stamp.modified, stamp.changed) > RACY_NANOSECONDS
        self._last = (stamp, secret) if is_old else None
        return secret

    def _is_known(self, stamp: Stamp) -> bool:
        return self._last is not None and self._last[0] == stamp

    def stop(self) -> None:
        """Do nothing: a read can't be ended, so the end of a session does not wait for it."""


class CommandReader:
    """The output of a command line."""

    def __init__(self, program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.program = program
        self._name = os.path.basename(program)
        self._command = CommandLine(program, words, environment)

    def read(self) -> Secret:
        """Run it and return its output."""
        what = f"the command {self._name!a}"
        try:
            return checked(self._command.output(), what)
        except CommandFailed as failed:
            hint = "it runs without a terminal, in /, and must print the secret alone"
            raise SourceFailed(f"{what}: {failed.reason}", hint, failed.said) from None

    def stop(self) -> None:
        """Kill it."""
        self._command.stop()


class KeyringReader:
    """A password of the user's keyring, by the library of that name."""

    def __init__(self, service: str, user: str) -> None:
        self._service = service
        self._user = user

    def read(self) -> Secret:
        """Ask the keyring; what it asks the user may take long."""
        try:
            import keyring
            from keyring import errors
        except ImportError:
            raise SourceFailed(
                "keyring:// needs the library keyring", f"pip install '{KEYRING_EXTRA}'"
            ) from None
        where = f"{self._service!a} and {self._user!a}"
        try:
            password = keyring.get_password(self._service, self._user)
        except errors.NoKeyringError:
            raise SourceFailed(
                "there is no keyring on this machine", "`keyring --list-backends` shows what is"
            ) from None
        except errors.KeyringLocked:
            raise SourceFailed("the keyring is locked", "unlock it, then start again") from None
        except Exception as error:  # whatever a backend raises, with a text that may have anything
            raise SourceFailed(f"the keyring failed: {type(error).__name__}", _try(self)) from None
        if password is None:
            raise SourceFailed(f"the keyring has no password for {where}", _try(self))
        return checked(password.encode("utf-8", "surrogateescape"), f"the keyring for {where}")

    @property
    def words(self) -> tuple[str, str]:
        """Service and user."""
        return self._service, self._user

    def stop(self) -> None:
        """Do nothing: a question to the keyring can't be ended, so no end of a session waits."""


def checked(data: bytes, what: str) -> Secret:
    """Return the secret in what a source gave. Raises SourceFailed."""
    data = without_line_end(data)
    if not data.strip():
        raise SourceFailed(f"{what} is empty", _ALONE)
    if len(data) > MAX_SECRET:
        raise SourceFailed(f"{what} has more than {MAX_SECRET} bytes", _ALONE)
    if b"\0" in data:
        raise SourceFailed(f"{what} has a NUL byte", _ALONE)
    return Secret(data)


def _try(reader: KeyringReader) -> str:
    service, user = map(shlex.quote, reader.words)
    return f"keyring set {service} {user}"


def read_unchanged(
    path: str, limit: int, is_known: Callable[[Stamp], bool] = lambda _stamp: False
) -> tuple[Stamp, bytes | None]:
    """Read at most one byte more than `limit` of a regular file, again if it changed meanwhile.

    None if it is known. Raises OSError, and SourceFailed for a file that changes all the time.
    """
    for _ in range(_TRIES):
        with open_regular(Path(path)) as file:
            before = stamp_of(file.fileno())
            if is_known(before):
                return before, None
            data = file.read(limit + 1)
            if stamp_of(file.fileno()) == before:
                return before, data
    raise SourceFailed(f"the file {path!a} changed while it was read")


def stamp_of(descriptor: int) -> Stamp:
    """Return the stamp of an open file."""
    found = os.fstat(descriptor)
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
