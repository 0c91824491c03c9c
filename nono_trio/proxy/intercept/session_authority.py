"""The session's authority: one SSL context for each intercepted host, made when it is first needed.

Rules of this file:
- One key for all leaves of a session: a key is what costs, and each host would have its key in this
  same memory.
- A context is made off the loop, once for all who wait for the same host. Failed or cancelled work
  leaves nothing behind: the next who waits starts anew.
- The cage chooses the hosts, so what is kept is bounded: MAX_CONTEXTS of 30 KiB each, and in each
  MAX_SESSIONS of about 1 KiB.
- TLS 1.2 or newer, no renegotiation, no compression. No early data: OpenSSL refuses it unless it
  is asked for, and without tickets no client can send it.
- No resumption in TLS 1.3: tickets cost more than a P-256 handshake saves, and a ticket that
  arrives at a client which has closed resets the connection. In TLS 1.2 tickets stay: without
  them OpenSSL would keep each session in our memory.
"""

from __future__ import annotations

import datetime
import ssl
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nono_trio.proxy.intercept.memory_chain import load_chain
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.proxy.intercept.ca import Authority

HTTP1_ONLY: Final = ("http/1.1",)
MAX_CONTEXTS: Final = 256  # a busy agent talks to some dozens of hosts
# TLS 1.2 sessions of clients without tickets. OpenSSL keeps 20,480 of them in each context, Python
# has no setting for it, and 256 contexts would hold 5 GiB.
MAX_SESSIONS: Final = 128


@dataclass(frozen=True, slots=True)
class _Entry:
    context: ssl.SSLContext
    starts: float
    renewed_at: float  # seconds of the wall clock: certificates are read by it

    def is_usable(self, now: float) -> bool:
        return (
            self.starts <= now < self.renewed_at
            and self.context.session_stats()["number"] < MAX_SESSIONS
        )


class SessionAuthority:
    """Server contexts for intercepted hosts, with leaves of the session's authority."""

    def __init__(self, authority: Authority, *, clock: Callable[[], float] = time.time) -> None:
        self._authority = authority
        self._clock = clock
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._entries: OrderedDict[tuple[str, tuple[str, ...]], _Entry] = OrderedDict()
        self._pending: dict[tuple[str, tuple[str, ...]], trio.Event] = {}
        # One at a time: a burst of new hosts must leave threads to look-ups and to the log.
        self._one_thread = trio.CapacityLimiter(1)

    def ca_pem(self) -> bytes:
        """The certificates that programs must trust, in PEM."""
        return self._authority.pem()

    async def server_context(self, host: str, alpn: tuple[str, ...] = HTTP1_ONLY) -> ssl.SSLContext:
        """The context for a canonical host (`Host.name`: no brackets, no final dot).

        `alpn` are the protocols that are offered, the preferred one first. A context serves many
        connections. Raises AuthorityExpired. If cancelled, nothing is kept; a context that is
        found costs no checkpoint.
        """
        key = (host, alpn)
        while True:
            entry = self._find(key)
            if entry is not None:
                return entry.context
            pending = self._pending.get(key)
            if pending is None:
                return await self._mint(key)
            await pending.wait()

    def _find(self, key: tuple[str, tuple[str, ...]]) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not entry.is_usable(self._clock()):
            del self._entries[key]  # its connections keep the context for as long as they last
            return None
        self._entries.move_to_end(key)
        return entry

    async def _mint(self, key: tuple[str, tuple[str, ...]]) -> ssl.SSLContext:
        finished = self._pending[key] = trio.Event()
        try:
            entry = await in_thread(self._make, *key, limiter=self._one_thread)
            self._entries[key] = entry
            if len(self._entries) > MAX_CONTEXTS:
                self._entries.popitem(last=False)
            return entry.context
        finally:
            del self._pending[key]
            finished.set()

    def _make(self, host: str, alpn: tuple[str, ...]) -> _Entry:
        """Sign a leaf and make its context. Blocking: about a millisecond."""
        now = self._clock()
        leaf = self._authority.sign_leaf(
            host,
            self._leaf_key.public_key(),
            datetime.datetime.fromtimestamp(now, datetime.UTC),
        )
        context = _server_context(alpn)
        pem = serialization.Encoding.PEM
        load_chain(
            context,
            leaf.public_bytes(pem) + self._authority.pem(),
            self._leaf_key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        starts = leaf.not_valid_before_utc.timestamp()
        ends = leaf.not_valid_after_utc.timestamp()
        return _Entry(context, starts, now + (ends - now) / 2)


def _server_context(alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(list(alpn))
    return context
