"""Refuses sources of secrets, and signers, that the caged command could read, or could choose.

Rules of this file:
- A file that the command can read is a secret that it has already. One that it can write, or whose
  directory, is a choice of what the supervisor reads next and sends to a bound host.
- A program that the command can write would run outside of the cage. So would one that is found in
  a directory of PATH which it can write: such directories are left out. The same holds for a file
  or directory that a command line names (`sh ./get-key`), and for the interpreter of a script.
- A variable that leads to what the command can write is left out for command lines: many name code
  or settings (BASH_ENV, NODE_OPTIONS, AWS_CONFIG_FILE). HOME stays.
- Without a file sandbox all of this is the user's choice, and a warning says so.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.credential import COMMAND, FILE, KEYRING
from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home, home_of
from nono_trio.session.credentials.command_line import find_program
from nono_trio.session.credentials.keyring_access import keyring_refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nono_trio.core.credentials.credential import Credential, Source
    from nono_trio.session.opened_files import OpenedFiles

# A path within a word, as in --file=/path or sh -c '. /path'. One after "://" is part of a URL.
_PATH: Final = late_pattern(r"(?<![^\s'\"`=:;,|&<>()@])(?<!:/)/[^\s'\"`=:;,|&<>()@]+")
_HOME: Final = late_pattern(r"(?<![^\s'\"`=:;,|&<>()@])(?:~|\$HOME|\$\{HOME\})(?=/)")
_MAX_INTERPRETERS: Final = 4  # as the kernel follows from one script to the next
_FIRST_LINE: Final = 256  # bytes of it that the kernel reads


def check_source(
    owner: str, source: Source, opened: OpenedFiles, environment: Mapping[str, str]
) -> str | None:
    """Return a warning about the source of `owner` ("credential NAME", or a flag), if there is one.

    Raises UsageError for a source that the command must not reach.
    """
    if source.kind == FILE:
        return _check_file(owner, expand_home(source.words[0]), opened)
    if source.kind == COMMAND:
        _check_program(owner, source, opened, environment)
    if source.kind == KEYRING:
        _check_keyring(owner, opened, environment)
    return None


def outside_environment(
    environment: Mapping[str, str], opened: OpenedFiles | None
) -> dict[str, str]:
    """Return the environment of a command line: without variables that lead to what the command may
    write, and with a PATH of which it may write nothing."""
    misleading = _misleading_variables(environment, opened)
    kept = {name: value for name, value in environment.items() if name not in misleading}
    return kept | {"PATH": _outside_path(environment, opened)}


def without_credentials(
    environment: Mapping[str, str], credentials: Iterable[Credential]
) -> dict[str, str]:
    """Return an environment without the variables of these credentials: their
    secrets are not for a program that has another task."""
    theirs = {name for one in credentials for name in one.all_variables}
    return {name: value for name, value in environment.items() if name not in theirs}


def _outside_path(environment: Mapping[str, str], opened: OpenedFiles | None) -> str:
    """Return PATH without relative directories, and without those that the command may write."""
    given = environment.get("PATH", os.defpath).split(os.pathsep)
    absolute = (one for one in given if os.path.isabs(one))
    return os.pathsep.join(one for one in absolute if opened is None or not opened.may_write(one))


def _misleading_variables(
    environment: Mapping[str, str], opened: OpenedFiles | None
) -> frozenset[str]:
    """Return the variables that lead to what the command may write, but for PATH and HOME."""
    if opened is None:
        return frozenset()
    home = home_of(environment)
    return frozenset(
        name
        for name, value in environment.items()
        if name not in ("PATH", "HOME")
        and any(_is_content(path) and opened.may_write(path) for path in _paths(value, home))
    )


def _check_file(owner: str, path: str, opened: OpenedFiles) -> str | None:
    path = os.path.abspath(path)
    if opened.may_write(path) or opened.may_write(os.path.dirname(path)):
        raise _changeable(
            owner,
            opened,
            path,
            f"{path}, from which its secret is read",
            "move the file to a directory that is not granted for writing",
        )
    reader = opened.reader(path)
    if reader is None:
        return None
    if reader.startswith("--no-sandbox"):
        return f"{owner}: the command can read {path} itself ({reader})"
    raise _refused(
        owner,
        f"the command may read {path} itself, by {reader}",
        f"in namespace isolation --deny {shlex.quote(path)} closes it; else grant directories"
        " beside it",
    )


def _check_program(
    owner: str, source: Source, opened: OpenedFiles, environment: Mapping[str, str]
) -> None:
    cleaned = {**environment, "PATH": _outside_path(environment, opened)}
    # In the cleaned PATH, which the program gets, there may be another one of that name.
    named = [find_program(source.words[0], one) for one in (environment, cleaned)]
    found = [one for one in named if one is not None]
    programs = [each for one in found for each in (one, *_interpreters(one, cleaned))]
    for program in programs:
        if opened.may_write(program):
            raise _changeable(
                owner,
                opened,
                program,
                f"the program {program}, which would run outside of the cage",
                "name a program with its whole path, in a directory that is not granted for"
                " writing",
            )
    for word in source.words[1:]:
        for path in _paths(word, home_of(environment)):
            if _is_content(path) and opened.may_write(path):
                raise _changeable(
                    owner,
                    opened,
                    path,
                    f"{path!a}, which a command line outside of the cage names",
                    "move it to a directory that is not granted for writing",
                )


def _interpreters(program: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the programs that run a script: those of its first line, and of theirs."""
    for _ in range(_MAX_INTERPRETERS):
        first = b""
        with suppress(OSError), open(program, "rb") as file:
            first = file.read(_FIRST_LINE)
        if not first.startswith(b"#!"):
            return
        words = os.fsdecode(first[2:].partition(b"\n")[0]).split()
        if not words:
            return
        yield words[0]
        program = words[0]
        if os.path.basename(program) == "env":
            asked = (one for one in words[1:] if not one.startswith("-") and "=" not in one)
            found = find_program(next(asked, ""), environment)
            if found is None:
                return
            yield found
            program = found


