"""The benchmark's HTTPS load generator: requests through a proxy that ends TLS.

Connections of the modes `h1`, `h2` and `events` are made first. Then the program prints `ready`,
waits for a line of its input and makes its requests, so that the caller can count those alone. At
the end it prints one JSON object: requests (events, bytes) that came back whole, seconds, and the
50th and 99th percentile of a request in microseconds.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import ssl
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from http2_bytes import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    frame,
    frames,
    greeting,
    request_block,
)

TIMEOUT: Final = 60.0  # seconds; a proxy that answers nothing for so long has failed
READ: Final = 1 << 20
STREAMS: Final = 8  # requests at once of one HTTP/2 connection
SMALL: Final = 2  # bytes of the body of /small
PIECE: Final = bytes(1 << 18)
FIELDS: Final = b"User-Agent: bench/1\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n\r\n"


class LoadFailed(Exception):
    """A proxy has not answered as it should."""


class Target:
    """How to get through the proxy to the origin."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.proxy = ("127.0.0.1", given.proxy)
        self.host, self.port = given.host, given.origin
        self.authority = f"{given.host}:{given.origin}"
        words = f"CONNECT {self.authority} HTTP/1.1\r\nHost: {self.authority}\r\n"
        if given.auth:
            words += f"Proxy-Authorization: Basic {given.auth}\r\n"
        self.connect = words.encode() + b"\r\n"
        self._context = ssl.create_default_context(cafile=given.ca)

    def offer(self, protocol: str) -> None:
        """Have the connections offer one protocol (ALPN)."""
        self._context.set_alpn_protocols([protocol])

    def open(self, host: str | None = None) -> ssl.SSLSocket:
        """A new connection: CONNECT, then TLS."""
        sock = socket.create_connection(self.proxy, TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = host or self.host
        sock.sendall(self.connect.replace(self.host.encode(), name.encode()))
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(4096)
            if not more:
                raise LoadFailed(f"the answer to CONNECT is {head[:200]!r}")
            head += more
        if not head.split(b"\r\n", 1)[0].split(b" ")[1:2] == [b"200"]:
            raise LoadFailed(f"the answer to CONNECT is {head[:200]!r}")
        return self._context.wrap_socket(sock, server_hostname=name)

    def get(self, path: str) -> bytes:
        """A request's head."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.authority}\r\n".encode() + FIELDS


class Requests:
    """The requests of all connections of a load: how many are left, and how long each took."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.wanted = count
        self.took: list[float] = []

    def begin(self) -> bool:
        """Take one; False if none is left."""
        if not self.left:
            return False
        self.left -= 1
        return True

    @property
    def is_done(self) -> bool:
        return len(self.took) >= self.wanted


class Http1:
    """One HTTP/1.1 connection, a request at a time."""

    def __init__(self, target: Target, requests: Requests) -> None:
        self.sock = target.open()
        self._request = target.get("/small")
        self._requests = requests
        self._held = b""
        self._began = 0.0

    def begin(self) -> None:
        """Send a request if one is left."""
        if self._requests.begin():
            self._began = time.perf_counter()
            self.sock.sendall(self._request)

    def take(self, data: bytes) -> None:
        """Take a part of the answer; begin the next request after its end."""
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0 or len(self._held) < end + 4 + SMALL:
            return
        if not self._held.startswith(b"HTTP/1.1 200") or len(self._held) > end + 4 + SMALL:
            raise LoadFailed(f"the answer is {self._held[:300]!r}")
        self._held = b""
        self._requests.took.append(time.perf_counter() - self._began)
        self.begin()


class Http2:
    """One HTTP/2 connection with STREAMS requests at once."""

    def __init__(self, target: Target, requests: Requests) -> None:
        self.sock = target.open()
        if self.sock.selected_alpn_protocol() != "h2":
            raise LoadFailed("the proxy does not offer HTTP/2")
        self._requests = requests
        self._block = request_block(target.authority, "/small")
        self._held = bytearray()
        self._began: dict[int, float] = {}
        self._next = 1
        self._has_begun = False
        self.sock.sendall(greeting(is_client=True))

    def begin(self) -> None:
        """Send requests until STREAMS are open."""
        self._has_begun = True
        out = b""
        while len(self._began) < STREAMS and self._requests.begin():
            out += frame(HEADERS, END_HEADERS | END_STREAM, self._next, self._block.next())
            self._began[self._next] = time.perf_counter()
            self._next += 2
        if out:
            self.sock.sendall(out)

    def take(self, data: bytes) -> None:
        """Take frames; begin other requests for those that have ended."""
        self._held += data
        for kind, flags, stream, content in frames(self._held):
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.sock.sendall(frame(kind, ACK, 0, content if kind == PING else b""))
            elif kind in (RESET, GOAWAY):
                raise LoadFailed(f"a frame of the type {kind} came")
            elif kind == DATA and content not in (b"", b"ok"):
                raise LoadFailed(f"the answer is {content[:300]!r}")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self._requests.took.append(time.perf_counter() - self._began.pop(stream))
        if self._has_begun:
            self.begin()


class Events:
    """One stream of server-sent events. Every stream gets one, then all the next."""

    def __init__(self, target: Target, requests: Requests) -> None:
        self.sock = target.open()
        self._requests = requests
        self.sock.sendall(target.get("/events"))
        held = b""
        while b": open\n\n" not in held:
            more = self.sock.recv(4096)
            if not more:
                raise LoadFailed(f"the answer is {held[:300]!r}")
            held += more
        if not held.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"the answer is {held[:300]!r}")

    def begin(self) -> None:
        """Nothing: the datagrams begin."""

    def take(self, data: bytes) -> None:
        """Count events."""
        self._requests.took += [0.0] * data.count(b"\n\n")


