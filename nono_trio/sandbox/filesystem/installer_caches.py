"""The caches of installers, whose code runs later, outside of any cage.

The next installation uses cached code without checking it. uv and pnpm hard-link files of their
cache into installed packages: writing the cache changes nono-trio's own package too, by a path that
a read-only mount of the package does not cover.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The default directories of conda and its relatives, with the packages below.
_CONDA_HOMES = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".conda")
_CONDA_PROGRAMS = ("conda", "mamba", "micromamba")


class Cache(msgspec.Struct, frozen=True):
    """A cache (absolute path), its installer, and the names of the program that makes it."""

    path: str
    installer: str
    programs: tuple[str, ...]

    @property
    def is_used(self) -> bool:
        """Tell whether the cache exists, or its program is installed."""
        return os.path.exists(self.path) or any(map(shutil.which, self.programs))


def installer_caches(environ: Mapping[str, str], home: str) -> list[Cache]:
    """Return every cache directory of uv, pip, conda and pnpm."""
    every = (*_uv(environ, home), *_pip(environ, home), *_conda(environ, home))
    found = (*every, *_pnpm(environ, home))
    return list(dict.fromkeys(cache for cache in found if os.path.isabs(cache.path)))


def _cache_home(environ: Mapping[str, str], home: str) -> str:
    return _absolute(environ, "XDG_CACHE_HOME") or f"{home}/.cache"


def _data_home(environ: Mapping[str, str], home: str) -> str:
    return _absolute(environ, "XDG_DATA_HOME") or f"{home}/.local/share"


def _absolute(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name, "")
    return os.path.normpath(value) if os.path.isabs(value) else None


def _uv(environ: Mapping[str, str], home: str) -> Iterator[Cache]:
    for path in (_absolute(environ, "UV_CACHE_DIR"), f"{_cache_home(environ, home)}/uv"):
        if path is not None:
            yield Cache(path, "uv", ("uv",))


def _pip(environ: Mapping[str, str], home: str) -> Iterator[Cache]:
    usual = f"{_cache_home(environ, home)}/pip"
    if sys.platform == "darwin":
        usual = f"{home}/Library/Caches/pip"
    for path in (_absolute(environ, "PIP_CACHE_DIR"), usual):
        if path is not None:
            yield Cache(path, "pip", ("pip", "pip3"))


def _conda(environ: Mapping[str, str], home: str) -> Iterator[Cache]:
    given = [path for path in environ.get("CONDA_PKGS_DIRS", "").split(",") if path]
    roots = [_absolute(environ, name) for name in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX")]
    if program := _absolute(environ, "CONDA_EXE"):  # ROOT/bin/conda
        roots.append(os.path.dirname(os.path.dirname(program)))
    found = [*given, *(f"{root}/pkgs" for root in roots if root)]
    for path in map(os.path.normpath, found):
        yield Cache(path, "conda", _CONDA_PROGRAMS)
    for name in _CONDA_HOMES:  # a user has at most one of them
        if os.path.isdir(f"{home}/{name}/pkgs"):
            yield Cache(f"{home}/{name}/pkgs", "conda", ())


def _pnpm(environ: Mapping[str, str], home: str) -> Iterator[Cache]:
    """Yield its store, its cache of registry answers, and the directory of its own program."""
    programs = ("pnpm",)
    usual = [f"{_data_home(environ, home)}/pnpm", f"{_cache_home(environ, home)}/pnpm"]
    if sys.platform == "darwin":
        usual = [f"{home}/Library/pnpm", f"{home}/Library/Caches/pnpm"]
    named = [_absolute(environ, name) for name in ("PNPM_HOME", "npm_config_store_dir")]
    for path in (*(path for path in named if path), *usual, f"{home}/.pnpm-store"):
        yield Cache(path, "pnpm", programs)
