"""Supervises one session: the order in which its parts start and end.

    signal receiver          open until the log is sealed
      writer                 shielded, bounded by DRAIN; ends when the recorder is closed
        recorder             the first send handle
          connections        handlers; after the child's end they get the grace, then are cut
            accepting        listener + child; the listener ends with the child or the first signal

Each step of the shutdown is the natural end of a block. Nothing here is waited for without a
deadline once the child has ended; the child itself may run for as long as it likes.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio
from trio_util import run_and_cancelling

from nono_trio.audit.ledger import LEDGER, LEDGER_ANCHORS, LEDGER_CHECKPOINTS, LEDGER_COSIGNATURES
from nono_trio.audit.write.ledger_append import LOCK
from nono_trio.audit.write.recorder import NOT_RECORDED
from nono_trio.audit.write.state_modes import StateModes
from nono_trio.audit.write.watchdog import STUCK_SECONDS
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import SessionEnded, SessionStarted
from nono_trio.errors import AuditLost, NonoTrioError
from nono_trio.posix.clock import rfc3339
from nono_trio.session.ledger_signing import STOP_SECONDS, sign_ledger, stop_signing
from nono_trio.session.shutdown import (
    Phase,
    Shutdown,
    asking_signals,
    let_asking_through,
    passed_on_signals,
)
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nono_trio.audit.write.recorder import Recorder
    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import AuditOptions

# Queued events to disk and the seal, after the last producer has gone: any disk that works writes
# a full queue in well under a second.
DRAIN_SECONDS = 10.0
# A dozen system calls; a state on a file system that hangs is the seal's to tell of.
HEAL_SECONDS = 2.0
# A shell gives this for a program that ended by SIGINT; for an interrupted session without a child.
INTERRUPTED = 128 + signal.SIGINT


class Service(Protocol):
    """The work of a session while it accepts: run a child, or wait for a signal."""

    async def __call__(self, handlers: trio.Nursery, recorder: Recorder) -> int:
        """Serve connections into `handlers` until the end; return the session's exit code."""
        ...


class Outcome(msgspec.Struct):
    """How a session ended; `error` is ours, the exit code is the child's whenever it has one."""

    exit_code: int
    error: NonoTrioError | None = None


