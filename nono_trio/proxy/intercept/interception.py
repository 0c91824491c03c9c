"""The two TLS handshakes of an intercepted connection: with the program, and with the server.

Rules of this file:
- Each handshake has `ProxyLimits.head` seconds, and TlsTransport bounds its bytes.
- A failure is a reason of our own words (tls_failures.py). Nothing is sent in plaintext instead.
- Certificates are made, and roots are read, off the loop.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.intercept.ca import AuthorityExpired
from nono_trio.proxy.intercept.http2_state import Http2State
from nono_trio.proxy.intercept.interfaces import HTTP1_ONLY, HandshakeFailed
from nono_trio.proxy.intercept.tls_failures import UNTRUSTED, client_failure, upstream_failure
from nono_trio.proxy.transport.client import Expired
from nono_trio.proxy.transport.tls import TlsTransport
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.intercept.session_authority import SessionAuthority
    from nono_trio.proxy.intercept.upstream_tls import UpstreamTls
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.transport import Transport

_CLOSED: Final = "the connection was closed during the handshake"
_NO_CERTIFICATE: Final = "the supervisor could not make the host's certificate"
_NO_FILES: Final = "the supervisor could not load the roots and the client certificate"
_UPSTREAM_CA_FLAG: Final = "--upstream-ca"
_HOST_ROOTS_KEY: Final = "network.tls_ca"


class Interception:
    """The session's authority for programs, and its roots for servers."""

    def __init__(self, authority: SessionAuthority, servers: UpstreamTls) -> None:
        self._authority = authority
        self._servers = servers
        self.http2 = Http2State()

    async def accept(
        self,
        client: Client,
        host: Host,
        limits: ProxyLimits,
        protocols: tuple[str, ...] = HTTP1_ONLY,
    ) -> str | None:
        """As `Intercepts.accept`."""
        try:
            context = await self._authority.server_context(host.name, protocols)
        except AuthorityExpired as expired:
            reason = format_reason(DenialCode.INTERCEPT_FAILED, detail=str(expired))
            raise HandshakeFailed(reason) from expired
        except (OSError, ValueError) as error:  # memory_chain.py: no descriptors, no pipe left
            reason = format_reason(DenialCode.INTERCEPT_FAILED, detail=_NO_CERTIFICATE)
            raise HandshakeFailed(reason) from error
        transport = TlsTransport(client.transport, context, early=client.unread)
        client.unread = b""
        try:
            await _shake_hands(client, transport, limits)
        except ssl.SSLError as error:
            raise _refused_by_program(client_failure(error)) from error
        except SideFailed as failure:
            raise _refused_by_program(_CLOSED) from failure
        except Expired:
            if client.dropped:
                raise
            reason = format_reason(DenialCode.INTERCEPT_TIMEOUT, seconds=limits.head)
            raise HandshakeFailed(reason, is_late=True) from None
        client.transport = transport
        return transport.protocol

    async def secure(
        self,
        client: Client,
        upstream: Transport,
        early: bytes,
        host: Host,
        limits: ProxyLimits,
        protocols: tuple[str, ...] = HTTP1_ONLY,
    ) -> TlsTransport:
        """As `Intercepts.secure`."""
        try:
            context = await self._servers.client_context(host.name, protocols)
        except (OSError, ValueError) as error:
            reason = format_reason(DenialCode.TLS_FAILED, detail=_NO_FILES)
            raise HandshakeFailed(reason) from error
        transport = TlsTransport(upstream, context, server_name=host.name, early=early)
        try:
            await _shake_hands(client, transport, limits)
        except ssl.SSLError as error:
            reason = format_reason(DenialCode.TLS_FAILED, detail=upstream_failure(error))
            has_roots = self._servers.has_roots_of_its_own(host.name)
            raise HandshakeFailed(reason, _hint(error, host, has_roots=has_roots)) from error
        except SideFailed as failure:
            if failure.side == "client":
                raise
            reason = format_reason(DenialCode.TLS_FAILED, detail=_CLOSED)
            raise HandshakeFailed(reason) from failure
        except Expired:
            if client.dropped:
                raise
            reason = format_reason(DenialCode.TLS_TIMEOUT, seconds=limits.head)
            raise HandshakeFailed(reason, is_late=True) from None
        return transport


async def _shake_hands(client: Client, transport: TlsTransport, limits: ProxyLimits) -> None:
    """Raises ssl.SSLError, SideFailed, Expired."""
    client.expire_in(limits.head)
    while not transport.try_handshake():
        if client.tcp.broken:
            raise SideFailed("client")
        await client.pause()


def _refused_by_program(detail: str) -> HandshakeFailed:
    reason = format_reason(DenialCode.INTERCEPT_FAILED, detail=detail)
    hint = None
    if detail in (UNTRUSTED, _CLOSED):  # some programs close without a word
        hint = "nono-trio doctor says which programs trust the session's authority"
    return HandshakeFailed(reason, hint)


def _hint(error: ssl.SSLError, host: Host, *, has_roots: bool) -> str | None:
    """The flag for a server whose issuer is not among the roots; other faults are the server's.
    `has_roots`: the host has roots of its own, which no flag adds to."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in (18, 19, 20, 21):
        if has_roots:
            return f"add its issuer to the file that {_HOST_ROOTS_KEY} names for {host.name}"
        return f"trust its issuer with {_UPSTREAM_CA_FLAG} FILE"
    return None
