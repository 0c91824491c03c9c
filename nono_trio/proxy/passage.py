"""Connections that are passed on as they are, from programs that know of no proxy.

The order is that of handler.py: decided by name, recorded, and only then looked up and dialled. On
443 the decision waits for the TLS hello, so that there is one decision and it covers the name that
the hello asks for; a name that is denied anyway is refused without waiting.

Which name a hello may ask for: on a connection to a name, that name. On one to a literal address
any allowed name, and that name is what is dialled. No name at all is right for a literal alone
(RFC 6066 3 knows no addresses there, so an entry for the address itself says that none is
expected), else it takes an entry tls://HOST.

Such an entry also lets a hello hide its name (ECH). What it asks for then is known to nobody but
the server, which may serve other names behind it: that is the price of the entry, and why a plain
one does not do. The name that stands outside must be the host all the same, or an allowed one: a
server's public name that is allowed too leads nowhere new, and one that is not is refused as any
name that is not on the list, so that whoever reviews the list sees it.

Rules of this file: a refusal is what the program can show: an alert where TLS is spoken, a reset
elsewhere, never bytes that could be taken for the server's. The reason, which is recorded, says
which entry would have done.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nono_trio.core.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.denials import entry, lifted_by
from nono_trio.core.hosts import BadHost, Host, parse_host
from nono_trio.core.rules import TCP_SCHEME, TLS_SCHEME, Inspection
from nono_trio.proxy.client import Client, Expired
from nono_trio.proxy.decisions import Refusal, Subject, allowed, denied
from nono_trio.proxy.origin_gate import judged
from nono_trio.proxy.visit import BUSY, FULL, Surroundings, Unreached, Visit

if TYPE_CHECKING:
    from nono_trio.core.policy import Policy

NO_NAME: Final = "the TLS hello names no host (no SNI)"
HIDDEN_NAME: Final = "the TLS hello hides the host it asks for (ECH)"

_MISDIRECTED: Final = 421  # RFC 9110 15.5.20, for what is no status here: another name is meant
_FATAL: Final = 2
_INTERNAL_ERROR: Final = 80
# RFC 8446 6.2, the one that a program's own words come closest to: access_denied,
# unrecognized_name, decode_error.
_ALERTS: Final = {403: 49, _MISDIRECTED: 112, 400: 50}


class Passage(Visit):
    """A tunnel to `host`: the name that the connection's address stands for, or that address."""

    __slots__ = ("_host", "_policy", "_port", "_speaks_tls")

    method = "TCP"
    is_for_tls = False

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
        self._speaks_tls = self.is_for_tls  # until it is known better

    async def _serve(self) -> None:
        wanted = (self._host, FULL) if self._full else await self._decide()
        if wanted is None:
            return
        self._client.prove()
        host, refusal = wanted
        subject = Subject("connect", host.name, self._port, self.method)
        if refusal is None:
            subject.note = self._policy.decide(host, self._port).note
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

    async def _answer(self, refusal: Refusal) -> None:
        if self._speaks_tls:
            await self._client.drain(self._at.limits.linger, alert(refusal.status))
        else:
            self._client.reset()

    async def _answer_busy(self) -> None:
        await self._answer(BUSY)


class TlsPassage(Passage):
    """A tunnel whose first bytes have to be a TLS hello for the host it goes to."""

    __slots__ = ()

    method = "TLS"
    is_for_tls = True

    async def _decide(self) -> tuple[Host, Refusal | None] | None:
        refusal = self._judged(self._host)
        if self._host.address is None and refusal is not None:
            return self._host, refusal
        try:
            hello = await self._read_hello()
        except BadHello as fault:
            self._speaks_tls = fault.is_tls
            return self._host, refusal or self._malformed(fault)
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
            if client.dropped:
                raise
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
        """The host to go to, or the one that the refusal is about."""
        host = self._host
        is_literal = host.address is not None
        try:
            asked = host if hello.server_name is None else parse_host(hello.server_name)
        except BadHost as fault:
            reason = f"the TLS hello's server name can't be read: {fault.reason}"
            return host, _misdirected(reason)
        if hello.hides_name:
            return self._hidden(asked if is_literal and not self._may_hide(host) else host, asked)
        if hello.server_name is None and not is_literal and not self._may_hide(host):
            return host, _misdirected(self._needs_tls(NO_NAME, host))
        if is_literal or asked == host:
            return asked, self._judged(asked)
        reason = (
            f"the TLS hello asks for {asked.bracketed()},"
            f" but the connection is to {host.bracketed()}"
        )
        return asked, _misdirected(reason)

    def _hidden(self, host: Host, outside: Host) -> tuple[Host, Refusal | None]:
        """What to do about a hello to `host` that hides its name behind another, `outside`."""
        refusal = self._judged(host)
        if refusal is None and not self._may_hide(host):
            refusal = _misdirected(self._needs_tls(HIDDEN_NAME, host))
        if refusal is None and outside != host:
            refusal = self._judged(outside)
            return (host if refusal is None else outside), refusal
        return host, refusal

    def _may_hide(self, host: Host) -> bool:
        return self._policy.decide(host, self._port).inspection >= Inspection.TLS

    def _needs_tls(self, reason: str, host: Host) -> str:
        return lifted_by(reason, entry(host.name, self._port, TLS_SCHEME))

    def _malformed(self, fault: BadHello) -> Refusal:
        reason = fault.reason
        if not fault.is_tls:
            reason = lifted_by(reason, entry(self._host.name, self._port, TCP_SCHEME))
        return Refusal(400, reason, category="host_denied")


def _misdirected(reason: str) -> Refusal:
    return Refusal(_MISDIRECTED, reason, category="host_denied")


def alert(status: int) -> bytes:
    """The TLS record with the fatal alert for a refusal's status, in plaintext as before any
    handshake; internal_error where no other one fits."""
    return bytes([21, 3, 3, 0, 2, _FATAL, _ALERTS.get(status, _INTERNAL_ERROR)])
