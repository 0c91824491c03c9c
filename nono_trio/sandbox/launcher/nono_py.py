"""nono-py's extension module, loaded alone: its package imports pydantic, 150 ms of start-up."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

_NAME = "_nono_py"


def library_path() -> str:
    """Return the path of the extension module, without importing the package.

    Raises ImportError if nono-py is not installed for this interpreter.
    """
    spec = importlib.util.find_spec("nono_py")
    for location in (spec and spec.submodule_search_locations) or ():
        found = importlib.machinery.PathFinder.find_spec(_NAME, [location])
        if found is not None and found.origin is not None:
            return found.origin
    raise ImportError("nono-py is not installed for this Python")


def why_no_landlock(error: RuntimeError) -> str:
    """Return nono-py's reason, without the list of bits that it tried last."""
    return str(error).removeprefix("Sandbox initialization failed: ").partition(" (last error")[0]


def load_library(path: str) -> ModuleType:
    """Load the extension module at `path`; raises ImportError."""
    loader = importlib.machinery.ExtensionFileLoader(_NAME, path)
    spec = importlib.util.spec_from_loader(_NAME, loader)
    if spec is None:
        raise ImportError(f"no module at {path}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
