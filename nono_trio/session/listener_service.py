"""Serve listeners until the first signal: all that `nono-trio proxy` does, and a part of a run.

The connections that are open at the end belong to the supervisor.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.session.descriptors import proxy_limits
from nono_trio.session.shutdown import Phase

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from nono_trio.audit.write.recorder import Recorder
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.proxy.access.route_authorizer import HeldRoute
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.listeners.accepting import Admits
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.shutdown import Shutdown
    from nono_trio.session.tokens.captured_logins import SessionLogins
    from nono_trio.session.trust.session_trust import SessionTrust


class ListenerService:
    """Serve a listener of the host's until the first signal."""

    def __init__(
        self, listener: socket.socket, policy: Policy, token: str, shutdown: Shutdown,
        ready: Callable[[], None], upstream_proxy: UpstreamProxy | None = None,
        trust: SessionTrust | None = None, credentials: SessionCredentials | None = None,
        logins: SessionLogins | None = None, max_connections: int = DEFAULT_LIMITS.connections,
    ) -> None:  # fmt: skip
        """`trust` is needed if the policy has intercepted hosts."""
        self._max_connections = max_connections
        self._credentials = credentials
        self._logins = logins
        self._listener = listener
        self._policy = policy
        self._upstream_proxy = upstream_proxy
        self._token = token
        self._shutdown = shutdown
        self._ready = ready
        self._trust = trust

    async def __call__(self, handlers: trio.Nursery, recorder: Recorder) -> int:
        """Return 0 once asked to end."""
        proxy = Proxy(
            self._policy,
            recorder,
            self._token,
            limits=proxy_limits(self._max_connections),
            upstream_proxy=self._upstream_proxy,
            interception=None if self._trust is None else self._trust.interception(),
            credentials=proxy_credentials(self._credentials, self._logins),
            routes=proxy_routes(self._credentials),
        )
        self._ready()
        await serve_until_asked(proxy, self._listener, handlers, self._shutdown, shared=True)
        return 0


def proxy_credentials(
    session: SessionCredentials | None, logins: SessionLogins | None
) -> Credentials | None:
    """Return the credentials as the proxy takes them; None without any."""
    if logins is None and (session is None or not session.held):
        return None
    from nono_trio.proxy.credentials.credentials import Credentials  # late: few sessions have any

    return Credentials(
        () if session is None else session.held, () if logins is None else logins.logins
    )


def proxy_routes(session: SessionCredentials | None) -> Sequence[HeldRoute]:
    """Return the reverse routes of the session's credentials."""
    if session is None or not any(one.credential.route for one in session.held):
        return ()
    from nono_trio.session.credentials.routes import session_routes  # late, as above

    return session_routes(session.held)


async def serve_until_asked(
    proxy: Proxy,
    listener: socket.socket,
    handlers: trio.Nursery,
    shutdown: Shutdown,
    transparent: Callable[[], Awaitable[None]] | None = None,
    *,
    shared: bool,
    admits: Admits | None = None,
) -> None:
    """Serve `listener` and the transparent network until the session is asked to end.

    `shared` and `admits` as Proxy.serve has them. Cancelled, both stop accepting.
    """
    async with trio.open_nursery() as serving:
        serving.start_soon(partial(proxy.serve, listener, handlers, shared=shared, admits=admits))
        if transparent is not None:
            serving.start_soon(transparent)
        await shutdown.reached(Phase.ENDING)
        serving.cancel_scope.cancel(reason="asked to end")
