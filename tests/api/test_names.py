"""The library's names and signatures: a change here is one for its users (CHANGELOG.md)."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from nono_trio.api import audit, proxy

MODULES = {"audit": audit, "proxy": proxy}
PINNED = Path(__file__).parent / "names.txt"


def members(owner):
    """The public methods, properties and fields of a class of ours."""
    fields = {}
    for one in owner.__mro__:
        if any(inspect.get_annotations(one).values()):
            fields |= written(one)
    for name in sorted(fields):
        if not name.startswith("_"):
            yield f"{name}: {fields[name]}"
    for name in sorted(dir(owner)):
        value = inspect.getattr_static(owner, name)
        if (name.startswith("_") or name == "args") and name not in ("__aiter__", "__anext__"):
            continue
        if inspect.isfunction(value):
            yield f"{name}{inspect.signature(value)}"
        elif isinstance(value, property):
            yield name


def written(owner):
    """The annotations of a class as its file has them: a module may have evaluated its own."""
    (body,) = ast.parse(inspect.getsource(owner)).body
    fields = [one for one in body.body if isinstance(one, ast.AnnAssign)]
    return {one.target.id: ast.unparse(one.annotation) for one in fields}


def lines():
    for module_name, module in MODULES.items():
        for name in sorted(module.__all__):
            value = getattr(module, name)
            full = f"{module_name}.{name}"
            if inspect.isfunction(value):
                yield f"{full}{inspect.signature(value)}"
            elif inspect.isclass(value):
                yield full
                yield from (f"  {member}" for member in members(value))
            else:  # a union of types
                yield full


def test_names_and_signatures_are_as_promised():
    assert [*lines()] == PINNED.read_text().splitlines()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_everything_has_a_docstring_and_a_place_on_the_page(name):
    module = MODULES[name]
    page = (ROOT / "docs" / "library.md").read_text()
    for public in module.__all__:
        assert f"`{public}" in page or f".{public}" in page or public in page.split(), public
        value = getattr(module, public)
        if inspect.isfunction(value):
            assert "Raises" in (inspect.getdoc(value) or ""), public


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_import_brings_neither_the_loop_nor_the_command_line(name):
    script = f"import nono_trio.api.{name}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"trio", "click", "rich", "cryptography", "nono_py", "fsspec"}
    assert not any(module.startswith("nono_trio.cli") for module in loaded)


def test_an_unknown_name_is_an_attribute_error():
    for module in MODULES.values():
        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            module.missing  # noqa: B018
