"""The kept homes of a user: taken by one session at a time, copied, listed, removed.

How one lies on disk, and how it is opened safely, is in home_store.py. Rules of this file: a
session holds its home by a lock for as long as it lives; the next one gets a copy of its own;
a home that a session has is never removed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nono_trio.core.policy.home_choice import FLAG, MOST_AT_A_TIME, stored_name
from nono_trio.errors import CageFailed, NonoTrioError, UsageError, path_hint
from nono_trio.posix.clock import rfc3339
from nono_trio.sandbox.home_places import make_places, unmake_places
from nono_trio.sandbox.hostile_copy import copy_tree
from nono_trio.sandbox.launcher.hostile_tree import entered
from nono_trio.sandbox.launcher.tempdir import remove_temporary
from nono_trio.session.homes.home_store import HOME, HomeFacts, HomeRoot, forget_key, read_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nono_trio.sandbox.home_plan import Place
    from nono_trio.session.homes.home_store import HomeEntry, StoredHome


@dataclass(frozen=True)
class WantedHome:
    """The home that a session asks for: its name without isolation and number, and what for."""

    name: str
    isolation: str
    profile: str
    directory: str


@dataclass
class HeldHome:
    """A kept home that this session has; `notes` are sentences for the user.

    `work`: the name of a directory beside `path` for the kernel's overlay, which ends with the
    session; "" where the cage has no overlay.
    """

    name: str
    path: str
    is_new: bool
    notes: list[str] = field(default_factory=list)
    work: str = ""
    _lock: int = -1

    def close(self) -> None:
        """Let the next session have it."""
        if self._lock >= 0:
            if self.work:
                remove_temporary(os.path.join(os.path.dirname(self.path), self.work))
            os.close(self._lock)
            self._lock = -1

    def take_back(self) -> None:
        """Give it back, and remove it if it is new: no command was ever in it."""
        self.close()
        if self.is_new:
            with contextlib.suppress(NonoTrioError):
                Homes(os.path.dirname(os.path.dirname(self.path))).remove(self.name)


class Homes:
    """The directory of kept homes of one user."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def planned(self, wanted: WantedHome) -> tuple[str, bool]:
        """The name that a session would probably get, and whether it is there; makes nothing."""
        name = stored_name(wanted.name, wanted.isolation)
        return name, os.path.isdir(os.path.join(self.root, name))

    def path(self, name: str) -> str:
        """Return the path of a home, without symlinks."""
        return os.path.join(os.path.realpath(self.root), name, HOME)

    def claim(
        self,
        wanted: WantedHome,
        places: Sequence[Place],
        seed: Callable[[int, str], Sequence[str]] = lambda _home, _name: (),
    ) -> HeldHome:
        """Take the first home of the name that no session holds; make it if it is missing.

        The second session gets NAME-2, copied from NAME when made. `seed` fills a new home, that is
        no copy: it gets the open directory and the home's name, and returns what it copied.
        Blocks. Raises UsageError, CageFailed.
        """
        with _failing(self.root), contextlib.closing(HomeRoot(self.root, make=True)) as root:
            root.clean()
            for number in range(1, MOST_AT_A_TIME + 1):
                name = stored_name(wanted.name, wanted.isolation, number)
                entry = root.take(name)
                if entry is None and not root.has(name):
                    entry = self._make(root, wanted, number, seed)
                if entry is not None and not _is_for(entry, wanted, number):
                    entry.close()
                    continue
                if entry is not None:
                    return self._held(entry, wanted, number, places)
        raise UsageError(
            f"expected at most {MOST_AT_A_TIME} sessions with the home {wanted.name} at a time",
            hint=f"give this one another: {FLAG} kept=NAME",
        )

    def _make(
        self,
        root: HomeRoot,
        wanted: WantedHome,
        number: int,
        seed: Callable[[int, str], Sequence[str]],
    ) -> HomeEntry | None:
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
        self, entry: HomeEntry, wanted: WantedHome, number: int, places: Sequence[Place]
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
            work = entry.make_work() if wanted.isolation == "namespace" else ""
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
            work,
            entry.give_lock(),
        )
        entry.close()
        return held

    def listed(self) -> list[StoredHome]:
        """Every home there is, by name; raises NonoTrioError if they can't be read."""
        with _telling_errors(self.root):
            try:
                root = HomeRoot(self.root, make=False)
            except FileNotFoundError:
                return []
            with contextlib.closing(root):
                found = map(root.look, root.names())
                return [home for home in found if home is not None]

    def remove(self, name: str) -> str:
        """Remove a home with all that is in it, and return its whole name.

        `name` may leave out the isolation where only one home fits. Raises UsageError when there is
        none, when several fit, and when a session has it, and NonoTrioError when it stays.
        """
        with _telling_errors(self.root):
            try:
                root = HomeRoot(self.root, make=False)
            except FileNotFoundError:
                raise _no_such_home(name) from None
            with contextlib.closing(root):
                root.clean()  # also the rest of a removal of this home that was killed
                whole = _one_of(root.names(), name)
                try:
                    entry = root.take(whole)
                except (FileNotFoundError, NotADirectoryError):  # none of ours, as `listed` has it
                    raise _no_such_home(name) from None
                if entry is None:
                    raise UsageError(
                        f"home {whole} is in use by a session", hint="`nono-trio ps` shows which"
                    )
                with contextlib.closing(entry):
                    key = entry.key_of_tokens()
                    if key is not None:  # first: who is killed here finds the home by its name
                        forget_key(key)
                    if not root.remove(entry):
                        raise NonoTrioError(
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


def _is_for(entry: HomeEntry, wanted: WantedHome, number: int) -> bool:
    """Return whether a home NAME-2 is a copy of NAME: a user may have named another so, and
    its logins are not for this session."""
    if number == 1:
        return True
    facts = entry.read_facts()
    first = stored_name(wanted.name, wanted.isolation)
    return facts is not None and facts.copied_from == first


def _no_such_home(name: str) -> UsageError:
    return UsageError(f"there is no home {name!a}", hint="see `nono-trio home list`")


def _copy(root: HomeRoot, source: str, entry: HomeEntry, facts: HomeFacts, name: str) -> None:
    """Fill a new home from the one that is in use."""
    with entered(source, root.descriptor) as directory, entered(HOME, directory) as home:
        copied = copy_tree(home, entry.home)
        entry.copy_tokens(directory)
        original = read_facts(directory)
    facts.copied_from = source
    if original is not None:
        facts.places, facts.seeded = original.places, original.seeded
    text = f"home {source} is in use by another session: this one has {name}, copied from it"
    entry.notes.append(text if copied.whole else f"{text} in part (a copy has its bounds)")


def _place(root: str, error: OSError) -> str | None:
    """Return the path of what is in the way, if the error has one below the directory of homes."""
    named = error.filename
    return named if isinstance(named, str) and named.startswith(f"{root}/") else None


@contextlib.contextmanager
def _telling_errors(root: str) -> Iterator[None]:
    """Turn what the system refuses into an error of a command that needs no cage."""
    try:
        yield
    except OSError as error:
        place = _place(root, error)
        raise NonoTrioError(
            f"{place or f'the homes in {root}'} can't be used: {error.strerror or error}",
            hint=path_hint(place or root, error),
        ) from error


@contextlib.contextmanager
def _failing(root: str) -> Iterator[None]:
    """Turn what the system refuses into the error of a run."""
    try:
        yield
    except OSError as error:
        place = _place(root, error) or f"the homes in {root}"
        raise CageFailed(
            f"{place} can't be used: {error.strerror or error}",
            hint=f"{FLAG} private needs none of them",
        ) from error
