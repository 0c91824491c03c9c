"""Programs that use fixed places of the host, where a cage without a mount view has them closed.

In a mount view /tmp and /dev/shm are the cage's own, and what is not granted does not exist.
Without one both are the host's, with other programs' files in them: closed, unless granted. What
can be pointed elsewhere by a variable is pointed to the session's directory here; what can't be
(shared memory: multiprocessing.Lock) needs `--allow /dev/shm`, which `left_open` says.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nono_trio.errors import CageFailed
from nono_trio.posix.paths import home_directory
from nono_trio.sandbox.launcher.hostile_tree import entered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nono_trio.sandbox.filesystem.plan import FilePlan


def fixed_place_variables(
    environment: Mapping[str, str], files: FilePlan, temporary: str | None, *, own_home: bool
) -> dict[str, str]:
    """Return the variables to add to `environment`, the command's; what it sets itself stays.

    `temporary`: the session's own directory, None where there is a mount view. `own_home`: the
    command has a home of its own, so that it does not look at the user's.
    """
    if temporary is None:
        return {}
    wanted = {}
    if files.covers("/tmp", "write") is None:
        wanted["TMUX_TMPDIR"] = temporary
        # By default the Java runtime takes /tmp, whatever TMPDIR says.
        wanted["JAVA_TOOL_OPTIONS"] = f'-Djava.io.tmpdir="{temporary}"'
    if not own_home and _gits_files_are_closed(files):
        wanted["GIT_CONFIG_GLOBAL"] = _write_no_settings(temporary)
    return {name: value for name, value in wanted.items() if name not in environment}


def _gits_files_are_closed(files: FilePlan) -> bool:
    """Return whether git's settings of the user exist and can't be read: git gives up then."""
    home = home_directory()
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(configuration):
        configuration = os.path.join(home, ".config")
    settings = [
        os.path.join(home, ".gitconfig"),
        *(os.path.join(configuration, "git", name) for name in ("config", "ignore", "attributes")),
    ]
    return any(os.path.lexists(path) and files.covers(path, "read") is None for path in settings)


def _write_no_settings(temporary: str) -> str:
    """Write what git is to take for the user's settings: a repository's own go over it."""
    path = os.path.join(temporary, ".gitconfig")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with entered(temporary) as inside:  # never through a link that has taken its place
            descriptor = os.open(".gitconfig", flags, 0o600, dir_fd=inside)
    except OSError as error:
        raise CageFailed(f"{path} can't be made: {error.strerror or error}") from error
    try:
        os.write(descriptor, b"[core]\n\texcludesFile = /dev/null\n\tattributesFile = /dev/null\n")
    finally:
        os.close(descriptor)
    return path
