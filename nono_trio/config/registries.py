"""The hosts of `package_registries`: the registries that this machine's tools are set to.

pip, npm, cargo and Go each know where they take packages from; their files and variables are read
when a session starts, and no host is written down in this program. A tool without configuration has
a default in its own files (tool_defaults.py).

Rules of this file: a file that the command may write, or that came with the project, is not
believed: the command could widen its own network with it; a default that can't be read is named in
one warning for all tools, and nothing is guessed; user names and passwords in a URL go nowhere; a
file that can't be read or understood is warned of and left out.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nono_trio.config.tool_defaults import (
    Believed,
    cargo_default,
    files_of_defaults,
    go_default,
    npm_default,
    pip_default,
)
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.host_groups import PACKAGE_REGISTRIES
from nono_trio.core.policy.rule import parse_allow
from nono_trio.errors import UsageError
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from nono_trio.config.tool_defaults import ToolDefault

# A configuration file is a few lines; what is larger was not written for a package manager.
MAX_BYTES: Final = 1024 * 1024

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = late_pattern(r"(?:sparse\+|git\+)?(https?://[^\s,|;\"']+)")
_NPM_REGISTRY: Final = late_pattern(r"\s*(?:@[^\s:=]+:)?registry\s*=(.*)", re.IGNORECASE)
_PIP_KEYS: Final = ("index-url", "extra-index-url", "index_url", "extra_index_url", "find-links")
_PIP_VARIABLES: Final = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS",
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL",
)  # fmt: skip
_CARGO_VARIABLE: Final = late_pattern(r"CARGO_REGISTRIES_\w+_INDEX")


@dataclass
class Registries:
    """Entries as --allow-domain takes them, and warnings about their files."""

    entries: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Tool:
    """A package manager: its programs, the files it reads, the URLs in one, its variables', and
    what it takes without any of them."""

    name: str
    programs: Sequence[str]
    files: Callable[[Mapping[str, str], str], Iterable[str]]
    urls: Callable[[str], Iterable[str]]
    variables: Callable[[Mapping[str, str]], Iterable[str]]
    default: Callable[[Mapping[str, str], str, Believed], ToolDefault]


def read_registries(
    environ: Mapping[str, str], home: str, writable: Sequence[str] = ()
) -> Registries:
    """Read the configuration of every tool; `writable` are directories of the command.

    Never raises: what can't be used is a warning.
    """
    found = Registries()
    unknown = []
    believed = Believed(tuple(map(os.path.realpath, writable)))
    which = partial(shutil.which, path=environ.get("PATH"))
    for tool in _TOOLS:
        texts = [*tool.variables(environ)]
        for path in dict.fromkeys(tool.files(environ, home)):
            text = _trusted_text(path, writable, found)
            if text is not None:
                texts += _urls_of(tool, path, text, found)
        configured = [_add(text, found) for text in texts]
        if any(configured) or not any(map(which, tool.programs)):
            continue
        default = tool.default(environ, home, believed)
        for url in default.urls:
            _add(url, found)
        if default.missing:
            unknown.append(f"{tool.name} ({default.missing})")
    if unknown:
        found.warnings.append(
            f"{PACKAGE_REGISTRIES}: no registry is configured for {', '.join(unknown)}, and the"
            " default can't be read from the tool (allow what it needs with --allow-domain HOST)"
        )
    return found


def writable_files(environ: Mapping[str, str], home: str, writable: Sequence[str]) -> list[str]:
    """The files of every tool, there or not yet, that are the command's to write."""
    files = [path for tool in _TOOLS for path in tool.files(environ, home)]
    files += files_of_defaults(environ, home)
    return [path for path in dict.fromkeys(files) if _is_writable(os.path.realpath(path), writable)]


def _is_writable(real: str, writable: Sequence[str]) -> bool:
    return any(is_in(real, one) for one in map(os.path.realpath, writable))


def _add(text: str, found: Registries) -> bool:
    """Take the URLs in a setting; False for a setting without any."""
    named = "file:" in text or text.strip() == "off"
    for url in _URL.findall(text):
        entry = _entry(url)
        named = True
        if entry is None:
            found.warnings.append(f"{PACKAGE_REGISTRIES}: a configured URL has no host to allow")
        elif entry not in found.entries:
            found.entries.append(entry)
    return named


