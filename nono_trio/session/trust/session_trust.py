"""The trust of one session, with or without a cage: who signs, and who is believed upstream."""

from __future__ import annotations

import datetime
import secrets
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.proxy.intercept.root_store import read_roots
from nono_trio.session.trust.own_authority import (
    read_host_files,
    read_own_authority,
    read_upstream_ca,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nono_trio.config.options import NetworkOptions
    from nono_trio.proxy.intercept.ca import Authority
    from nono_trio.proxy.intercept.host_tls import HostTls
    from nono_trio.proxy.intercept.interception import Interception
    from nono_trio.proxy.intercept.root_store import Roots


class SessionTrust(NamedTuple):
    """The authority that signs for intercepted hosts, and the roots of the machine and its user.

    Servers are verified against `upstream_roots` (DER): all of them, and those of --upstream-ca.
    `hosts` are single hosts with files of their own.
    """

    authority: Authority
    roots: Roots
    upstream_roots: tuple[bytes, ...]
    hosts: Mapping[str, HostTls]

    def interception(self) -> Interception:
        """Return what puts TLS over intercepted connections."""
        from nono_trio.proxy.intercept.interception import Interception  # late: it imports trio
        from nono_trio.proxy.intercept.session_authority import SessionAuthority
        from nono_trio.proxy.intercept.upstream_tls import UpstreamTls

        return Interception(
            SessionAuthority(self.authority), UpstreamTls(self.upstream_roots, self.hosts)
        )


def open_session_trust(
    network: NetworkOptions,
    environment: Mapping[str, str],
    *,
    can_read: Callable[[str], str | None] = lambda _path: None,
    may_write: Callable[[str], bool] = lambda _path: False,
) -> SessionTrust:
    """Make or read the authority, and read the roots. Raises UsageError. Blocking: some 10 ms.

    `environment` is the caller's. `can_read` names the grant by which the command may read a path,
    `may_write` tells whether it may write one.
    """
    now = datetime.datetime.now(datetime.UTC)
    authority = read_own_authority(network, now, can_read)
    if authority is None:
        authority = new_authority(secrets.token_hex(4), now)
    roots, upstream, hosts = read_upstream_trust(
        network, environment, can_read=can_read, may_write=may_write
    )
    return SessionTrust(authority, roots, upstream, hosts)


def read_upstream_trust(
    network: NetworkOptions,
    environment: Mapping[str, str],
    *,
    can_read: Callable[[str], str | None],
    may_write: Callable[[str], bool],
) -> tuple[Roots, tuple[bytes, ...], Mapping[str, HostTls]]:
    """Return the roots of machine and user, all that servers are verified against (DER), and the
    files of single hosts. Otherwise as `open_session_trust`."""
    upstream = read_upstream_ca(network.upstream_ca, may_write)
    hosts = read_host_files(network.host_files, environment, can_read, may_write)
    roots = read_roots(environment, may_write=may_write)
    return roots, (*roots.system, *roots.others, *upstream), hosts
