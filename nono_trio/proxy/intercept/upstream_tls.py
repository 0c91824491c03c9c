"""TLS to servers: one context for all hosts that have no files of their own.

Rules of this file: a context is made off the loop, once; host_tls.py says what it holds to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.proxy.intercept.host_tls import HTTP1_ONLY, HostTls, client_context_for
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

__all__ = ["HTTP1_ONLY", "HostTls", "UpstreamTls"]

_NOTHING: Final = HostTls()


class UpstreamTls:
    """Client contexts for servers; one for all hosts that have nothing of their own."""

    def __init__(self, roots: Iterable[bytes], hosts: Mapping[str, HostTls] | None = None) -> None:
        """`roots` are certificates in DER; `hosts` has canonical names."""
        self._roots = tuple(roots)
        self._hosts = hosts or {}
        # Bounded by the policy's hosts with files of their own, times the few lists of protocols.
        self._contexts: dict[tuple[HostTls, tuple[str, ...]], ssl.SSLContext] = {}

    def has_roots_of_its_own(self, host: str) -> bool:
        """Return True if a file of a canonical host replaces the session's roots for it."""
        return self._hosts.get(host, _NOTHING).ca is not None

    async def client_context(self, host: str, alpn: tuple[str, ...] = HTTP1_ONLY) -> ssl.SSLContext:
        """The context for a canonical host; use it with `server_hostname=host`.

        If cancelled, nothing is kept. The first call reads the roots in a thread.
        """
        key = (self._hosts.get(host, _NOTHING), alpn)
        context = self._contexts.get(key)
        if context is None:
            # Two at once make two, and one is kept: the next uses it.
            context = await in_thread(client_context_for, self._roots, *key)
            context = self._contexts.setdefault(key, context)
        return context
