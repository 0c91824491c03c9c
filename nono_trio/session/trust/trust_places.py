"""Finds this machine's files of the certificates that programs trust.

Rules of this file: it reads and changes nothing but names of files and the beginnings of npm's
settings. A place is returned by its path without symlinks, because a mount goes on the file itself;
the links that lead to it then lead to the mount.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.posix.safe_open import read_whole
from nono_trio.proxy.intercept.root_store import SYSTEM_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# More names of the files in SYSTEM_FILES, and files beside them that programs read.
MORE_FILES: Final = (
    "/etc/pki/tls/cert.pem",  # Fedora: OpenSSL's default
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",  # Arch
    "/var/lib/ca-certificates/ca-bundle.pem",  # SUSE: where its link leads
    "/etc/ssl/certs/ca-bundle.crt",  # NixOS
    "/usr/lib/ssl/cert.pem",  # Debian: OpenSSL's default, a link
    "/usr/local/ssl/cert.pem",  # an OpenSSL that was built by hand
    "/home/linuxbrew/.linuxbrew/etc/ca-certificates/cert.pem",
)
JAVA_FILES: Final = (
    "/etc/ssl/certs/java/cacerts",  # Debian
    "/etc/pki/ca-trust/extracted/java/cacerts",  # Fedora
    "/etc/pki/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",  # SUSE
    "/etc/ssl/certs/java-cacerts",
)
JVM_DIRECTORIES: Final = ("/usr/lib/jvm/*", "/usr/java/*", "/opt/java/*", "/opt/jdk*")
# Chromium, Chrome, and Chrome for Testing, which Puppeteer and Playwright install.
BROWSER_POLICIES: Final = (
    "/etc/chromium/policies/managed",
    "/etc/opt/chrome/policies/managed",
    "/etc/opt/chrome_for_testing/policies/managed",
)
FIREFOX_POLICIES: Final = ("/etc/firefox/policies",)
_IN_JDK: Final = ("lib/security/cacerts", "jre/lib/security/cacerts")
MAX_JAVA_STORES: Final = 16  # each costs some 50 ms and 200 KB; a machine has one to three
NPM_SETTINGS: Final = ("/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc")
_MAX_SETTINGS: Final = 64 * 1024  # bytes


def system_files() -> dict[str, list[str]]:
    """The system's files of root certificates that exist, with the names that lead to each."""
    found: dict[str, list[str]] = {}
    for name in (*SYSTEM_FILES, *MORE_FILES):
        if os.path.isfile(name):
            found.setdefault(os.path.realpath(name), []).append(name)
    return found


def java_stores(environment: Mapping[str, str]) -> list[str]:
    """The trust stores of the JDKs that are found, the one on PATH first."""
    return _real_files(_java_candidates(environment))[:MAX_JAVA_STORES]


def npm_cafiles(directories: Iterable[str]) -> list[str] | None:
    """The files that npm's settings name as its authorities; None if no setting does.

    `directories` may have a .npmrc: the project's and the home.
    """
    settings = [*(os.path.join(one, ".npmrc") for one in directories), *NPM_SETTINGS]
    named = [value for path in settings for value in _cafiles_in(path)]
    return named or None


def _java_candidates(environment: Mapping[str, str]) -> Iterator[str]:
    homes = []
    program = shutil.which("java", path=environment.get("PATH"))
    if program is not None:
        homes.append(str(Path(os.path.realpath(program)).parent.parent))
    homes.append(environment.get("JAVA_HOME", ""))
    for pattern in JVM_DIRECTORIES:
        homes += sorted(glob.glob(pattern))
    for home in filter(os.path.isabs, homes):
        yield from (os.path.join(home, part) for part in _IN_JDK)
    yield from JAVA_FILES


def _cafiles_in(path: str) -> list[str]:
    try:
        text = read_whole(Path(path), _MAX_SETTINGS).decode("utf-8", "replace")
    except OSError:
        return []
    values = []
    for line in text.splitlines():  # no pattern: an earlier command may have written the file
        name, _, value = line.partition("=")
        value = value.strip().strip("\"'")
        if name.strip() == "cafile" and value and "\0" not in value:
            values.append(os.path.join(os.path.dirname(path), value))
    return values


def _real_files(paths: Iterable[str]) -> list[str]:
    found = (os.path.realpath(path) for path in paths if os.path.isfile(path))
    return [*dict.fromkeys(found)]
