"""The server of the one intercepted host of canaries.py. It keeps all that it gets, and is lenient.

It takes every line that looks like a request line for a request, and answers it. So a request that
hides in another one, or behind it, is served here too, and the tag in its path has arrived.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from nono_trio.audit.read.records import records
from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "seen.example.com"
PROTOCOLS = ("h2", "http/1.1")
BOUND = 60.0
MARK = re.compile(r"mark-([0-9a-f]{8})\.example\.com")
_REQUEST_LINE = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.[01]\r?\n")
_LAX = {
    "header_encoding": False,
    "validate_inbound_headers": False,
    "normalize_inbound_headers": False,
}


class InterceptedOrigin:
    """Listens on `port` under TLS; `ca` is the file of its authority. `seen` gets what arrives."""

    def __init__(self, base: Path, seen: Callable[[bytes], None]) -> None:
        authority = new_authority("canary", datetime.datetime.now(datetime.UTC))
        self.ca = base / "canary-ca.pem"
        self.ca.write_bytes(authority.pem())
        self._context = trio.run(SessionAuthority(authority).server_context, HOST, PROTOCOLS)
        self._seen = seen
        self._state = base / "state"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def rules(self) -> list[str]:
        """The flags that open a part of the host."""
        host = f"{HOST}:{self.port}"
        rule = f"GET,POST https://{host}/ok/**"
        pinned = f"{host}:127.0.0.1"
        tool = f"search https://{host}/mcp"
        return [
            "--allow-endpoint", rule, "--allow-mcp-tool", tool, "--resolve", pinned,
            "--upstream-ca", str(self.ca),
        ]  # fmt: skip

    def refusals(self) -> dict[str, list[str]]:
        """The reasons of the refused requests behind each record that divides attempts, by its
        tag."""
        found: dict[str, list[str]] = {}
        behind: list[str] = []
        for log in self._state.glob("audit/*/audit-events.ndjson"):
            for record in records(log):
                event = getattr(record.event, "event", None)
                mark = MARK.fullmatch(getattr(event, "target", ""))
                if mark is not None:
                    behind = found.setdefault(f"tag-{mark[1]}", [])
                elif getattr(event, "decision", "") == "deny":
                    behind.append(str(getattr(event, "reason", "")))
        return found

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(BOUND)
        with connection, contextlib.suppress(OSError, ProtocolError):
            self._seen(connection.recv(4096, socket.MSG_PEEK))
            with self._context.wrap_socket(connection, server_side=True) as secure:
                if secure.selected_alpn_protocol() == "h2":
                    self._serve_http2(secure)
                else:
                    self._serve_http1(secure)

    def _serve_http1(self, secure: ssl.SSLSocket) -> None:
        while data := secure.recv(65_536):
            self._seen(data)
            for path in _REQUEST_LINE.findall(data):
                secure.sendall(_answer(path))

    def _serve_http2(self, secure: ssl.SSLSocket) -> None:
        server = H2Connection(H2Configuration(client_side=False, **_LAX))
        server.initiate_connection()
        secure.sendall(server.data_to_send())
        paths: dict[int, bytes] = {}
        while data := secure.recv(65_536):
            for event in server.receive_data(data):
                if isinstance(event, RequestReceived):
                    self._seen(repr(event.headers).encode())
                    paths[event.stream_id] = dict(event.headers)[b":path"]
                elif isinstance(event, DataReceived):
                    self._seen(event.data)
                elif isinstance(event, StreamEnded):
                    server.send_headers(event.stream_id, [(b":status", b"200")])
                    body = b"saw " + paths[event.stream_id]
                    server.send_data(event.stream_id, body, end_stream=True)
            secure.sendall(server.data_to_send())


def _answer(path: bytes) -> bytes:
    """The answer to one request. For `/ok/switch` it pretends that it has switched protocols."""
    if path == b"/ok/switch":
        return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    body = b"saw " + path
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
