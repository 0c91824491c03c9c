"""TLS client hellos: real ones from OpenSSL, and hand-made ones that tests can change."""

from __future__ import annotations

import ssl
from contextlib import suppress


def openssl_hello(
    name: str | None, *, alpn: tuple[str, ...] = (), newest: ssl.TLSVersion | None = None
) -> bytes:
    """The first flight of OpenSSL's client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if newest is not None:
        context.maximum_version = newest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, data)


def server_name(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def message(
    *extensions: bytes,
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compression: bytes = b"\0",
) -> bytes:
    """A handshake message, without a record around it."""
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, ciphers)
    body += vector(1, compression)
    if extensions:
        body += vector(2, b"".join(extensions))
    return b"\x01" + vector(3, body)


def record(data: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + vector(2, data)


def records(data: bytes, size: int) -> bytes:
    """A message cut into records of `size` bytes."""
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


def hello(name: str, *extensions: bytes) -> bytes:
    """A whole small hello."""
    return record(message(server_name(name.encode()), *extensions))


ECH = extension(0xFE0D, bytes(40))
