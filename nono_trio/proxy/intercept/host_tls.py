"""The context of connections to a server, and the files that a host may have of its own.

Rules of this file:
- Each certificate is verified, and its name. Nothing switches that off.
- Trusted are the session's roots, or for a host with a `ca` of its own that one alone.
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

if TYPE_CHECKING:
    from collections.abc import Iterable

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
            client_context_for((), self, HTTP1_ONLY)
        except (OSError, ValueError):  # ssl.SSLError is one; OpenSSL's text may quote the file
            raise UsageError(
                f"the TLS files for {host} can't be used: expected certificates and their"
                " unencrypted key in PEM",
                hint="look at them: openssl x509 -in CERT -noout -subject;"
                " openssl pkey -in KEY -noout",
            ) from None


def client_context_for(
    roots: Iterable[bytes], host: HostTls, alpn: tuple[str, ...]
) -> ssl.SSLContext:
    """Make a context; raises OSError or ValueError for files of `host` that can't be used."""
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
