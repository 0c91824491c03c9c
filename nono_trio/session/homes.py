"""The kept homes: made exclusively, opened safely, held by one session at a time, listed, removed.

    $XDG_DATA_HOME/nono-trio/homes/NAME.ISOLATION/   0700
      home/       the only part that a cage sees, and may fill with anything
      lock        flock: held by the session that has the home, by nobody else
      home.json   what it is for, and what of ours is in it

Rules of this file: everything in `home/` is hostile, and in landlock isolation so are the modes
around it; paths are gone through by descriptors, never through symlinks; what belongs to another
user is refused. A home appears under its name only once it is whole: it is made, filled and locked
as `.new-...`, then renamed. One that is removed is renamed first, so that no session takes it up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit.files import rfc3339
from nono_trio.core.home import FLAG, MOST_AT_A_TIME, is_stored_name, stored_name
from nono_trio.errors import CageFailed, UsageError
from nono_trio.sandbox.home_places import make_places, unmake_places
from nono_trio.sandbox.hostile_copy import copy_tree
from nono_trio.sandbox.hostile_tree import (
    Survey,
    entered,
    mode_of,
    names_in,
    open_directory,
    survey,
)
from nono_trio.sandbox.temporary import remove_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nono_trio.sandbox.home import Place

HOME: Final = "home"
_LOCK: Final = "lock"
_FACTS: Final = "home.json"
_NEW: Final = ".new-"
_GONE: Final = ".gone-"
# Ours is a few hundred bytes; more is not ours.
_MAX_FACTS: Final = 1 << 20
# What `home list` looks at in one home: a second of it, and no more memory than names take.
_MAX_LISTED: Final = 100_000
_LIST_SECONDS: Final = 1.0
# Somebody waits for it and may end it; a big home is a million files.
_REMOVE_SECONDS: Final = 600.0
# Between being made and being locked a home is nobody's for microseconds.
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
class Wanted:
    """The home that a session asks for: its name without isolation and number, and what for."""

    name: str
    isolation: str
    profile: str
    directory: str


@dataclass(frozen=True)
class StoredHome:
    """A home as it lies there; `facts` are None where home.json can't be read."""

    name: str
    in_use: bool
    facts: HomeFacts | None
    content: Survey
    last_used: float


