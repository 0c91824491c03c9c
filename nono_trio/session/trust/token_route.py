"""How the supervisor reaches token endpoints: with trust, pins and upstream proxy of its session.

Rules of this file: it is made before the cage, and only for a session that fetches tokens. What the
command may write is not trusted (root_store.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.proxy.intercept.host_tls import HostTls
from nono_trio.proxy.upstream.blocking_look_up import look_up
from nono_trio.session.tokens.token_endpoint import Route
from nono_trio.session.trust.session_trust import read_upstream_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nono_trio.config.options import NetworkOptions
    from nono_trio.core.policy.network_policy import Policy


def token_route(
    network: NetworkOptions,
    policy: Policy,
    environment: Mapping[str, str],
    *,
    can_read: Callable[[str], str | None] = lambda _path: None,
    may_write: Callable[[str], bool] = lambda _path: False,
) -> Route:
    """Return the route; `environment` is the caller's. Blocks; raises UsageError."""
    _, roots, hosts = read_upstream_trust(
        network, environment, can_read=can_read, may_write=may_write
    )
    return Route(
        roots,
        look_up,
        policy.addresses,
        lambda name: hosts.get(name, HostTls()),
        network.upstream_proxy,
    )
