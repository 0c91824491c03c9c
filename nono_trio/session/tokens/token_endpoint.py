"""Asks a token endpoint: one connection of the supervisor's own, one POST, one answer.

Rules of this file:
- It blocks, and is called in a thread. Nothing here knows the loop. Each step ends at one deadline,
  but for a look-up, which the system ends: who waits for the answer has a deadline of its own.
- TLS is verified as that of any server (proxy/intercept/host_tls.py); http:// goes to loopback and
  private addresses only. Names are looked up here, outside of the cage, and every address is
  checked before it is dialled. The user has named the host, so host rules are not asked.
- The upstream proxy of the session is used, by CONNECT, unless it is not for this host. An
  https:// proxy is not supported: TLS within TLS is what the loop's own transports are for.
- A redirect is not followed: it would carry the client's secret to another host.
- No error has a part of the request or of the answer's body.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.token_answer import MAX_ANSWER, BadAnswer
from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.response_head import MAX_INTERIM, BadResponse, parse_response, response_end
from nono_trio.proxy.intercept.host_tls import HTTP1_ONLY, HostTls, client_context_for
from nono_trio.proxy.intercept.tls_failures import upstream_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.credentials.oauth2 import TokenRequest
    from nono_trio.core.credentials.token_url import TokenUrl
    from nono_trio.core.http.response_head import ResponseHead
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy

SECONDS: Final = 10.0  # for connection, request and answer
MAX_ADDRESSES: Final = 8  # of one name that are tried
_READ: Final = 16 * 1024


class EndpointFailed(Exception):
    """There is no answer; `reason` is a sentence without a full stop, `hint` says what helps."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its whole body."""

    status: int
    content_type: bytes | None
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"


@dataclass(frozen=True, slots=True)
class Route:
    """How hosts are reached: the roots (DER) and files of single hosts, pins of --resolve, and the
    upstream proxy. `look_up` blocks and raises OSError."""

    roots: Sequence[bytes]
    look_up: Callable[[str], Sequence[str]]
    pinned: Callable[[Host, int], Sequence[str] | None] = lambda _host, _port: None
    host_tls: Callable[[str], HostTls] = lambda _host: HostTls()
    proxy: UpstreamProxy | None = None


