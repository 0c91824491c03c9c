"""Interception on loopback: the session's authority, an origin under TLS, and clients of both."""

from __future__ import annotations

import datetime
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import trio
from origin import Origin, serving
from running_proxy import BOUND, Wire, connect, running
from transparent_cage import Cage, cage

from nono_trio.proxy.intercept.ca import Authority, new_authority
from nono_trio.proxy.intercept.interception import Interception
from nono_trio.proxy.intercept.session_authority import SessionAuthority
from nono_trio.proxy.intercept.upstream_tls import HostTls, UpstreamTls
from nono_trio.testing import FakeResolver, LoopbackDialler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from running_proxy import Running

HOST = "allowed.test"
REAL = "192.0.2.1"


@cache
def authority(name: str) -> Authority:
    """An authority of the tests; the same one for the same name."""
    return new_authority(name, datetime.datetime.now(datetime.UTC))


def interception(
    *, trusts: str = "origin", hosts: Mapping[str, HostTls] | None = None
) -> Interception:
    """The session's own authority, the origin's among the roots, and `hosts` with files."""
    servers = UpstreamTls([_der(authority(trusts))], hosts)
    return Interception(SessionAuthority(authority("session")), servers)


def _der(one: Authority) -> bytes:
    return ssl.PEM_cert_to_DER_cert(one.pem().decode("ascii"))


def client_context(*, trusts: str = "session", alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """A client that trusts one authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority(trusts).pem().decode("ascii"))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def origin_context(name: str = HOST) -> ssl.SSLContext:
    """The context of an origin."""
    return await SessionAuthority(authority("origin")).server_context(name)


@asynccontextmanager
async def under_tls(
    wire: Wire, name: str | None = HOST, context: ssl.SSLContext | None = None
) -> AsyncIterator[Wire]:
    """A client's connection after its handshake."""
    context = context or client_context()
    stream = trio.SSLStream(wire.stream, context, server_hostname=name, https_compatible=True)
    with trio.fail_after(BOUND):
        await stream.do_handshake()
    yield Wire(stream)  # type: ignore[arg-type]
    await trio.aclose_forcefully(stream)


@dataclass
class LookedInto:
    """A proxy that looks into HOST, its origin, and both ways to it."""

    proxy: Running
    origin: Origin
    interception: Interception

    @asynccontextmanager
    async def tunnel(self, target: str = f"{HOST}:443", name: str = HOST) -> AsyncIterator[Wire]:
        """A connection under TLS behind a CONNECT."""
        async with self.proxy.client() as wire:
            answer = await wire.exchange(connect(target), "CONNECT")
            assert answer is not None
            assert answer.status == 200
            async with under_tls(wire, name) as secure:
                yield secure

    def records(self) -> list[tuple[object, ...]]:
        """All events so far as (mode, decision, method, path)."""
        return [(e.mode, e.decision, e.method, e.path) for e in self.proxy.recorder.events]


@asynccontextmanager
async def looking_into(
    *rules: str,
    behaviour: Callable[[trio.SocketStream], Awaitable[None]] | None = None,
    name: str = HOST,
    allow: tuple[str, ...] = (HOST, f"{HOST}:8443"),
    trusts: str = "origin",
    hosts: Mapping[str, HostTls] | None = None,
    **settings: object,
) -> AsyncIterator[LookedInto]:
    """Yield a proxy with endpoint rules for HOST, or one that only looks into it."""
    tls = await origin_context(name)
    found = interception(trusts=trusts, hosts=hosts)
    async with (
        serving(behaviour, tls=tls) as origin,
        running(
            allow,
            resolver=FakeResolver({HOST: [[REAL]], "other.test": [[REAL]]}),
            dialler=LoopbackDialler(origin.port),
            endpoints=rules,
            intercept=[] if rules else [HOST],
            interception=found,
            **settings,  # type: ignore[arg-type]
        ) as proxy,
    ):
        yield LookedInto(proxy, origin, found)


@asynccontextmanager
async def looking_into_cage(
    *rules: str,
    behaviour: Callable[[trio.SocketStream], Awaitable[None]] | None = None,
    name: str = HOST,
    allow: tuple[str, ...] = (HOST, f"{HOST}:22"),
    **settings: object,
) -> AsyncIterator[tuple[Cage, Origin]]:
    """The same for programs that know of no proxy."""
    tls = await origin_context(name)
    async with (
        serving(behaviour, tls=tls) as origin,
        cage(
            *allow,
            origin=origin,
            endpoints=rules,
            intercept=[] if rules else [HOST],
            interception=interception(),
            **settings,
        ) as found,
    ):
        yield found, origin
