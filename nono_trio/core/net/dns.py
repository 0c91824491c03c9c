"""DNS messages: one strict query in, one small answer out. RFC 1035, EDNS0 of RFC 6891.

Own code instead of a library: what has to be read is one question, and a library's parser follows
compression pointers, knows fifty record types and raises thirty exceptions, all for a hostile peer.

Rules of this file:
- A query is a header, one question and at most one OPT record; every byte of it is accounted for. A
  pointer in a name, a record in another section or a byte behind the end is a format error.
- The question goes back byte for byte, so the case of its letters is kept (programs mix it at
  random and compare, "0x20").
- Every answer that can be built here fits in 512 octets, the least that any client takes over UDP
  (RFC 1035 4.2.1): none is ever truncated, so TC is never set and TCP never needed.
"""

from __future__ import annotations

import struct
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    import re

    from nono_trio.core.net.address import Address

# Octets. A question has 271 at most, cookie and padding of EDNS0 bring queries to 128 or 468; this
# is also what is announced as our own limit: the size that fits in any IPv6 packet (DNS flag day
# 2020).
MAX_QUERY: Final = 1232
MAX_LABEL: Final = 63  # RFC 1035 2.3.4
MAX_WIRE_NAME: Final = 255  # octets, length octets and root included (RFC 1035 2.3.4)
TTL: Final = 60  # seconds; addresses hold for the session, and no cache should outlive it by much

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
_OPT: Final = 41
_INTERNET: Final = 1

NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NO_SUCH_NAME: Final = 3
NOT_IMPLEMENTED: Final = 4
REFUSED: Final = 5
_BAD_VERSION: Final = 16  # RFC 6891 9: the OPT record has its upper bits

_HEADER: Final = struct.Struct("!6H")  # id, flags, counts of the four sections
_QUESTION_END: Final = struct.Struct("!HH")  # type, class
_OPT_RECORD: Final = struct.Struct("!BHHBBHH")  # root, type, size, upper rcode, version, flags, len
_RECORD: Final = struct.Struct("!HHHIH")  # name, type, class, TTL, length of the data
_TO_QUESTION: Final = 0xC000 | _HEADER.size  # a compression pointer: our answers have one name

_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_RECURSION_AVAILABLE: Final = 0x0080  # a stub resolver's question is answered whole
# Operation, recursion desired (RFC 1035 4.1.1), checking disabled (RFC 4035 3.2.2). A client that
# gets back another operation than it sent ignores the answer.
_KEPT: Final = _OPCODE | 0x0110
_DNSSEC_OK: Final = 0x8000  # in the flags of OPT, kept as well (RFC 3225 3)

_UNUSUAL = late_pattern(rb"[^!-\x7e]|[.\\]")
_NIBBLES = late_pattern(r"(?:[0-9a-f]\.){31}[0-9a-f]")


class Query(msgspec.Struct, frozen=True):
    """One question. `name` is lower-case without the root dot ("" is the root); a
    byte of a label that is not printable ASCII, and a dot or backslash there, is written as \\DDD
    (RFC 1035 5.1).

    `question` has its bytes unchanged, `kind` its type, `edns` the flags of its OPT record, None
    without one.
    """

    identifier: int
    flags: int
    question: bytes
    name: str
    kind: int
    edns: int | None = None


