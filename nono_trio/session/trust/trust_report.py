"""The programs that trust the session's authority, for `doctor`.

Rules of this file: a program is listed if it was tried (docs/intercept.md), and named if it is on
PATH. Whether a single program was built to trust something else is not known here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.posix.safe_open import open_regular
from nono_trio.session.trust.trust_places import (
    BROWSER_POLICIES,
    FIREFOX_POLICIES,
    java_stores,
    system_files,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# By the files of the system in namespace isolation, by variables in both isolations.
_BY_FILES: Final = ("curl", "wget", "git", "openssl", "python3", "go", "ruby", "php", "perl")
_BY_VARIABLES: Final = ("node", "npm", "deno", "bun", "uv", "cargo", "pip", "aws")
_BY_STORE: Final = ("java",)
# In namespace isolation, if the machine has no policies of its own there.
BY_POLICY: Final = {
    "chromium": BROWSER_POLICIES[0],
    "firefox": FIREFOX_POLICIES[0],
    "firefox-esr": FIREFOX_POLICIES[0],
}
# Its store is its own, and it was not tried with a policy.
_NEVER: Final = ("google-chrome",)
_KINDS: Final = {b"\xfe\xed\xfe\xed": "JKS", b"\x30": "PKCS12"}


class TrustReport(NamedTuple):
    """Names of programs on PATH, and the places by which the first of them trust."""

    trusting: list[str]
    not_trusting: list[str]
    places: list[str]


def trust_report(environment: Mapping[str, str]) -> TrustReport:
    """Look at this machine. Of its files only the trust stores of JDKs are opened."""
    stores = {path: _kind(path) for path in java_stores(environment)}
    known = [path for path, kind in stores.items() if kind is not None]
    programs = [*_BY_FILES, *_BY_VARIABLES, *(_BY_STORE if known else ())]
    others = [*_NEVER, *(() if known else _BY_STORE)]
    taken = [name for name, path in BY_POLICY.items() if os.path.isdir(path)]
    browsers = _on_path([name for name in BY_POLICY if name not in taken], environment)
    others = [*taken, *others]
    return TrustReport(
        [
            *_on_path(programs, environment),
            *(f"{name} (in namespace isolation)" for name in browsers),
        ],
        _on_path(others, environment),
        [*system_files(), *(f"{path} ({stores[path]})" for path in known)],
    )


def _on_path(names: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    return [name for name in names if shutil.which(name, path=environment.get("PATH"))]


def _kind(path: str) -> str | None:
    """The kind of a trust store, if it is one that an authority can be added to."""
    try:
        with open_regular(Path(path)) as file:
            beginning = file.read(4)
    except OSError:
        return None
    return next((kind for mark, kind in _KINDS.items() if beginning.startswith(mark)), None)
