"""The registries that package managers take without any configuration: pip, npm, cargo and Go.

Each tool has its default in its own files, which are read here; no tool is run, and no host is
written down in this program.

Rules of this file: a file that the command may write, and a file that others than root and the user
may write, is not believed; a tool whose default can't be read gives nothing, and a warning says
which hosts to name; each look is at a bounded number of files.
"""

from __future__ import annotations

import glob
import json
import mmap
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# npm's definitions are 70 KB, the largest text that is read here.
MAX_BYTES: Final = 1024 * 1024
# cargo and uv have 40 MB. A larger program takes longer to search than a start may take.
MAX_PROGRAM_BYTES: Final = 256 * 1024 * 1024
# A mark, and a name of 253 bytes behind it.
_MATCH_BYTES: Final = 320
# Installed copies of one tool that are read; they all have the same default.
MAX_COPIES: Final = 32

_PIP_INDEX: Final = late_pattern(
    r"""^PyPI\s*=\s*PackageIndex\(\s*["'](https://[^"'\s]+)["'],"""
    r"""\s*file_storage_domain\s*=\s*["']([A-Za-z0-9.-]+)["']""",
    re.MULTILINE,
)
_NPM_REGISTRY: Final = late_pattern(
    r"""\bregistry:\s*new Definition\(\s*["']registry["'],\s*\{\s*default:\s*["'](https?://[^"'\s]+)"""
    r"""|define\(\s*["']registry["'],\s*\{\s*default:\s*["'](https?://[^"'\s]+)""",
)
_HOST: Final = rb"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}"
_CARGO_MARK: Final = b"sparse+https://"
_CARGO_INDEX: Final = late_pattern(rb"sparse\+(https://" + _HOST + rb"/)")
# uv's own help has its default.
_UV_MARK: Final = b"(by default: <https://"
_UV_INDEX: Final = late_pattern(rb"\(by default: <(https://" + _HOST + rb"/simple)>")
_GO_NAMES: Final = ("GOPROXY", "GOSUMDB")


@dataclass
class ToolDefault:
    """The URLs of one tool's default; `missing` says what of it can't be read, "" for nothing."""

    urls: list[str] = field(default_factory=list)
    missing: str = ""


@dataclass(frozen=True)
class Believed:
    """Which files are believed: `writable` are the directories and files of the command."""

    writable: Sequence[str] = ()

    def path(self, path: str) -> str | None:
        """Return the path without symlinks of a regular file that is believed, or None."""
        real = os.path.realpath(path)
        try:
            found = os.stat(real)
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_mode & stat.S_IWOTH:
            return None
        if found.st_uid not in (0, os.geteuid()):
            return None
        return None if any(is_in(real, one) for one in self.writable) else real

    def text(self, path: str) -> str | None:
        """Return the beginning of a believed file; None for any other."""
        real = self.path(path)
        if real is None:
            return None
        try:
            with open(real, encoding="utf-8") as file:
                return file.read(MAX_BYTES)
        except (OSError, UnicodeDecodeError):
            return None


def pip_default(environ: Mapping[str, str], home: str, believed: Believed) -> ToolDefault:
    """Return pip's index and the host of its files; uv takes the same from its own program."""
    for path in _pip_copies(environ, home):
        match = _PIP_INDEX.search(believed.text(path) or "")
        if match is not None:
            return ToolDefault([match[1], f"https://{match[2]}/"])
    for path in _programs(environ, "uv"):
        index = _found_in_program(believed, path, _UV_MARK, _UV_INDEX)
        if index is not None:
            return ToolDefault([index], "the host of its files")
    return ToolDefault(missing="the host of its index and the one of the files")


def npm_default(environ: Mapping[str, str], home: str, believed: Believed) -> ToolDefault:
    """Return npm's registry, which has the packages as well; pnpm takes the same, yarn another."""
    yarn = "the host of yarn's registry" if _programs(environ, "yarn") else ""
    for path in _npm_copies(environ):
        match = _NPM_REGISTRY.search(believed.text(path) or "")
        if match is not None:
            return ToolDefault([match[1] or match[2]], yarn)
    return ToolDefault(missing="the host of its registry")


def cargo_default(environ: Mapping[str, str], home: str, believed: Believed) -> ToolDefault:
    """Return cargo's index, and the host of the packages where cargo has read that index before."""
    for path in _cargo_copies(environ, home):
        index = _found_in_program(believed, path, _CARGO_MARK, _CARGO_INDEX)
        if index is not None:
            downloads = _cargo_downloads(environ, home, believed, index)
            missing = "" if downloads else "the host of its packages"
            return ToolDefault([index, *downloads], missing)
    return ToolDefault(missing="the host of its index and the one of the packages")


def go_default(environ: Mapping[str, str], home: str, believed: Believed) -> ToolDefault:
    """Return Go's proxy and checksum database from the settings that Go was shipped with."""
    for path in _go_copies(environ):
        values = dict.fromkeys(_GO_NAMES, "")
        for line in (believed.text(path) or "").splitlines():
            name, _, value = line.strip().partition("=")
            if name in values:
                values[name] = value
        urls = [*re.findall(r"https?://[^\s,|]+", values["GOPROXY"])]
        database = values["GOSUMDB"].split("+")[0]
        if re.fullmatch(r"[A-Za-z0-9.-]+\.[A-Za-z]+", database):
            urls.append(f"https://{database}/")
        if urls:
            return ToolDefault(urls)
    return ToolDefault(missing="the hosts of its proxy and of its checksum database")


