"""Import before "go" all that a run would otherwise import while its command runs; refuse the rest.

The supervisor loads no code once the command has started: a late import ends the run. To add one to
the path of a run, add its module here. Name service modules of the C library are libraries of the
same kind. Nothing here looks up a name.
"""

from __future__ import annotations

import codecs
import importlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.errors import NonoTrioError
from nono_trio.sandbox.launcher.import_freeze import freeze_imports, refusal_text

if TYPE_CHECKING:
    from collections.abc import Iterator

# By whom they are imported: warnings; core/net/host.py and getaddrinfo, for names that are no
# ASCII.
_MODULES: Final = ("linecache", "idna", "idna.uts46data", "ctypes")
# For look-ups of files that are not granted.
_VIEW_MODULES: Final = ("nono_trio.sandbox.denied_files", "nono_trio.session.file_notes")
_CODECS: Final = ("idna", "punycode")
# For a supervisor that makes the command's connections itself.
_GUARD_MODULES: Final = (
    "nono_trio.sandbox.broker.connect_broker",
    "nono_trio.sandbox.broker.metadata_broker",
    "nono_trio.session.direct_connections",
)

# For hosts that are intercepted; cryptography imports its backend with the first key.
_TLS_MODULES: Final = (
    "nono_trio.proxy.http.http2.multiplexed",
    "nono_trio.proxy.http.message_body",
    "nono_trio.proxy.intercept.interception",
    "nono_trio.proxy.intercept.session_authority",
    "nono_trio.proxy.intercept.upstream_tls",
    "cryptography.hazmat.backends.openssl.backend",
)

# For credentials, also of a session that intercepts nothing: one may be for http:// alone.
_CREDENTIAL_MODULES: Final = (
    "nono_trio.proxy.credentials.credentials",
    "nono_trio.proxy.http.guarded_request",
    "nono_trio.proxy.http.message_body",
    "nono_trio.proxy.credentials.signing_guard",
    "nono_trio.session.credentials.sources",
    "nono_trio.proxy.http.token_exchange",  # for the answers of token URLs
    "nono_trio.proxy.http.gathered_response",
)

_NAME_SERVICES: Final = "/etc/nsswitch.conf"
_MOST_BYTES: Final = 1 << 16  # the file has a line for each of twenty databases
_BUILT_IN: Final = ("files", "dns")  # of the C library since glibc 2.34


class LateImport(NonoTrioError, ImportError):
    """Code was to be loaded after the command had started."""

    def __init__(self, name: str) -> None:
        super().__init__(
            refusal_text(name),
            hint="this is a fault of nono-trio: report it, with the command line",
        )
        self.name = name


def preload(
    *, brokered: bool, answers: bool, intercepts: bool = False, credentials: bool = False
) -> None:
    """Import what the rest of a run needs; `brokered`: also the broker of its system calls;
    `answers`: also the receiver of look-ups of what is not granted; `intercepts`: also TLS;
    `credentials`: also what swaps and searches stand-ins."""
    more = (
        *(_GUARD_MODULES if brokered else ()),
        *(_VIEW_MODULES if answers else ()),
        *(_TLS_MODULES if intercepts else ()),
        *(_CREDENTIAL_MODULES if credentials else ()),
    )
    for name in (*_MODULES, *more):
        importlib.import_module(name)
    for name in _CODECS:
        codecs.lookup(name)
    if sys.platform == "linux":
        _load_name_services()


def refuse_late_imports() -> None:
    """Raise LateImport for every further import of this process; irrevocable."""
    freeze_imports(LateImport)


def _load_name_services() -> None:
    """Load the libraries that getaddrinfo loads when it first gets to them."""
    services = [name for name in _name_services() if name not in _BUILT_IN or _is_old()]
    if not services:
        return
    import _ctypes

    for name in services:
        with suppress(OSError):  # not installed: getaddrinfo goes on to the next one too
            _ctypes.dlopen(f"libnss_{name}.so.2", os.RTLD_NOW)


def _name_services() -> Iterator[str]:
    """Name the services that look up hosts, as the system's configuration has them."""
    try:
        with open(_NAME_SERVICES, "rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii", "replace")
    except OSError:
        return
    for line in text.splitlines():
        database, _, services = line.partition("#")[0].partition(":")
        if database.strip() == "hosts":
            yield from (word for word in services.split() if word.isidentifier())


def _is_old() -> bool:
    """Return whether the C library's own services are libraries apart (never in musl)."""
    with suppress(OSError, ValueError):
        found = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ").split(".")
        return found != [""] and tuple(map(int, found[:2])) < (2, 34)
    return False
