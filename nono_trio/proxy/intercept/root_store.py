"""The root certificates that this machine and its user trust, read once when a session starts.

Rules of this file:
- Read are the system's file (the first of SYSTEM_FILES that exists) and what the user's own
  variables name, since a program outside of the cage would trust that too. Both go into the bundle
  that the cage sees, and servers are verified against both.
- Only certificates are taken from a file, never other text of it; duplicates once. What does not
  parse as a certificate is left out, because one bad entry makes some programs refuse a whole file.
- Variables name the same files and certificates again and again, so each is read and parsed once
  while a session starts. Whoever opens the session's trust has them forgotten then.
- A file is read whole and bounded, and may be missing: then the session says so.
- A file that the command may write is not used: an earlier command could have put a root there.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.core.late import late_pattern
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# Files of roots by system, in Go's order (crypto/x509/root_linux.go), macOS last.
SYSTEM_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL 7 and newer
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
FILE_VARIABLES: Final = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
DIRECTORY_VARIABLE: Final = "SSL_CERT_DIR"
MAX_FILE: Final = 16 * 1024 * 1024  # bytes; the whole Mozilla list has 220 KiB
MAX_REMEMBERED_FILES: Final = 16
MAX_REMEMBERED: Final = 1024  # certificates; Mozilla's list has 140, a company adds some dozens
MAX_ENTRIES: Final = 4096  # files of one directory; Debian has 450, each twice

# No two parts of it take the same bytes: a hostile file of blanks would take minutes otherwise.
_BLOCK: Final = late_pattern(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]{1,65536})"
    rb"-----END (?:X509 )?CERTIFICATE-----"
)


class Roots(NamedTuple):
    """Certificates in DER, each once: the system's, and the others that the user's variables name.

    `notes` are sentences about what could not be read.
    """

    system: tuple[bytes, ...]
    others: tuple[bytes, ...]
    notes: tuple[str, ...]


def read_roots(
    environment: Mapping[str, str],
    *,
    system_files: Iterable[str] = SYSTEM_FILES,
    may_write: Callable[[str], bool] = lambda _path: False,
) -> Roots:
    """Read the system's roots and those that the user's variables name.

    `may_write` tells whether the command may write a path: its certificates are not taken.
    Blocking, for some milliseconds.
    """
    notes = []
    system: tuple[bytes, ...] = ()
    path = system_file(system_files)
    if path is None:
        notes.append("this system has no file of root certificates at a known place")
    elif may_write(path):
        notes.append(f"{path} is not used to verify servers: the command may write it")
    else:
        system, problem = certificates_of(path)
        notes += [f"{path}: {problem}"] if problem is not None else []
    others: dict[bytes, None] = {}
    for variable, path in _named_files(environment):
        if may_write(path):
            notes.append(f"{variable} is not used: the command may write {path}")
            continue
        certificates, problem = certificates_of(path)
        others.update(dict.fromkeys(certificates))
        if problem is not None and variable != DIRECTORY_VARIABLE:  # it has other files too
            notes.append(f"{variable} names {path}: {problem}")
    known = dict.fromkeys(system)
    return Roots(tuple(known), tuple(one for one in others if one not in known), tuple(notes))


def system_file(system_files: Iterable[str] = SYSTEM_FILES) -> str | None:
    """Return the path of the system's file of roots; None if no known place has a file."""
    return next((path for path in system_files if os.path.isfile(path)), None)


@functools.lru_cache(MAX_REMEMBERED_FILES)
def certificates_of(path: str, limit: int = MAX_FILE) -> tuple[tuple[bytes, ...], str | None]:
    """Return the certificates of a PEM file of at most `limit` bytes, and what is wrong with it."""
    try:
        found = tuple(parse_certificates(read_whole(Path(path), limit)))
    except OSError as error:
        return (), f"it can't be read: {error.strerror or error}"
    return found, None if found else "it has no certificate"


def parse_certificates(data: bytes) -> list[bytes]:
    """Return each certificate of a PEM text that parses, in DER."""
    with warnings.catch_warnings():  # a Debian root has a serial number of zero
        warnings.simplefilter("ignore")
        found = [_certificate(match[1]) for match in _BLOCK.finditer(data)]
    return [der for der in found if der is not None]


def forget_files() -> None:
    """Forget what was read and parsed: some MB, and files may change."""
    certificates_of.cache_clear()
    _certificate.cache_clear()


@functools.lru_cache(MAX_REMEMBERED)
def _certificate(text: bytes) -> bytes | None:
    from cryptography import x509

    try:
        der = base64.b64decode(b"".join(text.split()), validate=True)
        x509.load_der_x509_certificate(der)
    except (binascii.Error, ValueError):
        return None
    return der


def to_pem(certificates: Iterable[bytes]) -> bytes:
    """Return certificates in DER as one file in PEM."""
    return b"".join(map(_pem, certificates))


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def _named_files(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in FILE_VARIABLES:
        if path := environment.get(variable):
            yield variable, path
    for directory in environment.get(DIRECTORY_VARIABLE, "").split(":"):
        if directory:
            yield from ((DIRECTORY_VARIABLE, path) for path in _files_in(directory))


def _files_in(directory: str) -> list[str]:
    """The files of a directory of certificates that OpenSSL or Go would read."""
    try:
        names = sorted(os.listdir(directory))[:MAX_ENTRIES]
    except OSError:
        return []
    # A certificate that has been installed is there under its hash too.
    hashed = [name for name in names if re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name)]
    return [os.path.join(directory, name) for name in hashed or names]
