"""Request heads: their end, accepted ones, and the reasons of refusals."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.message import RequestHead
from nono_trio.core.http.request_head import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_REQUEST_LINE,
    head_end,
    parse_head,
)

TRAILING = [b"\x16\x03\x01\x00\xff", b"\n\n", b"GET http://b.test/ HTTP/1.1\r\n\r\n", b"\r\n\r\n"]


def head(*fields: bytes, line: bytes = b"GET http://a.test/ HTTP/1.1", host: bool = True) -> bytes:
    lines = [line, *([b"Host: a.test"] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def outcome(wire: bytes) -> int | tuple[int, str, str]:
    """head_end over the whole input at once."""
    return _answer(bytearray(wire), 0)


def dribbled(wire: bytes, step: int = 1) -> int | tuple[int, str, str]:
    """head_end over the input in small pieces, as the proxy calls it."""
    buffer, answer = bytearray(), -1
    for at in range(0, len(wire), step):
        seen = len(buffer)
        buffer += wire[at : at + step]
        answer = _answer(buffer, seen)
        if answer != -1:
            break
    return answer


def _answer(buffer: bytearray, start: int) -> int | tuple[int, str, str]:
    try:
        return head_end(buffer, start)
    except BadRequest as fault:
        return fault.status, fault.reason, fault.target


def refusal(wire: bytes) -> BadRequest:
    """The refusal of a complete head, by head_end or otherwise by parse_head."""
    with pytest.raises(BadRequest) as refused:
        parse_head(wire[: head_end(wire, 0)])
    assert refused.value.reason.isascii()
    assert refused.value.reason.isprintable()
    assert not refused.value.reason.endswith(".")
    return refused.value


class TestHeadEnd:
    @pytest.mark.parametrize("trailing", [b"", *TRAILING])
    def test_a_head_ends_after_its_blank_line(self, trailing):
        wire = head()
        assert outcome(wire + trailing) == len(wire)
        assert dribbled(wire + trailing) == len(wire)

    def test_an_incomplete_head_has_no_end_at_any_length(self):
        wire = head()
        for length in range(len(wire)):
            assert outcome(wire[:length]) == -1
            assert dribbled(wire[:length]) == -1

    @pytest.mark.parametrize(
        "wire",
        [
            b"\r\n" + head(),
            b"\n" + head(),
            b" " + head(),
            b"\x16\x03\x01\x02\x00\x01",
            b"\x05\x01\x00",
            b"\x04\x01\x01\xbb",
            b"\x00",
            b"\x80.\x01\x00\x02",
            b"{",
        ],
    )
    def test_a_first_byte_that_starts_no_method_is_refused_at_once(self, wire):
        assert outcome(wire[:1]) == outcome(wire)
        assert outcome(wire)[0] == 400

    @pytest.mark.parametrize("position", [3, 10, 30, 40])
    @pytest.mark.parametrize("junk", [b"\x00", b"\n", b"\x0b", b"\x0c", b"\x1b", b"\x7f"])
    def test_a_control_character_is_refused_when_it_comes(self, position, junk):
        wire = head()[:position] + junk
        assert outcome(wire)[0] == 400
        assert dribbled(wire + head()) == outcome(wire)

    @pytest.mark.parametrize("position", [3, 10, 30, 40])
    def test_a_bare_carriage_return_is_refused_with_the_byte_after_it(self, position):
        wire = head()[:position] + b"\r"
        assert outcome(wire) == -1
        assert outcome(wire + b"x")[0] == 400
        assert dribbled(wire + b"xy") == outcome(wire + b"x")

    @pytest.mark.parametrize(
        ("wire", "status"),
        [
            (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
            (b"EHLO a.test\r\n", 400),
            (b"PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n", 400),
            (b"GET http://a.test/\r\n", 400),
            (b"PRI * HTTP/2.0\r\n", 505),
        ],
    )
    def test_another_protocol_is_refused_with_its_first_line(self, wire, status):
        assert outcome(wire)[0] == status
        assert dribbled(wire) == outcome(wire)

    def test_the_longest_request_line_passes_and_one_byte_more_does_not(self):
        for extra, answer in ((0, -1), (1, 414)):
            room = MAX_REQUEST_LINE - len(b"GET http://a.test/ HTTP/1.1")
            line = b"GET http://a.test/" + b"a" * (room + extra) + b" HTTP/1.1"
            whole, slow = outcome(line + b"\r\n"), dribbled(line + b"\r\n", 64)
            assert whole == slow
            assert (whole if whole == -1 else whole[0]) == answer

    def test_a_line_without_end_is_refused_at_the_limit(self):
        assert outcome(b"A" * (MAX_REQUEST_LINE + 1)) == -1
        assert outcome(b"A" * (MAX_REQUEST_LINE + 2))[0] == 414

    def test_the_longest_head_passes_and_one_byte_more_does_not(self):
        for extra in (0, 1):
            wire = head(b"X: " + b"a" * (MAX_HEAD - len(head(b"X: ")) + extra))
            expected = len(wire) if not extra else (431, wire)
            for answer in (outcome(wire), dribbled(wire, 100)):
                assert answer == expected or answer[0] == expected[0]

    def test_a_head_without_end_is_refused_at_the_limit(self):
        wire = head()[:-2] + b"X: y\r\n" * MAX_HEAD
        assert outcome(wire[: MAX_HEAD - 1]) == -1
        assert outcome(wire[:MAX_HEAD])[0] == 431

    def test_junk_behind_the_limit_does_not_change_the_answer(self):
        wire = head()[:-2] + b"X: " + b"y" * MAX_HEAD
        assert outcome(wire + b"\x00") == outcome(wire)


class TestParseHead:
    def test_a_connect(self):
        raw = head(
            b"Proxy-Authorization: Basic bm9ubzp0",
            b"User-Agent:  curl/8 \t",
            b"X-Empty:",
            line=b"CONNECT a.test:443 HTTP/1.1",
        )
        parsed = parse_head(raw)
        assert parsed == RequestHead(
            method="CONNECT",
            target="a.test:443",
            version="1.1",
            block=parsed.block,
            raw=raw,
        )
        assert parsed.fields == (
            (b"host", b"a.test"),
            (b"proxy-authorization", b"Basic bm9ubzp0"),
            (b"user-agent", b"curl/8"),
            (b"x-empty", b""),
        )

    def test_first_takes_the_first_of_a_name(self):
        parsed = parse_head(head(b"X-A: 1", b"x-a: 2"))
        assert parsed.first(b"x-a") == b"1"
        assert parsed.first(b"x-b") is None

    @pytest.mark.parametrize("method", ["REPORT", "PROPFIND", "M-SEARCH", "VERSION-CONTROL"])
    def test_other_methods_pass(self, method):
        line = method.encode() + b" http://a.test/ HTTP/1.1"
        assert parse_head(head(line=line)).method == method

    @pytest.mark.parametrize(
        ("fields", "body", "length", "expects"),
        [
            ((), "none", 0, False),
            ((b"Content-Length: 0",), "length", 0, False),
            ((b"Content-Length: 1234567890123456789",), "length", 1234567890123456789, False),
            ((b"Transfer-Encoding: chunked",), "chunked", 0, False),
            ((b"Transfer-Encoding: Chunked",), "chunked", 0, False),
            ((b"Expect: 100-continue",), "none", 0, False),
            ((b"Expect: 100-Continue", b"Content-Length: 5"), "length", 5, True),
            ((b"Expect: 100-continue", b"Transfer-Encoding: chunked"), "chunked", 0, True),
            ((b"Expect: 100-continue", b"Content-Length: 0"), "length", 0, False),
        ],
    )
    def test_framing(self, fields, body, length, expects):
        parsed = parse_head(head(*fields, line=b"POST http://a.test/ HTTP/1.1"))
        assert (parsed.body, parsed.length, parsed.expects_continue) == (body, length, expects)

    @pytest.mark.parametrize(
        ("version", "fields", "keep_alive"),
        [
            (b"1.1", (), True),
            (b"1.1", (b"Connection: keep-alive",), True),
            (b"1.1", (b"Connection: close",), False),
            (b"1.1", (b"Connection: x, ,Close",), False),
            (b"1.1", (b"Connection: x", b"Connection: close"), False),
            (b"1.1", (b"Connection: closed",), True),
            (b"1.0", (), False),
            (b"1.0", (b"Connection: keep-alive",), False),
        ],
    )
    def test_persistence(self, version, fields, keep_alive):
        line = b"GET http://a.test/ HTTP/" + version
        assert parse_head(head(*fields, line=line)).keep_alive is keep_alive

    def test_http_1_0_needs_no_host_and_has_no_expectations(self):
        raw = head(
            b"Expect: 100-continue",
            b"Content-Length: 1",
            line=b"POST http://a.test/ HTTP/1.0",
            host=False,
        )
        parsed = parse_head(raw)
        assert parsed.version == "1.0"
        assert not parsed.expects_continue

    def test_values_only_the_origin_reads_may_have_obs_text(self):
        value = "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()
        assert parse_head(head(b"X-Title: " + value)).first(b"x-title") == value

    def test_the_most_fields_pass_and_one_more_does_not(self):
        fields = [b"X: y"] * (MAX_FIELDS - 1)  # Host is one more
        assert len(parse_head(head(*fields)).fields) == MAX_FIELDS
        assert refusal(head(*fields, b"X: y")).status == 431

    def test_limits_hold_without_head_end_too(self):
        empty = len(b"GET http://a.test/ HTTP/1.1")
        assert parse_head(
            head(line=b"GET http://a.test/%b HTTP/1.1" % (b"a" * (MAX_REQUEST_LINE - empty)))
        )
        assert parse_head(head(b"X: " + b"a" * (MAX_HEAD - len(head(b"X: ")))))
        with pytest.raises(BadRequest, match="request line is longer") as refused:
            parse_head(head(line=b"GET http://a.test/" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1"))
        assert refused.value.status == 414
        with pytest.raises(BadRequest, match="head is longer") as refused:
            parse_head(head(b"X: " + b"a" * MAX_HEAD))
        assert refused.value.status == 431

    def test_only_a_whole_head_without_further_bytes_is_parsed(self):
        raw = head()
        for length in range(len(raw)):
            with pytest.raises(BadRequest):
                parse_head(raw[:length])
        for trailing in TRAILING:
            with pytest.raises(BadRequest):
                parse_head(raw + trailing)

    def test_repr_shows_no_secret(self):
        raw = head(
            b"Proxy-Authorization: Bearer s3cr3t", line=b"GET http://u:s3cr3t@h/?k=s3cr3t HTTP/1.1"
        )
        assert repr(parse_head(raw)) == "RequestHead(GET h/)"


def read_by_h11(raw: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event.method, event.target, list(event.headers)


tricky = st.sampled_from(
    [b" ", b"\t", b"\r", b"\n", b"\r\n", b":", b"\x00", b"\x0b", b"\xff", b"\x7f", b"_", b"a", b","]
)
line_start = st.sampled_from([b"GET", b"CONNECT", b"POST", b"get", b"PRI", b"TRACE", b"M-SEARCH"])
some_target = st.sampled_from([b"http://a.test/", b"a.test:443", b"*", b"/", b"http://a.test?x"])
some_version = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1"])
some_line = st.builds(b"%b %b %b".__mod__, st.tuples(line_start, some_target, some_version))
some_name = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"Transfer_Encoding", b"X", b"Expect", b""]
)
some_value = st.one_of(
    st.sampled_from([b"a.test", b"5", b"chunked", b"", b"100-continue", b"caf\xc3\xa9", b"a  b"]),
    st.binary(max_size=8),
)
some_field = st.builds(b"%b:%b%b".__mod__, st.tuples(some_name, st.just(b" "), some_value))
near_heads = st.builds(
    lambda line, fields: b"\r\n".join([line, *fields]) + b"\r\n\r\n",
    some_line,
    st.lists(some_field, max_size=5),
)


@st.composite
def broken_heads(draw: st.DrawFn) -> bytes:
    """A head with one piece of junk put in, or with one byte taken out."""
    wire = draw(near_heads)
    at = draw(st.integers(0, len(wire)))
    return wire[:at] + draw(tricky) + wire[at + draw(st.integers(0, 1)) :]


anything = st.one_of(
    near_heads, broken_heads(), st.binary(max_size=80), st.lists(tricky).map(b"".join)
)


@given(near_heads | broken_heads())
@example(head(b"X: a\x85b"))
@example(head(b"Content-Length: 5", line=b"POST http://a.test/ HTTP/1.0"))
def test_h11_reads_an_accepted_head_the_same_way(raw):
    try:
        parsed = parse_head(raw)
    except BadRequest:
        return
    method, target, fields = read_by_h11(raw)
    assert (parsed.method.encode(), parsed.target.encode()) == (method, target)
    assert list(parsed.fields) == fields
    assert head_end(raw, 0) == len(raw)


@given(anything, st.integers(1, 7))
def test_the_end_does_not_depend_on_how_bytes_arrive(wire, step):
    assert dribbled(wire) == outcome(wire)
    steps = dribbled(wire, step)
    assert steps == outcome(wire)


@given(anything)
def test_parse_head_alone_is_as_strict_as_head_end(wire):
    """The proxy calls only parse_head if the first read has a blank line."""
    end = wire.find(b"\r\n\r\n") + 4
    if end > 3 and outcome(wire) != end:
        with pytest.raises(BadRequest):
            parse_head(wire[:end])


@given(anything, st.sampled_from(TRAILING))
def test_what_follows_a_head_does_not_change_it(wire, trailing):
    answer = outcome(wire)
    if answer != -1:
        assert outcome(wire + trailing) == answer


@given(anything)
def test_only_bad_request_is_raised_and_it_is_printable(wire):
    for read in (lambda: head_end(wire, 0), lambda: parse_head(wire)):
        try:
            result = read()
        except BadRequest as fault:
            refused = fault
        else:
            assert isinstance(result, int | RequestHead)
            continue
        assert refused.status in {400, 405, 413, 414, 417, 431, 501, 505}
        assert re.fullmatch(r"[\x20-\x7e]+", refused.reason)
        assert re.fullmatch(r"[\x20-\x7e]{0,255}", refused.target)


def test_fields_that_were_seen_before_are_judged_with_each_request_line():
    fields = b"Host: a.test\r\nContent-Length: 3\r\n\r\n"
    for _ in range(2):
        assert parse_head(b"POST /a HTTP/1.1\r\n" + fields).length == 3
        for line, status in ((b"CONNECT a.test:1 HTTP/1.1", 400), (b"TRACE /a HTTP/1.1", 405)):
            with pytest.raises(BadRequest) as refused:
                parse_head(line + b"\r\n" + fields)
            assert refused.value.status == status


def test_fields_that_are_refused_are_refused_again():
    for _ in range(2):
        with pytest.raises(BadRequest):
            parse_head(b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n")