class Supervisor:
    """One session's lifetimes around its service."""

    def __init__(
        self,
        record: SessionRecord,
        audit: AuditOptions,
        *,
        grace_seconds: float,
        warn: Callable[[str], None],
    ) -> None:
        self.shutdown = Shutdown()
        self.writer = Writer(
            record.files, mode=audit.mode, sync=audit.sync, queue=audit.queue, warn=warn
        )
        self.writer.summarise = record.summarise
        self._record = record
        # The first two records are in the log. A log without them gets no end: an ended log that
        # lacks its policy's record counts as tampered, one without an end as crashed.
        self._has_begun = False
        shared = [LEDGER, LEDGER_CHECKPOINTS, LEDGER_ANCHORS, LEDGER_COSIGNATURES, LOCK]
        self._modes = record.files.modes = StateModes.of(record.directory, shared)
        self._warn = warn
        self._grace_seconds = grace_seconds
        # A signer may take its whole time for each of the three signatures of a seal.
        signing = 0.0 if record.files.signer is None else 3 * record.files.signer.seconds
        self._drain_seconds = DRAIN_SECONDS + signing

    async def run(self, service: Service) -> Outcome:
        """Run one session from `session_started` to the seal; main thread only (signals).

        Errors of ours come back in the outcome, after whatever could still be sealed is sealed.
        If cancelled, the child is killed and the log is drained and ended, but not sealed.
        """
        received = (*asking_signals(), *passed_on_signals())
        with trio.open_signal_receiver(*received) as signals:
            let_asking_through()
            outcome = Outcome(INTERRUPTED)
            async with run_and_cancelling(self.shutdown.watch, signals):
                await self.supervise(service, outcome, self._hurried)
        return outcome

    async def supervise(
        self,
        service: Service,
        outcome: Outcome,
        hurried: Callable[[], Awaitable[None]] = trio.sleep_forever,
    ) -> None:
        """As `run`, in any thread, and without a receiver of signals: the caller ends the session
        by `shutdown.advance`. The result is in `outcome`.

        The signature of the ledger is given up once `hurried` returns.
        """
        try:
            with self.writer.watchdog.running():
                await self._live(service, outcome)
                await self.seal()
                if self._record.ledger_signer is not None:
                    await sign_ledger(self._record.ledger_signer, self._warn, hurried)
                self._require_answering()
        except* NonoTrioError as group:
            outcome.error = cause(group)
            outcome.exit_code = outcome.error.exit_code
        finally:
            if self._record.ledger_signer is not None:
                with trio.move_on_after(STOP_SECONDS, shield=True):
                    await stop_signing(self._record.ledger_signer)

    async def _hurried(self) -> None:
        await self.shutdown.reached(Phase.HURRYING)

    def _require_answering(self) -> None:
        if self.writer.watchdog.stuck:
            raise AuditLost(
                f"the audit log could not be written for {STUCK_SECONDS} s, so the command was"
                " ended",
                hint=f"what it did is in {self._record.directory}, which is sealed;"
                " see what became of that file system",
            )

    async def _live(self, service: Service, outcome: Outcome) -> None:
        """The session between the writer's start and its end."""
        writing = trio.CancelScope(shield=True)
        async with trio.open_nursery() as writers:
            writers.start_soon(self._write, writing)
            with _deadline_after(writing, self._drain_seconds), self.writer.recorder as recorder:
                try:
                    await self._serve(service, recorder, outcome)
                except* NonoTrioError as group:
                    # A cage that failed is no reason not to seal; a log that failed ends the
                    # writer, which says so itself.
                    outcome.error = cause(group)
                    outcome.exit_code = outcome.error.exit_code
                finally:
                    if self._has_begun:
                        code = outcome.exit_code
                        self.writer.ended = SessionEnded(ended=rfc3339(), exit_code=code)
        if writing.cancelled_caught:
            raise AuditLost(f"the audit log was not drained within {self._drain_seconds:.0f} s")

    @trio.lowlevel.enable_ki_protection  # a write that Ctrl-C cuts would break the chain
    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.writer.run()

    async def _serve(self, service: Service, recorder: Recorder, outcome: Outcome) -> None:
        """Run the service, and the connections that may outlive it for the grace."""
        started = SessionStarted(started=self._record.started, command=self._record.command)
        for first in (started, self._record.policy_record):
            if await recorder.record_payload(first) == NOT_RECORDED:
                raise AuditLost("the audit log could not be begun: a first record was not written")
        self._has_begun = True
        await self.writer.sign_beginning()
        connections = trio.CancelScope()
        service_ended = trio.Event()
        async with (
            run_and_cancelling(self._end_when_full),
            run_and_cancelling(self._cut_when_hurried, service_ended, connections),
        ):
            with connections:
                async with trio.open_nursery() as handlers:
                    with _deadline_after(connections, self._grace_seconds):
                        outcome.exit_code = await service(handlers, recorder)
                        await self._heal_modes()
                    service_ended.set()
            if connections.cancelled_caught:
                self._warn(
                    "connections that were still open were cut: they have"
                    f" {self._grace_seconds:g} s (--grace), or until the second signal"
                )

    async def _heal_modes(self) -> None:
        """Once the command has ended: make the state writable again, if it is not."""
        with trio.move_on_after(HEAL_SECONDS):
            await in_thread(self._modes.heal, limiter=trio.CapacityLimiter(1))
        if self._modes.healed:
            self._warn("warning: modes of the audit state had been changed; they are as before")

    async def _end_when_full(self) -> None:
        """End the session in good order once the disk has no room for its log: it can be sealed."""
        await self.writer.is_full.wait()
        if self.writer.full is not None:
            raise self.writer.full

    async def _cut_when_hurried(
        self, service_ended: trio.Event, connections: trio.CancelScope
    ) -> None:
        """Cut the connections, but not the service: it has the child's end to report."""
        await self.shutdown.reached(Phase.HURRYING)
        await service_ended.wait()
        connections.cancel(reason="asked twice to end")

    def close(self) -> None:
        """Close the descriptors of the session after its end, in a process that goes on: so
        `audit recover` can seal a log that failed."""
        self._modes.close()
        self._record.files.close()

    async def seal(self) -> None:
        """Seal a log whose writer has ended; raises AuditLost. It is not cancelled: it has a
        deadline."""
        ended = self.writer.ended
        if not self._has_begun:  # the outcome has the error
            return
        if ended is None:
            raise AssertionError("the writer ended without a last record")
        with trio.move_on_after(self._drain_seconds, shield=True) as sealing:
            try:
                # A limiter of its own: nothing that hangs elsewhere takes the seal's thread.
                one = trio.CapacityLimiter(1)
                await in_thread(self._record.seal, ended, self.writer.totals, limiter=one)
            except OSError as error:
                raise AuditLost(
                    f"the audit log could not be sealed: {error.strerror or error}",
                    hint=getattr(error, "hint", None)  # of a signer that failed
                    or f"what was recorded is in {self._record.directory}",
                ) from error
        if sealing.cancelled_caught:
            raise AuditLost(f"the audit log was not sealed within {self._drain_seconds:.0f} s")


def cause(group: BaseExceptionGroup[NonoTrioError]) -> NonoTrioError:
    """Return what a group of our errors is about: anything else before the echoes of a lost log."""
    leaves: list[NonoTrioError] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        elif isinstance(error, NonoTrioError):
            leaves.append(error)
    with_hint = [error for error in leaves if error.hint is not None]
    return (with_hint or leaves)[0]


@contextmanager
def _deadline_after(scope: trio.CancelScope, seconds: float) -> Iterator[None]:
    """Give `scope` a deadline once the body has ended, however it ended."""
    try:
        yield
    finally:
        scope.deadline = trio.current_time() + seconds
