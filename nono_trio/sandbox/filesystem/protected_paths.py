"""Paths that stay closed inside a grant: secrets, shell start-up files, our own state.

A grant around a closed path is refused, unless a mount can cover the path; it is never narrowed
silently. No flag opens the state directory; it can only be moved. A child that can write its own
log could forge it.

Rules: a path is closed under all its names (mount_table.py) and by device and inode. Symlinks on
the way to it are closed too, because replacing one changes the target. A missing file that our own
later commands would obey can't be covered, so a grant that lets a command make it is refused.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.store import usual_state_root
from nono_trio.errors import UsageError
from nono_trio.posix.account import account_home
from nono_trio.posix.paths import (
    ancestors,
    home_directory,
    homes_root,
    identity,
    is_in,
    relative,
)
from nono_trio.sandbox.filesystem.grant import absolute, link_out, work_trees
from nono_trio.sandbox.filesystem.keyring_places import settings_directories
from nono_trio.sandbox.filesystem.mount_table import MountTable
from nono_trio.sandbox.filesystem.own_code import program_paths
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nono_trio.posix.paths import Identity
    from nono_trio.sandbox.filesystem.grant import Grant
    from nono_trio.sandbox.launcher.symlinks import Followed

KEYS = "keys"  # in a state directory: what logs are signed with (audit/keys/key_store.py)
_LIFT = "--bypass-protection"
_HOMES = "--home kept=NAME gives the command the home of that name"


class _Index(msgspec.Struct):
    """Closed paths, indexed by every path and identity at them, above them and on the way.

    A value is the closed path as given, with its path below the key.
    """

    at: dict[str, str] = msgspec.field(default_factory=dict)
    at_identity: dict[Identity, str] = msgspec.field(default_factory=dict)
    above: dict[str, list[tuple[str, str]]] = msgspec.field(default_factory=dict)
    above_identity: dict[Identity, list[tuple[str, str]]] = msgspec.field(default_factory=dict)
    links: dict[str, list[tuple[str, str]]] = msgspec.field(default_factory=dict)
    seen: dict[str, Identity | None] = msgspec.field(default_factory=dict)

    def add(self, given: str, followed: Followed, mounts: MountTable) -> None:
        """Add one closed path."""
        real, links, _ = followed
        for name in mounts.names(real):
            self.at.setdefault(name, given)
            for directory in list(ancestors(name))[1:]:
                self.above.setdefault(directory, []).append((given, name))
        found = self.identity(real)
        if found is not None:
            self.at_identity.setdefault(found, given)
        for directory in list(ancestors(real))[1:]:
            found = self.identity(directory)
            if found is not None:
                below = (given, relative(real, directory))
                self.above_identity.setdefault(found, []).append(below)
        for link in links:
            for holder in mounts.names(os.path.dirname(link)):
                named = (given, os.path.join(holder, os.path.basename(link)))
                for directory in ancestors(holder):
                    self.links.setdefault(directory, []).append(named)

    def identity(self, path: str) -> Identity | None:
        """Return the identity of a path; reads each path once."""
        if path not in self.seen:
            self.seen[path] = identity(path)
        return self.seen[path]

    def around(self, real: str) -> str | None:
        """Return the closed path that contains `real`, a path without symlinks."""
        for path in ancestors(real):
            found = self.identity(path)
            given = self.at.get(path)
            if given is None and found is not None:
                given = self.at_identity.get(found)
            if given is not None:
                return given
        return None

    def around_by_name(self, real: str) -> str | None:
        """As `around`, without a look at the disk."""
        return next((self.at[path] for path in ancestors(real) if path in self.at), None)

    def below(self, real: str) -> Iterator[tuple[str, str]]:
        """Yield the closed paths inside `real`, each with its path there, without duplicates."""
        found = self.identity(real)
        by_identity = self.above_identity.get(found, []) if found is not None else []
        places = [(name, given) for given, name in self.above.get(real, [])]
        places += [(os.path.join(real, below), given) for given, below in by_identity]
        yield from ((given, name) for name, given in dict(reversed(places)).items())


class Protection(msgspec.Struct, frozen=True):
    """The closed paths of one run; `lifted` are those that the user opened by name.

    `state` is the directory of this run's log. `obeyed` are paths that our later commands obey; a
    command may not make them either. `homes` are the kept homes among these; no flag opens them.
    """

    denied: tuple[str, ...]
    lifted: tuple[str, ...]
    obeyed: tuple[str, ...]
    state: str
    home: str
    homes: tuple[str, ...] = ()
    _closed: _Index = msgspec.field(default_factory=_Index)
    _states: _Index = msgspec.field(default_factory=_Index)

    @classmethod
    def build(
        cls,
        denied: Sequence[str],
        configuration: Sequence[str],
        bypass: Sequence[str],
        directory: str,
        state_root: Path,
    ) -> Protection:
        """Resolve the lists; raises UsageError for a bypass that opens nothing."""
        home = os.path.realpath(home_directory())
        state = os.path.realpath(state_root)
        usual = [path for path in _usual_states() if os.path.realpath(path) != state]
        homes = _kept_homes()
        obeyed = [*configuration, *usual, *homes]
        seen: dict[str, str | None] = {}
        places = {path: follow(path, seen) for path in dict.fromkeys([*denied, *obeyed])}
        known = {home, *(place.real for place in places.values())}
        lifted = _lifted(bypass, directory, known)
        for path in usual:
            real = os.path.realpath(path)
            if real in lifted and os.path.isdir(os.path.join(real, KEYS)):
                raise UsageError(
                    f"{_LIFT} {path}: the keys in it stay closed",
                    hint="grant what the command needs from another directory",
                )
        for path in homes:
            if places[path].real in lifted:
                raise UsageError(
                    f"{_LIFT} {path}: the homes of other cages stay closed", hint=_HOMES
                )
        kept = tuple(path for path, place in places.items() if place.real not in lifted)
        mounts = MountTable.read()
        closed, states = _Index(), _Index()
        for path in kept:
            closed.add(path, places[path], mounts)
        states.add(state, follow(os.path.abspath(state_root)), mounts)
        obeyed = [path for path in obeyed if path in kept]
        return cls(kept, lifted, tuple(obeyed), state, home, tuple(homes), closed, states)

    def closing(self, real: str) -> str | None:
        """Return the closed path, as given, that contains `real` (without symlinks)."""
        return self._closed.around(real)

    def closing_by_name(self, real: str) -> str | None:
        """As `closing`, without a look at the disk: another name of a closed path is not known."""
        return self._closed.around_by_name(real)

    def below(self, grant: Grant) -> Iterator[tuple[str, str]]:
        """Yield the closed paths inside a grant, as given and by their path in the grant."""
        return self._closed.below(grant.real)

    def why_closed(self, grant: Grant) -> str | None:
        """Return why a grant is closed as a whole; None if at most paths inside it are closed."""
        if self._meets_state(grant.real):
            return f"it meets the audit state directory {self.state}"
        closed = self.closing(grant.real)
        return f"{closed} is closed" if closed is not None else None

    def _meets_state(self, real: str) -> bool:
        """Tell whether a path (without symlinks) contains this run's state or lies in it."""
        states = self._states
        return states.around(real) is not None or any(True for _ in states.below(real))

    def inside(self, grant: Grant, *, can_cover: bool) -> list[str]:
        """Return the closed paths (without symlinks) inside `grant` that exist, to be covered.

        Raises UsageError for a grant that must be refused.
        """
        if self._meets_state(grant.real):
            raise UsageError(
                f"{grant.source} {grant.path} covers the audit state directory {self.state}",
                hint="grant a smaller directory, or move the state with --audit-dir",
            )
        self._refuse_writable_home(grant)
        closed = self.closing(grant.real)
        if closed in self.homes:
            raise UsageError(
                f"{grant.source} {grant.path} would open the homes of other cages", hint=_HOMES
            )
        if closed is not None:
            raise UsageError(
                f"{grant.source} {grant.path} is protected (secrets or start-up files)",
                hint=f"lift it with {_LIFT} {shlex.quote(closed)} if the command must have it",
            )
        self._refuse_replaced_links(grant)
        if grant.is_file:
            return []
        covered = []
        for given, name in self.below(grant):
            if given in self.homes:
                _require_covered_homes(grant, given, name, can_cover=can_cover)
            if not can_cover:
                raise UsageError(
                    f"{grant.source} {grant.path} would open {given}, which is protected, and"
                    " this isolation can't close a path inside an open directory",
                    hint=f"grant what is needed below it, or lift it with {_LIFT} {given}",
                )
            if os.path.lexists(name):
                covered.append(name)
            elif grant.may_write and given in self.obeyed:
                raise UsageError(
                    f"{grant.source} {grant.path} would let the command create {given}, which a"
                    " later run obeys",
                    hint="make it first, and it is covered, or lift this with"
                    f" {_LIFT} {shlex.quote(given)}",
                )
        return covered

    def _refuse_writable_home(self, grant: Grant) -> None:
        """Refuse a writable home: a missing start-up file can't be covered, and would run later."""
        holds_home = is_in(self.home, grant.real) or (
            grant.identity is not None
            and grant.identity in map(self._closed.identity, ancestors(self.home))
        )
        if holds_home and grant.may_write and self.home not in self.lifted:
            raise UsageError(
                f"{grant.source} {grant.path} would let the command create start-up files in your"
                f" home {self.home}",
                hint=f"grant directories below it, or lift this with {_LIFT} {self.home}",
            )

    def _refuse_replaced_links(self, grant: Grant) -> None:
        """Refuse grants over symlinks to closed paths: no mount can cover a symlink."""
        if not grant.may_write:
            return
        for index in (self._states, self._closed):
            for given, link in index.links.get(grant.real, ()):
                raise UsageError(
                    f"{grant.source} {grant.path} would let the command replace the symlink {link},"
                    f" which leads to {given}, which is protected",
                    hint="grant directories beside it",
                )