class BadQuery(Exception):
    """A message that is no query; `reply` is the error answer, None if it must not be answered.
    `name` is the name that it asks for, if that could be read."""

    def __init__(self, reason: str, reply: bytes | None, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply
        self.name = name


def parse_query(message: bytes) -> Query:
    """Parse one query. Raises BadQuery for any other bytes, and no other exception."""
    if len(message) < _HEADER.size:
        raise BadQuery("the message has no whole header", None)
    identifier, flags, *counts = _HEADER.unpack_from(message)
    if flags & _RESPONSE:  # an answer to it would start a loop
        raise BadQuery("the message is a response", None)
    head = Query(identifier, flags, b"", "", 0)
    if flags & _OPCODE:
        raise _bad(head, "the operation is not a query", NOT_IMPLEMENTED)
    if len(message) > MAX_QUERY:
        raise _bad(head, f"the query is longer than {MAX_QUERY} octets")
    if counts[:3] != [1, 0, 0] or counts[3] > 1:
        raise _bad(head, "expected one question and nothing but EDNS beside it")
    query, end = _read_question(head, message)
    if counts[3]:
        query = _read_edns(query, message[end:])
    elif end != len(message):
        raise _bad(head, "there are bytes behind the question")
    return query


def _bad(head: Query, reason: str, code: int = FORMAT_ERROR) -> BadQuery:
    return BadQuery(reason, empty_answer(head, code), head.name or None)


def _read_question(head: Query, message: bytes) -> tuple[Query, int]:
    labels, at = [], _HEADER.size
    while length := message[at] if at < len(message) else MAX_LABEL + 1:
        if length > MAX_LABEL:  # cut short, a compression pointer, or an extended label type
            raise _bad(head, "the name is malformed")
        labels.append(message[at + 1 : at + 1 + length])
        at += 1 + length
        if at + 1 - _HEADER.size > MAX_WIRE_NAME:
            raise _bad(head, f"the name is longer than {MAX_WIRE_NAME} octets")
    end = at + 1 + _QUESTION_END.size
    if end > len(message):
        raise _bad(head, "the question is cut short")
    kind, network = _QUESTION_END.unpack_from(message, at + 1)
    question = message[_HEADER.size : end]
    query = Query(head.identifier, head.flags, question, _shown(labels), kind)
    if network != _INTERNET:
        raise _bad(query, "the class is not IN", REFUSED)
    return query, end


def _shown(labels: list[bytes]) -> str:
    escaped = (_UNUSUAL.sub(_escape, label) for label in labels)
    return b".".join(escaped).decode("ascii").lower()


def _escape(octet: re.Match[bytes]) -> bytes:
    return b"\\%03d" % octet[0][0]


def _read_edns(query: Query, raw: bytes) -> Query:
    """The query with its OPT record, which must be all that is left. Its options are ignored, as
    RFC 6891 6.1.2 asks of those that one does not know; but they have to add up."""
    if len(raw) < _OPT_RECORD.size:
        raise _bad(query, "the additional record is cut short")
    root, kind, _, _, version, flags, length = _OPT_RECORD.unpack_from(raw)
    options = raw[_OPT_RECORD.size :]
    if root != 0 or kind != _OPT or length != len(options) or not _adds_up(options):
        raise _bad(query, "the additional record is no EDNS record, or malformed")
    found = Query(
        query.identifier, query.flags, query.question, query.name, query.kind, flags & _DNSSEC_OK
    )
    if version != 0:
        raise _bad(found, "the EDNS version is not 0", _BAD_VERSION)
    return found


def _adds_up(options: bytes) -> bool:
    at = 0
    while at + 4 <= len(options):
        at += 4 + int.from_bytes(options[at + 2 : at + 4], "big")
    return at == len(options)


def empty_answer(query: Query, code: int = NO_ERROR) -> bytes:
    """An answer without records: an error, or "there is nothing of this type"."""
    return _message(query, code, ())


def address_answer(query: Query, *addresses: Address) -> bytes:
    """Those of `addresses` that the question's type (A or AAAA) asks for."""
    wanted = {A: IPv4Address, AAAA: IPv6Address}.get(query.kind)
    found = [one.packed for one in addresses if wanted is not None and isinstance(one, wanted)]
    return _message(query, NO_ERROR, found)


def pointer_answer(query: Query, name: str) -> bytes:
    """The name of an address; `name` is canonical (`Host.name`)."""
    labels = name.encode("ascii").split(b".")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _message(query, NO_ERROR, (wire,))


def _message(query: Query, code: int, data: list[bytes] | tuple[bytes, ...]) -> bytes:
    flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & _KEPT | code & 0xF
    edns = query.edns is not None
    counts = (int(bool(query.question)), len(data), 0, int(edns))
    parts = [_HEADER.pack(query.identifier, flags, *counts), query.question]
    for one in data:
        parts += (_RECORD.pack(_TO_QUESTION, query.kind, _INTERNET, TTL, len(one)), one)
    if query.edns is not None:
        parts.append(_OPT_RECORD.pack(0, _OPT, MAX_QUERY, code >> 4, 0, query.edns, 0))
    return b"".join(parts)


def reversed_address(name: str) -> Address | None:
    """The address that a PTR question's lower-case name stands for (RFC 1035 3.5, RFC 3596 2.5);
    None if it is no such name."""
    octets = name.removesuffix(".in-addr.arpa")
    if octets != name:
        return _ipv4(".".join(reversed(octets.split("."))))
    nibbles = name.removesuffix(".ip6.arpa")
    if nibbles == name or not _NIBBLES.fullmatch(nibbles):
        return None
    return IPv6Address(int(nibbles.replace(".", "")[::-1], 16))


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None
