"""No code is loaded once a command that may be hostile has started.

What a process needs is imported before it says "go"; afterwards a module that is new is refused
here, before any directory is looked into. A codec counts as a module.
"""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, NoReturn

from nono_trio.errors import NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


# Modules too, loaded when they are first used: files are opened with these.
_CODECS = ("utf-8", "ascii", "latin-1")


class LateImport(NonoTrioError, ImportError):
    """Code was to be loaded after the command had started."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the module {name} was to be loaded after the command had started, which is refused",
            hint="this is a fault of nono-trio: report it, with the command line",
        )
        self.name = name


class _Refusing:
    """The first finder of all, which finds nothing and lets no other one look."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> NoReturn:
        """Refuse, whatever is asked for."""
        del path, target
        raise LateImport(name)


def refuse_late_imports() -> None:
    """From now on let this process import what it has imported, and nothing else. For good."""
    for name in _CODECS:
        codecs.lookup(name)
    if not any(isinstance(finder, _Refusing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refusing())
