"""Tells whether the caged command could choose what the keyring loads, or who answers for it.

Rules of this file:
- The library's settings name a backend, and a directory from which it is loaded. Both are code of
  the supervisor, so the command may write neither.
- A Secret Service is reached by the socket of the session bus. Who may write its directory can put
  a socket of their own there, which is then given keys, or says that it has no key.
- Some backends keep keys in files of a directory of the library's. Who may write it can take a key
  away.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from nono_trio.sandbox.filesystem.keyring_places import (
    code_directories,
    data_directories,
    settings_directories,
    settings_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.session.opened_files import OpenedFiles

_BUS: Final = "DBUS_SESSION_BUS_ADDRESS"
_RUNTIME: Final = "XDG_RUNTIME_DIR"


def keyring_refusal(opened: OpenedFiles, environment: Mapping[str, str]) -> str | None:
    """Say why the keyring must not be asked; None if it may be."""
    for directory in settings_directories(environment):
        path = settings_file(directory)
        if opened.may_write(path) or opened.may_write(directory):
            return f"the command may change {path}, which names code that the keyring loads"
    for directory in code_directories(environment):
        if opened.may_write_below(directory):
            return f"the command may change code in {directory}, from which the keyring loads"
    for directory in data_directories(environment):
        if opened.may_write_below(directory):
            return f"the command may change {directory}, in which keyrings have files"
    for socket in _sockets(environment):
        if opened.may_write(os.path.dirname(socket)):
            return f"the command may replace {socket}, by which the keyring is reached"
    return None


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
