"""Checks the second hello of a TLS client, which a server requests with a HelloRetryRequest.

RFC 8446 4.1.4: a server that can't use the offers of a hello requests another one. The second hello
must name the same host. Servers don't compare the two and use the last name, so an unchecked second
hello would make the check of the first one useless.

Rules of this file:
- A client can foresee the request, so its bytes are parsed from the first one until the server has
  answered.
- Records that are no handshake messages (early data, a change of ciphers, an alert) are skipped.
- Only an incomplete message is kept, and its size is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.net.client_hello import (
    CLIENT_HELLO,
    HANDSHAKE,
    MAX_HELLO,
    MESSAGE_HEADER,
    RECORD_HEADER,
    BadHello,
    ClientHello,
    parse_hello,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALERT: Final = 21
_SERVER_HELLO: Final = 2
_VERSION: Final = 2
# RFC 8446 4.1.3: a server hello with this "random" is a HelloRetryRequest.
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_RANDOM_AT: Final = MESSAGE_HEADER + _VERSION


class OtherHello(Exception):
    """A second hello, `hello`, that is not for the host of the first."""

    def __init__(self, hello: ClientHello) -> None:
        super().__init__("the second TLS hello differs from the first")
        self.hello = hello


class HelloRetry:
    """Follows both sides of one connection until no second hello can come any more.

    `first` is the hello that was allowed; it must be set before `client_says` is called.
    """

    def __init__(self) -> None:
        self.first: ClientHello | None = None
        self._is_over = False
        self._is_asked = False
        self._server = _Records()
        self._server_says = b""
        self._client = _Records()
        self._client_says = b""
        self._hellos = 0

    def server_says(self, data: bytes | memoryview) -> bool:
        """Take in the server's next bytes, from the first byte on. Returns True if no more are
        needed."""
        for kind, piece in self._server.read(data):
            if kind == HANDSHAKE:
                self._server_says += piece[: _RANDOM_AT + len(_RETRY)]
            if kind not in (HANDSHAKE, _ALERT) or not self._may_ask():
                self._is_over = True
            if self._is_asked:
                self._is_over = self._hellos > 1  # foreseen, and judged already
            if self._is_over or self._is_asked:
                return True
        return False

    def _may_ask(self) -> bool:
        """Return whether the server's first message may still be a retry request, and note if it
        is one."""
        says = self._server_says
        self._is_asked = says[_RANDOM_AT:].startswith(_RETRY) and says[0] == _SERVER_HELLO
        return self._is_asked or (
            says[:1] in (b"", bytes([_SERVER_HELLO])) and _RETRY.startswith(says[_RANDOM_AT:])
        )

    def client_says(self, data: bytes | memoryview) -> bool:
        """Take in the client's next bytes, from its first hello on, before they are passed on.
        Returns True if no more are needed. Raises OtherHello, BadHello."""
        if self._is_over:
            return True
        for kind, piece in self._client.read(data):
            if kind == HANDSHAKE:
                self._client_says += piece
                self._take_messages()
        return self._is_over

    def _take_messages(self) -> None:
        while len(says := self._client_says) >= MESSAGE_HEADER:
            if says[0] != CLIENT_HELLO:
                raise BadHello("the TLS client's second message is no hello")
            end = MESSAGE_HEADER + int.from_bytes(says[1:MESSAGE_HEADER], "big")
            if end > MAX_HELLO:
                raise BadHello(f"the TLS hello is longer than {MAX_HELLO} bytes")
            if len(says) < end:
                return
            self._client_says = says[end:]
            self._hellos += 1
            if self._hellos > 1:
                self._compare(parse_hello(says[MESSAGE_HEADER:end]))

    def _compare(self, second: ClientHello) -> None:
        first = self.first
        if first is None:
            raise AssertionError("the first hello was not checked")
        if second.server_name != first.server_name or second.hides_name > first.hides_name:
            raise OtherHello(second)
        # Before the request was seen, another hello could follow this one.
        self._is_over = self._is_asked


class _Records:
    """Cuts a stream into the contents of its records, with their types."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def read(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces in `data`; a record's header is kept until its contents have come."""
        at = 0
        while at < len(data):
            if self._left:
                piece = bytes(data[at : at + self._left])
                self._left -= len(piece)
                at += len(piece)
                kind = self._header[0]
                if not self._left:
                    self._header = b""
                yield kind, piece
            else:
                more = bytes(data[at : at + RECORD_HEADER - len(self._header)])
                self._header += more
                at += len(more)
                if len(self._header) == RECORD_HEADER:
                    self._left = int.from_bytes(self._header[3:], "big")
                    self._header = self._header if self._left else b""
