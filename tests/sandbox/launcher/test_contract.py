"""The launcher is made of the standard library and its own directory, wherever it is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from code_hook import hooked_launcher
from harness import RUN_SECONDS, landlock_isolation
from installation import install

from nono_trio.sandbox.spawn import LAUNCHER_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Sessions

LAUNCHER = Path(LAUNCHER_DIRECTORY)
CODE = (".py", ".pyc", ".so", ".zip", ".pth")
PLANTED = """
import sys
if sys.flags.no_site:  # the launcher's process: a supervisor loads its own sitecustomize
    with open({log!r}, "a") as file:
        file.write(__name__ + chr(10))
"""


def outside(tree: ast.Module, depth: int) -> Iterator[str]:
    """Yield forbidden imports of a module that lies `depth` folders below the launcher's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom) and node.level > depth + 1:
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] not in sys.stdlib_module_names)


@pytest.mark.parametrize(
    "path", sorted(LAUNCHER.rglob("*.py")), ids=lambda path: str(path.relative_to(LAUNCHER))
)
def test_a_module_imports_the_standard_library_and_its_own_folder(path: Path) -> None:
    depth = len(path.relative_to(LAUNCHER).parts) - 1
    assert [*outside(ast.parse(path.read_text("utf-8")), depth)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import trio",
        "import nono_trio.errors",
        "from nono_trio.sandbox.launcher import protocol",
        "if TYPE_CHECKING:\n    from nono_trio.core.net import host",
        "def late():\n    from msgspec import json",
        "from ...posix import paths",
        "from ... import errors",
    ],
)
def test_any_other_import_is_found(text: str) -> None:
    assert [*outside(ast.parse(text), depth=1)] != []


def standard_modules() -> set[str]:
    """Return the top-level names of the standard modules that the launcher imports."""
    trees = [ast.parse(path.read_text("utf-8")) for path in LAUNCHER.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
def test_nothing_that_lies_beside_the_package_is_loaded(
    sessions: Sessions, tmp_path: Path, isolation: str
) -> None:
    """An installed copy, with modules in site-packages that have the names of what is imported."""
    install(tmp_path / "venv")
    (package,) = (tmp_path / "venv").glob("lib/*/site-packages/nono_trio")
    loaded, opened = tmp_path / "loaded", tmp_path / "opened"
    for name in (*standard_modules(), "nono_trio_launcher", "launcher", "sitecustomize"):
        planted = PLANTED.format(log=str(loaded))
        (package.parent / f"{name}.py").write_text(planted)
    done = subprocess.run(
        [
            tmp_path / "venv" / "bin" / "python", "-P", "-c",
            hooked_launcher(str(opened)),
            "run", "-s", "--isolation", isolation, "--", "true",
        ],
        env=sessions.environment, capture_output=True, text=True, timeout=RUN_SECONDS,
        check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code = {path for path in opened.read_text().splitlines() if path.endswith(CODE)}
    own = {path for path in code if Path(path).is_relative_to(package / "sandbox" / "launcher")}
    assert any("main." in path for path in own)
    library = {path for path in code if "_nono_py" in path}
    assert len(library) == 1
    standard = [Path(os.__file__).parent, Path(os.__file__).resolve().parent]
    found = [path for path in code - own - library
             if not any(Path(path).is_relative_to(one) for one in standard)
             or "site-packages" in path]  # fmt: skip
    assert found == []
    assert not loaded.exists(), loaded.read_text()
