"""Connections through an upstream proxy: dial it, send it a CONNECT, speak TLS to it.

The upstream proxy gets names, so it can resolve names that we can't. The addresses behind them
can't be checked here. Policy decides by name and literal as usual, and the record's mode
(`external`) says where the request went. Our token is never sent to it; its own credentials come
from `UpstreamProxy`.

Rules of this file:
- Its answer is parsed as strictly as any response, within `ProxyLimits.head`.
- Bytes that follow the answer to a CONNECT are the origin's and are kept.
- The reason of a refusal has the status of its answer, never its text.
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
    """The upstream proxy's answer opens no tunnel; `reason` is one sentence."""

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
        """The header lines that every request to the proxy needs."""
        self.relays: trio.Nursery | None = None
        """Gets the relays of connections under TLS; set by `Proxy` while it serves."""
        self._context: ssl.SSLContext | None = None

    async def tunnel(self, host: Host, port: int) -> tuple[socket.SocketType, str, bytes]:
        """Open a tunnel to `host`. Returns its socket, the proxy's address, and the bytes that the
        origin has already sent.

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

    async def connect(self) -> tuple[socket.SocketType, str]:
        """Connect to the proxy itself, for a request in absolute form. Raises as `tunnel` does."""
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

    async def _under_tls(self, sock: socket.SocketType) -> socket.SocketType:
        """Return one end of a socket pair; the other end is relayed to the proxy under TLS."""
        full = socket.socket(fileno=sock.detach())  # as trio needs it
        transport = trio.SocketStream(trio.socket.from_stdlib_socket(full))
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
            raise AssertionError("no proxy serves, so no request can have come")
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
            import ssl  # late: it is needed for an https proxy only

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
    """Relay both ways until the proxy has ended or our side is closed; then close both ends.

    A half-close of ours ends the upward half only, because proxies do not agree on a half-close
    under TLS. A task checks if our side is closed: a proxy that takes no more bytes would keep us
    from reading the end, and the relay would never end.
    """
    plain = trio.SocketStream(far)
    sent = trio.Event()
    try:
        async with trio.open_nursery() as nursery:

            async def upwards() -> None:
                await _copy(plain, stream)
                sent.set()

            async def end_with_our_side() -> None:
                while not _is_closed(far):  # noqa: ASYNC110 (no event tells)
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
    """Return whether the other end of a socket pair is closed in both directions."""
    poll = select.poll()
    poll.register(far.fileno(), 0)
    return any(flags & select.POLLHUP for _, flags in poll.poll(0))


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    """Copy bytes until one side has ended; the caller closes both."""
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


async def _send_all(sock: socket.SocketType, data: bytes) -> None:
    """Raises DialFailed."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            raise _broke(error) from error


async def _read_answer(sock: socket.SocketType, proxy: UpstreamProxy) -> bytes:
    """Read the answer to a CONNECT; returns the bytes after it. Raises DialFailed,
    ProxyRejected."""
    data = b""
    for _ in range(1 + MAX_INTERIM):
        try:
            while (end := response_end(data)) < 0:
                data += await _receive(sock)
            status = parse_response(data[:end], "HEAD").status  # the body is not read
        except BadResponse as fault:
            raise DialFailed(format_reason(DenialCode.UPSTREAM_BAD_ANSWER)) from fault
        data = data[end:]
        if status >= 200:
            _require_tunnel(status, proxy)
            return data
    raise DialFailed(format_reason(DenialCode.UPSTREAM_ENDLESS_ANSWER))


async def _receive(sock: socket.SocketType) -> bytes:
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
    """The reason and the hint for an answer of the proxy's that refuses."""
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
