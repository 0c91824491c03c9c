"""DNS messages, byte by byte."""

from __future__ import annotations

import struct

import pytest

from nono_trio.core.net import dns
from nono_trio.core.net.dns import BadQuery, parse_query


def wire(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def opt(size: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    return struct.pack("!BHHBBHH", 0, 41, size, 0, version, flags, len(options)) + options


def query(
    name: bytes = wire(b"Example", b"com"),
    kind: int = dns.A,
    *,
    network: int = 1,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] | None = None,
    extra: bytes = b"",
) -> bytes:
    counts = counts or (1, 0, 0, 1 if extra else 0)
    return (
        struct.pack("!6H", 0xBEEF, flags, *counts)
        + name
        + struct.pack("!HH", kind, network)
        + extra
    )


def header(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from("!6H", message)


def code(message: bytes) -> int:
    return header(message)[1] & 0xF


def fault(message: bytes) -> BadQuery:
    with pytest.raises(BadQuery) as caught:
        parse_query(message)
    return caught.value
