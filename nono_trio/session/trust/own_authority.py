"""Certificates and keys of the user's own: --tls-ca-cert, --tls-ca-key, --upstream-ca, and the
files of single hosts in a profile.

Rules of this file: a program with the authority's key can pose as every host to the programs that
trust it, and one with a client's key as the user. So a file with a key must be the user's alone,
have one name, and lie where the command can't read it. It is opened once, and what is checked is
what was opened. No error has a byte of it. A file with roots for servers must lie where the command
can't write: an earlier command could have put a root of its own there.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.config.secret import FILE, read_secret, secret_variable
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.private_file import read_private, unreadable
from nono_trio.posix.safe_open import read_whole
from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.host_tls import HostTls
from nono_trio.proxy.intercept.memory_chain import PIPE_BYTES
from nono_trio.proxy.intercept.root_store import MAX_FILE, parse_certificates

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Mapping

    from nono_trio.config.options import HostFiles, NetworkOptions
    from nono_trio.proxy.intercept.ca import Authority

CERTIFICATE_FLAG: Final = "--tls-ca-cert"
KEY_FLAG: Final = "--tls-ca-key"
UPSTREAM_FLAG: Final = "--upstream-ca"
CA_KEY: Final = "network.tls_ca"
CERTIFICATE_KEY: Final = "network.client_cert"
PRIVATE_KEY: Final = "network.client_key"
# Bytes of PEM: they go through a pipe with a leaf, which has 3 KiB under an RSA key of 16,384 bits.
MAX_CHAIN: Final = PIPE_BYTES - 8 * 1024


def read_host_files(
    hosts: Mapping[str, HostFiles],
    environment: Mapping[str, str],
    can_read: Callable[[str], str | None] = lambda _path: None,
    may_write: Callable[[str], bool] = lambda _path: False,
) -> dict[str, HostTls]:
    """Read the files of single hosts and try them; raises UsageError."""
    found = {}
    for host, files in hosts.items():
        if (files.certificate is None) != (files.key is None):
            raise UsageError(
                f"expected {CERTIFICATE_KEY} and {PRIVATE_KEY} for {host}, got one of them",
                hint="give both in the profile",
            )
        ca = None if files.ca is None else _read_roots(CA_KEY, files.ca, may_write)
        certificate = key = None
        if files.certificate is not None and files.key is not None:
            certificate = _read(CERTIFICATE_KEY, files.certificate)
            key = _read_source(files.key, environment, can_read)
        found[host] = HostTls(ca, certificate, key)
        found[host].check(host)
    return found


def _read_source(
    source: str, environment: Mapping[str, str], can_read: Callable[[str], str | None]
) -> bytes:
    if secret_variable(source) is not None:
        return read_secret(PRIVATE_KEY, source, environment)
    named = source.removeprefix(FILE)
    _require_hidden(PRIVATE_KEY, named, can_read)
    return read_private(PRIVATE_KEY, named)


def read_own_authority(
    network: NetworkOptions,
    now: datetime.datetime,
    can_read: Callable[[str], str | None] = lambda _path: None,
) -> Authority | None:
    """Read the user's authority; None without the flags. Raises UsageError.

    `can_read` names the grant by which the command may read a path.
    """
    certificate, key = network.tls_ca_cert, network.tls_ca_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = (
            (CERTIFICATE_FLAG, KEY_FLAG) if key is None else (KEY_FLAG, CERTIFICATE_FLAG)
        )
        raise UsageError(f"{given} needs {missing}", hint="give both, or none of them")
    _require_hidden(KEY_FLAG, key, can_read)
    found = own_authority(_read(CERTIFICATE_FLAG, certificate), read_private(KEY_FLAG, key), now)
    size = len(found.pem())
    if size > MAX_CHAIN:
        raise UsageError(
            f"{CERTIFICATE_FLAG}: expected at most {MAX_CHAIN} bytes of certificates,"
            f" got {certificate} with {size}",
            hint="leave the signing certificate in it, and those above that one",
        )
    return found


def read_upstream_ca(
    path: str | None, may_write: Callable[[str], bool] = lambda _path: False
) -> list[bytes]:
    """Read the roots of `--upstream-ca`, in DER; raises UsageError for a file without one, or one
    that the command may write."""
    if path is None:
        return []
    found = parse_certificates(_read_roots(UPSTREAM_FLAG, path, may_write))
    if not found:
        raise UsageError(
            f"{UPSTREAM_FLAG}: expected certificates in PEM, got {path} without one",
            hint=f"look at it: openssl x509 -in {shlex.quote(path)} -noout -subject",
        )
    return found


def _read_roots(flag: str, path: str, may_write: Callable[[str], bool]) -> bytes:
    if may_write(expand_home(path)):
        quoted = shlex.quote(expand_home(path))
        raise UsageError(
            f"{flag}: expected a file that the command can't write, got {path}",
            hint="look at it, then name a copy outside of the grants:"
            f" mkdir -p ~/.nono-trio-roots && cp {quoted} ~/.nono-trio-roots/",
        )
    return _read(flag, path)


def _read(flag: str, path: str) -> bytes:
    try:
        return read_whole(Path(expand_home(path)), MAX_FILE)
    except OSError as error:
        raise unreadable(flag, path, error) from None


def _require_hidden(flag: str, named: str, can_read: Callable[[str], str | None]) -> None:
    if not os.path.isfile(expand_home(named)):
        return  # nothing to hide: it is refused when it is read, without a hint to move a device
    grant = can_read(expand_home(named))
    if grant is not None:
        quoted = shlex.quote(expand_home(named))
        raise UsageError(
            f"{flag}: expected a key that the command can't read, got {named}, which {grant}"
            " opens to it",
            hint=f"move it: mkdir -m 700 ~/.nono-trio-keys && mv {quoted} ~/.nono-trio-keys/",
        )