class TokenEndpoint:
    """Asks one URL, again and again. One question at a time."""

    def __init__(self, url: TokenUrl, route: Route) -> None:
        self._url = url
        self._route = route
        self._context: ssl.SSLContext | None = None
        self._open: socket.socket | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def post(self, request: TokenRequest) -> Answer:
        """Send a request and return its answer. Raises EndpointFailed."""
        deadline = time.monotonic() + SECONDS
        try:
            return self._post(request, deadline)
        except TimeoutError:
            reason = f"{self._url.authority} did not answer within {SECONDS:.0f} s"
        except ssl.SSLError as error:
            raise self._tls_failed(error) from None
        except OSError as error:
            detail = (error.strerror or "the connection broke").lower()
            reason = f"{self._url.authority} can't be reached: {detail}"
        except (BadResponse, BadBody) as fault:
            reason = f"{self._url.authority}: {fault.reason}"
        except BadAnswer as bad:
            reason = f"the answer of {self._url.authority} {bad.reason}"
        finally:
            self._close()
        raise EndpointFailed(reason)

    def stop(self) -> None:
        """End a question that another thread asks, and let none begin."""
        with self._lock:
            self._stopped = True
            if self._open is not None:
                with suppress(OSError):
                    self._open.shutdown(socket.SHUT_RDWR)

    def _post(self, request: TokenRequest, deadline: float) -> Answer:
        sock = self._connect(deadline)
        if self._url.scheme == "https":
            if self._context is None:
                files = self._route.host_tls(self._url.host.name)
                self._context = client_context_for(self._route.roots, files, HTTP1_ONLY)
            _bound(sock, deadline)
            name = self._url.host.name
            sock = self._keep(self._context.wrap_socket(sock, server_hostname=name))
        lines = [f"POST {self._url.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.fields]
        lines += [f"Content-Length: {len(request.body)}", "", ""]
        _bound(sock, deadline)
        sock.sendall("\r\n".join(lines).encode("ascii") + request.body)
        return _read_answer(sock, deadline)

    def _connect(self, deadline: float) -> socket.socket:
        """Connect to the endpoint's host, by the upstream proxy if there is one."""
        host, port = self._url.host, self._url.port
        pinned = self._route.pinned(host, port)
        proxy = self._route.proxy
        if proxy is None or pinned is not None or proxy.bypass.covers(host):
            addresses = pinned or ((host.name,) if host.address else self._look_up(host.name))
            if not addresses or not all(self._url.may_dial(ip_address(one)) for one in addresses):
                raise EndpointFailed(
                    f"{self._url.authority} has no address that tokens may go to",
                    "http:// is for loopback and private addresses alone",
                )
            return self._dial(addresses, port, deadline)
        if proxy.scheme == "https" or self._url.scheme == "http":
            raise EndpointFailed(
                f"{self._url.authority} can't be reached through the upstream proxy",
                f"connect directly: --upstream-bypass {host.name}",
            )
        near = (proxy.host.name,) if proxy.host.address else self._look_up(proxy.host.name)
        sock = self._dial(near, proxy.port, deadline)
        _bound(sock, deadline)
        sock.sendall(_connect_head(proxy, host, port))
        head, rest = _read_head(sock, b"", "HEAD", deadline)
        if not 200 <= head.status < 300 or rest:
            raise EndpointFailed(f"the upstream proxy refused the connection ({head.status})")
        return sock

    def _look_up(self, name: str) -> Sequence[str]:
        try:
            return self._route.look_up(name)
        except (OSError, UnicodeError):
            raise EndpointFailed(f"the name {name} can't be resolved") from None

    def _dial(self, addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
        last: OSError = OSError()
        for number, address in enumerate(addresses[:MAX_ADDRESSES]):
            others = min(len(addresses), MAX_ADDRESSES) - number
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sock = self._keep(socket.socket(family, socket.SOCK_STREAM))
                sock.settimeout(max((deadline - time.monotonic()) / others, 0.001))
                sock.connect((address, port))
            except OSError as error:
                last = error
                self._close()
            else:
                return sock
        raise last

    def _keep(self, sock: socket.socket) -> socket.socket:
        """Remember a socket, so that `stop` can end what waits for it."""
        with self._lock:
            self._open = sock
            if self._stopped:
                raise EndpointFailed("the session has ended")
        return sock

    def _close(self) -> None:
        with self._lock:
            sock, self._open = self._open, None
        if sock is not None:
            sock.close()

    def _tls_failed(self, error: ssl.SSLError) -> EndpointFailed:
        hint = None
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = "trust its issuer with --upstream-ca FILE"
        return EndpointFailed(f"{self._url.authority}: {upstream_failure(error)}", hint)


def _bound(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _connect_head(proxy: UpstreamProxy, host: Host, port: int) -> bytes:
    where = f"{host.bracketed()}:{port}".encode("ascii")
    lines = [b"CONNECT " + where + b" HTTP/1.1", b"Host: " + where]
    if proxy.authorization is not None:
        lines.append(b"Proxy-Authorization: " + proxy.authorization)
    return b"\r\n".join([*lines, b"", b""])


def _receive(sock: socket.socket, deadline: float) -> bytes:
    _bound(sock, deadline)
    try:
        return sock.recv(_READ)
    except ssl.SSLZeroReturnError:
        return b""


def _read_head(
    sock: socket.socket, data: bytes, method: str, deadline: float
) -> tuple[ResponseHead, bytes]:
    """Return the final head, and the bytes after it. Raises BadResponse, OSError."""
    for _ in range(1 + MAX_INTERIM):
        while (end := response_end(data)) < 0:
            piece = _receive(sock, deadline)
            if not piece:
                raise BadResponse("it closed the connection without an answer")
            data += piece
        head = parse_response(data[:end], method)
        data = data[end:]
        if not head.is_interim:
            return head, data
    raise BadResponse("it sent too many interim responses")


def _read_answer(sock: socket.socket, deadline: float) -> Answer:
    head, raw = _read_head(sock, b"", "POST", deadline)
    body = bytearray()
    while not head.body.done:
        data, taken = head.body.read(raw)
        body += data
        raw = raw[taken:]
        if len(body) > MAX_ANSWER:
            raise BadAnswer(f"is longer than {MAX_ANSWER} bytes")
        if not head.body.done:
            piece = _receive(sock, deadline)
            if not piece:
                break
            raw += piece
    types = [value for name, value in head.fields if name.lower() == b"content-type"]
    return Answer(head.status, types[0] if len(types) == 1 else None, bytes(body))
