"""The user's directories, as $HOME and the XDG variables give them.

A relative XDG path counts as not set, as its specification asks. Apart from profiles.py, since a
run without a profile needs these and nothing of what reads one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.posix.account import home_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def configuration_directory(environ: Mapping[str, str]) -> Path:
    """Return our own directory of the user's settings: $XDG_CONFIG_HOME/nono-trio."""
    configured = environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path(home_of(environ), ".config")
    return base / "nono-trio"


def profile_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of the user's own profiles."""
    return configuration_directory(environ) / "profiles"


def defaults_file(environ: Mapping[str, str]) -> Path:
    """Return the file of the user's own defaults: a profile that every session starts from."""
    return configuration_directory(environ) / "config.toml"


def path_variables(environ: Mapping[str, str], working_directory: str) -> dict[str, str]:
    """The values of the variables that profiles may use; relative XDG paths count as not set."""
    home = home_of(environ)
    variables = {
        "WORKDIR": working_directory,
        "HOME": home,
        "TMPDIR": environ.get("TMPDIR") or "/tmp",
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "XDG_DATA_HOME": f"{home}/.local/share",
        "XDG_STATE_HOME": f"{home}/.local/state",
    }
    given = {name: environ.get(name, "") for name in variables if name.startswith("XDG_")}
    return variables | {name: value for name, value in given.items() if os.path.isabs(value)}
