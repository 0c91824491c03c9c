"""The TLS client hello: what it says, and what is not taken for one."""

from __future__ import annotations

import ssl

import pytest
from hellos import (
    ECH,
    extension,
    hello,
    message,
    openssl_hello,
    record,
    records,
    server_name,
    vector,
)
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.client_hello import (
    MAX_HELLO,
    MAX_RECORDS,
    BadHello,
    ClientHello,
    read_client_hello,
)

TLS12 = ssl.TLSVersion.TLSv1_2
NAMED = ClientHello("a.test", (), hides_name=False)


def fault(data: bytes) -> BadHello:
    with pytest.raises(BadHello) as caught:
        read_client_hello(data)
    return caught.value


@pytest.mark.parametrize("newest", [None, TLS12])
def test_hellos_of_openssl(newest):
    raw = openssl_hello("api.example.com", alpn=("h2", "http/1.1"), newest=newest)
    read = ClientHello("api.example.com", (b"h2", b"http/1.1"), hides_name=False)
    assert read_client_hello(raw) == read
    assert read_client_hello(raw + b"early data") == read


def test_a_hello_without_a_name():
    assert read_client_hello(openssl_hello(None)) == ClientHello(None, (), hides_name=False)
    assert read_client_hello(record(message())) == ClientHello(None, (), hides_name=False)


@pytest.mark.parametrize("kind", [0xFE0D, 0xFFCE, 0xFF02])
def test_a_hidden_name_is_seen(kind):
    read = read_client_hello(hello("a.test", extension(kind, b"x")))
    assert read == ClientHello("a.test", (), hides_name=True)


RAW = {
    "openssl": openssl_hello("a.test"),
    "one record": hello("a.test"),
    "records of 7": records(message(server_name(b"a.test")), 7),
    "records of 1": records(message(server_name(b"a")), 1),
}


@pytest.mark.parametrize("raw", [RAW["openssl"], RAW["one record"], RAW["records of 7"]])
def test_byte_by_byte_a_hello_is_complete_with_its_last_byte(raw):
    for end in range(len(raw)):
        needed = read_client_hello(raw[:end])
        assert isinstance(needed, int)
        assert end < needed <= len(raw)
    assert isinstance(read_client_hello(raw), ClientHello)


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_who_waits_for_what_is_needed_asks_twice_a_record_at_most(raw):
    needed, asked = 1, 0
    while isinstance(read := read_client_hello(raw[:needed]), int):
        needed, asked = read, asked + 1
    assert needed == len(raw)
    assert asked <= 2 * MAX_RECORDS


@pytest.mark.parametrize("size", [2, 3, 4, 5, 40, 1000])
def test_the_size_of_the_records_does_not_matter(size):
    assert read_client_hello(records(message(server_name(b"a.test")), size)) == NAMED


def test_the_number_of_records_is_bounded():
    most = message(server_name(b"a" * 8))
    assert len(most) == MAX_RECORDS
    assert isinstance(read_client_hello(records(most, 1)), ClientHello)
    assert "records" in fault(records(message(server_name(b"a" * 9)), 1)).reason


NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH\r\n",
    "ssl 2": b"\x80\x2e\x01\x00\x02",
    "alert": record(b"\x02\x28", kind=21),
    "data": record(b"x", kind=23),
    "zero": b"\0",
    "other major": b"\x16\x02\x00",
    "dtls": b"\x16\xfe\xfd",
}


@pytest.mark.parametrize("raw", NOT_TLS.values(), ids=NOT_TLS.keys())
def test_what_is_not_tls_is_told_by_its_first_bytes(raw):
    assert not fault(raw).is_tls
    assert not fault(raw[:2]).is_tls


