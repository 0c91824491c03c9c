"""The places from which the library keyring takes settings and code, for our own process.

Rules of this file: settings that can't be read here can't be read by the library either. Nothing of
the library is imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.posix.account import expand_home, home_of
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DIRECTORY: Final = "python_keyring"
_MAX_SETTINGS: Final = 1 << 20  # bytes; they have some lines


def settings_directories(environment: Mapping[str, str]) -> list[str]:
    """Return the directories in which settings may be: today's, and the usual one."""
    found = (environment.get("XDG_CONFIG_HOME"), f"{home_of(environment)}/.config")
    return [os.path.abspath(f"{one}/{_DIRECTORY}") for one in dict.fromkeys(filter(None, found))]


def data_directories(environment: Mapping[str, str]) -> list[str]:
    """Return the directories in which backends keep files: today's, and the usual one."""
    found = (environment.get("XDG_DATA_HOME"), f"{home_of(environment)}/.local/share")
    return [os.path.abspath(f"{one}/{_DIRECTORY}") for one in dict.fromkeys(filter(None, found))]


def settings_file(directory: str) -> str:
    """Return the path of the settings in such a directory."""
    return os.path.join(directory, "keyringrc.cfg")


def code_directories(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the directories that settings have the library search for code, first of all."""
    for directory in settings_directories(environment):
        found = _code_directory(settings_file(directory))
        if found is not None:
            yield found


def _code_directory(path: str) -> str | None:
    if not os.path.exists(path):
        return None
    from configparser import Error, RawConfigParser  # late: few users have settings

    settings = RawConfigParser()
    try:
        settings.read_string(read_whole(Path(path), _MAX_SETTINGS).decode())
        found = settings.get("backend", "keyring-path").strip()
    except (OSError, UnicodeDecodeError, Error):
        return None
    return os.path.abspath(expand_home(found))
