"""Stop a process from loading code once a command that may be hostile has started.

A process imports all its modules before it says "go". Afterwards an import of a new module raises
ImportError, before any directory is searched. A codec counts as a module.
"""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

# Codecs are modules that Python loads at first use; these are used to open files.
_CODECS = ("utf-8", "ascii", "latin-1")


def refusal_text(name: str) -> str:
    """Return the sentence for a module that was imported too late."""
    return f"the module {name} was to be loaded after the command had started, which is refused"


def _refusal(name: str) -> ImportError:
    return ImportError(refusal_text(name), name=name)


class _RefusingFinder:
    """The first finder on sys.meta_path; it raises instead of searching."""

    def __init__(self, refusal: Callable[[str], ImportError]) -> None:
        self._refusal = refusal

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> NoReturn:
        """Raise the refusal for `name`."""
        del path, target
        raise self._refusal(name)


def freeze_imports(refusal: Callable[[str], ImportError] = _refusal) -> None:
    """Refuse every further import of this process, irrevocably; `refusal` makes the error."""
    for name in _CODECS:
        codecs.lookup(name)
    if not any(isinstance(finder, _RefusingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RefusingFinder(refusal))
