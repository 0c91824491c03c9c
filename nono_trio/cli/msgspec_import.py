"""Imports of commands, without a module that msgspec can do without.

msgspec takes `get_type_hints`, `Required` and `NotRequired` from `typing_extensions` if that is
installed (other packages bring it), and else from `typing`, which has all of them since Python
3.11. The import of `typing_extensions` takes a thirtieth of the time of `audit list`.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_SPARED = "typing_extensions"


@contextmanager
def sparing_typing_extensions() -> Iterator[None]:
    """Inside, msgspec finds no `typing_extensions`; does nothing if one of them is imported."""
    if "msgspec" in sys.modules or _SPARED in sys.modules:
        yield
        return
    sys.modules[_SPARED] = cast("ModuleType", None)  # an import fails, without any search
    try:
        yield
    finally:
        del sys.modules[_SPARED]
