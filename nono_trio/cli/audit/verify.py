"""The work of `audit verify`: find the targets, judge each, in several processes if asked.

A target that can't be found is an answer like any other (`unreadable`), so that one wrong name does
not hide the verdicts on the rest, and --json has an object for it.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, filterfalse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.archive.unpack import is_archive
from nono_trio.audit.archive.verify import verify_path
from nono_trio.audit.read.records import size_of
from nono_trio.audit.remote import RemoteRoot, as_path, is_url
from nono_trio.audit.verify.many import (
    Batch,
    missing,
    new_call,
    replaced,
    unreadable_answer,
    verify_batch,
    verify_one,
    verify_root,
)
from nono_trio.audit.verify.no_session import is_removed, verify_missing
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.verdict import Verification
from nono_trio.errors import LogUnreadable, NonoTrioError, UsageError, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import ProcessPoolExecutor

    from nono_trio.audit.verify.session import VerifyOptions
    from nono_trio.cli.waiting import Waiting
    from nono_trio.core.proof.public_keys import PublicKeys


def verify_targets(
    audit_root: Path | str,
    targets: Sequence[str],
    *,
    quick: bool,
    jobs: int | None,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    wait: Waiting | None = None,
) -> Iterator[Verification]:
    """The answers for sessions as people name them, in that order; `wait` shows the progress.

    Those of a URL are fetched one after another, each when it is verified.
    """
    found = [_find(audit_root, target) for target in targets]
    paths = [path for path in found if isinstance(path, Path)]
    root = audit_root if isinstance(audit_root, Path) else Path()
    answers = verify_paths(
        root, paths, quick=quick, jobs=jobs, upstream=upstream, pinned=pinned, wait=wait
    )
    if wait is not None:
        wait.expect(len(found))
    for one in found:
        if isinstance(one, Verification):
            yield one
        elif isinstance(one, Path):
            yield next(answers)
        else:
            yield verify_one(one, quick=quick, upstream=upstream, pinned=pinned, judge=verify_path)


def verify_from_checkpoint(audit_root: Path | str, target: str, kept: Path) -> Verification:
    """The answer for one session, by a checkpoint of an earlier time; raises UsageError,
    LogUnreadable."""
    from nono_trio.audit.verify.since import read_since, verify_since

    try:
        since = read_since(kept, size_of(kept))
        found = _find(audit_root, target)
        if isinstance(found, str):
            raise UsageError(
                f"--since: expected a session of this machine, got {found}",
                hint="without --since a whole session at a URL is verified",
            )
        if isinstance(found, Verification):
            return found
        if is_archive(found):
            raise UsageError(
                f"--since: expected a session, got the archive {found}",
                hint=f"nono-trio audit import {shlex.quote(str(found))}",
            )
        return verify_since(found, since)
    except OSError as error:
        raise unreadable(str(error.filename or target), error) from error


def verify_all(
    audit_root: Path | str,
    *,
    quick: bool,
    jobs: int | None,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    wait: Waiting | None = None,
) -> Iterator[Verification]:
    """The answers for every session under the root, newest first, and for every one that the
    ledger knows and the root does not have, but for those that are removed on purpose meanwhile.
    Those at a URL come in no order.

    Raises LogUnreadable for a root that can't be read.
    """
    if isinstance(audit_root, str):
        return _verify_url(audit_root, quick=quick, jobs=jobs, upstream=upstream, pinned=pinned)
    paths = [session.directory for session in store.sessions(audit_root)]
    paths += replaced(audit_root, paths)
    answers = verify_paths(
        audit_root, paths, quick=quick, jobs=jobs, upstream=upstream, pinned=pinned, wait=wait
    )
    if wait is not None:
        wait.expect(len(paths))
    judge = partial(verify, quick=quick, upstream=upstream, pinned=pinned)
    gone = missing(audit_root, paths, None if upstream else pinned, judge)
    return filterfalse(is_removed, chain(answers, gone))


def _verify_url(
    url: str, *, quick: bool, jobs: int | None, upstream: bool, pinned: PublicKeys | None
) -> Iterator[Verification]:
    """The answers for every session at a URL, in several processes if asked."""
    with ExitStack() as stack:
        pool = None
        if (jobs or 1) > 1 and workers_find_this_package():
            pool = stack.enter_context(_workers(jobs or 1))
        try:
            yield from verify_root(url, pool, quick=quick, upstream=upstream, pinned=pinned)
        except NonoTrioError as error:
            yield unreadable_answer(url, error)


def removed_sessions(audit_root: Path | str) -> int:
    """How many sessions the ledger says were removed on purpose."""
    if isinstance(audit_root, str):
        try:
            with RemoteRoot(audit_root) as root:
                return removed_sessions(root.directory)
        except NonoTrioError:
            return 0
    report = ledger.readable_report(audit_root)
    return len(report.removed) if report is not None else 0


def verify_paths(
    audit_root: Path,
    paths: Sequence[Path],
    *,
    quick: bool,
    jobs: int | None,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    wait: Waiting | None = None,
) -> Iterator[Verification]:
    """The answers for session directories and log files, in order.

    The ledger is read once for all of them, or once in each process; its report serves only those
    that lie beside it.
    """
    if (jobs or 1) > 1 and len(paths) > 1 and workers_find_this_package():
        options: VerifyOptions = {"quick": quick, "upstream": upstream, "pinned": pinned}
        yield from _verify_in_processes(audit_root, paths, jobs or 1, options)
        return
    several = sum(path.parent == audit_root for path in paths) > 1
    report = ledger.readable_report(audit_root) if several else None
    in_root = partial(verify, quick=quick, upstream=upstream, pinned=pinned, ledger=report)
    elsewhere = partial(verify_path, quick=quick, upstream=upstream, pinned=pinned)
    watch = None if wait is None else wait.watch
    for path in paths:
        judge = in_root if _is_session_of(audit_root, path) else elsewhere
        yield judge(path, watch=watch, jobs=jobs)


def _is_session_of(audit_root: Path, path: Path) -> bool:
    """Return False for what lies elsewhere, and for a file, which may be an archive."""
    return path.parent == audit_root and not path.is_file()


def _verify_in_processes(
    audit_root: Path, paths: Sequence[Path], jobs: int, options: VerifyOptions
) -> Iterator[Verification]:
    batch = Batch(
        root=str(audit_root),
        sessions=(),
        call=new_call(),
        quick=options["quick"],
        upstream=options["upstream"],
        pinned=options["pinned"],
    )
    with _workers(min(jobs, len(paths))) as pool:
        pending = [
            pool.submit(verify_batch, msgspec.structs.replace(batch, sessions=(path.name,)))
            if _is_session_of(audit_root, path)
            else pool.submit(_verify_elsewhere, path, options)
            for path in paths
        ]
        for answers in pending:
            yield from answers.result()


def _verify_elsewhere(path: Path, options: VerifyOptions) -> list[Verification]:
    return [verify_path(path, **options)]


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for tasks; those that have not begun at the end are cancelled. Raises LogUnreadable
    if one of the processes was killed."""
    # Late: one session is verified without it, and it costs as much as the rest of the command.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Not fork: the child would inherit whatever threads and locks an embedding program has.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, spawn, _leave_ctrl_c_to_the_parent)
    try:
        yield pool
    except BrokenProcessPool:
        raise LogUnreadable(
            "a process that verified sessions was killed", hint="verify with --jobs 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def workers_find_this_package() -> bool:
    """Return True if a new interpreter with our search path finds this package.

    In a checkout it does not: the directory of the package is taken off the path, as whatever lies
    beside the package could be imported by mistake.
    """
    from importlib.machinery import PathFinder

    return PathFinder.find_spec("nono_trio", sys.path) is not None


def _leave_ctrl_c_to_the_parent() -> None:
    """Ctrl-C reaches the whole group: the parent ends the pool, the workers need not complain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _find(audit_root: Path | str, target: str) -> Path | str | Verification:
    """Resolve a target; a str is a URL. An id of the ledger means that session, whether it is there
    or not: it never becomes the name, or the prefix, of another one."""
    try:
        if is_url(target):
            return as_path(target) or target
        if isinstance(audit_root, str):
            return f"{audit_root}/{target}"
        if store.is_session_id(target) and not os.path.lexists(audit_root / target):
            report = ledger.verify(audit_root, target)
            if report.has_line_for(target):
                return verify_missing(audit_root, target, report)
        return store.find_session(audit_root, target)
    except LogUnreadable as error:
        known = _by_prefix(audit_root, target) if isinstance(audit_root, Path) else None
        return known or unreadable_answer(target, error)
    except NonoTrioError as error:  # several sessions begin so
        return unreadable_answer(target, error)


def _by_prefix(audit_root: Path, target: str) -> Verification | None:
    """The session of the ledger whose id begins so, where nothing that is there does."""
    report = ledger.readable_report(audit_root)
    if report is None or not target:
        return None
    fitting = [one for one in (*report.digests, *report.removed) if one.startswith(target)]
    if len(dict.fromkeys(fitting)) != 1:
        return None
    return verify_missing(audit_root, fitting[0], report)