@dataclass
class HeldHome:
    """A kept home that this session has; `notes` are sentences for whoever started it."""

    name: str
    path: str
    is_new: bool
    notes: list[str] = field(default_factory=list)
    _lock: int = -1

    def close(self) -> None:
        """Let the next session have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Homes:
    """The directory of kept homes of one user."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def planned(self, wanted: Wanted) -> tuple[str, bool]:
        """The name that a session would probably get, and whether it is there; makes nothing."""
        name = stored_name(wanted.name, wanted.isolation)
        return name, os.path.isdir(os.path.join(self.root, name))

    def path(self, name: str) -> str:
        """Where the home of a name is, without symlinks."""
        return os.path.join(os.path.realpath(self.root), name, HOME)

    def claim(
        self,
        wanted: Wanted,
        places: Sequence[Place],
        seed: Callable[[int, str], Sequence[str]] = lambda _home, _name: (),
    ) -> HeldHome:
        """Take the first home of the name that nobody holds, making it if it is not there.

        The second session gets NAME-2, copied from NAME when made. `seed` fills a new home, that is
        no copy: it gets the open directory and the home's name, and returns what it copied.
        Blocks. Raises UsageError, CageFailed.
        """
        with _failing(self.root), contextlib.closing(_Root(self.root, make=True)) as root:
            root.clean()
            for number in range(1, MOST_AT_A_TIME + 1):
                name = stored_name(wanted.name, wanted.isolation, number)
                entry = root.take(name)
                if entry is None and not root.has(name):
                    entry = self._make(root, wanted, number, seed)
                if entry is not None:
                    return self._held(entry, wanted, number, places)
        raise UsageError(
            f"expected at most {MOST_AT_A_TIME} sessions with the home {wanted.name} at a time",
            hint=f"give this one another: {FLAG} kept=NAME",
        )

    def _make(
        self,
        root: _Root,
        wanted: Wanted,
        number: int,
        seed: Callable[[int, str], Sequence[str]],
    ) -> _Entry | None:
        """Make a home; None when another session has just made one of the name."""
        name = stored_name(wanted.name, wanted.isolation, number)
        facts = HomeFacts(
            profile=wanted.profile,
            directory=wanted.directory,
            isolation=wanted.isolation,
            created=rfc3339(),
        )
        entry = root.make()
        try:
            if number == 1:
                facts.seeded = [*seed(entry.home, name)]
            else:
                _copy(root, stored_name(wanted.name, wanted.isolation), entry, facts, name)
            entry.write_facts(facts)
            if entry.rename(name):
                entry.is_new = True
                return entry
        except BaseException:
            entry.discard()
            raise
        entry.discard()
        return None

    def _held(
        self, entry: _Entry, wanted: Wanted, number: int, places: Sequence[Place]
    ) -> HeldHome:
        facts = entry.read_facts() or HomeFacts(
            profile=wanted.profile,
            directory=wanted.directory,
            isolation=wanted.isolation,
            created=rfc3339(),
        )
        try:
            wanted_now: list[tuple[str, str, str]] = [
                (place.path, place.kind, place.target) for place in places
            ]
            unmake_places(entry.home, [one for one in facts.places if one not in wanted_now])
            facts.places = wanted_now
            entry.write_facts(facts)  # before they are made: what is there is known
            entry.notes += make_places(entry.home, places)
        except BaseException:
            entry.close()
            raise
        if number > 1 and not entry.is_new:
            first = stored_name(wanted.name, wanted.isolation)
            entry.notes.append(
                f"home {first} is in use by another session, this one has {entry.name}"
            )
        held = HeldHome(
            entry.name,
            self.path(entry.name),
            entry.is_new,
            entry.notes,
            entry.give_lock(),
        )
        entry.close()
        return held

    def listed(self) -> list[StoredHome]:
        """Every home there is, by name; raises CageFailed when they can't be looked at."""
        with _failing(self.root):
            try:
                root = _Root(self.root, make=False)
            except FileNotFoundError:
                return []
            with contextlib.closing(root):
                found = map(root.look, root.names())
                return [home for home in found if home is not None]

    def remove(self, name: str) -> str:
        """Remove a home with all that is in it, and return its whole name.

        `name` may leave out the isolation where only one home fits. Raises UsageError when there is
        none, when several fit, and when a session has it.
        """
        with _failing(self.root):
            try:
                root = _Root(self.root, make=False)
            except FileNotFoundError:
                raise _no_such_home(name) from None
            with contextlib.closing(root):
                whole = _one_of(root.names(), name)
                entry = root.take(whole)
                if entry is None:
                    raise UsageError(
                        f"home {whole} is in use by a session", hint="nono-trio ps shows which"
                    )
                with contextlib.closing(entry):
                    if not root.remove(entry):
                        raise CageFailed(
                            f"home {whole} could not be removed whole",
                            hint=f"what is left is in {self.root}",
                        )
        return whole


def _one_of(names: Sequence[str], name: str) -> str:
    fitting = [one for one in names if one == name or one.rpartition(".")[0] == name]
    if len(fitting) > 1:
        raise UsageError(
            f"expected one home, got {len(fitting)} of the name {name}",
            hint=f"name it whole: {', '.join(fitting)}",
        )
    if not fitting:
        raise _no_such_home(name)
    return fitting[0]


def _no_such_home(name: str) -> UsageError:
    return UsageError(f"there is no home {name!a}", hint="see `nono-trio home list`")


def _copy(root: _Root, source: str, entry: _Entry, facts: HomeFacts, name: str) -> None:
    """Fill a new home from the one that is in use."""
    with entered(source, root.descriptor) as directory, entered(HOME, directory) as home:
        copied = copy_tree(home, entry.home)
        original = _read_facts(directory)
    facts.copied_from = source
    if original is not None:
        facts.places, facts.seeded = original.places, original.seeded
    text = f"home {source} is in use by another session: this one has {name}, copied from it"
    entry.notes.append(text if copied.whole else f"{text} in part (a copy has its bounds)")


@contextlib.contextmanager
def _failing(root: str) -> Iterator[None]:
    """Turn what the system refuses into an error for a person."""
    try:
        yield
    except OSError as error:
        raise CageFailed(
            f"the homes in {root} can't be used: {error.strerror or error}",
            hint=f"{FLAG} private needs none of them",
        ) from error