def files_of_defaults(environ: Mapping[str, str], home: str) -> Iterator[str]:
    """Yield every file that a default is read from, there or not."""
    yield from _pip_copies(environ, home)
    yield from _programs(environ, "uv")
    yield from _npm_copies(environ)
    yield from _cargo_copies(environ, home)
    yield from _go_copies(environ)


def _programs(environ: Mapping[str, str], *names: str) -> list[str]:
    """Return the programs of these names on the path; the first of each name."""
    found = (shutil.which(name, path=environ.get("PATH", "")) for name in names)
    return [os.path.abspath(path) for path in found if path is not None]


def _prefixes(environ: Mapping[str, str], *names: str) -> Iterator[str]:
    """Yield the directories that programs are installed in, as named and without symlinks."""
    for program in _programs(environ, *names):
        for path in dict.fromkeys((program, os.path.realpath(program))):
            yield os.path.dirname(os.path.dirname(path))


def _existing(patterns: Iterable[str]) -> list[str]:
    every = (path for pattern in patterns for path in sorted(glob.glob(pattern)))
    return list(dict.fromkeys(islice(every, MAX_COPIES)))


def _pip_copies(environ: Mapping[str, str], home: str) -> list[str]:
    """Return the files with the index: of the environment, the path's programs, and pyenv."""
    below = "pip/_internal/models/index.py"
    prefixes = [glob.escape(one) for one in _prefixes(environ, "pip3", "pip", "python3", "python")]
    given = environ.get("VIRTUAL_ENV")
    prefixes[:0] = [glob.escape(given)] if given and os.path.isabs(given) else []
    pyenv = environ.get("PYENV_ROOT") or f"{home}/.pyenv"
    prefixes.append(f"{glob.escape(pyenv)}/versions/*")
    kinds = ("lib/python3.*/site-packages", "lib/python3/dist-packages")
    return _existing(f"{prefix}/{kind}/{below}" for prefix in prefixes for kind in kinds)


def _npm_copies(environ: Mapping[str, str]) -> list[str]:
    """Return the files with npm's settings: beside npm itself, as Node and as Debian ship it."""
    below = "@npmcli/config/lib/definitions/definitions.js"
    patterns = []
    for program in map(os.path.realpath, _programs(environ, "npm")):
        package = glob.escape(os.path.dirname(os.path.dirname(program)))
        patterns += [f"{package}/node_modules/{below}", f"{os.path.dirname(package)}/{below}"]
    for prefix in map(glob.escape, _prefixes(environ, "npm", "node")):
        patterns.append(f"{prefix}/lib/node_modules/npm/node_modules/{below}")
    return _existing(patterns)


def _cargo_copies(environ: Mapping[str, str], home: str) -> list[str]:
    """Return cargo's programs. Those of rustup's toolchains are first, because the one on the path
    only starts one of them."""
    rustup = environ.get("RUSTUP_HOME") or f"{home}/.rustup"
    copies = _existing([f"{glob.escape(rustup)}/toolchains/*/bin/cargo"])
    stable = [path for path in copies if "/stable" in path]
    return list(dict.fromkeys([*stable, *copies, *_programs(environ, "cargo")]))


def _go_copies(environ: Mapping[str, str]) -> list[str]:
    return [f"{prefix}/go.env" for prefix in dict.fromkeys(_prefixes(environ, "go"))]


def _cargo_downloads(
    environ: Mapping[str, str], home: str, believed: Believed, index: str
) -> list[str]:
    """Return the URLs of the packages, from the copy that cargo keeps of its index's settings."""
    host = index.removeprefix("https://").rstrip("/")
    cargo = environ.get("CARGO_HOME") or f"{home}/.cargo"
    for path in _existing([f"{glob.escape(cargo)}/registry/index/{host}-*/config.json"]):
        try:
            settings = json.loads(believed.text(path) or "{}")
        except (ValueError, RecursionError):
            continue
        download = settings.get("dl") if isinstance(settings, dict) else None
        if isinstance(download, str) and download.startswith("https://"):
            return [download]
    return []


def _found_in_program(
    believed: Believed, path: str, mark: bytes, pattern: re.Pattern[bytes]
) -> str | None:
    """Return the group of the first match that begins at a mark in a program, or None.

    The marks are searched first: that takes a tenth of the pattern's time.
    """
    real = believed.path(path)
    if real is None:
        return None
    try:
        with open(real, "rb") as file:
            if not 0 < os.fstat(file.fileno()).st_size <= MAX_PROGRAM_BYTES:
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
                place = program.find(mark)
                while place >= 0:
                    match = pattern.match(program[place : place + _MATCH_BYTES])
                    if match is not None:
                        return match[1].decode("ascii")
                    place = program.find(mark, place + len(mark))
    except (OSError, ValueError):
        return None
    return None
