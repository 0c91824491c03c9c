"""`--tls-ca-cert` and `--tls-ca-key`: a certificate authority of the user's own.

Rules of this file: a program with the key can pose as every host to the programs that trust the
authority. So its file must be the user's alone, have one name, and lie where the command can't read
it. The file is opened once, and what is checked is what was opened. No error has a byte of it.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.safe_open import open_regular, read_whole
from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.root_store import MAX_FILE, parse_certificates

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

    from nono_trio.config.options import NetworkOptions
    from nono_trio.proxy.intercept.ca import Authority

CERTIFICATE_FLAG: Final = "--tls-ca-cert"
KEY_FLAG: Final = "--tls-ca-key"
UPSTREAM_FLAG: Final = "--upstream-ca"
MAX_KEY: Final = 64 * 1024  # bytes; an RSA key of 16,384 bits has 13 KiB


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
    path = expand_home(key)
    grant = can_read(path)
    if grant is not None:
        raise UsageError(
            f"{KEY_FLAG}: expected a key that the command can't read, got {key}, which {grant}"
            " opens to it",
            hint=f"move it: mkdir -m 700 ~/.nono-trio-ca && mv {shlex.quote(key)} ~/.nono-trio-ca/",
        )
    return own_authority(_read(CERTIFICATE_FLAG, certificate), _read_key(path, key), now)


def read_upstream_ca(path: str | None) -> list[bytes]:
    """Read the roots of `--upstream-ca`, in DER; raises UsageError for a file without one."""
    if path is None:
        return []
    found = parse_certificates(_read(UPSTREAM_FLAG, path))
    if not found:
        raise UsageError(
            f"{UPSTREAM_FLAG}: expected certificates in PEM, got {path} without one",
            hint=f"look at it: openssl x509 -in {shlex.quote(path)} -noout -subject",
        )
    return found


def _read(flag: str, path: str) -> bytes:
    try:
        return read_whole(Path(expand_home(path)), MAX_FILE)
    except OSError as error:
        raise _unreadable(flag, path, error) from None


def _read_key(path: str, named: str) -> bytes:
    """Read a file that is its owner's alone."""
    try:
        with open_regular(Path(path)) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise _unreadable(KEY_FLAG, named, error) from None
    quoted = shlex.quote(named)
    if status.st_uid not in (os.geteuid(), 0):
        raise UsageError(
            f"{KEY_FLAG}: expected a file of yours, got {named} of another user",
            hint=f"copy it: install -m 600 {quoted} MY-KEY",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UsageError(
            f"{KEY_FLAG}: expected a file that its owner alone can read (0600), got {named} with"
            f" {mode:04o}",
            hint=f"chmod 600 {quoted}",
        )
    if status.st_nlink != 1:
        raise UsageError(
            f"{KEY_FLAG}: expected a file with one name, got {named} with {status.st_nlink}: the"
            " command may know another",
            hint=f"copy it: install -m 600 {quoted} MY-KEY",
        )
    return data[:MAX_KEY]


def _unreadable(flag: str, path: str, error: OSError) -> UsageError:
    return UsageError(
        f"{flag}: {path} can't be read: {error.strerror or error}",
        hint=f"look at it: ls -l {shlex.quote(path)}",
    )
