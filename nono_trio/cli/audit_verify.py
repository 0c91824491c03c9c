"""What `audit verify` does: find what is meant, judge each, in several processes if asked.

A target that can't be found is an answer like any other (`unreadable`), so that one wrong name does
not hide the verdicts on the rest, and --json has an object for it.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from nono_trio.audit import ledger, store
from nono_trio.audit.verdict import Verification
from nono_trio.audit.verify import verify
from nono_trio.errors import NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport


def verify_targets(
    audit_root: Path, targets: Sequence[str], *, quick: bool, jobs: int
) -> Iterator[Verification]:
    """The answers for sessions as people name them, in that order."""
    found = [_find(audit_root, target) for target in targets]
    paths = [path for path in found if not isinstance(path, Verification)]
    answers = verify_paths(audit_root, paths, quick=quick, jobs=jobs)
    for path in found:
        yield path if isinstance(path, Verification) else next(answers)


def verify_all(audit_root: Path, *, quick: bool, jobs: int) -> Iterator[Verification]:
    """The answers for every session under the root, newest first."""
    try:
        paths = [session.directory for session in store.sessions(audit_root)]
    except NonoTrioError as error:
        return iter([_unreadable(str(audit_root), error)])
    return verify_paths(audit_root, paths, quick=quick, jobs=jobs)


def verify_paths(
    audit_root: Path, paths: Sequence[Path], *, quick: bool, jobs: int
) -> Iterator[Verification]:
    """The answers for session directories and log files, in order.

    The ledger is read once for all of them; its report serves only those that lie beside it.
    """
    several = sum(path.parent == audit_root for path in paths) > 1
    report = _ledger_report(audit_root) if several else None
    in_root = partial(verify, quick=quick, ledger=report)
    elsewhere = partial(verify, quick=quick)
    if jobs > 1 and len(paths) > 1:
        yield from _verify_in_processes(audit_root, paths, in_root, elsewhere, jobs)
        return
    for path in paths:
        yield in_root(path) if path.parent == audit_root else elsewhere(path)


def _verify_in_processes(
    audit_root: Path,
    paths: Sequence[Path],
    in_root: partial[Verification],
    elsewhere: partial[Verification],
    jobs: int,
) -> Iterator[Verification]:
    # Late: one session is verified without it, and it costs as much as the rest of the command.
    import multiprocessing

    # Not fork: the child would inherit whatever threads and locks an embedding program has.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(paths)), initializer=_leave_ctrl_c_to_the_parent) as pool:
        pending = [
            pool.apply_async(in_root if path.parent == audit_root else elsewhere, (path,))
            for path in paths
        ]
        for answer in pending:
            yield answer.get()


def _leave_ctrl_c_to_the_parent() -> None:
    """Ctrl-C reaches the whole group: the parent ends the pool, the workers need not complain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ledger_report(audit_root: Path) -> LedgerReport | None:
    """The report for all; None if the ledger can't be read: then each session says so itself."""
    try:
        return ledger.verify(audit_root)
    except NonoTrioError:
        return None


def _find(audit_root: Path, target: str) -> Path | Verification:
    try:
        return store.find_session(audit_root, target)
    except NonoTrioError as error:
        return _unreadable(target, error)


def _unreadable(target: str, error: NonoTrioError) -> Verification:
    return Verification(verdict="unreadable", path=target, notes=[error.message])
