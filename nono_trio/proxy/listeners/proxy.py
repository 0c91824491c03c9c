"""The proxy: accepts connections, gives each to a handler, and ends after the last connection.

Rules of this file:
- No client ends the accept loop, and no lack of descriptors or memory does.
- A client is served in the dispatcher's steps (steps.py), and by a task once it must wait for more.
- What has connected before the end is served, each being an attempt; what is too late is counted.
- A full table first drops connections that have not shown that they may be served, then idle ones.
- Handlers live in the caller's nursery, so the caller decides how long they may outlive the
  listener.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from nono_trio.core.http import field_block
from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import REFUSED_PORTS_TARGET
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.authorizer import RequestAuthorizer, Token
from nono_trio.proxy.access.decision import host_denied
from nono_trio.proxy.access.token_failures import LAST_RECORD_SECONDS, TokenFailures
from nono_trio.proxy.connection_handler import ProxyContext
from nono_trio.proxy.http.connection import HttpConnection, SharedHttpConnection
from nono_trio.proxy.limits import ACCEPT_BACKOFF, ACCEPT_BATCH, DEFAULT_LIMITS, ProxyLimits
from nono_trio.proxy.listeners.accepting import (
    ONE_CLIENT,
    Arrivals,
    accepting,
    defer_accept,
    send_at_once,
)
from nono_trio.proxy.listeners.ending import LAST_SECONDS
from nono_trio.proxy.listeners.task_pool import TaskPool
from nono_trio.proxy.transport.client import Client, ClientTable
from nono_trio.proxy.transport.epoll import Readiness
from nono_trio.proxy.transport.relay import RelayBuffer
from nono_trio.proxy.transport.transport import reset
from nono_trio.proxy.upstream.dialer import TcpDialler
from nono_trio.proxy.upstream.proxy_chain import ProxyChain
from nono_trio.proxy.upstream.resolver import AddressResolver
from nono_trio.proxy.upstream.system_resolver import SystemResolver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Sequence

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.proxy.access.route_authorizer import HeldRoute
    from nono_trio.proxy.connection_handler import ConnectionHandler, ConnectionHandlerFactory
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.intercept.interfaces import Intercepts
    from nono_trio.proxy.listeners.accepting import Accepting, Admits
    from nono_trio.proxy.upstream.interfaces import Dialler, Resolver


MOST_UNSERVED: Final = 1 << 14  # of one listener, whose backlog is shorter; others still connect


class Proxy:
    """A filtering forward proxy that records each decision before it takes effect.

    `token` is the session's secret. `resolver` and `dialler` default to the system's.
    `interception` is needed if the policy has hosts looked into. `credentials` is None for a
    session without any. `routes` are the reverse routes, for whose hosts it is needed too.
    """

    def __init__(
        self,
        policy: Policy,
        recorder: RecordsDecisions,
        token: str,
        *,
        resolver: Resolver | None = None,
        dialler: Dialler | None = None,
        limits: ProxyLimits = DEFAULT_LIMITS,
        upstream_proxy: UpstreamProxy | None = None,
        interception: Intercepts | None = None,
        credentials: Credentials | None = None,
        routes: Sequence[HeldRoute] = (),
        clock_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._limits = limits
        self._readiness = Readiness()
        resolver, dialler = resolver or SystemResolver(), dialler or TcpDialler(limits)
        self._resolver = AddressResolver(policy, resolver, limits)
        self.chain: ProxyChain | None = None
        if upstream_proxy is not None:
            self.chain = ProxyChain(upstream_proxy, self._resolver, dialler, limits)
        self._context = ProxyContext(
            policy=policy,
            authorizer=_authorizer(policy, Token(token), routes, credentials),
            recorder=recorder,
            resolver=self._resolver,
            dialler=dialler,
            limits=limits,
            readiness=self._readiness,
            buffer=RelayBuffer(),
            token_failures=TokenFailures(recorder, clock_ms),
            now=clock_ms,
            chain=self.chain,
            interception=interception,
            credentials=credentials,
        )
        self._clients = ClientTable(limits.connections)
        self._most_clients = limits.connections + limits.refusals
        self._tasks = TaskPool()
        self._steps = self._readiness.steps
        self._steps.give = self._tasks.give
        self._listeners = 0
        self._handlers = 0  # at work, also for clients that have lost their places
        self.turned_away = 0
        """Connections that a listener's `admits` has refused."""
        self.unserved = 0
        """Connections of the command that were made before the end and came too late for a
        decision."""
        self._left: trio.Event | None = None
        """It is set when a client has left; None if no listener waits for that."""
        self._attending: trio.CancelScope | None = None

    @property
    def credentials(self) -> Credentials | None:
        """The credentials of the session."""
        return self._context.credentials

    @property
    def open_connections(self) -> int:
        """Number of clients that are being served."""
        return len(self._clients.members)

    @property
    def watched_sockets(self) -> int:
        """Number of sockets of clients and upstreams that are registered."""
        return len(self._readiness)

    @property
    def held_bytes(self) -> int:
        """Bytes that were read and not sent yet, over all connections."""
        return self._context.buffer.held

    @property
    def unrecorded_failures(self) -> int:
        """Number of requests without the right token that are in no record yet."""
        return self._context.token_failures.suppressed

    async def serve(
        self,
        listener: socket.socket,
        handlers: trio.Nursery,
        *,
        admits: Admits | None = None,
        shared: bool = False,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept on `listener` until cancelled, then close it; `handlers` gets the connections.

        `shared`: other programs than the caged command can reach the listener, so a malformed
        request is not a denial of the command's. Connections that `admits` refuses are reset
        unread, without a place and without a record; a listener with `admits` is not shared.

        The listener must be bound and listening. Several listeners may be served, with one call
        each and the same `handlers`; all calls must begin before the first is cancelled. When the
        last one is cancelled, idle connections are closed, and the others go on until their
        request has ended or `handlers` is cancelled. `handlers` also gets the tasks that wake and
        time the connections; they end with the last connection.
        """
        with listener:
            defer_accept(listener)
            self._resolver.add_own(listener)
            with self._serving(listener, handlers):
                task_status.started()
                shared = shared and admits is None
                make_handler = SharedHttpConnection if shared else HttpConnection
                await self._accept(
                    accepting(listener, make_handler, handlers, admits, is_commands=not shared)
                )

    async def serve_with(
        self,
        make_handler: ConnectionHandlerFactory,
        listener: socket.socket,
        handlers: trio.Nursery,
    ) -> None:
        """Serve a listener of the cage's network with handlers from `make_handler`; otherwise as
        `serve`. The supervisor itself can't dial such a listener."""
        with listener, self._serving(listener, handlers):
            await self._accept(accepting(listener, make_handler, handlers))

    @contextmanager
    def _serving(self, listener: socket.socket, handlers: trio.Nursery) -> Generator[None]:
        """Count a listener in while the body accepts from it."""
        listener.setblocking(False)
        send_at_once(listener)
        self._listeners += 1
        if self.chain is not None:
            self.chain.relays = handlers
        try:
            if self._attending is None:
                self._clients.sweep(trio.current_time())
                self._attending = trio.CancelScope()
                handlers.start_soon(self._attend, self._attending)
            yield
        finally:
            self._listeners -= 1
            if self._listeners == 0:
                self._close_down()

    def _close_down(self) -> None:
        """Close idle connections, after the last listener is closed."""
        self._context.closing = True
        if self.unserved:
            reason = format_reason(DenialCode.CONNECTIONS_LOST, count=self.unserved)
            event = host_denied(REFUSED_PORTS_TARGET, None, reason).event(self._context.now())
            self._context.recorder.leave_for_end(Network(event=event))
        self._tasks.dismiss()
        while self._clients.drop_idle():
            pass
        self._finish_if_unused()

    async def _accept(self, at: Accepting) -> None:
        """Accept until cancelled, then for LAST_SECONDS what has connected before.

        The dispatcher accepts what comes, and this task goes on where that has to wait.
        """
        arrivals = Arrivals(partial(self._accept_at_once, at))
        descriptor = at.listener.fileno()
        self._readiness.listen(descriptor, arrivals.come)
        try:
            while True:
                while await self._accept_batch(at):
                    pass
                await arrivals.wait()
        except trio.Cancelled:
            with trio.move_on_after(LAST_SECONDS, shield=True):
                while await self._accept_batch(at):
                    pass
            self._count_unserved(at)
            raise
        finally:
            self._readiness.stop_listening(descriptor)

    async def _accept_batch(self, at: Accepting) -> bool:
        """Accept some connections, once there is room. Returns False if no more wait."""
        room = await self._wait_for_room()
        try:
            if not self._accept_some(at, room):
                return False
        except OSError as error:
            if error.errno not in ONE_CLIENT:  # out of descriptors, mostly
                self._clients.make_room()
                await trio.sleep(ACCEPT_BACKOFF)
        self._steps.run_due()  # a client must have had its turn before another gets its place
        await trio.lowlevel.checkpoint()
        return True

    def _accept_at_once(self, at: Accepting) -> bool:
        """Accept what waits; returns False if the rest has to wait. Raises nothing."""
        try:
            room = self._room
            return room > 0 and not self._accept_some(at, room)
        except OSError:  # the listener's task meets it too
            return False

    def _accept_some(self, at: Accepting, room: int) -> bool:
        """Accept up to `room` connections; returns False if no more wait. Raises OSError."""
        accept, admits = at.accept, at.admits
        try:
            for _ in range(min(room, ACCEPT_BATCH)):
                sock, address = accept()
                if admits is None or admits(address):
                    self._take(at, sock, address)
                else:
                    self._turn_away(sock)
        except BlockingIOError:
            return False
        return True

    @property
    def _room(self) -> int:
        """As many connections may be accepted now."""
        return self._most_clients - len(self._clients.members)

    def _count_unserved(self, at: Accepting) -> None:
        with suppress(OSError):
            for _ in range(MOST_UNSERVED):
                sock, address = at.accept()
                is_commands = at.is_commands and (at.admits is None or at.admits(address))
                self.unserved += is_commands
                sock.close()

    async def _wait_for_room(self) -> int:
        """Wait until a connection may be accepted; return how many may."""
        while self._room <= 0 and not self._clients.make_room():
            if self._left is None:  # else another listener already waits for it
                self._left = trio.Event()
            await self._left.wait()
        return self._room

    def _take(self, at: Accepting, sock: socket.SocketType, address: Any) -> None:  # noqa: ANN401
        sock.setblocking(False)
        clients = self._clients
        client = Client(sock, self._readiness, clients, at.origin_of(sock, address))
        handler = at.make_handler(client, self._context, full=not clients.add(client))
        self._handlers += 1
        self._steps.start(self._handle(client, handler), at.handlers)

    def _turn_away(self, sock: socket.SocketType) -> None:
        self.turned_away += 1
        reset(sock)
        sock.close()

    async def _handle(self, client: Client, handler: ConnectionHandler) -> None:
        try:
            await handler.handle()
        finally:
            self._handlers -= 1
            self._clients.discard(client)
            if self._left is not None:
                self._left.set()
                self._left = None
            if not self._handlers:
                self._finish_if_unused()

    async def _attend(self, scope: trio.CancelScope) -> None:
        """Wake handlers whose sockets are ready, and at each sweep those whose deadline has
        passed."""
        failures = self._context.token_failures
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._readiness.dispatch)
                    nursery.start_soon(self._steps.run)
                    while True:
                        await trio.sleep(self._limits.sweep)
                        self._clients.sweep(trio.current_time())
                        if failures.suppressed:
                            nursery.start_soon(failures.record_suppressed)
        finally:
            with trio.move_on_after(LAST_RECORD_SECONDS, shield=True):
                await failures.record_last()
            with trio.move_on_after(LAST_RECORD_SECONDS, shield=True):
                await failures.record_unanswered()
            self._attending = None
            self._finish_if_unused()

    def _finish_if_unused(self) -> None:
        """After the last listener and the last handler: end the attending task, then close the
        epoll and forget the fields that were remembered, which may have the token."""
        if self._listeners or self._handlers:
            return
        if self._attending is not None:
            self._attending.cancel(reason="the proxy has no client left")
        else:
            self._readiness.close()
            field_block.requests.forget_all()


def _authorizer(
    policy: Policy, token: Token, routes: Sequence[HeldRoute], credentials: Credentials | None
) -> RequestAuthorizer:
    if not routes:
        return RequestAuthorizer(policy, token, has_stand_ins=credentials is not None)
    from nono_trio.proxy.access.route_authorizer import RouteAuthorizer  # late: few sessions

    return RouteAuthorizer(policy, token, routes)
