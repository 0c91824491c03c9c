"""The rooms of the package: which imports which, type-only imports and late ones included.

import-linter holds the layers (pyproject.toml); it does not look for circles inside a layer.
"""

from __future__ import annotations

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import msgspec
import pytest
from checkout import TESTS
from installation import PACKAGE

from nono_trio.core.log import (
    events,
    ledger_record,
    nono_events,
    policy_json,
    session_json,
    summary_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


# The child has it under another name (sandbox/spawn.py), so it alone imports relatively.
LAUNCHER = "nono_trio.sandbox.launcher"


def statements(tree: ast.Module) -> Iterator[ast.stmt | ast.excepthandler | ast.match_case]:
    """All statements, however deep; an import lies in no expression, and most nodes do."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        inner = waiting.pop()
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            blocks = getattr(inner, field, ())
            if isinstance(blocks, list):
                waiting += blocks
                yield from blocks


def imported(module: str, known: dict[str, ast.Module]) -> set[str]:
    """The modules of ours that a module names in an import, anywhere in it."""
    names = set()
    for node in statements(known[module]):
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


@functools.cache
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


# -- what an import makes -------------------------------------------------------------------------

_MADE = ("re.compile", "msgspec.json.Decoder", "json.Decoder")


def made_at_import(node: ast.AST) -> Iterator[str]:
    """The calls of _MADE that the import of a module runs: those in no function."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) in _MADE:
            yield f"{ast.unparse(inner.func)} in line {inner.lineno}"
        yield from made_at_import(inner)


def test_an_import_compiles_no_pattern_and_makes_no_decoder() -> None:
    """core/late.py makes them when they are used: a run imports hundreds and uses few."""
    made = {name: [*made_at_import(tree)] for name, tree in modules().items()}
    assert {name: calls for name, calls in made.items() if calls} == {}


def test_a_pattern_that_an_import_compiles_is_found() -> None:
    text = "class A:\n    X = {'a': re.compile('a')}\n    def f(): re.compile('b')"
    assert [*made_at_import(ast.parse(text))] == ["re.compile in line 2"]


def test_the_types_of_a_session_have_annotations_that_are_evaluated() -> None:
    """From a text msgspec compiles each of them, when the first file of a kind is read."""
    lists = (nono_events, events, session_json, policy_json, summary_json, ledger_record)
    kinds = [kind for module in lists for kind in vars(module).values() if is_struct(kind)]
    texts = {
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, annotation in kind.__annotations__.items()
        if isinstance(annotation, str)
    }
    assert len(kinds) > 30
    assert texts == set()


def test_the_named_tuples_of_a_launch_have_annotations_that_are_evaluated() -> None:
    """From a text `typing` compiles each of them at the import: a twelfth of a launch."""
    ours = {name: tree for name, tree in modules().items() if name.startswith(LAUNCHER)}
    with_tuples = {name for name, tree in ours.items() if "(NamedTuple)" in ast.unparse(tree)}
    assert len(with_tuples) > 8
    assert {name for name in with_tuples if has_texts(ours[name])} == set()


def has_texts(tree: ast.Module) -> bool:
    return any(isinstance(one, ast.ImportFrom) and one.module == "__future__" for one in tree.body)


def is_struct(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, msgspec.Struct)


# -- what tests may reach -------------------------------------------------------------------------

# The standard library's own extension points, and named tuples' methods.
_NOT_OURS = {
    "_accept", "_core", "_io_epoll", "_replace", "_fields", "_asdict",
    "_abort_func", "_attempt_abort",  # of trio's tasks
}  # fmt: skip


def private_names(tree: ast.Module) -> set[str]:
    """Names with one underscore that a test takes from something else than itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and not _is_self(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            names = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
            found |= {str(name).rpartition(".")[2] for name in names}
    private = {name for name in found if name.startswith("_") and not name.startswith("__")}
    return private - _NOT_OURS


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "os", "sys")


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_no_test_reaches_into_private_names(path) -> None:
    assert private_names(ast.parse(path.read_text("utf-8"))) == set()


@pytest.mark.parametrize(
    "text",
    [
        "proxy._table.clear()",
        "from nono_trio.session.loading import _interpreters",
        "monkeypatch.setattr(watchdog, '_SECONDS', 1)",
        "monkeypatch.setattr('nono_trio.session.run._SECONDS', 1)",
    ],
)
def test_a_reach_into_a_private_name_is_found(text: str) -> None:
    assert private_names(ast.parse(text))
