"""Bodies: where each ends, and that h11 finds the same data, trailers and end."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.body import EndlessBody, LengthBody
from nono_trio.core.http.chunked import (
    MAX_CHUNK_LINE,
    MAX_EXCESS,
    MAX_LINES,
    MAX_TRAILERS,
    BadBody,
    ChunkedBody,
)
from nono_trio.core.http.http1 import MessageWriter
from nono_trio.core.http.message import BodyData, MessageEnded, body_events

GOOD = {
    "empty": b"0\r\n\r\n",
    "one": b"5\r\nhello\r\n0\r\n\r\n",
    "hex": b"A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n",
    "extension": b'5;a;b=c;d="e f"\r\nhello\r\n0;last\r\n\r\n',
    "trailers": b"1\r\nx\r\n0\r\nA: b\r\nC:\r\nD:\t\xff \r\n\r\n",
    "line ends in data": b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
    "leading zeros": b"0000000000000001\r\nx\r\n0\r\n\r\n",
}
BAD = {
    "bare line feed": b"5\nhello\r\n0\r\n\r\n",
    "bare line feed after data": b"5\r\nhello\n0\r\n\r\n",
    "bare line feed at the end": b"0\r\n\n",
    "carriage return in extension": b"5;x\rhello\r\n0\r\n\r\n",
    "line feed in extension": b"5;x\nhello\r\n0\r\n\r\n",
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "space before size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after size": b"5 \r\nhello\r\n0\r\n\r\n",
    "space before extension": b"5 ;x\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "extension alone": b";x\r\nhello\r\n0\r\n\r\n",
    "short data": b"6\r\nhello\r\n0\r\n\r\n",
    "long data": b"4\r\nhello\r\n0\r\n\r\n",
    "no line end after data": b"5\r\nhello0\r\n\r\n",
    "nul in extension": b"5;\0\r\nhello\r\n0\r\n\r\n",
    "full-width digit": b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n",
    "extension bomb": b"1;" + b"x" * 70_000,
    "length in trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "coding in trailer": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "host in trailer": b"0\r\nHost: evil.test\r\n\r\n",
    "token in trailer": b"0\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "space in trailer name": b"0\r\nA : b\r\n\r\n",
    "trailer without colon": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "control in trailer": b"0\r\nA: \x0b\r\n\r\n",
    "trailer bomb": b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS // 5),
    "many extensions": (b"1;" + b"x" * 1000 + b"\r\ny\r\n") * (MAX_EXCESS // 900),
}


@dataclass
class Read:
    """What a reader found of a chunked body: its data and trailers, and how many bytes it took."""

    done: bool = False
    taken: int = 0
    data: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)


def read(wire: bytes, step: int) -> Read:
    """What our reader finds at the front of `wire`, `step` bytes at a time."""
    body, found = ChunkedBody(), Read()
    while found.taken < len(wire) and not body.done:
        data, taken = body.read(wire[found.taken : found.taken + step])
        assert taken
        found.taken += taken
        found.data += data
    trailers = [(name.lower(), value) for name, value in body.trailers]
    return Read(body.done, found.taken, found.data, trailers)


def by_h11(wire: bytes) -> Read:
    """What h11 finds in a chunked request body, which must end where `wire` ends."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + wire
    )
    assert isinstance(connection.next_event(), h11.Request)
    data = b""
    while isinstance(event := connection.next_event(), h11.Data):
        data += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
    return Read(True, len(wire), data, trailers)


