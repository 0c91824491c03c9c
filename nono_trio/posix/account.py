"""The home of whoever runs us: by $HOME where that can be meant, else by the account database.

Rules: a relative $HOME counts as not set, as it would name another place in each directory; an id
without an account (a container's made-up one) has / for its home, where it may write nothing.
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
    """Return `path` with the home in the place of ~; what names another user's as Python does."""
    if path == "~" or path.startswith("~/"):
        return home_of(os.environ).rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)
