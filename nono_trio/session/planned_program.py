"""The program of a run, and the files that its cage shows: found, planned, and checked against each
other.

Rules of this file: it refuses before anything is started, so that the answer can say which grant
would do. A kernel that can't hold the plan is refused here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nono_trio.errors import CageFailed
from nono_trio.posix.paths import ON_MACOS, home_directory
from nono_trio.sandbox.build_plan import FIRST_NETWORK_ABI, abi_number
from nono_trio.sandbox.filesystem.plan import FilePlan, plan_files
from nono_trio.sandbox.launcher.nono_py import library_path, load_library, why_no_landlock
from nono_trio.session.executable import find_executable, require_covered
from nono_trio.session.homes.session_home import make_homes_inside
from nono_trio.session.loading import links_to_show

if TYPE_CHECKING:
    from types import ModuleType

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.launcher.cage_plan import Isolation


class PlannedProgram(msgspec.Struct, frozen=True):
    """The program to run and the files of its cage.

    `links` are symlinks on the way to it, which a mount view must have; `library` is nono-py's
    extension module.
    """

    files: FilePlan
    executable: str
    links: list[str]
    library: str
    landlock_abi: str | None


def resolve_files(
    options: RunOptions, isolation: Isolation, library: ModuleType | None = None
) -> FilePlan:
    """Turn file flags and policy groups into grants; raises UsageError as `plan_files`."""
    return plan_files(
        options.files,
        options.session.audit.state_root,
        library or load_library(_library_path()),
        can_cover=isolation == "namespace",
    )


def plan_program(options: RunOptions, isolation: Isolation, *, dry: bool) -> PlannedProgram:
    """Find the program and plan its files; refuses one that the cage could not read."""
    library_file = _library_path()
    library = load_library(library_file)
    files = resolve_files(options, isolation, library)
    if not dry and options.sandbox and make_homes_inside(files):
        files = resolve_files(options, isolation, library)  # what is there now can be covered
    executable = find_executable(options.command[0], files.start)
    links: list[str] = []
    if options.sandbox:
        require_covered(options.command[0], executable, files)
        kept_home = home_directory() if options.home.kind == "kept" else None
        links = links_to_show(executable, files, kept_home)
    abi = _landlock_abi(library, options, isolation)
    return PlannedProgram(files, executable, links, library_file, abi)


def _library_path() -> str:
    try:
        return library_path()
    except ImportError as error:
        raise CageFailed(str(error), hint="pip install nono-py") from error


def _landlock_abi(library: ModuleType, options: RunOptions, isolation: Isolation) -> str | None:
    """Return the kernel's Landlock ABI where the cage rests on it.

    Raises CageFailed when it can't do what is asked of it.
    """
    if ON_MACOS or not (options.sandbox or isolation == "landlock"):
        return None
    try:
        version: str = library.detect_abi().version
    except RuntimeError as error:
        raise CageFailed(
            f"this kernel has no Landlock: {why_no_landlock(error)}",
            hint="`--isolation namespace --no-sandbox` runs without it, every file open (recorded)",
        ) from error
    if isolation == "landlock" and abi_number(version) < FIRST_NETWORK_ABI:
        raise CageFailed(
            f"landlock isolation needs Landlock ABI {FIRST_NETWORK_ABI} (Linux 6.7), got {version}",
            hint="`--isolation none` runs without an isolated network (recorded in the log)",
        )
    return version