WHOLE = message(server_name(b"a.test"))
TWO_NAMES = extension(0, vector(2, (b"\0" + vector(2, b"a.test")) * 2))
MALFORMED = {
    "empty record": record(b""),
    "record too long": b"\x16\x03\x01\x40\x01",
    "server hello": record(b"\x02" + WHOLE[1:]),
    "more in its record": record(WHOLE + b"\0"),
    "another type between": record(WHOLE[:9]) + record(WHOLE[9:], kind=23),
    "longer than we read": record(b"\x01\xff\xff\xff"),
    "longer than we read, by one": record(b"\x01" + (MAX_HELLO - 8).to_bytes(3, "big")),
    "major version": record(WHOLE[:4] + b"\x02" + WHOLE[5:]),
    "session of 33": record(message(session=bytes(33))),
    "odd ciphers": record(message(ciphers=b"\x13\x01\x13")),
    "no cipher": record(message(ciphers=b"")),
    "no compression": record(message(compression=b"")),
    "extension twice": hello("a.test", server_name(b"b.test")),
    "unknown extension twice": hello("a.test", extension(99, b""), extension(99, b"x")),
    "two names": record(message(TWO_NAMES)),
    "no name": record(message(extension(0, b""))),
    "an empty list": record(message(extension(0, vector(2, b"")))),
    "an empty name": record(message(server_name(b""))),
    "a name of another kind": record(message(server_name(b"a.test", kind=1))),
    "a name of 256": record(message(server_name(b"a" * 256))),
    "a name outside ASCII": record(message(server_name(b"a\xff.test"))),
    "bytes behind the name": record(message(extension(0, vector(2, b"\0\0\1a") + b"\0"))),
    "empty protocol": hello("a.test", extension(16, vector(2, vector(1, b"h2") + b"\0"))),
    "protocol cut short": hello("a.test", extension(16, vector(2, b"\5h2"))),
    "extension cut short": record(message(b"\0\0\0\x09\0")),
    "half an extension": record(message(extension(99, b"") + b"\0\0\0")),
}  # fmt: skip


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_hellos(raw):
    assert fault(raw).is_tls


def test_bytes_behind_the_extensions_are_refused():
    body = WHOLE[4:] + b"\0"
    assert fault(record(b"\x01" + vector(3, body))).is_tls


def test_a_hello_of_the_greatest_size_is_read():
    room = MAX_HELLO - 5 - len(message(server_name(b"a.test"), extension(21, b"")))
    largest = hello("a.test", extension(21, bytes(room)))
    assert len(largest) == MAX_HELLO
    assert read_client_hello(largest) == NAMED
    assert fault(hello("a.test", extension(21, bytes(room + 1)))).is_tls


def verdict(data: bytes) -> object:
    try:
        return read_client_hello(data)
    except BadHello as bad:
        return bad.reason


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x16\x03\x01" + tail))
def test_any_bytes_have_a_verdict(data):
    found = verdict(data)
    assert isinstance(found, ClientHello | str) or (isinstance(found, int) and found > len(data))


@given(st.data())
def test_a_hello_with_one_byte_changed_has_a_verdict(data):
    raw = bytearray(RAW["openssl"])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    found = verdict(bytes(raw))
    assert isinstance(found, ClientHello | str) or (isinstance(found, int) and found > len(raw))


@given(st.data())
def test_a_verdict_once_given_does_not_change_with_more_bytes(data):
    raw = bytearray(records(message(server_name(b"a.test"), ECH), 30))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    final = None
    for end in range(len(raw) + 1):
        found = verdict(bytes(raw[:end]))
        if final is not None:
            assert found == final
        elif not isinstance(found, int):
            final = found


@given(st.text("abcxyz.-_0123456789", min_size=1, max_size=255), st.lists(st.binary(min_size=1)))
def test_what_is_said_is_what_is_read(name, protocols):
    parts = [server_name(name.encode())]
    if protocols:
        parts.append(extension(16, vector(2, b"".join(vector(1, one) for one in protocols))))
    read = read_client_hello(record(message(*parts)))
    assert read == ClientHello(name, tuple(protocols), hides_name=False)
