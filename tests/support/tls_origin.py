"""A loopback HTTPS origin whose certificate the session's authority would sign."""

from __future__ import annotations

import datetime
import ssl
from typing import TYPE_CHECKING

import trio
from harness import Origin

from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

if TYPE_CHECKING:
    from pathlib import Path


class TlsOrigin(Origin):
    """An HTTP origin behind a TLS context; each handshake is in the thread of its connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )


def signed_origin(
    certificate: Path, key: Path, host: str, *, asks_clients: bool = False
) -> TlsOrigin:
    """An origin for `host`, signed by a user's authority as the proxy would for the cage.

    `asks_clients`: it wants a certificate, and takes the authority's own.
    """
    now = datetime.datetime.now(datetime.UTC)
    authority = own_authority(certificate.read_bytes(), key.read_bytes(), now)
    context = trio.run(SessionAuthority(authority).server_context, host)
    if asks_clients:
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return TlsOrigin(context)
