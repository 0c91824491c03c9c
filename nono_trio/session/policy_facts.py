"""The content of policy.json: gathered from a session's options and from the cage as it was built.

Rules of this file: names of variables, never their values; every text is made valid UTF-8 (a path
may be any bytes). It is called after every fallback, so it describes the cage that is in force. To
record one more fact, add a field to SessionPolicy (core/log/policy_json.py) and fill it in here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio import __version__
from nono_trio.core.log.policy_json import (
    CredentialPolicy,
    FilePolicy,
    GrantedPath,
    JudgingPolicy,
    NetworkPolicy,
    PassedVariables,
    SessionOrigin,
    SessionPolicy,
    SourcedEntry,
)
from nono_trio.sandbox.filesystem.grant import absolute
from nono_trio.sandbox.launcher.nono_py import library_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.config.options import NetworkOptions, RunOptions, SessionOptions
    from nono_trio.core.policy.judging import Judging
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.prepare import PreparedRun

_PACKAGE = Path(__file__).resolve().parent.parent
_LARGEST = 1 << 20  # bytes of one of our files; fifty times what the largest has


def run_policy(options: RunOptions, run: PreparedRun) -> SessionPolicy:
    """Return what a command may do in its cage."""
    network = _network(
        options.session.network, options.open_ports, options.listen_ports, run.credentials
    )
    names = {*run.inherited.passed, *options.set_variables}
    limits = options.limits
    return SessionPolicy(
        name=options.session.name,
        working_directory=_text(run.plan.directory),
        home=run.resources.home.text,
        isolation=run.plan.isolation,
        enforcement=run.enforcement,
        network=network,
        files=_files(options, run),
        variables=PassedVariables(
            passed=sorted(map(_text, names)),
            held_back=sorted(map(_text, run.inherited.held_back)),
            allow=[*map(_text, options.variables.allow)],
            deny=[*map(_text, options.variables.deny)],
        ),
        audit_mode=options.session.audit.mode,
        audit_sync=options.session.audit.sync,
        limits={
            "memory": limits.memory,
            "max_open_files": limits.max_open_files,
            "max_processes": limits.max_processes,
            "timeout": options.timeout_seconds,
        },
        judging=_judging(options.judging),
        origin=_origin(options.session),
    )


def proxy_policy(
    options: SessionOptions, credentials: SessionCredentials | None = None
) -> SessionPolicy:
    """Return the policy of a proxy without a command: it has no cage and no files."""
    return SessionPolicy(
        name=options.name,
        network=_network(options.network, credentials=credentials),
        audit_mode=options.audit.mode,
        audit_sync=options.audit.sync,
        origin=_origin(options),
    )


def _network(
    network: NetworkOptions,
    open_ports: Sequence[int] = (),
    listen_ports: Sequence[int] = (),
    credentials: SessionCredentials | None = None,
) -> NetworkPolicy:
    def sourced(name: str, entries: Iterable[str]) -> list[SourcedEntry]:
        return [
            SourcedEntry(entry=_text(e), source=_text(network.source(name, e))) for e in entries
        ]

    proxy = network.upstream_proxy
    return NetworkPolicy(
        block=network.block,
        observe=network.observe,
        allow=sourced("allow_domain", network.allow),
        deny=sourced("deny_domain", network.deny),
        pins=sourced("resolve", network.resolve),
        intercept=sourced("intercept", network.intercept),
        no_intercept=sourced("no_intercept", network.no_intercept),
        endpoints=sourced("endpoint", network.endpoints),
        credentials=[*_credentials(network, credentials)],
        open_ports=[*open_ports],
        listen_ports=[*listen_ports],
        upstream_proxy=None
        if proxy is None
        else SourcedEntry(entry=f"{proxy.scheme}://{proxy.shown}", source=proxy.source),
    )


def _credentials(
    network: NetworkOptions, session: SessionCredentials | None
) -> Iterator[CredentialPolicy]:
    held = {one.credential.name for one in session.held} if session is not None else set()
    for one in network.credentials:
        yield CredentialPolicy(
            name=one.name,
            source=_text(network.source("credential", one.name)),
            secret_from=one.source_shown,
            hosts=[host.origin for host in one.hosts],
            places=sorted(one.places),
            variables=[*one.variables],
            files=[*map(_text, one.files)],
            optional=one.optional,
            elsewhere=one.elsewhere,
            route=one.route,
            is_held=one.name in held,
        )


def _judging(judging: Judging) -> JudgingPolicy | None:
    if judging.fail_on is None and not judging.paths:
        return None
    return JudgingPolicy(
        fail_on=judging.fail_on,
        expected=[_text(rule.text) for rule in judging.expected],
        paths=[*map(_text, judging.paths)],
    )


def _files(options: RunOptions, run: PreparedRun) -> FilePolicy:
    grants = [
        GrantedPath(
            path=_text(grant.path),
            access=grant.access,
            is_file=grant.is_file,
            source=_text(grant.source),
            asked_for=grant.asked_for,
        )
        for grant in (*run.files.grants, *run.files.sockets)
    ]
    return FilePolicy(
        grants=grants,
        denied=[*map(_text, run.files.denied)],
        closed=[_text(absolute(path, run.files.start)) for path in options.files.deny],
        bypasses=[*map(_text, options.files.bypass_protection)],
    )


def _origin(options: SessionOptions) -> SessionOrigin:
    system = os.uname()
    return SessionOrigin(
        user=_user_name(),
        user_id=os.geteuid(),
        host=_text(socket.gethostname()),
        system=f"{system.sysname} {system.release}",
        nono_trio=__version__,
        python=".".join(map(str, sys.version_info[:3])),
        nono_py=_nono_py_version(),
        package_sha256=package_digest(),
        profiles=[*options.profiles],
    )


def _nono_py_version() -> str:
    """By the name of the installed metadata's directory: importlib.metadata takes 10 ms."""
    try:
        site_packages = Path(library_path()).parent.parent
        found = [path.name for path in site_packages.glob("nono_py-*.dist-info")]
    except (ImportError, OSError):
        return ""
    return found[0].removeprefix("nono_py-").removesuffix(".dist-info") if len(found) == 1 else ""


def _user_name() -> str:
    import pwd

    try:
        return _text(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:  # an id without an account, as containers have
        return ""


def package_digest() -> str | None:
    """SHA-256 (hex) over the names, lengths and bytes of our own files; None if unreadable.

    Some 7 ms for 640 files: computed while the launcher builds the cage.
    """
    hasher, room = hashlib.sha256(), memoryview(bytearray(_LARGEST))
    try:
        for name, path in sorted(_package_files(str(_PACKAGE), "")):
            size = _read(path, room)
            hasher.update(f"{name}\0{size}\0".encode())
            hasher.update(room[:size])
    except OSError:
        return None
    return hasher.hexdigest()


def _read(path: str, room: memoryview) -> int:
    """Read a file into `room` and return its size. `open` takes 2 ms more for all 640 files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.readv(descriptor, [room])
        if size == len(room):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return size
    finally:
        os.close(descriptor)


def _package_files(directory: str, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "__pycache__":
                yield from _package_files(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name, entry.path


def _text(text: str) -> str:
    r"""Return `text` with bytes that are not UTF-8 written as `\xff`."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
