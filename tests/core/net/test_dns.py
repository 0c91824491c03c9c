"""DNS messages: what is a query, and what is answered to it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from dns_messages import code, fault, header, opt, query, wire
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net import dns
from nono_trio.core.net.dns import BadQuery, parse_query, reversed_address

IPV4, IPV6 = IPv4Address("198.18.0.7"), IPv6Address("fd6e:6f6e:6f2d::7")
TXT, HTTPS, ANY, AXFR = 16, 65, 255, 252

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(
    lambda labels: sum(len(label) + 1 for label in labels) < dns.MAX_WIRE_NAME
)


def test_a_query_is_read():
    read = parse_query(query())
    assert (read.identifier, read.name, read.kind, read.edns) == (0xBEEF, "example.com", 1, None)
    assert read.question == query()[12:]


def test_an_answer_repeats_the_question_byte_for_byte():
    message = query(wire(b"eXaMpLe", b"CoM"))
    answer = dns.address_answer(parse_query(message), IPV4, IPV6)
    assert header(answer) == (0xBEEF, 0x8180, 1, 1, 0, 0)
    assert answer[12 : len(message)] == message[12:]
    record = answer[len(message) :]
    assert record == struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + IPV4.packed


@pytest.mark.parametrize(
    ("kind", "data"),
    [(dns.A, IPV4.packed), (dns.AAAA, IPV6.packed), (TXT, None), (HTTPS, None), (ANY, None),
     (AXFR, None), (0, None), (0xFFFF, None)],
)  # fmt: skip
def test_only_addresses_of_the_family_that_was_asked_for(kind, data):
    answer = dns.address_answer(parse_query(query(kind=kind)), IPV4, IPV6)
    assert code(answer) == dns.NO_ERROR
    assert header(answer)[3] == (0 if data is None else 1)
    assert answer.endswith(data or struct.pack("!HH", kind, 1))


def test_a_pointer_answer_holds_the_name():
    answer = dns.pointer_answer(parse_query(query(wire(b"x"), dns.PTR)), "a-b.example.com")
    assert answer.endswith(b"\0\x11\x03a-b\x07example\x03com\0")


def test_edns_is_answered_with_edns():
    cookie = struct.pack("!HH", 10, 8) + bytes(8)
    read = parse_query(query(extra=opt(flags=0x8001, options=cookie)))
    answer = dns.address_answer(read, IPV4)
    assert header(answer)[2:] == (1, 1, 0, 1)
    assert answer.endswith(struct.pack("!BHHBBHH", 0, 41, 1232, 0, 0, 0x8000, 0))


def test_an_unknown_edns_version_is_told_ours():
    reply = fault(query(extra=opt(version=1))).reply
    assert reply is not None
    assert code(reply) == 0
    assert reply.endswith(struct.pack("!BHHBBHH", 0, 41, 1232, 1, 0, 0, 0))


@pytest.mark.parametrize("flags", [0x0000, 0x0100, 0x0110, 0x0120, 0x07FF])
def test_only_two_flags_come_back(flags):
    answer = dns.empty_answer(parse_query(query(flags=flags)))
    assert header(answer)[1] == 0x8080 | flags & 0x0110


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 11, query()[:11], query(flags=0x8000), query(flags=0x8180)],
    ids=["empty", "zeros", "short", "response", "answer"],
)
def test_silence(message):
    assert fault(message).reply is None


FORMAT_ERRORS = {
    "no question": query(counts=(0, 0, 0, 0)),
    "two questions": query(counts=(2, 0, 0, 0)),
    "an answer": query(counts=(1, 1, 0, 0)),
    "an authority": query(counts=(1, 0, 1, 0)),
    "two additional": query(counts=(1, 0, 0, 2), extra=opt() + opt()),
    "trailing byte": query() + b"\0",
    "missing additional": query(counts=(1, 0, 0, 1)),
    "pointer to itself": query(b"\xc0\x0c"),
    "pointer after a label": query(b"\x01a\xc0\x0c"),
    "extended label": query(b"\x41" + bytes(65)),
    "label of 64": query(b"\x40" + b"a" * 64 + b"\0"),
    "name of 256": query(wire(*[b"a" * 63] * 3, b"a" * 62)),
    "label cut short": query()[:12] + b"\x3fabc",
    "no type": query()[:-4],
    "half a class": query()[:-1],
    "too long": query(extra=opt(options=struct.pack("!HH", 12, 1300) + bytes(1300))),
    "tsig": query(extra=b"\0" + struct.pack("!HHIH", 250, 255, 0, 0)),
    "opt with a name": query(extra=b"\x01a" + opt()),
    "opt cut short": query(extra=opt()[:-1]),
    "opt data missing": query(extra=opt()[:-1] + b"\x04"),
    "opt and a byte": query(extra=opt() + b"\0"),
    "option cut short": query(extra=opt(options=b"\0\x0a\0\x09" + bytes(8))),
    "half an option": query(extra=opt(options=b"\0\x0a\0")),
}


@pytest.mark.parametrize("message", FORMAT_ERRORS.values(), ids=FORMAT_ERRORS.keys())
def test_format_errors(message):
    reply = fault(message).reply
    assert reply is not None
    assert code(reply) == dns.FORMAT_ERROR
    assert reply[:2] == message[:2]


def test_other_operations_and_classes():
    notify, chaos = fault(query(flags=0x2000)).reply, fault(query(network=3)).reply
    assert notify is not None
    assert chaos is not None
    assert (code(notify), code(chaos)) == (dns.NOT_IMPLEMENTED, dns.REFUSED)
    assert notify[2] & 0x78 == 0x20, "another operation than the one that was asked for"


def test_a_query_cut_anywhere_or_with_a_byte_more_is_refused():
    for message in (query(), query(extra=opt(options=b"\0\x0a\0\0"))):
        parse_query(message)
        for end in range(len(message)):
            fault(message[:end])
        fault(message + b"\0")


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ([], ""),
        ([b"LOCALHOST"], "localhost"),
        ([b"a.b", b"c"], "a\\046b.c"),
        ([b"a\\b"], "a\\092b"),
        ([b"a b\0\xff"], "a\\032b\\000\\255"),
        ([b"*", b"_x"], "*._x"),
    ],
)
def test_names_are_shown_without_a_second_reading(labels, name):
    assert parse_query(query(wire(*labels))).name == name


@given(LABELS, st.integers(0, 0xFFFF), st.none() | st.integers(0, 0xFFFF))
def test_every_well_formed_query_is_read_and_its_answers_are_small(labels, kind, edns_size):
    extra = b"" if edns_size is None else opt(edns_size)
    read = parse_query(query(wire(*labels), kind, extra=extra))
    assert read.kind == kind
    assert read.name.isascii()
    assert read.name.isprintable()
    for answer in (
        dns.address_answer(read, IPV4, IPV6),
        dns.empty_answer(read, dns.SERVER_FAILURE),
    ):
        assert len(answer) <= 512
        assert answer[12 : 12 + len(read.question)] == read.question


def test_the_longest_names_fit_in_a_datagram_of_512():
    longest = [b"a" * 63] * 3 + [b"a" * 61]
    question = parse_query(query(wire(*longest), dns.AAAA, extra=opt()))
    assert len(dns.address_answer(question, IPV6)) <= 512
    reverse = wire(*[b"f"] * 32, b"ip6", b"arpa")
    pointer = parse_query(query(reverse, dns.PTR, extra=opt()))
    assert len(dns.pointer_answer(pointer, b".".join(longest).decode())) <= 512


def replied(message: bytes) -> bytes | None:
    """Return the answer to any message."""
    try:
        return dns.address_answer(parse_query(message), IPV4)
    except BadQuery as bad:
        return bad.reply


@given(st.binary(max_size=600))
def test_any_bytes_get_an_answer_of_their_own_or_silence(message):
    reply = replied(message)
    assert reply is None or (reply[:2] == message[:2] and reply[2] & 0x80)


@given(st.data())
def test_a_query_with_one_byte_changed_gets_an_answer_or_silence(data):
    message = bytearray(query(extra=opt(options=b"\0\x0a\0\x01x")))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] = data.draw(st.integers(0, 255))
    reply = replied(bytes(message))
    assert (reply is None) == bool(message[2] & 0x80), "silence is for responses alone"


@given(st.ip_addresses())
def test_reversed_addresses(address):
    assert reversed_address(address.reverse_pointer) == address


@pytest.mark.parametrize(
    "name",
    ["", "in-addr.arpa", "1.0.0.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "01.0.0.127.in-addr.arpa",
     "256.0.0.127.in-addr.arpa", "a.0.0.127.in-addr.arpa", "[::1].in-addr.arpa", "ip6.arpa",
     "1.ip6.arpa", "10." + "0." * 31 + "ip6.arpa", "g." + "0." * 31 + "ip6.arpa", "example.com"],
)  # fmt: skip
def test_no_reversed_address(name):
    assert reversed_address(name) is None


def test_the_reversed_name_of_a_known_address():
    assert reversed_address("1.0.18.198.in-addr.arpa") == ip_address("198.18.0.1")
