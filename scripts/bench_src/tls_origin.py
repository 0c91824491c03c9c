"""The benchmark's HTTPS server: HTTP/1.1 and HTTP/2, one thread with epoll.

    GET /small      a body of two bytes; also over HTTP/2
    GET /bytes/N    N bytes
    GET /events     server-sent events, chunked: one to each open stream for each UDP datagram that
                    comes to the server's port
    POST /sink      takes a body and answers as /small does

`python tls_origin.py CHAIN` prints its port. The bytes of a request are trusted: only our own load
generator sends any, through the proxies that are measured.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from typing import Final

from http2_bytes import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    frame,
    frames,
    greeting,
    response_block,
)

BODY: Final = b"ok"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
SMALL: Final = HEAD % (b"text/plain", b"Content-Length: 2") + BODY
# A proxy may pass the head on with the first bytes of the body only, so there is a comment.
STREAM: Final = (
    HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked") + b"8\r\n: open\n\n\r\n"
)
TEXT: Final = b'data: {"type":"delta","index":0,"text":"some words of a model"}\n\n'
EVENT: Final = b"%x\r\n%b\r\n" % (len(TEXT), TEXT)
READ: Final = 256 * 1024
PIECE: Final = bytes(range(256)) * 1024  # of a large body


class Connection:
    """One client."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.out = b""
        self.left = 0  # bytes of a large body that were not made yet
        self.sink = 0  # bytes of a request's body that have not come yet
        self.is_open = False
        self.has_events = False
        self.held = bytearray()
        self.is_http2 = False
        self.has_preface = False
        self.block = response_block(len(BODY))

    def turn(self, space: bytearray) -> bool:
        """Move what can be moved; False at the end."""
        try:
            if not self.is_open:
                self.sock.do_handshake()
                self.is_open = True
                self.is_http2 = self.sock.selected_alpn_protocol() == "h2"
                self.out = greeting(is_client=False) if self.is_http2 else b""
            while self._send():
                count = self.sock.recv_into(space)
                if not count:
                    return False
                self._take(memoryview(space)[:count])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            return False
        return True

    def _send(self) -> bool:
        while self.out or self.left:
            if not self.out:
                self.out = PIECE[: self.left]
                self.left -= len(self.out)
            self.out = self.out[self.sock.send(self.out) :]
        return True

    def _take(self, data: memoryview) -> None:
        if self.sink:
            self.sink -= len(data)
            self.out += b"" if self.sink else SMALL
            return
        self.held += data
        if self.is_http2:
            self._answer_http2()
            return
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head, rest = bytes(self.held[:end]), len(self.held) - end - 4
            del self.held[: end + 4]
            if head.startswith(b"GET /bytes/"):
                self.left = int(head[11 : head.index(b" ", 11)])
                self.out += HEAD % (b"text/plain", b"Content-Length: %d" % self.left)
            elif head.startswith(b"GET /events"):
                self.has_events = True
                self.out += STREAM
            elif head.startswith(b"POST"):
                at = head.lower().index(b"content-length:") + 15
                self.sink = int(head[at:].split(b"\r\n", 1)[0]) - rest
                self.held.clear()
                self.out += b"" if self.sink else SMALL
            else:
                self.out += SMALL

    def _answer_http2(self) -> None:
        if not self.has_preface:
            if len(self.held) < len(PREFACE):
                return
            del self.held[: len(PREFACE)]
            self.has_preface = True
        answers = []
        for kind, flags, stream, content in frames(self.held):
            if kind == HEADERS:
                answers.append(frame(HEADERS, END_HEADERS, stream, self.block.next()))
                answers.append(frame(DATA, END_STREAM, stream, BODY))
            elif kind in (SETTINGS, PING) and not flags & ACK:
                answers.append(frame(kind, ACK, 0, content if kind == PING else b""))
        self.out += b"".join(answers)


class Server:
    """All connections, and the datagrams that ask for events."""

    def __init__(self, chain: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._listener = socket.create_server(("", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._asked.bind(("127.0.0.1", self.port))
        self._epoll = select.epoll()
        for sock in (self._listener, self._asked):
            self._epoll.register(sock, select.EPOLLIN)
        self._open: dict[int, Connection] = {}
        self._space = bytearray(READ)

    def serve(self) -> None:
        """Serve until the process is ended."""
        both = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
        while True:
            for number, _ in self._epoll.poll():
                if number == self._listener.fileno():
                    sock, _ = self._listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setblocking(False)
                    tls = self._context.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                    self._open[tls.fileno()] = Connection(tls)
                    self._epoll.register(tls, both)
                elif number == self._asked.fileno():
                    self._asked.recv(16)
                    for one in [*self._open.values()]:
                        if one.has_events:
                            one.out += EVENT
                            self._turn(one)
                elif number in self._open:
                    self._turn(self._open[number])

    def _turn(self, one: Connection) -> None:
        number = one.sock.fileno()
        if not one.turn(self._space):
            del self._open[number]
            one.sock.close()


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print(server.port, flush=True)
    server.serve()