def _entry(url: str) -> str | None:
    """HOST:PORT of a URL; None for a URL without a host, or with one that no rule may open."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]
        if host is None:
            return None
        entry = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        parse_allow(entry)
    except (ValueError, UsageError):
        return None
    return entry


def _trusted_text(path: str, writable: Sequence[str], found: Registries) -> str | None:
    """A file's text; None for a missing file and for one that the command may write."""
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        return None
    if _is_writable(real, writable):
        found.warnings.append(
            f"{PACKAGE_REGISTRIES}: {path} is not believed, as the command may write it"
            " (allow its hosts with --allow-domain HOST)"
        )
        return None
    try:
        with open(real, encoding="utf-8") as file:
            return file.read(MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        found.warnings.append(f"{PACKAGE_REGISTRIES}: {path} can't be read: {words}")
        return None


def _urls_of(tool: _Tool, path: str, text: str, found: Registries) -> list[str]:
    try:
        return [*tool.urls(text)]
    except (ValueError, RecursionError):
        found.warnings.append(f"{PACKAGE_REGISTRIES}: {path} is not what {tool.name} reads")
        return []


def _configuration(environ: Mapping[str, str], home: str) -> str:
    configured = environ.get("XDG_CONFIG_HOME", "")
    return configured if os.path.isabs(configured) else f"{home}/.config"


def _pip_files(environ: Mapping[str, str], home: str) -> Iterator[str]:
    for directory in [*environ.get("XDG_CONFIG_DIRS", "").split(":"), "/etc/xdg"]:
        if os.path.isabs(directory):
            yield f"{directory}/pip/pip.conf"
    yield "/etc/pip.conf"
    yield f"{home}/.pip/pip.conf"
    yield f"{_configuration(environ, home)}/pip/pip.conf"
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(name):
            yield f"{environ[name]}/pip.conf"
    if environ.get("PIP_CONFIG_FILE"):
        yield environ["PIP_CONFIG_FILE"]
    yield "/etc/uv/uv.toml"
    yield f"{_configuration(environ, home)}/uv/uv.toml"


def _pip_urls(text: str) -> Iterator[str]:
    """The values of the keys that name an index, with the lines that go on below them.

    Read by line and not by `configparser`: a percent sign in a password breaks that. uv's TOML has
    the same keys, and `url` in its [[index]] tables.
    """
    taking = False
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if not (line[0].isspace() and taking):
            key = re.split(r"[=:]", stripped, maxsplit=1)[0].strip()
            taking = key in (*_PIP_KEYS, "url")
        if taking:
            yield stripped


def _npm_files(environ: Mapping[str, str], home: str) -> Iterator[str]:
    for program in ("npm", "node"):
        found = shutil.which(program, path=environ.get("PATH"))
        if found:
            prefix = os.path.dirname(os.path.dirname(os.path.realpath(found)))
            yield f"{os.path.dirname(os.path.dirname(found))}/etc/npmrc"
            yield f"{prefix}/etc/npmrc"
            yield f"{prefix}/npmrc"
    yield "/etc/npmrc"
    for name in ("NPM_CONFIG_GLOBALCONFIG", "NPM_CONFIG_USERCONFIG"):
        given = environ.get(name) or environ.get(name.lower())
        if given:
            yield given
    yield f"{home}/.npmrc"


def _npm_urls(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = _NPM_REGISTRY.fullmatch(line)
        if match:
            yield match[1]


def _cargo_files(environ: Mapping[str, str], home: str) -> Iterator[str]:
    directory = environ.get("CARGO_HOME") or f"{home}/.cargo"
    yield from (f"{directory}/config.toml", f"{directory}/config")


def _cargo_urls(text: str) -> Iterator[str]:
    data = tomllib.loads(text)
    for table, keys in (("source", ("registry",)), ("registries", ("index",))):
        sources = data.get(table)
        for source in sources.values() if isinstance(sources, dict) else ():
            if isinstance(source, dict):
                yield from (str(source[key]) for key in keys if key in source)
                if "directory" in source or "local-registry" in source:
                    yield "file:"


def _go_files(environ: Mapping[str, str], home: str) -> Iterator[str]:
    yield environ.get("GOENV") or f"{_configuration(environ, home)}/go/env"
    if environ.get("GOROOT"):
        yield f"{environ['GOROOT']}/go.env"


def _go_urls(text: str) -> Iterator[str]:
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        if name in ("GOPROXY", "GOSUMDB"):
            yield value


def _values(*names: str) -> Callable[[Mapping[str, str]], Iterable[str]]:
    """The values of variables whose names count in either case, as npm takes its own."""
    return lambda environ: [
        environ[one]
        for name in names
        for one in dict.fromkeys((name, name.lower()))
        if one in environ
    ]


def _cargo_values(environ: Mapping[str, str]) -> list[str]:
    return [value for name, value in environ.items() if _CARGO_VARIABLE.fullmatch(name)]


_TOOLS: Final = (
    _Tool(
        "pip", ("pip", "pip3", "uv"), _pip_files, _pip_urls, _values(*_PIP_VARIABLES), pip_default
    ),
    _Tool(
        "npm", ("npm", "pnpm", "yarn"), _npm_files, _npm_urls, _values("NPM_CONFIG_REGISTRY"),
        npm_default,
    ),
    _Tool("cargo", ("cargo",), _cargo_files, _cargo_urls, _cargo_values, cargo_default),
    _Tool("Go", ("go",), _go_files, _go_urls, _values("GOPROXY", "GOSUMDB"), go_default),
)  # fmt: skip
