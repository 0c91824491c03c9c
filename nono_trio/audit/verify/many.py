"""Verifying many sessions: one after another, or over any executor of `concurrent.futures`.

    with ProcessPoolExecutor() as pool:
        for answer in verify_root("s3://archive/audit", pool):
            ...

Rules of this file: tasks and answers are plain values that can be pickled, and the function that a
worker runs is at the module's top, so that workers on other machines find it. A session is read by
the worker, where the data is; only its name and its answer travel. The number of tasks that wait
is bounded. An executor's own failures (a worker was killed) are raised as it raises them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.remote import SESSION_FILES, RemoteRoot, as_path, is_url, split_url
from nono_trio.audit.verify.no_session import is_removed, verify_missing
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.verdict import Verification
from nono_trio.audit.verify.whole_ledger import is_replaced, verify_ledger
from nono_trio.errors import LogUnreadable, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from nono_trio.core.proof.public_keys import PublicKeys

# Sessions of one task: a small one takes a millisecond, and so does sending a task.
SESSIONS_A_TASK: Final = 16
# Tasks that wait or run: enough for some hundred workers, and little memory for a million sessions.
IN_FLIGHT: Final = 256


class Batch(msgspec.Struct, kw_only=True, frozen=True):
    """One task: sessions of one audit directory, which is a path or a URL, by their ids.

    `call` is the same for all tasks of one call: a worker reads the ledger once for them.
    """

    root: str
    sessions: tuple[str, ...]
    call: str
    quick: bool = False
    upstream: bool = False
    pinned: PublicKeys | None = None


def new_call() -> str:
    """Return the `call` of new batches."""
    return os.urandom(8).hex()


def verify_batch(batch: Batch) -> list[Verification]:
    """Return the answers for the sessions of a batch, in its order; runs where the data is.

    Raises nothing for their faults, as `verify`.
    """
    try:
        root = _opened(batch.root, batch.call)
    except NonoTrioError as error:
        return [unreadable_answer(_beside(batch.root, name), error) for name in batch.sessions]
    return [_verify_one(root, name, batch) for name in batch.sessions]


def verify_one(
    session: str | Path,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    judge: Callable[..., Verification] = verify,
) -> Verification:
    """Return the answer for one session, or a file of one, by its path or URL.

    `judge` is `verify`, or one with its arguments that knows other files too. Raises nothing for
    faults of the session: what can't be read has the verdict `unreadable`.
    """
    text = str(session)
    try:
        path = as_path(text) if is_url(text) else Path(session)
        if path is not None:
            return judge(path, quick=quick, upstream=upstream, pinned=pinned)
        above, name = split_url(text)
        further, _, session_id = above.rpartition("/")
        if name in SESSION_FILES and store.is_session_id(session_id):
            above, name = further, session_id  # as a path: a file of a session means the session
        with RemoteRoot(above) as root:
            if name == ledger.LEDGER:
                return _verify_ledger(root, pinned)
            with root.session(name) if store.is_session_id(name) else root.file(name) as copy:
                answer = judge(copy, quick=quick, upstream=upstream, pinned=pinned)
            return retold(root, answer)
    except NonoTrioError as error:
        return unreadable_answer(text, error)


def verify_many(
    batches: Iterable[Batch], executor: Executor, *, in_flight: int = IN_FLIGHT
) -> Generator[Verification]:
    """Yield the answers for all batches, as their tasks end; at most `in_flight` tasks wait.

    Closing the iterator cancels the tasks that have not begun.
    """
    from concurrent.futures import FIRST_COMPLETED, wait  # late: for executors only

    waiting: set[Future[list[Verification]]] = set()
    try:
        for batch in batches:
            if len(waiting) >= in_flight:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for task in ended:
                    yield from task.result()
            waiting.add(executor.submit(verify_batch, batch))
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for task in ended:
                yield from task.result()
    finally:
        for task in waiting:
            task.cancel()


def verify_root(
    root: str | Path,
    executor: Executor | None = None,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    sessions_a_task: int = SESSIONS_A_TASK,
    in_flight: int = IN_FLIGHT,
) -> Iterator[Verification]:
    """Yield the answers for every session of an audit directory (a path or a URL), as they come,
    and then for every session that its ledger knows and the directory does not have. There is no
    answer for a session that was removed on purpose, before this call or during it.

    Without an executor they are verified here. Raises LogUnreadable and UsageError if the directory
    can't be listed.
    """
    call = new_call()
    opened = _opened(_text_of(root), call)
    try:
        names = opened.place.names()
        batches = (
            Batch(
                root=_text_of(root),
                sessions=tuple(names[begin : begin + sessions_a_task]),
                call=call,
                quick=quick,
                upstream=upstream,
                pinned=pinned,
            )
            for begin in range(0, len(names), sessions_a_task)
        )
        here = (answer for batch in batches for answer in verify_batch(batch))
        with contextlib.closing(
            here if executor is None else verify_many(batches, executor, in_flight=in_flight)
        ) as answers:
            yield from itertools.filterfalse(is_removed, answers)
        present = [opened.directory / name for name in names]
        judge = functools.partial(verify, quick=quick, upstream=upstream, pinned=pinned)
        gone = missing(opened.directory, present, None if upstream else pinned, judge)
        for answer in itertools.filterfalse(is_removed, gone):
            yield opened.retold(answer)
    finally:
        _opened.cache_clear()
        opened.place.close()


class _LocalRoot:
    """An audit directory of this machine, with the interface of RemoteRoot that is used here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> list[str]:
        found = store.session_names(self.directory)
        present = [self.directory / name for name in found]
        return found + [path.name for path in replaced(self.directory, present)]

    @contextlib.contextmanager
    def session(self, name: str) -> Iterator[Path]:
        yield self.directory / name

    def told(self, text: str) -> str:
        return text

    def close(self) -> None:
        pass


