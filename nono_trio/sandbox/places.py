"""Where things are: on which system, the home, whether one path lies inside another."""

from __future__ import annotations

import os
import pwd
import sys

# For choices between two values; where a name exists on one system only, sys.platform is compared
# in place, as the type checker knows that by itself.
ON_MACOS: bool = sys.platform == "darwin"


def home_directory() -> str:
    """Return the user's home: $HOME when it is absolute, else what the account says."""
    home = os.environ.get("HOME", "")
    if os.path.isabs(home):
        return home
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a container's made-up uid
        return "/"


def is_below(path: str, directory: str) -> bool:
    """Tell whether `path` lies strictly inside `directory` (both without symlinks)."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")
