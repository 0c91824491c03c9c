"""Finds the script among the arguments of an interpreter.

Rule of this file: an option that is not known here may take a value, or code, and code is never
taken for a script; then nothing is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence


class _Options(msgspec.Struct, frozen=True):
    """Options before a script: those that stand alone, and those whose value is the next word."""

    alone: re.Pattern[str]
    with_value: frozenset[str]


_NONE: Final = _Options(late_pattern("(?!)"), frozenset())
_PYTHON: Final = _Options(late_pattern("-[bBdEhiIOPqRsSuvVx]+"), frozenset(("-W", "-X")))
_SHELL: Final = _Options(
    late_pattern(
        "[-+][abefhiklmnprtuvxBCEHPT]+|--(?:login|norc|noprofile|posix|verbose|restricted)"
    ),
    frozenset(("-o", "+o", "-O", "+O", "--rcfile", "--init-file")),
)
_NODE: Final = _Options(
    late_pattern("--(?:no-|enable-|experimental-|trace-|inspect|preserve-)[a-z-]*|--[a-z-]+=.*"),
    frozenset(("-r", "--require", "--import", "--loader")),
)
_PERL: Final = _Options(late_pattern("-[acflnpsStTuUwWX]+"), frozenset(("-I",)))
_RUBY: Final = _Options(late_pattern("-[adlnpsSvwW]+"), frozenset(("-I", "-r")))

_BY_NAME: Final = {
    "python": _PYTHON, "pypy": _PYTHON, "node": _NODE, "nodejs": _NODE, "ruby": _RUBY,
    "perl": _PERL, "sh": _SHELL, "bash": _SHELL, "dash": _SHELL, "zsh": _SHELL, "ksh": _SHELL,
    **dict.fromkeys(
        ("deno", "bun", "php", "java", "busybox", "lua", "luajit", "Rscript", "R", "tclsh", "wish"),
        _NONE,
    ),
}  # fmt: skip


def is_interpreter(name: str) -> bool:
    """Return True if a program of this name runs scripts."""
    return _kind(name) in _BY_NAME


def script_place(name: str, argv: Sequence[str]) -> int | None:
    """Return the place of the script in `argv` of the program `name`, or None."""
    options = _BY_NAME.get(_kind(name))
    if options is None:
        return None
    place = 1
    while place < len(argv):
        word = argv[place]
        if word in options.with_value:
            place += 2
        elif options.alone.fullmatch(word):
            place += 1
        elif word == "--" and place + 1 < len(argv):
            return place + 1
        else:
            return None if word.startswith(("-", "+")) else place
    return None


def _kind(name: str) -> str:
    return name.rstrip("0123456789.-")