_Place: TypeAlias = "_LocalRoot | RemoteRoot"


class _OpenRoot:
    """A root, and the report on its ledger (None: it can't be read, and each session says so)."""

    def __init__(self, place: _Place) -> None:
        self.place = place
        self.directory = place.directory
        self.ledger = ledger.readable_report(place.directory)

    def retold(self, answer: Verification) -> Verification:
        """Return an answer that names what was asked for, not a copy of it."""
        return retold(self.place, answer)


@functools.lru_cache(maxsize=1)
def _opened(root: str, call: str) -> _OpenRoot:
    """Open a root once for all batches of a call; `call` keeps the calls apart."""
    path = as_path(root) if is_url(root) else Path(root)
    return _OpenRoot(RemoteRoot(root) if path is None else _LocalRoot(path))


def _text_of(root: str | Path) -> str:
    """Return a root as tasks name it: absolute, as a worker may have another directory."""
    return str(root) if is_url(str(root)) else str(Path(root).absolute())


def _verify_one(root: _OpenRoot, name: str, batch: Batch) -> Verification:
    try:
        with root.place.session(name) as directory:
            answer = verify(
                directory,
                quick=batch.quick,
                upstream=batch.upstream,
                pinned=batch.pinned,
                ledger=root.ledger,
            )
    except NonoTrioError as error:
        return unreadable_answer(_beside(batch.root, name), error)
    return root.retold(answer)


def _verify_ledger(root: RemoteRoot, pinned: PublicKeys | None) -> Verification:
    path = root.directory / ledger.LEDGER
    if not path.exists():
        raise LogUnreadable(f"{root.url}/{ledger.LEDGER} does not exist")
    return retold(root, verify_ledger(path, pinned))


def retold(root: _Place, answer: Verification) -> Verification:
    """Return an answer that names the URL, and not the copy that was read."""
    bad = answer.first_bad
    return msgspec.structs.replace(
        answer,
        path=root.told(answer.path),
        notes=[root.told(note) for note in answer.notes],
        first_bad=bad
        and msgspec.structs.replace(bad, expected=root.told(bad.expected), got=root.told(bad.got)),
    )


def missing(
    audit_root: Path,
    present: Sequence[Path],
    pinned: PublicKeys | None,
    judge: Callable[..., Verification],
) -> Iterator[Verification]:
    """Sessions of the ledger that are gone, and the ledger itself where it is damaged, contradicts
    its signed checkpoints or can't be read: the sessions that are gone are not known then.

    `present` was listed before. A session that was sealed since then is there, so `judge` verifies
    it."""
    path = audit_root / ledger.LEDGER
    try:
        if is_replaced(path):  # the sessions that are gone are not known then
            yield verify_ledger(path)
            return
        report = ledger.verify(audit_root)
    except NonoTrioError as error:
        yield unreadable_answer(str(path), error)
        return
    for path in _absent(audit_root, present):
        yield (
            judge(path, ledger=report)
            if os.path.lexists(path)
            else verify_missing(audit_root, path.name, report)
        )
    path = audit_root / ledger.LEDGER
    pinned = pinned if report.present else None
    if report.first_bad is not None or pinned is not None or ledger.is_signed(path):
        answer = verify_ledger(path, pinned)
        if answer.verdict != "verified":
            yield answer


def replaced(audit_root: Path, present: Sequence[Path]) -> list[Path]:
    """Sessions of the ledger whose place a file or a symlink has taken."""
    return [path for path in _absent(audit_root, present) if os.path.lexists(path)]


def _absent(audit_root: Path, present: Sequence[Path]) -> list[Path]:
    """Directories of sessions that the good lines of the ledger know, and that are missing."""
    report = ledger.readable_report(audit_root)
    if report is None:
        return []
    names = {path.name for path in present}
    known = (one for one in report.digests if report.knows(one) and store.is_session_id(one))
    return [audit_root / one for one in known if one not in names]


def unreadable_answer(target: str, error: NonoTrioError) -> Verification:
    """Return the answer for what can't be read or found."""
    notes = [error.message] if error.hint is None else [error.message, error.hint]
    return Verification(verdict="unreadable", path=target, notes=notes)


def _beside(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
