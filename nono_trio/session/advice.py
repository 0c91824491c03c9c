"""What is told before a run because it would fail later, in words that do not name the cause.

Each is a warning with the grant that would do. Rules: a file that commands may have written (a
repository's) is read as hostile, bounded, and its paths are told only if they are printable and
lead to what they claim to be; nothing here grants anything.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.posix.paths import ancestors
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.sandbox.filesystem.plan import FilePlan

# Where programs and libraries are told the certificates that they trust.
CERTIFICATE_VARIABLES: Final = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "AWS_CA_BUNDLE", "PIP_CERT", "CARGO_HTTP_CAINFO",
    "DENO_CERT", "NIX_SSL_CERT_FILE", "NPM_CONFIG_CAFILE", "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH", "BUNDLE_SSL_CA_CERT", "HTTPLIB2_CA_CERTS", "PERL_LWP_SSL_CA_FILE",
    "HTTPS_CA_FILE", "HEX_CACERTS_PATH", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "CONAN_CACERT_PATH", "BUF_TLS_CA_FILE",
)  # fmt: skip

_MOST_BYTES = 4096  # of a worktree's file: a path has no more
_MOST_NAMED = 3
_SQLITE = (".db", ".sqlite", ".sqlite3", ".db3")


def advice(environment: Mapping[str, str], files: FilePlan) -> list[str]:
    """Return the warnings for a run with this environment of the command's, and these grants."""
    return [*_certificates(environment, files), *_work_tree(files), *_single_files(files)]


def _certificates(environment: Mapping[str, str], files: FilePlan) -> Iterator[str]:
    """Say which certificates the command is pointed to and can't read: it would trust none."""
    named: dict[str, list[str]] = {}
    for name in CERTIFICATE_VARIABLES:
        path = environment.get(name, "")
        if os.path.isabs(path) and os.path.exists(path) and files.covers(path, "read") is None:
            named.setdefault(path, []).append(name)
    for path, names in named.items():
        flag = "--read" if os.path.isdir(path) else "--read-file"
        grant = f"{flag} {_quoted(path)}"
        yield f"{', '.join(names)}: {path} is outside the cage (grant it with {grant})"


def _work_tree(files: FilePlan) -> Iterator[str]:
    """Say that git will find no repository: that of a worktree lies elsewhere."""
    for place in ancestors(os.path.realpath(files.start)):
        if files.covers(place, "read") is None:
            return
        pointer = os.path.join(place, ".git")
        if os.path.isdir(pointer):
            return
        repository = _repository(pointer)
        if repository is not None and files.covers(repository, "read") is None:
            yield (
                f"{place} is a git worktree, whose repository {repository} is outside the cage"
                f" (--read {_quoted(repository)} lets git look, --allow lets it commit, and the"
                " command write its hooks)"
            )
            return


def _repository(pointer: str) -> str | None:
    """The repository that the .git file of a worktree or submodule leads to, if it is one."""
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
    with suppress(OSError):
        line = os.fsdecode(read_whole(Path(path), _MOST_BYTES)).removesuffix("\n")
        return line if line.isprintable() else None
    return None


def _single_files(files: FilePlan) -> Iterator[str]:
    """Say what a writable file by itself does not allow: a file beside it."""
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
