"""Warnings before a run about later failures whose errors would not name the cause.

Each is a warning with the grant that would do. Rules: a file that commands may have written (a
repository's) is read as hostile, bounded, and its paths are shown only if they are printable and
lead to what they claim to be; nothing here grants anything.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.posix.paths import ancestors, home_directory, is_below, is_in
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.sandbox.filesystem.plan import FilePlan

# Variables that name the certificates that programs and libraries trust.
CERTIFICATE_VARIABLES: Final = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_SSL_CAINFO", "AWS_CA_BUNDLE", "PIP_CERT",
    "CARGO_HTTP_CAINFO", "DENO_CERT", "NIX_SSL_CERT_FILE", "NPM_CONFIG_CAFILE", "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH", "BUNDLE_SSL_CA_CERT", "HTTPLIB2_CA_CERTS", "PERL_LWP_SSL_CA_FILE",
    "HTTPS_CA_FILE", "HEX_CACERTS_PATH", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "CONAN_CACERT_PATH", "BUF_TLS_CA_FILE",
)  # fmt: skip

_MOST_BYTES = 4096  # of a worktree's file: a path has no more
_MOST_NAMED = 3
_MOST_STORES = 6  # git itself follows five, one behind the other
_SQLITE = (".db", ".sqlite", ".sqlite3", ".db3")


def advice(environment: Mapping[str, str], files: FilePlan) -> list[str]:
    """Return the warnings for a run with this environment of the command's, and these grants."""
    return [*_certificates(environment, files), *_work_tree(files), *_single_files(files)]


def _certificates(environment: Mapping[str, str], files: FilePlan) -> Iterator[str]:
    """Say which certificates the command is pointed to and can't read: it would trust none."""
    named: dict[str, list[str]] = {}
    for name in CERTIFICATE_VARIABLES:
        value = environment.get(name, "")
        for path in value.split(":") if name == "SSL_CERT_DIR" else [value]:
            if os.path.isabs(path) and os.path.exists(path) and files.covers(path, "read") is None:
                named.setdefault(path, []).append(name)
    for path, names in named.items():
        flag = "--read" if os.path.isdir(path) else "--read-file"
        grant = f"{flag} {_quoted(path)}"
        if (closed := files.closes(path)) is not None:
            grant += f" --bypass-protection {_quoted(closed)}"
        yield f"{', '.join(names)}: {path} is outside the cage (grant it with {grant})"


def _work_tree(files: FilePlan) -> Iterator[str]:
    """Say that git will find no repository, or not all of its objects: they lie elsewhere."""
    start = os.path.realpath(files.start)
    if files.covers(start, "read") is None:
        return
    for place in ancestors(start):
        if is_in(os.path.realpath(home_directory()), place):  # no hint opens the home
            return
        repository = _repository(os.path.join(place, ".git"))
        if repository is not None and place.isprintable():
            yield from _outside(files, start, place, repository)
            yield from _borrowed(files, repository)
            return


def _outside(files: FilePlan, start: str, place: str, repository: str) -> Iterator[str]:
    """Say that the repository of `start`, or the tree around it, is not in the cage."""
    wanted = [place, repository]
    missing = [one for one in wanted if files.covers(one, "read") is None]
    if is_below(repository, place) and place in missing:
        missing = [place]
    if not missing:
        return
    what = f"{place} is a git worktree, whose repository {repository}"
    if place in missing:
        what = f"{start} is part of {place}, whose git repository"
    flags = " ".join(f"--read {_quoted(one)}" for one in missing)
    yield (
        f"{what} is outside the cage ({flags} lets git look, --allow lets it commit, and the"
        " command write its hooks)"
    )


def _borrowed(files: FilePlan, repository: str) -> Iterator[str]:
    """Say which objects of a repository are another's (`git clone --shared`) that is not there."""
    stores = [os.path.join(repository, "objects")]
    for store in stores:
        for line in _lines(os.path.join(store, "info", "alternates")):
            other = os.path.realpath(os.path.join(store, line))
            is_one = os.path.isdir(os.path.join(other, "pack")) and other.isprintable()
            if is_one and other not in stores and len(stores) < _MOST_STORES:
                stores.append(other)
    missing = [store for store in stores[1:] if files.covers(store, "read") is None]
    if missing:
        flags = " ".join(f"--read {_quoted(store)}" for store in missing)
        yield (
            f"{repository} borrows git's objects from {', '.join(missing)}, outside the cage"
            f" (grant them with {flags})"
        )


def _repository(pointer: str) -> str | None:
    """The repository that .git is, or leads to in a worktree or submodule, if it is one."""
    directory = pointer
    if not os.path.isdir(pointer):
        found = _line(pointer)
        if found is None or not found.startswith("gitdir: "):
            return None
        directory = os.path.join(os.path.dirname(pointer), found.removeprefix("gitdir: "))
    common = _line(os.path.join(directory, "commondir"))
    repository = os.path.realpath(os.path.join(directory, common or "."))
    is_one = all(os.path.lexists(os.path.join(repository, name)) for name in ("HEAD", "objects"))
    return repository if is_one and repository.isprintable() else None


def _line(path: str) -> str | None:
    """The one line of a small file; None if it is not there, or is something else."""
    lines = _lines(path)
    return lines[0] if len(lines) == 1 else None


def _lines(path: str) -> list[str]:
    """The lines of a small file of text; none if it is not there, or is something else."""
    with suppress(OSError):
        lines = os.fsdecode(read_whole(Path(path), _MOST_BYTES)).removesuffix("\n").split("\n")
        return lines if all(line.isprintable() for line in lines) else []
    return []


def _single_files(files: FilePlan) -> Iterator[str]:
    """Warn that a grant of one writable file allows no file beside it."""
    alone = [
        grant.path
        for grant in files.grants
        if grant.asked_for and grant.is_file and grant.access != "read"
        and os.path.isfile(grant.path)
        and files.covers(os.path.dirname(grant.real), "write") is None
    ]  # fmt: skip
    if not alone:
        return
    more = f" and {len(alone) - _MOST_NAMED} more" if len(alone) > _MOST_NAMED else ""
    directory = os.path.dirname(alone[0])
    journal = ", and SQLite keeps a journal beside it" if alone[0].endswith(_SQLITE) else ""
    yield (
        f"{', '.join(alone[:_MOST_NAMED])}{more}: can be written in place, not replaced, as many"
        f" programs do{journal} (--allow {_quoted(directory)} allows both)"
    )


def _quoted(path: str) -> str:
    return shlex.quote(path)
