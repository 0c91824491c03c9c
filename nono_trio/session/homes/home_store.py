"""The directory of kept homes on disk: makes, opens, locks, reads and renames its entries.

    $XDG_DATA_HOME/nono-trio/homes/NAME.ISOLATION/   0700
      home/       the only part that a cage sees, and may fill with anything
      lock        flock: held by the session that has the home
      home.json   what it is for, and what of ours is in it
      tokens.json the tokens of captured logins, for which the command has stand-ins
      work-...    while a session has it: the kernel's, for the overlay that the cage sees

Rules of this file: everything in `home/` is hostile, and in landlock isolation so are the modes
around it; paths are gone through by descriptors, never through symlinks; what belongs to another
user is refused. A home appears under its name only once it is whole: it is made, filled and locked
as `.new-...`, then renamed. One that is removed is renamed first, so that no session takes it up,
and its lock goes last: a removal that was killed leaves no lock held, and the next command ends it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.policy.home_choice import FLAG, is_stored_name
from nono_trio.errors import UsageError
from nono_trio.sandbox.launcher.hostile_tree import (
    TreeSurvey,
    entered,
    mode_of,
    names_in,
    open_directory,
    survey,
)
from nono_trio.sandbox.launcher.tempdir import remove_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME: Final = "home"
_LOCK: Final = "lock"
_FACTS: Final = "home.json"
TOKENS: Final = "tokens.json"
_NEW: Final = ".new-"
_GONE: Final = ".gone-"
_WORK: Final = "work-"
# Ours is a few hundred bytes; more is not ours.
_MAX_FACTS: Final = 1 << 20
# `home list` reads one home for a second at most, and keeps no more than names in memory.
_MAX_LISTED: Final = 100_000
_LIST_SECONDS: Final = 1.0
# The user waits for it and may end it; a big home is a million files.
_REMOVE_SECONDS: Final = 600.0
# A new home is unlocked for microseconds.
_ABANDONED_SECONDS: Final = 60.0
_MOST_ENTRIES: Final = 10_000  # homes, however many projects there are


class HomeFacts(msgspec.Struct, kw_only=True):
    """home.json; `places` are those of the last session: path, kind, target."""

    schema: int = 1
    profile: str
    directory: str
    isolation: str
    created: str
    copied_from: str | None = None
    seeded: list[str] = []
    places: list[tuple[str, str, str]] = []


@dataclass(frozen=True)
class StoredHome:
    """A home as it lies there; `facts` are None where home.json can't be read."""

    name: str
    in_use: bool
    facts: HomeFacts | None
    content: TreeSurvey
    last_used: float


