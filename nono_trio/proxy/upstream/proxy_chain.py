"""Connections through an upstream proxy: dialling it, asking it, and TLS to it.

Names go to it as names, so what only it can resolve works, and what they resolve to can't be
checked here: the rules for names and literals hold as ever, and the record's mode (`external`) says
where the request went. Our token never goes there; its own credentials come from `UpstreamProxy`.

Rules of this file: its answer is read as strictly as any response, within `ProxyLimits.head`; bytes
that follow a CONNECT's answer are the origin's and are kept; what it refuses is told with its
status, never with its words.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from nono_trio.core.http.response_head import MAX_INTERIM, BadResponse, parse_response, response_end
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.upstream_proxy import FLAG, PASSWORD_FLAG
from nono_trio.proxy.upstream.interfaces import DialFailed

if TYPE_CHECKING:
    import ssl

    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.upstream.interfaces import Dialler
    from nono_trio.proxy.upstream.resolver import AddressResolver

TlsStream: TypeAlias = "trio.SSLStream[trio.SocketStream]"

_READ: Final = 16 * 1024  # bytes at once: its answer, or a piece that is relayed under TLS
LOOK_SECONDS: Final = 1.0  # between two looks whether our side of a relay under TLS is closed
LAST_SECONDS: Final = 5.0  # for the proxy to take what was sent before our side was closed
AUTHENTICATE: Final = 407  # RFC 9110 15.5.8


class ProxyRejected(Exception):
    """The upstream proxy answered, and not with a tunnel; `reason` is one sentence."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class ProxyChain:
    """Opens connections through one upstream proxy."""

    def __init__(
        self, proxy: UpstreamProxy, resolver: AddressResolver, dialler: Dialler, limits: ProxyLimits
    ) -> None:
        self.proxy = proxy
        self._resolver = resolver
        self._dialler = dialler
        self._limits = limits
        self.authorization = _authorization(proxy)
        """The header lines that each request to the proxy needs."""
        self.relays: trio.Nursery | None = None
        """Where connections under TLS are relayed; set by the proxy while it serves."""
        self._context: ssl.SSLContext | None = None

    async def tunnel(self, host: Host, port: int) -> tuple[socket.socket, str, bytes]:
        """A tunnel to `host`: its socket, the proxy's address, and what the origin said already.

        Raises DialFailed, ProxyRejected. If cancelled, every socket is closed.
        """
        sock, address = await self.connect()
        try:
            with trio.move_on_after(self._limits.head):
                await _send_all(sock, _connect_head(self.proxy, host, port))
                return sock, address, await _read_answer(sock, self.proxy)
        except BaseException:
            sock.close()
            raise
        sock.close()
        reason = format_reason(DenialCode.UPSTREAM_TIMEOUT, seconds=self._limits.head)
        raise DialFailed(reason, 504)

    async def connect(self) -> tuple[socket.socket, str]:
        """A connection to the proxy itself, for a request in absolute form. As `tunnel`."""
        proxy = self.proxy
        addresses = await self._resolver.proxy_addresses(proxy)
        try:
            sock, address = await self._dialler(addresses)
        except DialFailed as failure:
            reason = format_reason(
                DenialCode.UPSTREAM_UNREACHABLE, proxy=proxy.shown, detail=failure.reason
            )
            raise DialFailed(reason, failure.status) from failure
        if proxy.scheme == "https":
            sock = await self._under_tls(sock)
        return sock, address

    async def _under_tls(self, sock: socket.socket) -> socket.socket:
        """The plain end of a pair whose other end is relayed to and from the proxy by TLS."""
        transport = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        name = self.proxy.host.name
        stream = trio.SSLStream(transport, self._tls_context(), server_hostname=name)
        try:
            await self._handshake(stream)
            near, far = socket.socketpair()
        except BaseException:
            transport.socket.close()
            raise
        near.setblocking(False)
        if self.relays is None:
            raise AssertionError("nothing is served, so nobody can have asked")
        self.relays.start_soon(_relay_tls, stream, trio.socket.from_stdlib_socket(far))
        return near

    async def _handshake(self, stream: TlsStream) -> None:
        """Raises DialFailed."""
        with trio.move_on_after(self._limits.head):
            try:
                return await stream.do_handshake()
            except trio.BrokenResourceError as error:
                raise _handshake_failure(error) from error
        raise DialFailed(format_reason(DenialCode.UPSTREAM_HANDSHAKE_TIMEOUT), 504)

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            import ssl  # late: only a proxy that speaks TLS needs it

            self._context = ssl.create_default_context()
        return self._context