def run(kind: type[Http1 | Http2 | Events], target: Target, given: argparse.Namespace) -> None:
    """Make the connections, and then the requests."""
    target.offer("h2" if kind is Http2 else "http/1.1")
    requests = Requests(given.count)
    opened = [kind(target, requests) for _ in range(given.clients)]
    epoll = select.epoll()
    by_number = {}
    for one in opened:
        one.sock.setblocking(False)
        by_number[one.sock.fileno()] = one
        epoll.register(one.sock, select.EPOLLIN)
    _settle(epoll, by_number)
    began = _wait_for_line()
    for one in opened:
        one.begin()
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked = 0
    while not requests.is_done:
        if kind is Events and len(requests.took) >= asked:
            asking.sendto(b"go", ("127.0.0.1", target.port))
            asked += len(opened)
        _turn(epoll, by_number, TIMEOUT)
    _report(requests.took, time.perf_counter() - began, len(requests.took))


def _settle(epoll: select.epoll, by_number: dict[int, Http1 | Http2 | Events]) -> None:
    """Take what comes before the first request: settings, tickets."""
    while _turn(epoll, by_number, 0.2):
        pass


def _turn(
    epoll: select.epoll, by_number: dict[int, Http1 | Http2 | Events], seconds: float
) -> bool:
    ready = epoll.poll(seconds)
    if not ready and seconds == TIMEOUT:
        raise LoadFailed("the proxy does not answer any more")
    for number, _ in ready:
        one = by_number[number]
        try:
            while True:
                data = one.sock.recv(READ)
                if not data:
                    raise LoadFailed("the proxy has closed a connection")
                one.take(data)
                if not one.sock.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            continue
    return bool(ready)


def run_new(target: Target, given: argparse.Namespace) -> None:
    """A connection for each request."""
    target.offer("http/1.1")
    request = target.get("/small")

    def one(_: int) -> float:
        began = time.perf_counter()
        with target.open() as sock:
            sock.sendall(request)
            held = b""
            while not held.endswith(b"\r\n\r\nok"):
                more = sock.recv(4096)
                if not more:
                    raise LoadFailed(f"the answer is {held[:300]!r}")
                held += more
        return time.perf_counter() - began

    began = _wait_for_line()
    with ThreadPoolExecutor(given.clients) as pool:
        took = [*pool.map(one, range(given.count))]
    _report(took, time.perf_counter() - began, len(took))


def run_bulk(target: Target, given: argparse.Namespace) -> None:
    """One large body after the other, from the origin or (`up`) to it."""
    target.offer("http/1.1")
    space = bytearray(READ)
    sock = target.open()
    began, took = _wait_for_line(), []
    for _ in range(given.count):
        started = time.perf_counter()
        if given.mode == "up":
            head = f"POST /sink HTTP/1.1\r\nHost: {target.authority}\r\n".encode()
            sock.sendall(head + b"Content-Length: %d\r\n" % given.size + FIELDS)
            left = given.size
            while left:
                left -= sock.send(PIECE[: min(left, len(PIECE))])
            wanted = SMALL
        else:
            sock.sendall(target.get(f"/bytes/{given.size}"))
            wanted = given.size
        _read_body(sock, space, wanted)
        took.append(time.perf_counter() - started)
    _report(took, time.perf_counter() - began, given.count * given.size)


def _read_body(sock: ssl.SSLSocket, space: bytearray, wanted: int) -> None:
    held = b""
    while b"\r\n\r\n" not in held:
        more = sock.recv(4096)
        if not more:
            raise LoadFailed("no answer came")
        held += more
    head, _, body = held.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadFailed(f"the answer is {held[:300]!r}")
    if b"chunked" in head.lower():
        raise LoadFailed("the proxy has changed the framing of the body")
    wanted -= len(body)
    while wanted > 0:
        count = sock.recv_into(space)
        if not count:
            raise LoadFailed("the body was cut off")
        wanted -= count


def run_hosts(target: Target, given: argparse.Namespace) -> None:
    """A request to each of `count` hosts (addresses of loopback), whose connections stay open."""
    target.offer("http/1.1")
    began, opened = _wait_for_line(), deque[ssl.SSLSocket]()
    for number in range(given.count):
        sock = target.open(f"127.0.1.{number + 1}")
        request = target.get("/small").replace(b"127.0.0.1", b"127.0.1.%d" % (number + 1))
        sock.sendall(request)
        _read_body(sock, bytearray(64), SMALL)
        opened.append(sock)
    _report([0.0], time.perf_counter() - began, given.count)
    sys.stdin.readline()


def _wait_for_line() -> float:
    print("ready", flush=True)
    sys.stdin.readline()
    return time.perf_counter()


def _report(took: list[float], seconds: float, amount: int) -> None:
    took.sort()
    at = {name: took[int((len(took) - 1) * part)] * 1e6 for name, part in _PARTS.items()}
    print(json.dumps({"amount": amount, "seconds": seconds, **at}), flush=True)


_PARTS: Final = {"p50_us": 0.5, "p99_us": 0.99}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["h1", "h2", "events", "new", "bulk", "up", "hosts"])
    parser.add_argument("--proxy", type=int, required=True)
    parser.add_argument("--origin", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ca", required=True)
    parser.add_argument("--auth", default="")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--size", type=int, default=0)
    given = parser.parse_args()
    target = Target(given)
    kinds = {"h1": Http1, "h2": Http2, "events": Events}
    if given.mode in kinds:
        run(kinds[given.mode], target, given)
    elif given.mode == "new":
        run_new(target, given)
    elif given.mode == "hosts":
        run_hosts(target, given)
    else:
        run_bulk(target, given)


if __name__ == "__main__":
    try:
        main()
    except (LoadFailed, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
