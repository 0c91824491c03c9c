"""The first message of a TLS client: which host it asks for, before anything is encrypted.

RFC 8446 4.1.2 (and 5246 7.4.1.2, the same bytes) in records of RFC 8446 5.1; server name RFC 6066
3, ALPN RFC 7301. SSL 2 hellos and DTLS are not TLS here.

Rules of this file:
- Every length must be exact, no extension may occur twice, and a server name is one host name in
  ASCII. A hello in which a lenient server could see another name is refused.
- A hello is bounded: MAX_HELLO octets in MAX_RECORDS records. The parser says how many octets it
  needs before the next call, so a hello that comes byte by byte costs as little as a whole one.
- Reasons are fixed text and quote nothing of the hello.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

# Octets on the wire, record headers included. Hellos of today have 0.3 to 2 KiB, those with
# post-quantum keys and a session ticket up to 4.
MAX_HELLO: Final = 16 * 1024
MAX_RECORDS: Final = 64  # OpenSSL cuts a hello of 16 KiB into 32 at its smallest fragment size
MAX_SERVER_NAME: Final = 255  # octets; the caller checks that it is a host name

HANDSHAKE: Final = 22  # content type of the record
CLIENT_HELLO: Final = 1  # type of the message in it
_MAJOR: Final = 3  # SSL 3.0 and every TLS
RECORD_HEADER: Final = 5
MESSAGE_HEADER: Final = 4
_EXTENSION_HEADER: Final = 4
_KIND_AND_LENGTH: Final = Struct("!HH")
_MAX_FRAGMENT: Final = 1 << 14  # RFC 8446 5.1
_RANDOM: Final = 32
_MAX_SESSION_ID: Final = 32

_SERVER_NAME: Final = 0
_ALPN: Final = 16
# Encrypted Client Hello and the drafts before it: the plaintext name is then not the real one.
_HIDDEN_NAMES: Final = frozenset({0xFE0D, 0xFFCE, 0xFF02, 0xFF03})
_HOST_NAME: Final = 0


class ClientHello(msgspec.Struct, frozen=True):
    """The plaintext of a TLS hello. `server_name` is the ASCII text that was sent, or None.

    `hides_name`: the name is encrypted (ECH), or appears to be (GREASE; an observer can't tell them
    apart, which is its purpose).
    """

    server_name: str | None
    alpn: tuple[bytes, ...]
    hides_name: bool


class BadHello(Exception):
    """Bytes that are no well-formed client hello; `is_tls` is False if they are not TLS at all."""

    def __init__(self, reason: str, *, is_tls: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_tls = is_tls


def read_client_hello(data: bytes) -> ClientHello | int:
    """Parse the hello at the front of `data`; bytes after its last record are ignored.

    If it is incomplete, returns the number of octets that are needed before the next call, always
    more than `data` has. Raises BadHello as soon as no further octet can help."""
    message, at, needed = b"", 0, MESSAGE_HEADER
    for _ in range(MAX_RECORDS):
        length = _fragment_length(data[at : at + RECORD_HEADER], is_first=at == 0)
        at += RECORD_HEADER
        if _within_limit(at + length) > len(data):
            return at + length
        message += data[at : at + length]
        at += length
        if len(message) >= MESSAGE_HEADER:
            needed = _message_length(message)
        if len(message) > needed:
            raise BadHello("the TLS hello is followed by more in its own record")
        if len(message) == needed:
            return parse_hello(message[MESSAGE_HEADER:])
        _within_limit(at + needed - len(message))
        if at == len(data):
            return _within_limit(at + RECORD_HEADER)
    raise BadHello(f"the TLS hello comes in more than {MAX_RECORDS} records")


def _within_limit(size: int) -> int:
    if size > MAX_HELLO:
        raise BadHello(f"the TLS hello is longer than {MAX_HELLO} bytes")
    return size


def _fragment_length(header: bytes, *, is_first: bool) -> int:
    """The length in a record's header; 0 while the header is incomplete.

    The octets that have arrived are checked, so the first octet tells what is not TLS.
    """
    if header[:1] not in (b"", bytes([HANDSHAKE])) or header[1:2] not in (b"", bytes([_MAJOR])):
        raise BadHello("expected a TLS client hello, got something else", is_tls=not is_first)
    if len(header) < RECORD_HEADER:
        return 0
    length = int.from_bytes(header[3:5], "big")
    if not 0 < length <= _MAX_FRAGMENT:
        raise BadHello("a record of the TLS hello is empty or too long")
    return length


def _message_length(message: bytes) -> int:
    if message[0] != CLIENT_HELLO:
        raise BadHello("the first TLS message is no client hello")
    return MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER], "big")


class _Octets:
    """A cursor over a structure whose parts all carry their lengths."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise BadHello("the TLS hello is malformed")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int, most: int) -> bytes:
        """Read a length of `size` octets, which must be within the bounds, and that many octets."""
        length = self.number(size)
        if not least <= length <= most:
            raise BadHello("the TLS hello is malformed")
        return self.take(length)

    def end(self) -> None:
        if not self.is_empty:
            raise BadHello("the TLS hello is malformed")


def parse_hello(body: bytes) -> ClientHello:
    """Parse the body of a client hello's message, without its header. Raises BadHello."""
    octets = _Octets(body)
    if octets.take(2)[0] != _MAJOR:
        raise BadHello("the TLS hello is malformed")
    octets.take(_RANDOM)
    octets.vector(1, 0, _MAX_SESSION_ID)
    if len(octets.vector(2, 2, 0xFFFE)) % 2:
        raise BadHello("the TLS hello is malformed")
    octets.vector(1, 1, 0xFF)  # compression methods
    extensions = {} if octets.is_empty else _extensions(octets.vector(2, 0, 0xFFFF))
    octets.end()
    name, alpn = extensions.get(_SERVER_NAME), extensions.get(_ALPN)
    return ClientHello(
        None if name is None else _server_name(name),
        () if alpn is None else tuple(_protocols(alpn)),
        not _HIDDEN_NAMES.isdisjoint(extensions),
    )


def _extensions(block: bytes) -> dict[int, bytes]:
    """All of them by their type. Without `_Octets`, which would be most of what a hello costs."""
    found: dict[int, bytes] = {}
    at, end = 0, len(block)
    while at < end:
        start = at + _EXTENSION_HEADER
        if start > end:
            raise BadHello("the TLS hello is malformed")
        kind, length = _KIND_AND_LENGTH.unpack_from(block, at)
        if kind in found:
            raise BadHello("the TLS hello has an extension twice")
        at = start + length
        if at > end:
            raise BadHello("the TLS hello is malformed")
        found[kind] = block[start:at]
    return found


def _server_name(extension: bytes) -> str:
    octets = _Octets(extension)
    entries = _Octets(octets.vector(2, 4, 0xFFFF))
    octets.end()
    if entries.number(1) != _HOST_NAME:
        raise BadHello("the TLS hello has a server name of an unknown kind")
    name = entries.vector(2, 1, MAX_SERVER_NAME)
    entries.end()  # RFC 6066 3: not more than one name of a kind, and there is one kind
    if not name.isascii():
        raise BadHello("the TLS hello has a server name outside ASCII")
    return name.decode("ascii")


def _protocols(extension: bytes) -> Iterator[bytes]:
    octets = _Octets(extension)
    entries = _Octets(octets.vector(2, 2, 0xFFFF))
    octets.end()
    while not entries.is_empty:
        yield entries.vector(1, 1, 0xFF)