def _paths(word: str, home: str) -> Iterator[str]:
    """Yield the paths that a word may name; a command line starts in /."""
    yield os.path.join("/", word)
    yield os.path.join("/", word.partition("=")[2])
    for match in _PATH.finditer(_HOME.sub(lambda _: home, word)):
        yield match[0]


def _is_content(path: str) -> bool:
    """Tell whether a path names a file or directory, or nothing yet; not a device. What is open
    has a name in /dev too."""
    if path.startswith("/dev/") and not path.startswith("/dev/shm/"):
        return False
    return os.path.isfile(path) or os.path.isdir(path) or not os.path.lexists(path)


def guard_keyring(opened: OpenedFiles, environment: Mapping[str, str]) -> str | None:
    """Say why the keyring must not be asked; None if it may be.

    Some backends run a program, so our own PATH loses the directories that the command may write.
    """
    outside = _outside_path(environment, opened)
    if outside != environment.get("PATH", os.defpath):
        os.environ["PATH"] = outside
    return keyring_refusal(opened, environment)


def _check_keyring(owner: str, opened: OpenedFiles, environment: Mapping[str, str]) -> None:
    reason = guard_keyring(opened, environment)
    if reason is not None:
        raise _refused(owner, reason, "grant directories beside it")


def _changeable(owner: str, opened: OpenedFiles, path: str, what: str, hint: str) -> UsageError:
    """Return the error about a path that the command may write, or may have another name of."""
    if opened.grants_writing(path) or not opened.may_have_other_name(path):
        return _refused(owner, f"the command may change {what}", hint)
    copy = shlex.quote(f"{path}.copy")
    return _refused(
        owner,
        f"the command may change {what}: that file has another name (a hard link), which may be in"
        " a directory that is granted for writing",
        f"name a copy, which has one name: cp -p {shlex.quote(path)} {copy}",
    )


def _refused(owner: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"{owner}: {reason}", hint=hint)
