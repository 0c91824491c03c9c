"""A session inside another trio program: its body is the program's, not a command.

Rules of this file: the supervisor and its service are those of `nono-trio proxy`. No signal, limit
or other thing of the whole process is changed, but for a signed session (core dumps). However the
body ends, the log is drained and sealed before the block is left; that is shielded, with a
deadline. If the log fails, the body is cancelled. One error leaves the block: that of the log if
there is one, else that of the body, and neither in a group of its own.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.errors import AuditLost, NonoTrioError
from nono_trio.session.cage_launch import Listeners
from nono_trio.session.descriptors import USUAL_CONNECTIONS
from nono_trio.session.policy_facts import proxy_policy
from nono_trio.session.run import make_supervisor, open_record
from nono_trio.session.shutdown import Phase
from nono_trio.session.supervisor import DRAIN_SECONDS, INTERRUPTED, Outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from nono_trio.audit.write.recorder import Recorder
    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import SessionOptions
    from nono_trio.core.policy.network_policy import Policy

# Beside the grace: for drain, seal and the ledger's signature, which have bounds of their own.
LAST_SECONDS: Final = 6 * DRAIN_SECONDS
FAILED: Final = 1  # what Python ends with if an exception leaves a program


class ProxyParts:
    """The listener of an embedded session, its rules and its token."""

    def __init__(self, listener: socket.socket, policy: Policy, token: str) -> None:
        self.listener = listener
        self.policy = policy
        self.token = token


class EmbeddedSession:
    """One session, from its first record to its seal; `record` and `recorder` are its log."""

    recorder: Recorder

    def __init__(
        self,
        record: SessionRecord,
        options: SessionOptions,
        warn: Callable[[str], None],
        proxy: ProxyParts | None,
    ) -> None:
        self.record = record
        self.outcome = Outcome(INTERRUPTED)
        self.body = trio.CancelScope()
        """The scope of the body, which is cancelled if the log fails."""
        self.begun = trio.Event()
        """Set once the body may begin, or once the session has failed before."""
        self.ended = trio.Event()
        """Set once nothing of the session runs any more."""
        self.interrupted = False
        """Ctrl-C came while a task of the session ran, and not one of the program."""
        self._exit_code = 0
        self._options = options
        self._proxy = proxy
        self._supervisor = make_supervisor(options, record, Listeners(warn=warn))
        self._lasting = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Supervise the session until `end`; its errors are in `outcome`."""
        supervisor = self._supervisor
        try:
            with self._lasting:
                try:
                    await supervisor.supervise(self, self.outcome)
                except BaseException:  # Ctrl-C in a task of the proxy: the log is whole
                    with trio.move_on_after(LAST_SECONDS, shield=True), suppress(NonoTrioError):
                        await supervisor.seal()
                    raise
            if self._lasting.cancelled_caught:
                self.outcome.error = AuditLost(
                    f"the session did not end within {LAST_SECONDS:g} s",
                    hint=f"what was recorded is in {self.record.directory}",
                )
        except* KeyboardInterrupt:
            self.interrupted = True
        finally:
            supervisor.close()
            self.begun.set()
            self.ended.set()

    async def __call__(self, handlers: trio.Nursery, recorder: Recorder) -> int:
        """Serve until the body has ended; as a service of the supervisor."""
        self.recorder = recorder
        try:
            if self._proxy is None:
                self.begun.set()
                await self._supervisor.shutdown.reached(Phase.ENDING)
            else:
                await self._serve(self._proxy, handlers, recorder)
        finally:
            self.body.cancel(reason="the session has ended")  # nothing, if the body has ended
        return self._exit_code

    async def _serve(self, proxy: ProxyParts, handlers: trio.Nursery, recorder: Recorder) -> None:
        from nono_trio.session.listener_service import ListenerService  # late: the whole proxy

        service = ListenerService(
            proxy.listener,
            proxy.policy,
            proxy.token,
            self._supervisor.shutdown,
            self.begun.set,
            max_connections=self._options.max_connections or USUAL_CONNECTIONS,
        )
        await service(handlers, recorder)

    def end(self, exit_code: int, *, now: bool) -> None:
        """End the session with what its last record says; `now`: connections have no grace."""
        self._exit_code = exit_code
        self._lasting.deadline = trio.current_time() + self._options.grace_seconds + LAST_SECONDS
        shutdown = self._supervisor.shutdown
        shutdown.advance(shutdown.signal)
        if now:
            self.cut()

    def cut(self) -> None:
        """Have the connections of a session that ends cut."""
        self._lasting.deadline = trio.current_time() + LAST_SECONDS
        shutdown = self._supervisor.shutdown
        shutdown.advance(shutdown.signal)


@asynccontextmanager
async def embedded_session(
    options: SessionOptions,
    command: Sequence[str],
    warn: Callable[[str], None],
    proxy: ProxyParts | None = None,
) -> AsyncIterator[EmbeddedSession]:
    """Open a session for the body; seal it when the body has ended, however it ended.

    `proxy.listener` is closed in any case. The session's last record has exit code 0, or 1 if an
    exception left the body, or 130 if it was cancelled. Raises AuditLost and UsageError.
    """
    try:
        # Not abandoned: a cancelled thread would leave an open session, which is never sealed.
        record = await trio.to_thread.run_sync(_open, options, command)
        session = EmbeddedSession(record, options, warn, proxy)
        ending = _Ending(session)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                with ending:
                    await session.begun.wait()
                    if session.outcome.error is None and not session.interrupted:
                        with session.body:
                            yield session
                await ending.wait()
        finally:
            if session.outcome.error is not None:
                raise session.outcome.error from ending.error
        if session.interrupted:
            raise KeyboardInterrupt from ending.error
        if ending.error is not None:
            raise ending.error
    finally:
        if proxy is not None:
            proxy.listener.close()


class _Ending:
    """Ends the session with its body, and keeps errors out of the nursery's group."""

    def __init__(self, session: EmbeddedSession) -> None:
        self.error: BaseException | None = None
        self._session = session

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        exit_code = 0
        if isinstance(error, SystemExit):
            exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif isinstance(error, Exception):
            exit_code = FAILED
        elif error is not None:
            exit_code = INTERRUPTED
        self._session.end(exit_code & 255, now=error is not None)
        if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
            self.error = error
            return True
        return False  # Cancelled is the nursery's

    async def wait(self) -> None:
        """Wait for the end of the session; if cancelled, its connections have no more grace."""
        try:
            await self._session.ended.wait()
        except KeyboardInterrupt as interrupt:
            self._session.cut()
            self.error = interrupt
        except trio.Cancelled:
            self._session.cut()
            raise


def _open(options: SessionOptions, command: Sequence[str]) -> SessionRecord:
    signer = None
    if options.audit.sign_key is not None:
        from nono_trio.session.signing import proxy_signer  # late: cryptography takes 40 ms

        signer = proxy_signer(options)
    return open_record(options, command, proxy_policy(options), signer)