def _handshake_failure(error: BaseException) -> DialFailed:
    reason = getattr(error.__cause__, "verify_message", None)
    if reason:
        hint = "set SSL_CERT_FILE, where nono-trio is started, to a file that has the proxy's CA"
        text = format_reason(DenialCode.UPSTREAM_BAD_CERTIFICATE, detail=reason)
        return DialFailed(text, hint=hint)
    hint = "write http:// in --upstream-proxy if it is spoken to without TLS, as most are"
    return DialFailed(format_reason(DenialCode.UPSTREAM_HANDSHAKE_FAILED), hint=hint)


async def _relay_tls(stream: TlsStream, far: trio.socket.SocketType) -> None:
    """Relay both ways until the proxy has ended, or our side is closed; closes both ends.

    A half-close of ours ends the upward half only: TLS has no other way to say it that proxies
    agree on. That our side is closed is looked for, as a proxy that takes no more bytes would keep
    us from reading the end, and the relay for ever.
    """
    plain = trio.SocketStream(far)
    sent = trio.Event()
    try:
        async with trio.open_nursery() as nursery:

            async def upwards() -> None:
                await _copy(plain, stream)
                sent.set()

            async def end_with_our_side() -> None:
                while not _is_closed(far):  # noqa: ASYNC110 (nothing tells of it)
                    await trio.sleep(LOOK_SECONDS)
                with trio.move_on_after(LAST_SECONDS):
                    await sent.wait()
                nursery.cancel_scope.cancel(reason="our side is closed")

            nursery.start_soon(upwards)
            nursery.start_soon(end_with_our_side)
            await _copy(stream, plain)
            nursery.cancel_scope.cancel(reason="the upstream proxy has ended")
    finally:
        plain.socket.close()
        stream.transport_stream.socket.close()


def _is_closed(far: trio.socket.SocketType) -> bool:
    """Whether the other end of a socket pair is closed, and not only for sending."""
    poll = select.poll()
    poll.register(far.fileno(), 0)
    return any(flags & select.POLLHUP for _, flags in poll.poll(0))


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    """Bytes until either side is done with them; both ends are closed by the caller."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while piece := await source.receive_some(_READ):
            await sink.send_all(piece)


def _connect_head(proxy: UpstreamProxy, host: Host, port: int) -> bytes:
    target = f"{host.bracketed()}:{port}".encode("ascii")
    lines = [b"CONNECT " + target + b" HTTP/1.1", b"Host: " + target, *_authorization(proxy)]
    return b"\r\n".join([*lines, b"", b""])


def _authorization(proxy: UpstreamProxy) -> list[bytes]:
    secret = proxy.authorization
    return [] if secret is None else [b"Proxy-Authorization: " + secret]


async def _send_all(sock: socket.socket, data: bytes) -> None:
    """Raises DialFailed."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            raise _broke(error) from error


async def _read_answer(sock: socket.socket, proxy: UpstreamProxy) -> bytes:
    """What follows the answer that lets a CONNECT through. Raises DialFailed, ProxyRejected."""
    data = b""
    for _ in range(1 + MAX_INTERIM):
        try:
            while (end := response_end(data)) < 0:
                data += await _receive(sock)
            status = parse_response(data[:end], "HEAD").status  # its body is none of our matter
        except BadResponse as fault:
            raise DialFailed(format_reason(DenialCode.UPSTREAM_BAD_ANSWER)) from fault
        data = data[end:]
        if status >= 200:
            _require_tunnel(status, proxy)
            return data
    raise DialFailed(format_reason(DenialCode.UPSTREAM_ENDLESS_ANSWER))


async def _receive(sock: socket.socket) -> bytes:
    """Raises DialFailed."""
    while True:
        try:
            piece = sock.recv(_READ)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        except OSError as error:
            raise _broke(error) from error
        if not piece:
            raise DialFailed(format_reason(DenialCode.UPSTREAM_CLOSED))
        return piece


def _require_tunnel(status: int, proxy: UpstreamProxy) -> None:
    if status < 300:  # RFC 9110 9.3.6: any 2xx
        return
    raise ProxyRejected(*rejection(status, proxy))


def rejection(status: int, proxy: UpstreamProxy) -> tuple[str, str | None]:
    """The reason and the hint for an answer of the proxy's that is no tunnel."""
    code, hint = DenialCode.UPSTREAM_REFUSED_USER, f"see {FLAG} and {PASSWORD_FLAG}"
    if status != AUTHENTICATE:
        return format_reason(DenialCode.UPSTREAM_REFUSED, proxy=proxy.shown, status=status), None
    if proxy.authorization is None:
        code = DenialCode.UPSTREAM_WANTS_USER
        hint = f"name the user in {FLAG} and give {PASSWORD_FLAG} env://VARIABLE"
    return format_reason(code, proxy=proxy.shown, status=status), hint


def _broke(error: OSError) -> DialFailed:
    detail = (error.strerror or "").lower()
    return DialFailed(format_reason(DenialCode.UPSTREAM_BROKE, detail=detail))
