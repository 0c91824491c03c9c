"""Tells whether the caged command could choose what the keyring loads, or who answers for it.

Rules of this file:
- The library's settings name a backend, and a directory from which it is loaded. Both are code of
  the supervisor, so the command may write neither.
- A Secret Service is reached by the socket of the session bus. Who may write its directory can put
  a socket of their own there, which is then given keys, or says that it has no key.
- Some backends keep keys in files of a directory of the library's. Who may write it can take a key
  away.
- Settings that can't be read here can't be read by the library either.
"""

from __future__ import annotations

import os
from configparser import Error, RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from nono_trio.posix.account import expand_home, home_of
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.session.opened_files import OpenedFiles

_SETTINGS: Final = "python_keyring/keyringrc.cfg"
_DATA: Final = "python_keyring"
_MAX_SETTINGS: Final = 1 << 20  # bytes; they have some lines
_BUS: Final = "DBUS_SESSION_BUS_ADDRESS"
_RUNTIME: Final = "XDG_RUNTIME_DIR"


def keyring_refusal(opened: OpenedFiles, environment: Mapping[str, str]) -> str | None:
    """Say why the keyring must not be asked; None if it may be."""
    for path in _settings(environment):
        if opened.may_write(path) or opened.may_write(os.path.dirname(path)):
            return f"the command may change {path}, which names code that the keyring loads"
        directory = _code_directory(path)
        if directory is not None and opened.may_write_below(directory):
            return f"the command may change code in {directory}, from which the keyring loads"
    for path in _data(environment):
        if opened.may_write_below(path):
            return f"the command may change {path}, in which keyrings have files"
    for socket in _sockets(environment):
        if opened.may_write(os.path.dirname(socket)):
            return f"the command may replace {socket}, by which the keyring is reached"
    return None


def _settings(environment: Mapping[str, str]) -> Iterator[str]:
    for directory in (environment.get("XDG_CONFIG_HOME"), f"{home_of(environment)}/.config"):
        if directory:
            yield os.path.join(directory, _SETTINGS)


def _data(environment: Mapping[str, str]) -> Iterator[str]:
    for directory in (environment.get("XDG_DATA_HOME"), f"{home_of(environment)}/.local/share"):
        if directory:
            yield os.path.join(directory, _DATA)


def _code_directory(path: str) -> str | None:
    """Return the directory that settings have the library search for code; None without one."""
    settings = RawConfigParser()
    try:
        settings.read_string(read_whole(Path(path), _MAX_SETTINGS).decode())
        found = settings.get("backend", "keyring-path").strip()
    except (OSError, UnicodeDecodeError, Error):
        return None
    return os.path.abspath(expand_home(found))


def _sockets(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths at which a session bus may be."""
    for address in environment.get(_BUS, "").split(";"):
        kind, _, rest = address.partition(":")
        for pair in rest.split(","):
            name, _, value = pair.partition("=")
            if kind == "unix" and name == "path" and value:
                yield unquote(value)
    if not environment.get(_BUS) and environment.get(_RUNTIME):
        yield os.path.join(environment[_RUNTIME], "bus")
