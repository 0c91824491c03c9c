"""TLS to servers: what is trusted, and the contexts that hold a connection to it.

Rules of this file:
- Each certificate is verified, and its name. Nothing switches that off.
- Trusted are the session's roots (root_store.py and --upstream-ca), or for a host with a `ca` of
  its own that one alone.
- TLS 1.2 or newer, no renegotiation. SSLKEYLOGFILE has no effect here: the contexts are not made by
  `ssl.create_default_context`.
- An end of the connection without TLS's goodbye is an error (SSLEOFError), since a body that ends
  with its connection could be cut unseen.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.errors import UsageError
from nono_trio.proxy.intercept.memory_chain import load_chain
from nono_trio.proxy.intercept.root_store import to_pem
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HTTP1_ONLY: Final = ("http/1.1",)


class HostTls(NamedTuple):
    """Files for one host; all in PEM, the key unencrypted.

    `ca` replaces the session's roots for it; `certificate` (a chain) and `key` are shown to it.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    def __repr__(self) -> str:
        return "HostTls(...)"

    def check(self, host: str) -> None:
        """Raise UsageError for files that can't be used, before the session starts."""
        try:
            _context((), self, HTTP1_ONLY)
        except (OSError, ValueError):  # ssl.SSLError is one; OpenSSL's text may quote the file
            raise UsageError(
                f"the TLS files for {host} can't be used: expected certificates and their"
                " unencrypted key in PEM",
                hint="look at them: openssl x509 -in CERT -noout -subject;"
                " openssl pkey -in KEY -noout",
            ) from None


_NOTHING: Final = HostTls()


class UpstreamTls:
    """Client contexts for servers; one for all hosts that have nothing of their own."""

    def __init__(self, roots: Iterable[bytes], hosts: Mapping[str, HostTls] | None = None) -> None:
        """`roots` are certificates in DER; `hosts` has canonical names."""
        self._roots = tuple(roots)
        self._hosts = hosts or {}
        # Bounded by the policy's hosts with files of their own, times the few lists of protocols.
        self._contexts: dict[tuple[HostTls, tuple[str, ...]], ssl.SSLContext] = {}

    async def client_context(self, host: str, alpn: tuple[str, ...] = HTTP1_ONLY) -> ssl.SSLContext:
        """The context for a canonical host; use it with `server_hostname=host`.

        If cancelled, nothing is kept. The first call reads the roots in a thread.
        """
        key = (self._hosts.get(host, _NOTHING), alpn)
        context = self._contexts.get(key)
        if context is None:
            # Two at once make two, and one is kept: the next uses it.
            context = await in_thread(_context, self._roots, *key)
            context = self._contexts.setdefault(key, context)
        return context


def _context(roots: tuple[bytes, ...], host: HostTls, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Make a context; raises ssl.SSLError or ValueError for files of `host` that can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and the name too
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(list(alpn))
    trusted = to_pem(roots) if host.ca is None else host.ca
    if trusted:
        context.load_verify_locations(cadata=trusted.decode("ascii"))
    if host.certificate is not None:
        load_chain(context, host.certificate, host.key or host.certificate)
    return context
