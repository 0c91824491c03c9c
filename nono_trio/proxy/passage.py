"""Connections that are passed on as they are, from programs that know of no proxy.

The order is that of handler.py: decided by name, recorded, and only then looked up and dialled. On
443 the decision waits for the TLS hello, so that there is one decision and it covers the name that
the hello asks for; a name that is denied anyway is refused without waiting.

Which name a hello may ask for: on a connection to a name, that name. On one to a literal address
any allowed name, and that name is what is dialled. No name at all is right for a literal alone:
RFC 6066 3 knows no addresses there, so an entry for the address itself says that none is expected.

Rules of this file: a refusal is what the program can show: an alert where TLS is spoken, a reset
elsewhere, never bytes that could be taken for the server's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nono_trio.core.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.hosts import BadHost, Host, parse_host
from nono_trio.proxy.client import Client, Expired
from nono_trio.proxy.decisions import Refusal, Subject, allowed, denied
from nono_trio.proxy.origin_gate import judged
from nono_trio.proxy.visit import BUSY, FULL, Surroundings, Unreached, Visit

if TYPE_CHECKING:
    from nono_trio.core.policy import Policy

NO_NAME: Final = "the TLS hello names no host (no SNI)"
HIDDEN_NAME: Final = "the TLS hello hides the host it asks for (ECH)"
HINT: Final = "have the program use the proxy in HTTPS_PROXY, which is told the name"

_MISDIRECTED: Final = 421  # RFC 9110 15.5.20, for what is no status here: another name is meant
_FATAL: Final = 2
_INTERNAL_ERROR: Final = 80
# RFC 8446 6.2, the one that a program's own words come closest to: access_denied,
# unrecognized_name, decode_error.
_ALERTS: Final = {403: 49, _MISDIRECTED: 112, 400: 50}


class Passage(Visit):
    """A tunnel to `host`: the name that the connection's address stands for, or that address."""

    __slots__ = ("_host", "_policy", "_port")

    method = "TCP"

    def __init__(
        self,
        client: Client,
        surroundings: Surroundings,
        *,
        full: bool,
        policy: Policy,
        host: Host,
        port: int,
    ) -> None:
        super().__init__(client, surroundings, full=full)
        self._policy = policy
        self._host = host
        self._port = port

    async def _serve(self) -> None:
        wanted = (self._host, FULL) if self._full else await self._decide()
        if wanted is None:
            return
        host, refusal = wanted
        subject = Subject("connect", host.name, self._port, self.method)
        if refusal is None:
            refusal = await self._pass(host, subject)
        if refusal is not None:
            await self._at.recorder.record(denied(subject, refusal, self._at.now()))
            await self._answer(refusal)

    async def _decide(self) -> tuple[Host, Refusal | None] | None:
        """The host that is wanted, and why it is refused; None if nothing was asked for."""
        return self._host, self._judged(self._host)

    def _judged(self, host: Host) -> Refusal | None:
        return judged(self._policy, host, self._port)

    async def _pass(self, host: Host, subject: Subject) -> Refusal | None:
        """Record and tunnel; the refusal of a host that proved to be out of reach."""
        self._client.deadline = math.inf
        sequence = await self._at.recorder.record(allowed(subject, self._at.now()))
        try:
            upstream = await self._upstream(host, self._port)
        except Unreached as found:
            return found.refusal
        await self._carry(upstream, subject, sequence, b"")
        return None

    async def _answer(self, _refusal: Refusal) -> None:
        self._client.reset()

    async def _answer_busy(self) -> None:
        await self._answer(BUSY)


class TlsPassage(Passage):
    """A tunnel whose first bytes have to be a TLS hello for the host it goes to."""

    __slots__ = ("_speaks_tls",)

    method = "TLS"

    def __init__(
        self,
        client: Client,
        surroundings: Surroundings,
        *,
        full: bool,
        policy: Policy,
        host: Host,
        port: int,
    ) -> None:
        super().__init__(client, surroundings, full=full, policy=policy, host=host, port=port)
        self._speaks_tls = True

    async def _decide(self) -> tuple[Host, Refusal | None] | None:
        refusal = self._judged(self._host)
        if self._host.address is None and refusal is not None:
            return self._host, refusal
        try:
            hello = await self._read_hello()
        except BadHello as fault:
            self._speaks_tls = fault.is_tls
            fallback = Refusal(400, fault.reason, HINT, "host_denied")
            return self._host, refusal or fallback
        if hello is not None:
            return self._asked_for(hello)
        return None if refusal is None else (self._host, refusal)

    async def _read_hello(self) -> ClientHello | None:
        """The hello, its bytes left in `unread`; None if the client sent nothing at all."""
        client = self._client
        client.expire_in(self._at.limits.head)
        needed = 1
        while True:
            while len(client.unread) < needed:
                if not await self._receive():
                    return None
            read = read_client_hello(client.unread)
            if isinstance(read, ClientHello):
                return read
            needed = read

    async def _receive(self) -> bool:
        """Add to `unread`; False if the client ended or waited too long without a byte."""
        client = self._client
        client.idle = not client.unread
        try:
            more = await client.receive()
        except Expired:
            if not client.unread:
                return False
            seconds = self._at.limits.head
            raise BadHello(f"the TLS hello was not complete within {seconds:g} seconds") from None
        finally:
            client.idle = False
        if not more and client.unread:
            raise BadHello("the connection was closed in the middle of the TLS hello")
        client.unread += more
        return bool(more)

    def _asked_for(self, hello: ClientHello) -> tuple[Host, Refusal | None]:
        host, is_literal = self._host, self._host.address is not None
        if hello.hides_name:
            return host, self._judged(host) or _misdirected(HIDDEN_NAME)
        if hello.server_name is None:
            return host, self._judged(host) if is_literal else _misdirected(NO_NAME)
        try:
            asked = parse_host(hello.server_name)
        except BadHost as fault:
            return host, _misdirected(f"the TLS hello's server name can't be read: {fault.reason}")
        if is_literal or asked == host:
            return asked, self._judged(asked)
        reason = (
            f"the TLS hello asks for {asked.bracketed()},"
            f" but the connection is to {host.bracketed()}"
        )
        return asked, Refusal(_MISDIRECTED, reason, category="host_denied")

    async def _answer(self, refusal: Refusal) -> None:
        if self._speaks_tls:
            await self._client.drain(self._at.limits.linger, alert(refusal.status))
        else:
            self._client.reset()


def _misdirected(reason: str) -> Refusal:
    return Refusal(_MISDIRECTED, reason, HINT, "host_denied")


def alert(status: int) -> bytes:
    """The TLS record with the fatal alert for a refusal's status, in plaintext as before any
    handshake; internal_error where no other one fits."""
    return bytes([21, 3, 3, 0, 2, _FATAL, _ALERTS.get(status, _INTERNAL_ERROR)])
