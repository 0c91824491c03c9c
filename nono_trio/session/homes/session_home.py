"""The home of one run, from the options to the summary at its end.

Owns the steps in between: the plan, the kept home that is taken or the empty one that is made, what
the command's variables say, what a private home held.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.policy.home_choice import FLAG, home_name
from nono_trio.errors import UsageError
from nono_trio.posix.paths import homes_root, is_below
from nono_trio.sandbox.home_plan import HomePlan, home_mount, home_variables, plan_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation, MountOp
    from nono_trio.sandbox.launcher.hostile_tree import TreeSurvey
    from nono_trio.session.homes.kept_homes import HeldHome, WantedHome

# The end of a run waits for it; a command can leave any number of files.
SURVEY_SECONDS: Final = 1.0
MOST_SURVEYED: Final = 100_000
NAMED_PATHS: Final = 5
_DIRECTORY = ".home"  # of the session's temporary directory: not met by `ls` or `rm *` there


class RunHome(msgspec.Struct):
    """One run's home; `path` is where the command sees it (None: no home), `name` a kept one's.

    `notes` are sentences for the user. `copied` are files of ours in it, by their paths below it.
    """

    plan: HomePlan
    path: str | None = None
    name: str | None = None
    is_there: bool = False
    notes: list[str] = msgspec.field(default_factory=list)
    descriptor: int | None = None
    held: HeldHome | None = None
    seeds: Sequence[tuple[str, str]] = ()
    copied: list[str] = msgspec.field(default_factory=list)

    def close(self) -> None:
        """Give it back: the next session may have a kept home."""
        if self.held is not None:
            self.held.close()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def take_back(self) -> None:
        """Undo it before a command was ever started: another way to isolate has another home."""
        if self.held is not None:
            self.held.take_back()

    @property
    def identities(self) -> dict[str, tuple[int, int]]:
        """Device and inode of an empty one's directory by its path: what has to be there when the
        command starts."""
        if self.descriptor is None or self.path is None or not self.plan.moved:
            return {}
        found = os.fstat(self.descriptor)
        return {self.path: (found.st_dev, found.st_ino)}

    @property
    def text(self) -> str:
        """As the log keeps it: `kept NAME`, `private` or `closed`."""
        return f"kept {self.name}" if self.name is not None else self.plan.kind

    def variables(self, environment: Mapping[str, str], files: FilePlan) -> dict[str, str]:
        """Return the command's variables with this home."""
        if self.path is None:
            return dict(environment)
        return home_variables(environment, self.plan, self.path, files)

    def mounts(self, memory: int | None) -> list[MountOp]:
        """Return its mounts in the view; `memory`: the limit of the cage in bytes."""
        kept, work = (None, "") if self.held is None else (self.held.path, self.held.work)
        mount = home_mount(self.plan, kept, memory, work)
        return [] if mount is None else [mount]

    def warnings(self) -> list[str]:
        """Return the warnings about it."""
        if self.plan.why_closed and self.plan.source and self.plan.why_closed != "asked for":
            return [f"the cage has no home of its own ({self.plan.source}): {self.plan.why_closed}"]
        if self.path is not None and self.plan.moved:
            return [
                "HOME names the cage's own home; programs that ask the account instead (ssh, Java)"
                " see the real one, which stays closed"
            ]
        return []


def make_homes_inside(files: FilePlan) -> bool:
    """Make the directory of all homes if it is missing inside a grant; True if it was made.

    A missing directory can't be covered, and the homes that other sessions make meanwhile would be
    seen in this cage. Where this user can't make it, no session of this user makes a home there.
    """
    root = os.path.realpath(homes_root(os.environ))
    around = any(not grant.is_file and is_below(root, grant.real) for grant in files.grants)
    if not around or os.path.lexists(root):
        return False
    from nono_trio.session.homes.home_store import make_root

    with contextlib.suppress(OSError, UsageError):
        make_root(root)
        return True
    return False


def wanted_home(options: RunOptions, files: FilePlan, isolation: Isolation) -> WantedHome:
    """Which kept home the options ask for."""
    from nono_trio.session.homes.kept_homes import WantedHome

    choice, directory = options.home, os.path.realpath(files.start)
    name = choice.name or home_name(choice.profile, directory)
    return WantedHome(name, isolation, choice.profile, directory)


