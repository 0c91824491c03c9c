"""The user's home directory: $HOME if it is absolute, otherwise the account database's.

Rules: a relative $HOME counts as not set, because it would name a different place in each working
directory; a user id without an account (as in some containers) has / as its home, where it may not
write.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def home_of(environ: Mapping[str, str]) -> str:
    """Return the home that an environment gives, absolute."""
    home = environ.get("HOME", "")
    return home if os.path.isabs(home) else account_home()


def account_home() -> str:
    """Return the home that the account database names, / where it knows no such user."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"
    return home if os.path.isabs(home) else "/"


def expand_home(path: str) -> str:
    """Return `path` with the home in the place of ~; `~other` expands as in os.path.expanduser."""
    if path == "~" or path.startswith("~/"):
        return home_of(os.environ).rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)
