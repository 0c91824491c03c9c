"""The rooms of the package: which imports which, type-only imports and late ones included.

import-linter holds the layers (pyproject.toml); it does not look for circles inside a layer.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from installation import PACKAGE


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


# The child has it under another name (sandbox/spawn.py), so it alone imports relatively.
LAUNCHER = "nono_trio.sandbox.launcher"


def imported(module: str, known: dict[str, ast.Module]) -> set[str]:
    """The modules of ours that a module names in an import, anywhere in it."""
    names = set()
    for node in ast.walk(known[module]):
        if isinstance(node, ast.ImportFrom):
            target = node.module
            if node.level:
                assert module.startswith(f"{LAUNCHER}."), f"a relative import in {module}"
                above = module.split(".")[: -node.level]
                target = ".".join([*above, *(node.module or "").split(".")]).rstrip(".")
            candidates = [f"{target}.{alias.name}" for alias in node.names]
            names.update(name if name in known else target for name in candidates)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names & known.keys()


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(name, known) - {name, PACKAGE.name} for name in known}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other() -> None:
    assert not circle(graph())


def test_no_rooms_import_each_other() -> None:
    """A room is a folder without folders in it; what lies beside folders is a room of its own."""
    arrows = graph()
    folder = {name: name.rpartition(".")[0] for name in arrows}
    beside_folders = {name.rpartition(".")[0] for name in folder.values()}
    room = {name: name if of in beside_folders else of for name, of in folder.items()}
    rooms: dict[str, set[str]] = {}
    for name, targets in arrows.items():
        rooms.setdefault(room[name], set()).update(room[target] for target in targets)
    assert not circle({name: targets - {name} for name, targets in rooms.items()})


@pytest.mark.parametrize("arrows", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}}])
def test_a_circle_is_found(arrows: dict[str, set[str]]) -> None:
    assert circle(arrows)
