"""`proxy.open_proxy`: the rules, the listener and the handle of an embedded proxy."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from nono_trio.api.arguments import require_texts, require_type
from nono_trio.api.writing import (
    SessionLog,
    SessionRequest,
    command_of,
    logger,
    require_trio,
)
from nono_trio.config.options import NetworkOptions
from nono_trio.errors import UsageError
from nono_trio.session.embedding import EmbeddedSession, ProxyParts, embedded_session
from nono_trio.session.environment import proxy_url
from nono_trio.session.ports import listen
from nono_trio.session.prepare import build_policy
from nono_trio.session.run_resources import new_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


MAX_PORT: Final = 65_535


class Rules(NamedTuple):
    """The host rules of an embedded proxy."""

    allow: Sequence[str]
    deny: Sequence[str]
    resolve: Sequence[str]
    observe: bool

    def sources(self) -> dict[str, dict[str, str]]:
        """Return where each entry comes from, for policy.json and for errors."""
        given = {"allow_domain": self.allow, "deny_domain": self.deny, "resolve": self.resolve}
        arguments = {"allow_domain": "allow=", "deny_domain": "deny=", "resolve": "resolve="}
        return {name: dict.fromkeys(given[name], arguments[name]) for name in given}


class EmbeddedProxy(SessionLog):
    """A proxy that serves, and its session's log.

    It listens on 127.0.0.1:`port` and asks for `token`; `proxy_url` has all three, for a client's
    setting or HTTP_PROXY. Whoever has the token may use the proxy.
    """

    port: int
    token: str
    proxy_url: str

    def __init__(self, session: EmbeddedSession, port: int, token: str) -> None:
        super().__init__(session)
        self.port = port
        self.token = token
        self.proxy_url = proxy_url(token, port)


@asynccontextmanager
async def serve(
    request: SessionRequest,
    rules: Rules,
    port: int,
    grace_seconds: float,
    max_connections: int,
) -> AsyncIterator[EmbeddedProxy]:
    """As `proxy.open_proxy`."""
    require_trio()
    for name in ("allow", "deny", "resolve"):
        require_texts(name, getattr(rules, name))
    if not isinstance(rules.observe, bool):
        raise UsageError(f"observe: expected True or False, got {rules.observe!a}")
    require_type("port", port, int)
    require_type("grace_seconds", grace_seconds, float, int)
    require_type("max_connections", max_connections, int)
    if not 0 <= port <= MAX_PORT:
        raise UsageError(f"port: expected 0 to {MAX_PORT}, got {port}")
    if not 0 <= grace_seconds < math.inf:
        raise UsageError(f"grace_seconds: expected seconds from 0 on, got {grace_seconds}")
    if max_connections < 1:
        raise UsageError(f"max_connections: expected 1 or more, got {max_connections}")
    network = NetworkOptions(
        rules.allow, rules.deny, rules.resolve, observe=rules.observe, sources=rules.sources()
    )
    policy = build_policy(network)
    if policy.endpoints is not None:
        raise UsageError(
            "expected rules of hosts and ports, got one with a path",
            hint="`nono-trio proxy` and `nono-trio run` take rules about paths",
        )
    options = replace(
        request.options(network), grace_seconds=grace_seconds, max_connections=max_connections
    )
    token = new_token()
    listener = listen(port)
    bound = listener.getsockname()[1]
    parts = ProxyParts(listener, policy, token)
    async with embedded_session(options, command_of(request), logger.warning, parts) as session:
        yield EmbeddedProxy(session, bound, token)