@pytest.mark.parametrize("step", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("wire", GOOD.values(), ids=GOOD.keys())
def test_good_bodies_are_read_as_h11_reads_them(wire, step):
    assert read(wire, step) == read(wire + b"GET / HTTP/1.1\r\n", step) == by_h11(wire)


@pytest.mark.parametrize("step", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("wire", BAD.values(), ids=BAD.keys())
def test_bad_bodies_are_refused_however_they_come(wire, step):
    with pytest.raises(BadBody) as refused:
        read(wire, step)
    assert refused.value.reason.isprintable()


@pytest.mark.parametrize("wire", GOOD.values(), ids=GOOD.keys())
def test_no_prefix_is_refused_or_done(wire):
    for end in range(len(wire)):
        found = read(wire[:end], 1 << 20)
        assert (found.done, found.taken, found.trailers) == (False, end, [])


def test_an_overlong_line_is_refused_before_it_ends():
    with pytest.raises(BadBody):
        ChunkedBody().read(b"1;" + b"x" * MAX_CHUNK_LINE)


chunks = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


@given(chunks, st.binary(max_size=20), st.integers(1, 50))
def test_whatever_is_framed_well_is_taken_whole(pieces, behind, step):
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert read(wire + behind, step) == Read(True, len(wire), b"".join(pieces)) == by_h11(wire)


WIRE_PARTS = [
    b"5\r\nhello\r\n", b"3\r\nabc\r\n", b"0A\r\n0123456789\r\n", b"1;x=y\r\nz\r\n",
    b"2\r\n\r\n\r\n", b"5\r\nhel", b"00\r\n\r\n", b"4\r\nabcde\r\n", b"0\r\nA: b\r\n", b"\r\n",
    b"lo\r\n", b"0\r\nA: b\r\nC:\td \r\n",
]  # fmt: skip
SMALL_PARTS = [b"\r\n", b"\n", b"\r", b"0", b"5", b"hello", b";", b" ", b"x", b":", b"a"]


@given(
    st.one_of(
        st.lists(st.sampled_from(WIRE_PARTS), max_size=8),
        st.lists(st.sampled_from(SMALL_PARTS), max_size=14),
    ).map(b"".join),
    st.integers(1, 40),
)
def test_every_accepted_body_is_read_as_h11_reads_it(parts, step):
    wire = parts + b"0\r\n\r\n"
    try:
        whole = read(wire, 1 << 20)
    except BadBody:
        with pytest.raises(BadBody):
            read(wire, step)
        return
    assert read(wire, step) == whole
    if whole.done:  # else a part was read as a size that no data follows
        assert whole == by_h11(wire[: whole.taken])


@given(st.binary(max_size=60), st.integers(1, 9))
def test_the_verdict_does_not_depend_on_the_pieces(noise, step):
    wire = b"3\r\nabc\r\n" + noise

    def verdict(size: int) -> object:
        try:
            return read(wire, size)
        except BadBody:
            return "bad"

    assert verdict(step) == verdict(1 << 20)


def test_many_small_chunks_are_read_in_turns():
    for line in (b"1", b"1;a"):
        wire = (line + b"\r\nx\r\n") * (3 * MAX_LINES) + b"0\r\n\r\n"
        _, taken = ChunkedBody().read(wire)
        assert 0 < taken < len(wire) / 2
        assert read(wire, 1 << 20) == Read(True, len(wire), b"x" * 3 * MAX_LINES)


@pytest.mark.parametrize("length", [0, 1, 5, 10])
def test_a_length_is_counted(length):
    body = LengthBody(length)
    assert body.done is (length == 0)
    taken = [body.read(b"ab") for _ in range(4)]
    assert sum(count for _, count in taken) == min(length, 8)
    assert b"".join(data for data, _ in taken) == b"abababab"[:length]
    assert body.done is (length <= 8)


def test_an_endless_body_takes_everything():
    body = EndlessBody()
    assert body.read(b"abc") == (b"abc", 3)
    assert not body.done


def test_empty_data_never_ends_a_body():
    chunked, plain = MessageWriter(chunked=True), MessageWriter()
    assert chunked.write(BodyData(1, b"")) == b""
    assert chunked.write(BodyData(1, b"x" * 16)) == b"10\r\n" + b"x" * 16 + b"\r\n"
    assert chunked.write(MessageEnded(1)) == b"0\r\n\r\n"
    assert plain.write(BodyData(1, b"abc")) == b"abc"
    assert plain.write(MessageEnded(1)) == b""


@pytest.mark.parametrize(
    ("data", "ended", "events"),
    [
        (b"", False, ()),
        (b"", True, (MessageEnded(7),)),
        (b"ab", False, (BodyData(7, b"ab"),)),
        (b"ab", True, (BodyData(7, b"ab"), MessageEnded(7))),
    ],
)
def test_a_body_becomes_events_of_its_stream(data, ended, events):
    assert body_events(7, data, ended=ended) == events
