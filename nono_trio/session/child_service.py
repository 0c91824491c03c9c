"""The service of a run: one command in its cage, and the listeners that serve it.

It stops accepting at the first signal or at the child's end, whichever comes first; the
connections that are open then belong to the supervisor.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager, suppress
from functools import partial
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET

from nono_trio.core.log.events import SandboxRuntime, SandboxRuntimeEvent
from nono_trio.core.log.session_json import ExecutableIdentity
from nono_trio.core.log.shown_text import counted
from nono_trio.core.policy.reasons import LISTEN_PORT_FLAG, OPEN_PORT_FLAG
from nono_trio.errors import CageFailed
from nono_trio.posix.clock import rfc3339
from nono_trio.proxy.listeners.host_loopback import REFUSED_LOOPBACK, HostLoopback
from nono_trio.proxy.listeners.port_forward import PortRelay, dial_host
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.proxy.listeners.transparent import Transparent
from nono_trio.sandbox.attribution.attribution import ByThread
from nono_trio.sandbox.cage import Cage
from nono_trio.session.attribution import attribution_for, running
from nono_trio.session.child import conduct_child
from nono_trio.session.descriptors import proxy_limits
from nono_trio.session.homes.session_home import what_it_held
from nono_trio.session.listener_service import (
    proxy_credentials,
    proxy_routes,
    serve_until_asked,
)
from nono_trio.session.platforms import system_word
from nono_trio.session.preload import refuse_late_imports
from nono_trio.session.source_ports import SourcePorts
from nono_trio.startup import is_command
from nono_trio.threads import in_thread, keep_spare

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nono_trio.audit.write.recorder import Recorder
    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.audit.write.watchdog import AppendWatchdog
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import Found
    from nono_trio.proxy.listeners.accepting import Admits
    from nono_trio.sandbox.attribution.attribution import Attribution
    from nono_trio.sandbox.cage import ChildEnded
    from nono_trio.sandbox.spawn import Launched
    from nono_trio.session.prepare import PreparedRun
    from nono_trio.session.shutdown import Shutdown

# A program of a few hundred MB on a cold disk; the child's end never waits longer for its hash.
HASH_SECONDS = 2.0
# An exec answers at once; a program on a network file system that hangs must not hold the session.
EXEC_SECONDS = 10.0
# The look at a private home bounds itself; a disk that hangs must not hold the end.
HOME_SECONDS = 2.0
# For the writer, the seal and one that hangs: the command may take every thread of its user.
SPARE_THREADS = 3
TIMED_OUT = 124  # as timeout(1)
# The queue has room or it has not: the log is not waited for once the child has ended.
LAST_RECORD_SECONDS = 1.0
# For what the view's server still had to tell, up to MOST_KEPT bytes of names. The rest is counted.
LAST_LOOK_UPS_SECONDS = 6.0


class ChildService:
    """Run one command in its cage."""

    def __init__(
        self,
        launched: Launched,
        sockets: dict[str, socket.socket],
        run: PreparedRun,
        record: SessionRecord,
        shutdown: Shutdown,
        watchdog: AppendWatchdog,
        *,
        grace_seconds: float,
        timeout_seconds: float | None,
        attribution: bool = True,
    ) -> None:
        self._launched = launched
        self._sockets = sockets
        self._run = run
        self._record = record
        self._shutdown = shutdown
        self._watchdog = watchdog
        self._grace_seconds = grace_seconds
        self._timeout_seconds = timeout_seconds
        self._wants_attribution = attribution
        self._timed_out = False
        self._deadline: float | None = None
        self._ports = SourcePorts()
        self._attribution: Attribution | None = None
        self._listened: list[tuple[int, PortRelay]] = []
        self.notes: list[str] = []  # for the user

    async def __call__(self, handlers: trio.Nursery, recorder: Recorder) -> int:
        """Return the child's exit code (124 after the timeout); raises CageFailed."""
        async with (
            self._denied_files(recorder),
            Cage(self._launched) as cage,
            self._watchdog.ending(cage.kill),
        ):
            await recorder.record_payload(_runtime(self._run))
            trust = self._run.resources.trust
            proxy = Proxy(
                self._run.policy,
                recorder,
                self._run.resources.token,
                limits=proxy_limits(self._run.max_connections),
                upstream_proxy=self._run.upstream_proxy,
                interception=None if trust is None else trust.session.interception(),
                credentials=proxy_credentials(self._run.credentials, self._run.resources.logins),
                routes=proxy_routes(self._run.credentials),
            )
            self._attribution = recorder.programs = attribution_for(
                self._launched,
                self._sockets,
                recorder,
                brokered=self._launched.notifications is not None,
                wanted=self._wants_attribution,
                shown=str if proxy.credentials is None else proxy.credentials.shown_text,
            )
            async with running(self._attribution), trio.open_nursery() as hashing:
                hashing.start_soon(self._identify)
                ended = await self._run_child(cage, proxy, handlers, recorder)
                hashing.cancel_scope.deadline = trio.current_time() + HASH_SECONDS
            await self._tell_what_ends()
        for port, relay in self._listened:
            if relay.unserved:
                unserved = counted(relay.unserved, "connection")
                self.notes.append(
                    f"not served: {unserved} to {LISTEN_PORT_FLAG} {port}; the command did not"
                    " listen there, or too many were open"
                )
        if proxy.credentials is not None:
            self.notes += proxy.credentials.notes()
        if proxy.turned_away:
            turned_away = counted(proxy.turned_away, "connection")
            self.notes.append(f"turned away from the proxy's port: {turned_away} of other programs")
        self._timed_out = self._timed_out or self._was_timed_out(ended)
        return TIMED_OUT if self._timed_out else ended.exit_code

    @asynccontextmanager
    async def _denied_files(self, recorder: Recorder) -> AsyncIterator[None]:
        """Record look-ups of files that are not granted, until the view's server has ended."""
        if self._launched.view is None:
            yield
            return
        from nono_trio.sandbox.denied_files import DeniedFiles
        from nono_trio.session.file_notes import file_notes

        denied = DeniedFiles(self._launched.view, recorder, self._record.session_id)
        denied.judging = self._record.judging or denied.judging
        async with trio.open_nursery() as serving:
            serving.start_soon(denied.serve)
            yield
            serving.cancel_scope.deadline = trio.current_time() + LAST_LOOK_UPS_SECONDS
        for payload in denied.rest():
            recorder.leave_for_end(payload)
        search = self._run.plan.environment.get("PATH", "").split(os.pathsep)
        self.notes += file_notes([*denied.files.values()], self._run.files, search)

    @property
    def timed_out(self) -> bool:
        """Return whether the timeout ended the command."""
        return self._timed_out

    def _was_timed_out(self, ended: ChildEnded) -> bool:
        """Return whether the launcher kept the deadline when we could not."""
        is_over = self._deadline is not None and trio.current_time() >= self._deadline
        return is_over and ended.signal == SIGKILL

    async def _tell_what_ends(self) -> None:
        """Name what a private home holds, while it is there, and logins that were not kept."""
        logins = self._run.resources.logins
        self.notes += logins.notes if logins is not None else ()
        home = self._run.resources.home
        descriptor = self._launched.home if home.descriptor is None else home.descriptor
        if descriptor is None:
            return
        with trio.move_on_after(HOME_SECONDS), suppress(OSError):
            self.notes += await in_thread(what_it_held, descriptor, home)

    async def _run_child(
        self, cage: Cage, proxy: Proxy, handlers: trio.Nursery, recorder: Recorder
    ) -> ChildEnded:
        """Accept and let the child run; both end with it."""
        async with trio.open_nursery() as serving:
            admits = self._admits()
            shared = self._run.plan.isolation != "namespace" and admits is None
            serving.start_soon(
                partial(serve_until_asked, shared=shared, admits=admits),
                proxy,
                self._sockets["proxy"],
                handlers,
                self._shutdown,
                self._transparent(proxy, handlers, recorder),
            )
            if self._launched.notifications is not None:
                serving.start_soon(self._broker_calls, self._launched.notifications, recorder)
            serving.start_soon(self._watch_loopback, recorder)
            serving.start_soon(self._end_in_time)
            if is_command():  # a program that uses us as a library may import what it likes
                refuse_late_imports()
            await keep_spare(SPARE_THREADS)
            with trio.move_on_after(EXEC_SECONDS) as executing:
                await cage.go(self._run.plan.command[0])
            if executing.cancelled_caught:
                raise CageFailed(f"the command did not start within {EXEC_SECONDS:.0f} s")
            # Not before: the launcher, which dials the command's ports, still waits for "go".
            self._let_ports_through(serving, handlers, cage, recorder)
            ended = await conduct_child(
                cage,
                self._shutdown,
                self._run.resources.terminal,
                lent=self._run.plan.foreground,
                grace_seconds=self._grace_seconds,
            )
            serving.cancel_scope.cancel(reason="the child has ended")
        return ended

    def _is_reason(self) -> Callable[[NetworkEvent], bool] | None:
        """Return the check that a denial may make the run fail, if any may."""
        judging = self._record.judging
        return judging.is_reason if judging is not None and judging.fail_on is not None else None

    def _admits(self) -> Admits | None:
        """Return the check that a client is the command, where other programs could connect too."""
        if self._run.plan.isolation == "namespace" or self._launched.notifications is None:
            return None
        return self._ports.admits

    def _transparent(
        self, proxy: Proxy, handlers: trio.Nursery, recorder: Recorder
    ) -> Callable[[], Awaitable[None]] | None:
        """Return the server of the transparent network, if the cage has one."""
        if not self._run.plan.transparent_ports:
            return None
        own_names = self._run.own_names.addresses
        network = Transparent(
            proxy,
            self._run.policy,
            recorder,
            own_names=own_names,
            is_reason=self._is_reason(),
        )
        return partial(self._serve_network, network, handlers)

    async def _serve_network(self, network: Transparent, handlers: trio.Nursery) -> None:
        try:
            await network.serve(self._sockets, handlers)
        finally:
            self.notes += network.notes()

    async def _watch_loopback(self, recorder: Recorder) -> None:
        """Record connections to loopback that only a program of the host would answer."""
        sock = self._sockets.get(REFUSED_LOOPBACK)
        if sock is None:
            return
        relayed = self._run.resources.listen_ports
        watched = HostLoopback(recorder, relayed=relayed)
        try:
            await watched.serve(sock)
        finally:
            self.notes += watched.notes()

    def _let_ports_through(
        self, serving: trio.Nursery, handlers: trio.Nursery, cage: Cage, recorder: Recorder
    ) -> None:
        for port in self._run.plan.open_ports:
            relay = PortRelay(port, OPEN_PORT_FLAG, partial(dial_host, port), recorder)
            for name in (f"open:{port}", f"open6:{port}"):
                if name in self._sockets:
                    serving.start_soon(relay.serve, self._sockets[name], handlers)
        for port, listener in self._run.resources.listen_ports.items():
            relay = PortRelay(
                port,
                LISTEN_PORT_FLAG,
                partial(cage.connect, port),
                recorder,
                is_commands=False,
            )
            self._listened.append((port, relay))
            serving.start_soon(relay.serve, listener, handlers)

    async def _broker_calls(self, listener: int, recorder: Recorder) -> None:
        """Make the connections of a cage without a network of its own, until cancelled."""
        from nono_trio.sandbox.broker.connect_broker import ConnectBroker, Openings
        from nono_trio.sandbox.broker.metadata_broker import MetadataBroker
        from nono_trio.session.direct_connections import DirectConnections

        plan = self._run.plan
        direct = DirectConnections(recorder, self._is_reason())
        sockets = [grant.path for grant in self._run.files.sockets]
        openings = Openings.of(plan.port, plan.listen_ports, plan.grants, sockets, plan.identities)
        elsewhere = plan.isolation == "namespace"
        metadata = MetadataBroker.of(plan.grants, plan.identities, elsewhere=elsewhere)
        known = self._attribution if isinstance(self._attribution, ByThread) else None
        broker = ConnectBroker(
            listener,
            openings,
            direct.refused,
            metadata,
            self._launched.pid,
            partial(self._connected, known),
            None if known is None else known.look_at_thread,
        )
        try:
            await broker.serve()
        finally:
            self.notes += [*direct.notes(), *metadata.notes()]
            with trio.move_on_after(LAST_RECORD_SECONDS, shield=True):
                await direct.record_suppressed()

    def _connected(self, known: ByThread | None, port: int, found: Found | None) -> None:
        """A connection to the proxy has been made; in a helper thread."""
        if known is not None and found is not None:
            known.connected(port, found)
        self._ports.expect(port)

    async def _end_in_time(self) -> None:
        if self._timeout_seconds is not None:
            self._deadline = trio.current_time() + self._timeout_seconds
            await trio.sleep_until(self._deadline)
            self._timed_out = True
            self._shutdown.advance(SIGTERM)

    async def _identify(self) -> None:
        """Hash the program while it runs: start-up does not wait for 100 MB of interpreter."""
        with suppress(OSError):
            self._record.executable = await in_thread(_identity, self._run.executable)


def _runtime(run: PreparedRun) -> SandboxRuntime:
    return SandboxRuntime(
        event=SandboxRuntimeEvent(
            timestamp=rfc3339(),
            platform=system_word(),
            landlock_abi=run.landlock_abi or UNSET,
            landlock_execute_enforced=run.plan.landlock and run.landlock_abi is not None,
            tool_sandbox_active=False,
        )
    )


def _identity(path: str) -> ExecutableIdentity:
    resolved = os.path.realpath(path)
    with open(resolved, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return ExecutableIdentity(resolved_path=resolved, sha256=digest.hexdigest())
