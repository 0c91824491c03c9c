"""Refuses sources of secrets that the caged command could read, or could choose.

Rules of this file:
- A file that the command can read is a secret that it has already. One that it can write, or whose
  directory, is a choice of what the supervisor reads next and sends to a bound host.
- A program that the command can write would run outside of the cage. So would one that is found in
  a directory of PATH which it can write: such directories are left out.
- Without a file sandbox all of this is the user's choice, and is said.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from nono_trio.core.credentials.credential import COMMAND, FILE, KEYRING
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home, home_of
from nono_trio.session.credentials.command_line import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nono_trio.core.credentials.credential import Source
    from nono_trio.session.opened_files import OpenedFiles

_KEYRING_SETTINGS = "python_keyring/keyringrc.cfg"


def check_source(
    name: str, source: Source, opened: OpenedFiles, environment: Mapping[str, str]
) -> str | None:
    """Return a warning about the source of credential `name`, if there is one.

    Raises UsageError for a source that the command must not reach.
    """
    if source.kind == FILE:
        return _check_file(name, expand_home(source.words[0]), opened)
    if source.kind == COMMAND:
        _check_program(name, source.words[0], opened, environment)
    if source.kind == KEYRING:
        _check_keyring(name, opened, environment)
    return None


def outside_path(environment: Mapping[str, str], opened: OpenedFiles | None) -> str:
    """Return PATH without relative directories, and without those that the command may write."""
    given = environment.get("PATH", os.defpath).split(os.pathsep)
    absolute = (one for one in given if os.path.isabs(one))
    return os.pathsep.join(one for one in absolute if opened is None or not opened.may_write(one))


def _check_file(name: str, path: str, opened: OpenedFiles) -> str | None:
    path = os.path.abspath(path)
    if opened.may_write(path) or opened.may_write(os.path.dirname(path)):
        raise _refused(
            name,
            f"the command may change {path}, from which its secret is read",
            "move the file to a directory that is not granted for writing",
        )
    reader = opened.reader(path)
    if reader is None:
        return None
    if reader.startswith("--no-sandbox"):
        return f"credential {name}: the command can read {path} itself ({reader})"
    raise _refused(
        name,
        f"the command may read {path} itself, by {reader}",
        f"close it with --deny {shlex.quote(path)}",
    )


def _check_program(
    name: str, word: str, opened: OpenedFiles, environment: Mapping[str, str]
) -> None:
    found = find_program(word, environment)
    if found is not None and opened.may_write(found):
        raise _refused(
            name,
            f"the command may change the program {found}, which would run outside of the cage",
            "name a program with its whole path, in a directory that is not granted for writing",
        )


def _check_keyring(name: str, opened: OpenedFiles, environment: Mapping[str, str]) -> None:
    """The settings of the library name code that it loads."""
    directories = [environment.get("XDG_CONFIG_HOME"), f"{home_of(environment)}/.config"]
    for directory in filter(None, directories):
        path = os.path.join(directory, _KEYRING_SETTINGS)
        if opened.may_write(path) or opened.may_write(os.path.dirname(path)):
            raise _refused(
                name,
                f"the command may change {path}, which names code that the keyring loads",
                "grant directories beside it",
            )


def _refused(name: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"credential {name}: {reason}", hint=hint)
