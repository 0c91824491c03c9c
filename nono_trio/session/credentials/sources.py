"""The secrets of a session: read at its start, kept, and read again when they may be old.

Rules of this file:
- One read of a source at a time, in a thread of its own. It goes on if the one who waits is
  cancelled, and all others who wait get its result.
- Each wait is bounded, whatever the source does.
- A variable never changes, and the keyring is asked once unless the user gives a time to live. A
  file is checked for changes at each request. The output of a command is used for its time to live,
  and renewed in the background before that ends. A token that a server gave has a time of its own.
- A secret whose time has ended is not used. After a failure the source rests for a moment.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.credential import ENVIRONMENT, FILE, KEYRING
from nono_trio.session.credentials.command_line import SECONDS
from nono_trio.session.credentials.readers import SourceFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import outcome
    import trio

    from nono_trio.core.credentials.secret import Secret
    from nono_trio.session.credentials.readers import Reader

DEFAULT_TTL: Final = 15 * 60  # seconds
MOST_SECONDS: Final = SECONDS + 2  # a wait for one read: a command is killed before
_REFRESH: Final = 0.8  # of the time to live, after which a new secret is asked for
_BEGIN_SECONDS: Final = 1.0  # for a thread, where the command has taken all of them
_REST_SECONDS: Final = 2.0  # after a failure: each request of a client that repeats would ask


class SecretSource:
    """The source of one credential's secret. Used by the loop's thread alone, after `read_all`."""

    def __init__(
        self,
        kind: str,
        reader: Reader,
        ttl: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader = reader
        self._kind = kind
        self._has_ttl = ttl is not None
        self._ttl = float(ttl or DEFAULT_TTL)
        self._clock = clock
        self._secret: Secret | None = None
        self._read_at = 0.0
        self._flight: _Flight | None = None
        self._failed_at: float | None = None
        self._failure: SourceFailed | None = None

    def __repr__(self) -> str:
        return f"SecretSource({self._kind})"

    @property
    def is_fixed(self) -> bool:
        """True if it is read once, at the start. A keyring may be locked when the screen is, so it
        is asked again only if its user says so."""
        return self.is_quick or (self._kind == KEYRING and not self._has_ttl)

    @property
    def is_quick(self) -> bool:
        """True if to read it is no wait."""
        return self._kind == ENVIRONMENT

    @property
    def at_start(self) -> Secret:
        """The secret that `read_all` read."""
        assert self._secret is not None
        return self._secret

    def keep(self, secret: Secret) -> None:
        """Use what was read now."""
        self._secret = secret
        self._read_at = self._clock()
        self._failed_at = self._failure = None

    async def current(self) -> Secret:
        """Return the secret that holds now. Raises SourceFailed.

        If cancelled, a read that has begun goes on for the others.
        """
        import trio

        secret = self._kept()
        if secret is not None:
            if self._is_due() and self._flight is None:
                with trio.move_on_after(_BEGIN_SECONDS):  # the old one is good all the same
                    await self._begin()
            return secret
        if self._failure is not None and self._rests():
            raise _again(self._failure)
        return await self._wait()

    def refused(self) -> None:
        """A server has refused the secret: it is asked for again at its next use, unless that has
        just been done."""
        if not self.is_fixed and self._clock() - self._read_at >= _REST_SECONDS:
            self._read_at = -math.inf

    def close(self) -> None:
        """End what still reads."""
        self.reader.stop()

    def _kept(self) -> Secret | None:
        """Return the secret if it may be used without a read."""
        if self._kind == FILE:
            return None
        is_new = self.is_fixed or self._clock() - self._read_at < self._seconds()
        return self._secret if is_new else None

    def _is_due(self) -> bool:
        age = self._clock() - self._read_at
        return not self.is_fixed and age >= self._seconds() * _REFRESH and not self._rests()

    def _seconds(self) -> float:
        lifetime = None if self._secret is None else self._secret.lifetime
        return lifetime or self._ttl

    def _rests(self) -> bool:
        return self._failed_at is not None and self._clock() - self._failed_at < _REST_SECONDS

    async def _wait(self) -> Secret:
        import trio

        with trio.move_on_after(MOST_SECONDS):
            while True:
                flight = self._flight or await self._begin()
                await flight.done.wait()
                if flight.secret is not None:
                    return flight.secret
                if flight.failure is not None:
                    raise _again(flight.failure)
        raise SourceFailed(f"its source did not answer within {MOST_SECONDS:.0f} s")

    async def _begin(self) -> _Flight:
        """Start a read. If cancelled before it began, those who wait for it begin another."""
        import trio

        from nono_trio.threads import start_thread

        flight = self._flight = _Flight(trio.Event())
        token = trio.lowlevel.current_trio_token()

        def deliver(result: outcome.Outcome[Secret]) -> None:
            with suppress(trio.RunFinishedError):  # the session has ended
                token.run_sync_soon(self._land, flight, result)

        try:
            await start_thread(lambda: read(self.reader), deliver)
        except BaseException:
            self._flight = None
            flight.done.set()
            raise
        return flight

    def _land(self, flight: _Flight, result: outcome.Outcome[Secret]) -> None:
        self._flight = None
        try:
            flight.secret = result.unwrap()
            self.keep(flight.secret)
        except SourceFailed as failure:
            flight.failure = failure
            if self._kind != FILE:
                self._failed_at, self._failure = self._clock(), failure
        flight.done.set()


class _Flight:
    """A read that has begun; neither secret nor failure after `done`: it never began."""

    def __init__(self, done: trio.Event) -> None:
        self.done = done
        self.secret: Secret | None = None
        self.failure: SourceFailed | None = None


def read(reader: Reader) -> Secret:
    """Read a source; raises SourceFailed, whatever went wrong."""
    try:
        return reader.read()
    except SourceFailed:
        raise
    except Exception as error:  # its text may have anything
        raise SourceFailed(f"its source failed: {type(error).__name__}") from None


def read_all(sources: Sequence[SecretSource]) -> list[SourceFailed | None]:
    """Read each source once, at the same time; return the failures, in order.

    Blocks for MOST_SECONDS at most, before the loop is there. If interrupted, or asked to end by a
    signal, all reads are ended first.
    """
    with _ending_by_signals(sources):
        return _read_all(sources)


def _read_all(sources: Sequence[SecretSource]) -> list[SourceFailed | None]:
    failures: list[SourceFailed | None] = [None] * len(sources)
    results: queue.SimpleQueue[tuple[int, Secret | SourceFailed]] = queue.SimpleQueue()
    waiting: set[int] = set()
    try:
        for number, source in enumerate(sources):
            if source.is_quick:
                results.put((number, _result(source.reader)))
            else:
                _start(number, source.reader, results)
            waiting.add(number)
        deadline = time.monotonic() + MOST_SECONDS
        while waiting:
            number, result = results.get(timeout=max(deadline - time.monotonic(), 0))
            waiting.remove(number)
            if isinstance(result, SourceFailed):
                failures[number] = result
            else:
                sources[number].keep(result)
    except queue.Empty:
        for number in waiting:
            reason = f"its source did not answer within {MOST_SECONDS:.0f} s"
            failures[number] = SourceFailed(reason, "see whether it waits for you, then try again")
    except BaseException:
        for source in sources:
            source.close()
        raise
    return failures


@contextmanager
def _ending_by_signals(sources: Sequence[SecretSource]) -> Iterator[None]:
    """Have a signal that ends this process end what runs for the sources before.

    A command line is a session of its own, which the terminal's hangup does not reach.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or all(source.is_quick for source in sources):
        yield
        return

    def end(number: int, _frame: object) -> None:
        for source in sources:
            source.close()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    asked = (signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in asked}
    ours = [one for one in asked if before[one] is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one])


def _start(
    number: int, reader: Reader, results: queue.SimpleQueue[tuple[int, Secret | SourceFailed]]
) -> None:
    thread = threading.Thread(target=lambda: results.put((number, _result(reader))), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        results.put((number, SourceFailed("the system has no thread to read its source")))


def _result(reader: Reader) -> Secret | SourceFailed:
    try:
        return read(reader)
    except SourceFailed as failed:
        return failed


def _again(failure: SourceFailed) -> SourceFailed:
    """Return a copy: one error must not be raised in several tasks."""
    return SourceFailed(failure.reason, failure.hint)
