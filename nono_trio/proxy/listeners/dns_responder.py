"""The name service of the cage: answers each name with an address that leads back to the proxy.

No query is forwarded, so none can carry data out: answers come from the table of fake addresses,
and the supervisor looks a name up later, after a connection to it was allowed.

A denied name gets an address like any other. Programs would report "no such name" as a typing error
or a broken network, and the attempt would end there. With an address the program connects, the
decision is recorded with its port, and the program can show the refusal (403, a TLS alert). The
query itself is recorded, too, because a program may send queries only, as a DNS tunnel does. A name
with a credential's stand-in does not exist, and its record shows the last labels only. A
query about a service of an allowed host (`_8443._https.web.example.com`, which browsers send beside
the query for the host) counts as one for that host.

Rules of this file: a query for a denied name is in the log, or counted (denial_throttle.py), before
it is answered. So is a message that is no query: it may carry data to a server of the command's
choice, whose address is the record's target. A query that can't be answered ends nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from nono_trio.core.http.bad_request import MAX_SHOWN_TARGET
from nono_trio.core.late import late_pattern
from nono_trio.core.log.notices import LOOK_UPS_TARGET
from nono_trio.core.net import dns
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.core.net.host import BadHost, Host, parse_host
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.cage_names import LOOPBACK_IPV4, LOOPBACK_IPV6
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ANY_PORT, LOCALHOST, is_localhost
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.decision import Decision, host_denied
from nono_trio.proxy.access.denial_throttle import DenialThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.core.net.address import Address
    from nono_trio.core.net.fake_ip import FakeAddresses
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.denial_throttle import IsReason
    from nono_trio.proxy.credentials.credentials import Credentials

logger = logging.getLogger(__name__)

DNS_PORT: Final = 53

# The labels before a host's name in a query about its services: _imaps._tcp (RFC 2782), _443._tcp
# (RFC 6698), _8443._https (RFC 9460), _dmarc (RFC 8552). A port, or a service's name of 15
# characters at most (RFC 6335 5.1): a tunnel that puts its data there has 30 characters a query,
# and no server reads them, because no query is forwarded.
_SERVICE: Final = late_pattern(r"(?:_[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?\.){1,2}")


class NameService:
    """Answers DNS messages for one session.

    `own_names` are the names that mean the cage, in lower case, with their addresses in it.
    """

    def __init__(
        self,
        names: FakeAddresses,
        policy: Policy,
        recorder: RecordsDecisions,
        *,
        own_names: Mapping[str, Sequence[Address]] | None = None,
        clock_ms: Callable[[], int] = unix_ms,
        is_reason: IsReason | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._names = names
        self._credentials = credentials
        self._policy = policy
        self._ports = (*sorted(policy.named_ports), ANY_PORT)
        self._own_names = own_names or {}
        self._denials = DenialThrottle(recorder, clock_ms, is_reason)
        self._recorder = recorder
        self._clock_ms = clock_ms
        self.lost = 0
        """Queries that the kernel has dropped because they came too fast; known at the end."""

    async def reply(
        self,
        message: bytes,
        origin: RecordOrigin | None = None,
        will_wait: Callable[[], None] | None = None,
    ) -> bytes | None:
        """The answer to one message, None for silence. `will_wait` is called before it waits for a
        record. Raises AuditLost and SessionSealed, else
        nothing; if cancelled, a denial may be recorded that was not answered."""
        try:
            query = dns.parse_query(message)
        except dns.BadQuery as fault:
            try:
                await self._record_no_query(fault, origin, will_wait)
            except AuditBusy:  # it stays counted
                return None
            return fault.reply
        try:
            return await self._answer(query, origin, will_wait)
        except AuditBusy:  # no record, so no action
            return dns.empty_answer(query, dns.SERVER_FAILURE)
        except (AuditLost, SessionSealed):
            raise
        except Exception as error:  # one bad query must not end the session of all the others
            logger.error("a DNS query was dropped by a bug: %s", type(error).__name__)  # noqa: TRY400
            logger.debug("its cause", exc_info=True)
            return None

    async def record_empty_connection(self, server: str, origin: RecordOrigin | None) -> None:
        """Record a connection to `server` that ended without a query, or count it. Raises
        AuditBusy, AuditLost and SessionSealed."""
        reason = format_reason(DenialCode.NO_QUERY, detail="no whole message came")
        await self._deny_server(server, "TCP", reason, origin)

    async def record_suppressed(self) -> None:
        """At the end of the session: record how many queries no record has told of, and how many
        were lost. Raises nothing."""
        if self.lost:
            lost = _denied(LOOK_UPS_TARGET, format_reason(DenialCode.QUERIES_LOST, count=self.lost))
            with suppress(AuditBusy, AuditLost, SessionSealed):
                await self._recorder.record(lost.event(self._clock_ms()))
        await self._denials.record_suppressed(
            partial(_denied, LOOK_UPS_TARGET), DenialCode.QUERIES_SUPPRESSED
        )

    async def _answer(
        self, query: dns.Query, origin: RecordOrigin | None, will_wait: Callable[[], None] | None
    ) -> bytes:
        name = query.name
        if await self._is_exfiltration(name, origin, will_wait):
            return dns.empty_answer(query, dns.NO_SUCH_NAME)
        if query.kind == dns.PTR and (address := dns.reversed_address(name)) is not None:
            return self._pointer(query, address)
        if not name:  # the root: asked for its servers, never for an address
            return dns.empty_answer(query)
        if is_localhost(name):
            return dns.address_answer(query, LOOPBACK_IPV4, LOOPBACK_IPV6)
        if (own := self._own_names.get(name)) is not None:
            return dns.address_answer(query, *own)
        host = _host(name)
        if host is None:
            await self._deny(name, format_reason(DenialCode.NAME_IMPOSSIBLE), origin, will_wait)
            return dns.empty_answer(query, dns.NO_SUCH_NAME)
        if not self._is_allowed(host) and not self._is_service(query):
            await self._deny(
                host.name, format_reason(DenialCode.NAME_NOT_ALLOWED), origin, will_wait
            )
        return self._fake_answer(query, host)

    async def _is_exfiltration(
        self, name: str, origin: RecordOrigin | None, will_wait: Callable[[], None] | None
    ) -> bool:
        """Deny a name that has a stand-in; return False for any other one."""
        refusal = None if self._credentials is None else self._credentials.refused_name(name)
        if refusal is None:
            return False
        await self._deny(name, refusal.reason, origin, will_wait)
        return True

    def _pointer(self, query: dns.Query, address: IPv4Address | IPv6Address) -> bytes:
        name = self._names.name_of(address)
        if address in (LOOPBACK_IPV4, LOOPBACK_IPV6):
            name = LOCALHOST
        if name is None:
            return dns.empty_answer(query, dns.NO_SUCH_NAME)
        return dns.pointer_answer(query, name)

    def _fake_answer(self, query: dns.Query, host: Host) -> bytes:
        if query.kind not in (dns.A, dns.AAAA):
            return dns.empty_answer(query)
        addresses = self._names.addresses_of(host.name)
        if addresses is None:
            return dns.empty_answer(query, dns.SERVER_FAILURE)
        return dns.address_answer(query, *addresses)

    def _is_allowed(self, host: Host) -> bool:
        """Return whether any port of `host` is allowed; ANY_PORT is any port without an entry."""
        return any(self._policy.decide(host, port).allowed for port in self._ports)

    def _is_service(self, query: dns.Query) -> bool:
        """Return whether a query is about a service of an allowed host or of the cage itself. A
        query for addresses is about a host, never about a service."""
        if query.kind in (dns.A, dns.AAAA) or (name := _host_of_service(query.name)) is None:
            return False
        if is_localhost(name) or name in self._own_names:
            return True
        host = _host(name)
        return host is not None and self._is_allowed(host)

    async def _record_no_query(
        self,
        fault: dns.BadQuery,
        origin: RecordOrigin | None,
        will_wait: Callable[[], None] | None,
    ) -> None:
        reason = format_reason(DenialCode.NO_QUERY, detail=fault.reason)
        if fault.name is not None:
            if await self._is_exfiltration(fault.name, origin, will_wait):
                return
            await self._deny(fault.name, reason, origin, will_wait)
            return
        server, protocol = "", "UDP"
        if isinstance(origin, Endpoints):
            server, protocol = origin.server, origin.protocol.upper()
        await self._deny_server(server, protocol, reason, origin, will_wait)

    async def _deny_server(
        self,
        server: str,
        protocol: str,
        reason: str,
        origin: RecordOrigin | None,
        will_wait: Callable[[], None] | None = None,
    ) -> None:
        decision = host_denied(server, DNS_PORT, reason, method=protocol)
        await self._denials.record(f"{server} {protocol}", decision, origin, will_wait)

    async def _deny(
        self,
        name: str,
        reason: str,
        origin: RecordOrigin | None,
        will_wait: Callable[[], None] | None,
    ) -> None:
        if self._credentials is not None:
            name = self._credentials.shown_name(name)
        await self._denials.record(name, _denied(name, reason), origin, will_wait)


def _denied(target: str, reason: str) -> Decision:
    return host_denied(target[:MAX_SHOWN_TARGET], DNS_PORT, reason, method=LOOK_UP)


def _host_of_service(name: str) -> str | None:
    """The host behind the labels of a service; None for a name without them."""
    match = _SERVICE.match(name)
    return name[match.end() :] if match is not None else None


def _host(name: str) -> Host | None:
    try:
        host = parse_host(name)
    except BadHost:
        return None
    return host if host.address is None else None  # an IP address is not a name