def resolve_home(
    options: RunOptions, files: FilePlan, isolation: Isolation, temporary: str | None = None
) -> RunHome:
    """Say which home a run would get, and make nothing; raises UsageError."""
    plan = plan_home(options.home, files, isolation, sandbox=options.sandbox)
    home = RunHome(plan, seeds=options.home.seeds)
    if plan and not plan.moved:
        home.path = plan.real
    if plan.kind == "kept":
        from nono_trio.session.homes.kept_homes import Homes

        homes = Homes(homes_root(os.environ))
        home.name, home.is_there = homes.planned(wanted_home(options, files, isolation))
        if plan.moved:
            home.path = homes.path(home.name)
    elif plan and plan.moved and temporary is not None:
        home.path = _private_path(temporary)
    return home


def open_home(
    options: RunOptions,
    files: FilePlan,
    isolation: Isolation,
    temporary: str | None,
    tell: Callable[[str], None],
) -> RunHome:
    """Make or take the home of a run; `tell` gets a sentence for each file copied into it.

    `temporary`: the session's own directory, where there is no mount view. Blocks. Raises
    UsageError, CageFailed, OSError.
    """
    plan = plan_home(options.home, files, isolation, sandbox=options.sandbox)
    home = RunHome(plan)
    if plan and not plan.moved:
        home.path = plan.real
    if plan.kind == "kept":
        _take(home, options, files, isolation, tell)
    elif plan and plan.moved and temporary is not None:
        _make_private(home, temporary)
    return home


def _take(
    home: RunHome,
    options: RunOptions,
    files: FilePlan,
    isolation: Isolation,
    tell: Callable[[str], None],
) -> None:
    from nono_trio.session.homes.home_seed import Seeds
    from nono_trio.session.homes.kept_homes import Homes

    seeds = Seeds(options.home.seeds, files.closes, tell)
    held = Homes(homes_root(os.environ)).claim(
        wanted_home(options, files, isolation), home.plan.places, seeds.copy
    )
    home.held, home.name, home.is_there = held, held.name, not held.is_new
    home.notes += held.notes
    if held.is_new and not held.notes:
        home.notes.append(
            f"home {held.name} is new: what the command keeps in it lasts (nono-trio home list)"
        )
    if home.plan.moved:
        home.path = held.path


def _make_private(home: RunHome, temporary: str) -> None:
    """Not bounded in size but by the file system of the temporary directory: without mounts there
    is nothing to bound it by."""
    from nono_trio.sandbox.home_places import make_places
    from nono_trio.sandbox.launcher.hostile_tree import entered, open_directory

    with entered(temporary) as top:  # held: another cage may put a symlink at its path
        os.mkdir(_DIRECTORY, 0o700, dir_fd=top)
        home.descriptor = open_directory(_DIRECTORY, top)
    make_places(home.descriptor, home.plan.places)
    home.path = _private_path(temporary)


def _private_path(temporary: str) -> str:
    return os.path.join(temporary, _DIRECTORY)  # which has no symlinks


def what_it_held(descriptor: int, home: RunHome) -> list[str]:
    """Say what a private home holds that ends with the session; nothing for an empty one. Blocks
    for SURVEY_SECONDS at most, as far as the system answers."""
    from nono_trio.sandbox.launcher.hostile_tree import survey

    with contextlib.suppress(OSError):  # the command may have shut it, and it ends here
        os.fchmod(descriptor, 0o700)
    ours = frozenset([*(place.path for place in home.plan.places), *home.copied])
    found = survey(
        descriptor,
        without=ours,
        most=MOST_SURVEYED,
        seconds=SURVEY_SECONDS,
        named=NAMED_PATHS,
    )
    return _held_text(found)


def _held_text(found: TreeSurvey) -> list[str]:
    if not found.files and found.whole:
        return []
    count = f"{found.files:,} file{'' if found.files == 1 else 's'}"
    count = count if found.whole else f"at least {count}"
    more = ["..."] if found.files > len(found.first) or not found.whole else []
    named = ", ".join(found.first + more)
    return [
        f"the command's home ended with the session; it held {count}: {named}",
        f"to keep them for the next run: {FLAG} kept",
    ]
