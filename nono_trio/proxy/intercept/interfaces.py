"""The interface of interception for the handlers, and the only error that it raises.

Both are apart from the modules with TLS, which only a session that looks into hosts imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.intercept.http2_state import Http2State
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.tls import TlsTransport
    from nono_trio.proxy.transport.transport import Transport

HTTP1: Final = "http/1.1"
HTTP2: Final = "h2"
HTTP1_ONLY: Final = (HTTP1,)
BOTH: Final = (HTTP2, HTTP1)


class HandshakeFailed(Exception):
    """A handshake has ended without a connection. `reason` is one printable sentence without a full
    stop; `hint` is None if no flag would help. `is_late`: it took too long."""

    def __init__(self, reason: str, hint: str | None = None, *, is_late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.is_late = is_late


class Intercepts(Protocol):
    """Puts TLS over the two connections of an intercepted client; `Interception` is one."""

    http2: Http2State

    async def accept(
        self,
        client: Client,
        host: Host,
        limits: ProxyLimits,
        protocols: tuple[str, ...] = HTTP1_ONLY,
    ) -> str | None:
        """Shake hands with `client` as `host`, whose hello is in `client.unread`, and replace its
        transport. Returns the protocol of `protocols` that was chosen; None if the client offers
        none. Raises HandshakeFailed, and Expired for a client whose place was given away. If
        cancelled, the client has its old transport."""
        ...

    async def secure(
        self,
        client: Client,
        upstream: Transport,
        early: bytes,
        host: Host,
        limits: ProxyLimits,
        protocols: tuple[str, ...] = HTTP1_ONLY,
    ) -> TlsTransport:
        """Shake hands with `host` over `upstream`, from which `early` was read, and verify it.

        `client` waits. Raises HandshakeFailed, OSError if the client leaves, and Expired for one
        whose place was given away. `upstream` is left to the caller if it raises.
        """
        ...
