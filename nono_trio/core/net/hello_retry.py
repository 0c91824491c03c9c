"""The second hello of a TLS client: what a server asks for with a HelloRetryRequest.

RFC 8446 4.1.4: a server that can't use what a hello offers has the client say it once more. The
second hello has to name the same host; servers don't compare them and go by the last name they were
told, so one that was not looked at would undo all that the first one had to show.

Rules of this file: a client can foresee the request, so its bytes are followed from the first one
until the server has answered; what is no handshake message (early data, a change of ciphers, an
alert) is passed over; nothing is kept but a started message, which is bounded.
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
    """A second hello that is not for the host of the first; `hello` is what it says."""

    def __init__(self, hello: ClientHello) -> None:
        super().__init__("the second TLS hello differs from the first")
        self.hello = hello


class HelloRetry:
    """Follows both sides of one connection until no second hello can come any more.

    `first` is the hello that was let through; it has to be set before the client's bytes are told.
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
        """Take in bytes of the server's, from its first on; whether they tell all they can."""
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
        """Whether the server's first message may still be a request; notes that it is one."""
        says = self._server_says
        self._is_asked = says[_RANDOM_AT:].startswith(_RETRY) and says[0] == _SERVER_HELLO
        return self._is_asked or (
            says[:1] in (b"", bytes([_SERVER_HELLO])) and _RETRY.startswith(says[_RANDOM_AT:])
        )

    def client_says(self, data: bytes | memoryview) -> bool:
        """Take in bytes of the client's, its first hello included, before they are passed on;
        whether no more need be told. Raises OtherHello, BadHello."""
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
            raise AssertionError("nobody has judged the first hello")
        if second.server_name != first.server_name or second.hides_name > first.hides_name:
            raise OtherHello(second)
        # Before the request was seen, another hello could follow this one.
        self._is_over = self._is_asked


class _Records:
    """Cuts a stream into the pieces of its records' contents, with their types."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def read(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """The pieces in `data`; a record's header is kept until its contents have come."""
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
