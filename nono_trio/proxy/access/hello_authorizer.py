"""Which host a TLS client may ask for on its connection, and how its hello is read.

Which name a hello may ask for: on a connection to a name, that name. On one to a literal address
any allowed name. No name at all is right for a literal alone (RFC 6066 3 knows no addresses there,
so an entry for the address itself says that none is expected), else it takes an entry tls://HOST.

Such an entry also lets a hello hide its name (ECH). What it asks for then is known to nobody but
the server, which may serve other names behind it: that is the price of the entry, and why a plain
one does not do. The name that stands outside must be the host all the same, or an allowed one: a
server's public name that is allowed too leads nowhere new, and one that is not is refused as any
name that is not on the list, so that whoever reviews the list sees it.

Rules of this file: the same for a connection that came in transparently and for what moves through
a CONNECT; the reason of a refusal says which entry would have done.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.net.host import BadHost, Host, parse_host
from nono_trio.core.policy.allow_entry import allow_entry, entry
from nono_trio.core.policy.reasons import (
    DenialCode,
    format_reason,
    with_allow_entry,
)
from nono_trio.core.policy.rule import ALLOW_FLAG, TCP_SCHEME, TLS_SCHEME, Inspection
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.access.transparent_authorizer import judged
from nono_trio.proxy.transport.client import Client, Expired

if TYPE_CHECKING:
    from nono_trio.core.net.hello_retry import OtherHello
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.limits import Limits

MISDIRECTED: Final = 421  # RFC 9110 15.5.20, for what is no status here: another name is meant


async def read_hello(client: Client, limits: Limits) -> ClientHello | None:
    """Read the hello, its bytes left in `unread`; None if the client sent nothing at all within the
    time for a head. Raises BadHello, OSError, and Expired for a client whose place was given away.
    """
    client.expire_in(limits.head)
    needed = 1
    while True:
        while len(client.unread) < needed:
            if not await _receive(client, limits):
                return None
        read = read_client_hello(client.unread)
        if isinstance(read, ClientHello):
            return read
        needed = read


async def _receive(client: Client, limits: Limits) -> bool:
    """Add to `unread`; False if the client ended or waited too long without a byte."""
    client.idle = not client.unread
    try:
        more = await client.receive()
    except Expired:
        if client.dropped:
            raise
        if not client.unread:
            return False
        reason = format_reason(DenialCode.HELLO_TIMEOUT, seconds=limits.head)
        raise BadHello(reason) from None
    finally:
        client.idle = False
    if not more and client.unread:
        raise BadHello(format_reason(DenialCode.HELLO_CUT))
    client.unread += more
    return bool(more)


class HelloAuthorizer:
    """Judges the hello of one connection to `host`, a name or a literal address."""

    __slots__ = ("_host", "_policy", "_port")

    def __init__(self, policy: Policy, host: Host, port: int) -> None:
        self._policy = policy
        self._host = host
        self._port = port

    def asked_for(self, hello: ClientHello) -> tuple[Host, Refusal | None]:
        """The host that is meant, or the one that the refusal is about."""
        host = self._host
        is_literal = host.address is not None
        try:
            asked = host if hello.server_name is None else parse_host(hello.server_name)
        except BadHost as fault:
            reason = format_reason(DenialCode.BAD_SERVER_NAME, detail=fault.reason)
            return host, _misdirected(reason)
        if hello.hides_name:
            return self._hidden(asked if is_literal and not self._may_hide(host) else host, asked)
        if hello.server_name is None and not is_literal and not self._may_hide(host):
            return host, _misdirected(self._needs_tls(DenialCode.NO_SERVER_NAME, host))
        if is_literal or asked == host:
            return asked, self._judged(asked)
        reason = format_reason(
            DenialCode.OTHER_SERVER_NAME, asked=asked.bracketed(), host=host.bracketed()
        )
        return asked, _misdirected(reason)

    def malformed(self, fault: BadHello) -> Refusal:
        """The refusal of what is no hello."""
        return self._no_tls(fault.reason) if not fault.is_tls else _bad(fault.reason)

    def server_first(self) -> Refusal:
        """The refusal of a connection on which the server has spoken and the client has not."""
        return self._no_tls(format_reason(DenialCode.SERVER_BEFORE_TLS))

    def _hidden(self, host: Host, outside: Host) -> tuple[Host, Refusal | None]:
        """What to do about a hello to `host` that hides its name behind another, `outside`."""
        refusal = self._judged(host)
        if refusal is not None:
            return host, self._with_tls_entry(refusal, host)
        if not self._may_hide(host):
            refusal = _misdirected(self._needs_tls(DenialCode.HIDDEN_SERVER_NAME, host))
        if refusal is None and outside != host:
            refusal = self._judged(outside)
            return (host if refusal is None else outside), refusal
        return host, refusal

    def _judged(self, host: Host) -> Refusal | None:
        return judged(self._policy, host, self._port)

    def _may_hide(self, host: Host) -> bool:
        return self._policy.decide(host, self._port).inspection >= Inspection.TLS

    def _needs_tls(self, code: DenialCode, host: Host) -> str:
        return with_allow_entry(format_reason(code), entry(host.name, self._port, TLS_SCHEME))

    def _with_tls_entry(self, refusal: Refusal, host: Host) -> Refusal:
        """Name the entry that a hello with a hidden name needs, where a refusal misses an entry.
        Other refusals stay as they are."""
        missing = allow_entry(host.name, self._port, refusal.reason)
        if missing is None:
            return refusal
        needed = entry(host.name, self._port, TLS_SCHEME)
        reason = format_reason(DenialCode.NOT_ALLOWED, destination=missing)
        return replace(
            refusal,
            reason=with_allow_entry(reason, needed),
            hint=f"allow it with {ALLOW_FLAG} {needed}",
        )

    def _no_tls(self, reason: str) -> Refusal:
        return _bad(with_allow_entry(reason, entry(self._host.name, self._port, TCP_SCHEME)))


def second_hello(name: str, fault: BadHello | OtherHello) -> tuple[str, Refusal]:
    """The refusal of what came after the hello for the host `name`, and the host that it is about,
    where that can be told."""
    if isinstance(fault, BadHello):
        return name, _bad(format_reason(DenialCode.SECOND_HELLO_BAD, detail=fault.reason))
    asked = fault.hello.server_name
    with suppress(BadHost):
        name = name if asked is None else parse_host(asked).name
    return name, _misdirected(format_reason(DenialCode.SECOND_HELLO_OTHER))


def _bad(reason: str) -> Refusal:
    return Refusal(400, reason, category="host_denied")


def _misdirected(reason: str) -> Refusal:
    return Refusal(MISDIRECTED, reason, category="host_denied")