class _Root:
    """The open directory of all homes."""

    def __init__(self, path: str, *, make: bool) -> None:
        if make:
            _make_root(path)
        self.descriptor = open_directory(path)
        try:
            _require_own(self.descriptor, path)
            os.fchmod(self.descriptor, 0o700)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.descriptor)

    def names(self) -> list[str]:
        """The names of homes; anything else in the directory is none."""
        return sorted(filter(is_stored_name, names_in(self.descriptor, _MOST_ENTRIES)))

    def make(self) -> _Entry:
        """Make a directory for a home that has no name yet, locked."""
        temporary = f"{_NEW}{os.urandom(8).hex()}"
        os.mkdir(temporary, 0o700, dir_fd=self.descriptor)
        with _closed_on_error(open_directory(temporary, self.descriptor)) as directory:
            os.mkdir(HOME, 0o700, dir_fd=directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with _closed_on_error(os.open(_LOCK, flags, 0o600, dir_fd=directory)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return _Entry(self, temporary, directory, lock)

    def take(self, name: str) -> _Entry | None:
        """Open and lock the home of a name; None when there is none, or a session has it."""
        try:
            directory = open_directory(name, self.descriptor)
        except FileNotFoundError:
            return None
        with _closed_on_error(directory):
            _require_own(directory, name)
            with _closed_on_error(_open_lock(directory)) as lock:
                if _locked(lock) and self._is_still(name, directory):
                    return _Entry(self, name, directory, lock)
            os.close(lock)
        os.close(directory)
        return None

    def has(self, name: str) -> bool:
        """Whether anything has the name."""
        return mode_of(name, self.descriptor) is not None

    def _is_still(self, name: str, directory: int) -> bool:
        """Whether the name still means this directory: it may have been removed meanwhile."""
        try:
            there = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(directory))

    def look(self, name: str) -> StoredHome | None:
        """What a home is, without taking it for longer than the look; None where it is gone."""
        try:
            with entered(name, self.descriptor) as directory:
                _require_own(directory, name)
                with entered(HOME, directory) as home:
                    facts = _read_facts(directory)
                    placed = (
                        frozenset(path for path, _, _ in facts.places) if facts else frozenset()
                    )
                    content = survey(home, without=placed, most=_MAX_LISTED, seconds=_LIST_SECONDS)
                    return StoredHome(
                        name, _is_held(directory), facts, content, os.fstat(directory).st_mtime
                    )
        except OSError:  # no directory, another user's, or removed at this moment
            return None

    def remove(self, entry: _Entry) -> bool:
        """Remove a home that is taken."""
        gone = f"{_GONE}{os.urandom(8).hex()}"
        os.rename(entry.name, gone, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        return remove_temporary(gone, _REMOVE_SECONDS, parent=self.descriptor)

    def clean(self) -> None:
        """Remove what a killed session or removal left half done."""
        for name in names_in(self.descriptor, _MOST_ENTRIES):
            if not name.startswith((_NEW, _GONE)):
                continue
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
                if time.time() - status.st_mtime < _ABANDONED_SECONDS:
                    continue
                entry = self.take(name)
                if entry is not None:
                    with contextlib.closing(entry):
                        remove_temporary(name, _REMOVE_SECONDS, parent=self.descriptor)


class _Entry:
    """One home's open directory, locked."""

    def __init__(self, root: _Root, name: str, directory: int, lock: int) -> None:
        self.name = name
        self.is_new = False
        self.notes: list[str] = []
        self._root = root
        self._directory = directory
        self._lock = lock
        self.home = open_directory(HOME, directory)

    def close(self) -> None:
        for descriptor in (self.home, self._directory, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.home = self._directory = self._lock = -1

    def give_lock(self) -> int:
        """Return the descriptor that holds the lock, which is the caller's from now on."""
        lock, self._lock = self._lock, -1
        return lock

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

    def read_facts(self) -> HomeFacts | None:
        return _read_facts(self._directory)

    def write_facts(self, facts: HomeFacts) -> None:
        """Replace home.json as a whole."""
        temporary = f"{_FACTS}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._directory), "wb") as file:
            file.write(msgspec.json.encode(facts))
        os.rename(temporary, _FACTS, src_dir_fd=self._directory, dst_dir_fd=self._directory)


def _read_facts(directory: int) -> HomeFacts | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(_FACTS, flags, dir_fd=directory), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return msgspec.json.decode(file.read(_MAX_FACTS), type=HomeFacts)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _open_lock(directory: int) -> int:
    """Open the lock, made again where it is gone; its mode may forbid it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
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
    lock = _open_lock(directory)
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


def _make_root(path: str) -> None:
    """Make the directory of all homes and what leads to it, 0700, for its owner only."""
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