def _require_covered_homes(grant: Grant, given: str, name: str, *, can_cover: bool) -> None:
    """Raise UsageError if the homes of other cages can't be closed inside a grant."""
    if not can_cover:
        raise UsageError(
            f"{grant.source} {grant.path} would open {given}, the homes of other cages, and this"
            " isolation can't close a path inside an open directory",
            hint=f"grant what is needed below it; {_HOMES}",
        )
    if grant.may_write and not os.path.lexists(name):
        raise UsageError(
            f"{grant.source} {grant.path} would let the command create {given}, where the homes of"
            " later cages are",
            hint=f"make it first, and it is covered: mkdir -p {shlex.quote(given)}",
        )


def configuration_directories(own: str | None) -> list[str]:
    """Return every directory with profiles for our commands, and with settings of the keyring that
    they ask; `own` is this run's."""
    if own is None:
        return []
    usual = (os.path.join(home, ".config", "nono-trio") for home in _homes())
    return list(dict.fromkeys([own, *usual, *settings_directories(os.environ)]))


def _usual_states() -> list[str]:
    """Return the default directories of logs, with and without today's $XDG_STATE_HOME."""
    usual = [os.path.join(home, ".local", "state", "nono-trio") for home in _homes()]
    return list(dict.fromkeys([str(usual_state_root(os.environ)), *usual]))


def _kept_homes() -> list[str]:
    """Return the directories of kept homes: today's and the default ones."""
    usual = [os.path.join(home, ".local", "share", "nono-trio", "homes") for home in _homes()]
    return list(dict.fromkeys([homes_root(os.environ), *usual]))


def _homes() -> list[str]:
    return list(dict.fromkeys([home_directory(), account_home()]))


def _lifted(bypass: Sequence[str], directory: str, known: set[str]) -> tuple[str, ...]:
    """Return the paths that --bypass-protection opens, without symlinks; raises UsageError."""
    lifted = []
    for given in bypass:
        path = absolute(given, directory)
        real = os.path.realpath(path)
        link = link_out(path, work_trees(directory))
        if link is not None:
            raise UsageError(
                f"{_LIFT} {given} follows the symlink {link} out of its directory, to {real}: a"
                " command that worked there may have made it",
                hint=f"if that is what you mean, name it: {_LIFT} {shlex.quote(real)}",
            )
        if real not in known and real not in program_paths():
            raise UsageError(
                f"{_LIFT} {given}: nothing protects that path",
                hint="see `nono-trio why --path` for what closes a path",
            )
        lifted.append(real)
    return tuple(lifted)