class HomeRoot:
    """The open directory of all homes."""

    def __init__(self, path: str, *, make: bool) -> None:
        if make:
            make_root(path)
        self.descriptor = open_directory(path)
        try:
            _require_own(self.descriptor, path)
            os.fchmod(self.descriptor, 0o700)
        except BaseException:
            self.close()
            raise
        self._path = path

    def close(self) -> None:
        """Close it; the entries that were taken stay taken."""
        os.close(self.descriptor)

    def names(self) -> list[str]:
        """The names of homes; other entries of the directory are left out."""
        return sorted(filter(is_stored_name, names_in(self.descriptor, _MOST_ENTRIES)))

    def make(self) -> HomeEntry:
        """Make a directory for a home that has no name yet, locked."""
        temporary = f"{_NEW}{os.urandom(8).hex()}"
        os.mkdir(temporary, 0o700, dir_fd=self.descriptor)
        with _closed_on_error(open_directory(temporary, self.descriptor)) as directory:
            os.mkdir(HOME, 0o700, dir_fd=directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with _closed_on_error(os.open(_LOCK, flags, 0o600, dir_fd=directory)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return HomeEntry(self, temporary, directory, lock)

    def take(self, name: str) -> HomeEntry | None:
        """Open and lock the home of a name; None if it is missing, or a session has it.

        A `home/` that is gone is made again, empty: only so can a user go on with it or remove it.
        """
        try:
            directory = open_directory(name, self.descriptor)
        except FileNotFoundError:
            return None
        with _closed_on_error(directory):
            _require_own(directory, name)
            with _closed_on_error(self._open_lock(name, directory)) as lock:
                if _locked(lock) and self._is_still(name, directory):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(HOME, 0o700, dir_fd=directory)
                    return HomeEntry(self, name, directory, lock)
            os.close(lock)
        os.close(directory)
        return None

    def _open_lock(self, name: str, directory: int) -> int:
        try:
            return _open_lock(directory)
        except OSError as error:
            path = os.path.join(self._path, name, _LOCK)
            raise OSError(error.errno, error.strerror, path) from error

    def has(self, name: str) -> bool:
        """Return whether anything has the name."""
        return mode_of(name, self.descriptor) is not None

    def _is_still(self, name: str, directory: int) -> bool:
        """Return whether the name still means this directory: it may be removed meanwhile."""
        try:
            there = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(directory))

    def look(self, name: str) -> StoredHome | None:
        """Read a home, locked only meanwhile; None if it is gone."""
        try:
            with entered(name, self.descriptor) as directory:
                _require_own(directory, name)
                facts, used = read_facts(directory), os.fstat(directory).st_mtime
                return StoredHome(
                    name, _is_held(directory), facts, _content(directory, facts), used
                )
        except OSError:  # no directory, another user's, or removed at this moment
            return None

    def remove(self, entry: HomeEntry) -> bool:
        """Remove a home that is taken."""
        gone = f"{_GONE}{os.urandom(8).hex()}"
        os.rename(entry.name, gone, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        return self._remove(gone)

    def _remove(self, name: str) -> bool:
        """Remove an entry; its `home/` first, which takes long, and the lock stays meanwhile."""
        with contextlib.suppress(OSError), entered(name, self.descriptor) as directory:
            remove_temporary(HOME, _REMOVE_SECONDS, parent=directory)
        return remove_temporary(name, _REMOVE_SECONDS, parent=self.descriptor)

    def clean(self) -> None:
        """Remove what a killed session or removal left half done, whatever is missing of it."""
        for name in names_in(self.descriptor, _MOST_ENTRIES):
            if not name.startswith((_NEW, _GONE)):
                continue
            with contextlib.suppress(OSError, UsageError):  # another user's is left to it
                with entered(name, self.descriptor) as directory:
                    _require_own(directory, name)
                    age = time.time() - os.fstat(directory).st_mtime
                    is_young = name.startswith(_NEW) and age < _ABANDONED_SECONDS
                    if is_young or _is_held(directory):
                        continue
                self._remove(name)


class HomeEntry:
    """One home's open directory, locked."""

    def __init__(self, root: HomeRoot, name: str, directory: int, lock: int) -> None:
        self.name = name
        self.is_new = False
        self.notes: list[str] = []
        self._root = root
        self._directory = directory
        self._lock = lock
        self.home = open_directory(HOME, directory)

    def close(self) -> None:
        """Close it, and unlock it unless the lock was given away."""
        for descriptor in (self.home, self._directory, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.home = self._directory = self._lock = -1

    def give_lock(self) -> int:
        """Return the descriptor that holds the lock, which is the caller's from now on."""
        lock, self._lock = self._lock, -1
        return lock

    def make_work(self) -> str:
        """Make the directory for an overlay; remove those of killed sessions."""
        for name in names_in(self._directory, _MOST_ENTRIES):
            if name.startswith(_WORK):
                remove_temporary(name, parent=self._directory)
        # Not one name for all: the kernel may not be done with that of the last session.
        name = f"{_WORK}{os.urandom(8).hex()}"
        os.mkdir(name, 0o700, dir_fd=self._directory)
        return name

    def rename(self, name: str) -> bool:
        """Give a new home its name; False when there is one of it."""
        root = self._root.descriptor
        try:
            # Never onto another home: a directory that is not empty can't be replaced.
            os.rename(self.name, name, src_dir_fd=root, dst_dir_fd=root)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        self.name = name
        return True

    def discard(self) -> None:
        """Remove what was begun."""
        remove_temporary(self.name, _REMOVE_SECONDS, parent=self._root.descriptor)
        self.close()

    def copy_tokens(self, source: int) -> None:
        """Take the tokens of captured logins from the open directory of another entry."""
        if mode_of(TOKENS, source) is None:
            return
        from nono_trio.session.tokens.token_store import copy_tokens  # late: few homes have one

        copy_tokens(source, self._directory)

    def key_of_tokens(self) -> str | None:
        """Return the name of the keyring's key that its tokens alone are sealed with, if any."""
        if mode_of(TOKENS, self._directory) is None:
            return None
        from nono_trio.session.tokens.token_store import key_of_home  # late: few homes have one

        return key_of_home(self._directory, self.name)

    def read_facts(self) -> HomeFacts | None:
        """As the function of that name."""
        return read_facts(self._directory)

    def write_facts(self, facts: HomeFacts) -> None:
        """Replace home.json as a whole."""
        temporary = f"{_FACTS}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._directory), "wb") as file:
            file.write(msgspec.json.encode(facts))
        os.rename(temporary, _FACTS, src_dir_fd=self._directory, dst_dir_fd=self._directory)


def forget_key(key: str) -> None:
    """Have the keyring forget a key of tokens that are gone. Blocks, bounded."""
    from nono_trio.session.tokens.token_keyring import LoginKeyring  # late: few homes have one

    LoginKeyring().forget_key(key)


def read_facts(directory: int) -> HomeFacts | None:
    """Read home.json in an entry's directory; None if it is missing or invalid."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(_FACTS, flags, dir_fd=directory), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return msgspec.json.decode(file.read(_MAX_FACTS), type=HomeFacts)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _content(directory: int, facts: HomeFacts | None) -> TreeSurvey:
    """Count the files in an entry's `home/` but for places of grants; none where it is gone."""
    places = facts.places if facts is not None else ()
    with contextlib.suppress(FileNotFoundError), entered(HOME, directory) as home:
        without = frozenset(path for path, _, _ in places)
        return survey(home, without=without, most=_MAX_LISTED, seconds=_LIST_SECONDS)
    return TreeSurvey()


def _open_lock(directory: int) -> int:
    """Open the lock, made again where it is gone; its mode may forbid it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(_LOCK, flags, 0o600, dir_fd=directory)
    except PermissionError:
        os.chmod(_LOCK, 0o600, dir_fd=directory)
        lock = os.open(_LOCK, flags, 0o600, dir_fd=directory)
    with _closed_on_error(lock):
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise OSError(errno.EINVAL, "expected a file, got something else", _LOCK)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(directory: int) -> bool:
    """Return whether a session or a removal has an entry; nobody locks what is no file."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(_LOCK, flags, dir_fd=directory)
    except PermissionError:
        lock = _open_lock(directory)
    except OSError:
        return False
    try:
        return not _locked(lock)
    finally:
        os.close(lock)


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def make_root(path: str) -> None:
    """Make the directory of all homes and what leads to it, 0700, for its owner only.

    Raises OSError, and UsageError where another user's directory would hold it.
    """
    missing = []
    above = path
    while not os.path.lexists(above):
        missing.append(above)
        above = os.path.dirname(above)
    owner = os.stat(above).st_uid
    if owner != os.geteuid() and (os.geteuid() == 0 or not missing):
        raise _anothers(above, owner)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def _require_own(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise _anothers(name, status.st_uid)


def _anothers(path: str, owner: int) -> UsageError:
    return UsageError(
        f"expected a directory of this user (uid {os.geteuid()}) for kept homes, got {path} of uid"
        f" {owner}",
        hint=f"{FLAG} private, or run as that user (sudo -H sets HOME)",
    )
