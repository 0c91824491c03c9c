"""The command's program: found as execvp would, and inside what the cage may read.

Checked before anything is started, so that the answer can say which grant would do; the kernel's
own answer, after the exec, could only be "permission denied".
"""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.errors import CageFailed, CommandNotFound
from nono_trio.posix.paths import home_directory, is_below
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from nono_trio.sandbox.filesystem.plan import FilePlan

_NO_EXEC = getattr(os, "ST_NOEXEC", 0)  # Linux's; elsewhere the exec itself says so

_LOOKED_AT = 256  # bytes, as many as the kernel looks at


def find_executable(command: str, directory: str) -> str:
    """Return the absolute path of `command`, seen from `directory`.

    Raises CommandNotFound, or CageFailed when it is there but not executable.
    """
    if "/" in command:
        path = os.path.abspath(os.path.join(directory, command))
        if not os.path.exists(path):
            raise CommandNotFound(f"no such command: {command!a}", hint=f"there is no file {path}")
    else:
        found = shutil.which(command)
        if found is None:
            raise CommandNotFound(
                f"no such command on PATH: {command!a}",
                hint="give its path if it is not in a directory of PATH",
            )
        path = os.path.abspath(found)
    if os.path.isdir(path):
        raise CageFailed(f"expected a program, got the directory {path}")
    if os.statvfs(path).f_flag & _NO_EXEC:
        raise CageFailed(
            f"{path} is on a file system that is mounted noexec",
            hint="move it, or name what is to run it, if it is a script",
        )
    if not os.access(path, os.X_OK):
        raise CageFailed(
            f"{path} is not executable", hint=f"chmod +x it, or name what is to run it: sh {path}"
        )
    return path


def require_covered(command: str, executable: str, files: FilePlan) -> None:
    """Raise CageFailed unless the program, and its interpreter if it is a script, are inside the
    cage."""
    if files.covers(executable, "read") is None:
        real = os.path.realpath(executable)
        raise CageFailed(
            f"{command} is outside what the cage may read: {real}",
            hint=f"grant it with --read {shlex.quote(os.path.dirname(real))}",
        )
    _require_interpreter(executable, files)


def _require_interpreter(script: str, files: FilePlan) -> None:
    line = _first_line(script)
    if not line.startswith(b"#!"):
        return
    words = line[2:].strip(b" \t").split(maxsplit=1) if line[2:].strip() else []
    named = os.fsdecode(words[0]) if words else ""
    if line.endswith(b"\r") and len(words) == 1:
        raise CageFailed(
            f"the interpreter of {script} is not found: its first line ends with a carriage return",
            hint=f"take it out: sed -i 's/\\r$//' {shlex.quote(script)}",
        )
    named = named and os.path.join(files.directory, named)  # seen from where the command starts
    if not named or is_below(named, home_directory()):
        return  # a shell runs it, or it is in the home of the cage
    if not os.path.exists(named):
        raise CageFailed(
            f"the interpreter of {script} does not exist: {named}",
            hint="install it, or correct the first line of the script",
        )
    if not os.path.isfile(named) or os.path.samefile(named, script):
        raise CageFailed(
            f"the interpreter of {script} is no program: {named}",
            hint="correct the first line of the script",
        )
    if files.covers(named, "read") is None:
        real = os.path.realpath(named)
        raise CageFailed(
            f"the interpreter of {script} is outside what the cage may read: {real}",
            hint=f"grant it with --read {shlex.quote(os.path.dirname(real))}",
        )


def _first_line(path: str) -> bytes:
    """The first line of a file, as far as the kernel looks; nothing if it can't be read."""
    with suppress(OSError), open_regular(Path(path)) as file:
        return file.read(_LOOKED_AT).partition(b"\n")[0]
    return b""
