"""A cage plan without grants and mounts, for tests of a part of a plan."""

from __future__ import annotations

import types
from typing import Any, Literal, get_args, get_origin

from nono_trio.sandbox.launcher.cage_plan import CagePlan


def cage_plan(**changes: Any) -> CagePlan:
    """A plan without isolation whose command is /bin/true, with some fields set.

    Each other field has the empty value of its type, so a new field needs no line here.
    """
    empty = {name: _empty(kind) for name, kind in CagePlan.__annotations__.items()}
    own = {
        "isolation": "none",
        "landlock": True,
        "directory": "/",
        "executable": "/bin/true",
        "command": ["true"],
        "umask": 0o022,
        "port": 1,
    }
    return CagePlan(**(empty | own | changes))


def _empty(kind: Any) -> object:
    origin = get_origin(kind)
    if origin is types.UnionType:  # X | None
        return None
    if origin is Literal:
        return get_args(kind)[0]
    return (origin or kind)()
