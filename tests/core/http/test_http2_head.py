"""Heads of HTTP/2 become heads of HTTP/1.1 for one parser, and nothing gets through twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.http2_head import (
    FieldFault,
    check_trailers,
    outgoing_fields,
    request_bytes,
    response_head,
)
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.response_head import BadResponse

HEAD = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/x")]


def test_a_request_is_written_for_the_parser():
    fields = [
        *HEAD,
        (b"accept", b"*/*"),
        (b"cookie", b"a"),
        (b"cookie", b"b"),
        (b"te", b"trailers"),
    ]
    assert request_bytes(fields, 443, ended=True) == (
        b"GET /x HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\ncookie: a\r\ncookie: b\r\n"
        b"te: trailers\r\n\r\n"
    )
    assert b"\r\ntransfer-encoding: chunked\r\n" in request_bytes(HEAD, 443, ended=False)
    sized = [*HEAD, (b"content-length", b"5")]
    assert b"chunked" not in request_bytes(sized, 443, ended=False)


@pytest.mark.parametrize(
    ("authority", "port", "accepted"),
    [(b"a.test", 443, True), (b"a.test:443", 443, True), (b"a.test", 8443, False),
     (b"a.test:8443", 8443, True), (b"a.test:8443", 443, False), (b"[::1]", 443, True),
     (b"[::1]:8443", 8443, True), (b"a.test:99999999999999", 443, False)],
)  # fmt: skip
def test_the_authority_must_be_of_the_port(authority, port, accepted):
    fields = [*HEAD[:2], (b":authority", authority), HEAD[3]]
    if accepted:
        assert b"host: " + authority in request_bytes(fields, port, ended=True)
        return
    with pytest.raises(BadRequest) as raised:
        request_bytes(fields, port, ended=True)
    assert raised.value.status == 421


BYTES = st.binary(max_size=6) | st.sampled_from(
    [b"\r\n", b"\n", b"x\r\ny: z", b"\r\n\r\nGET / HTTP/1.1\r\n", b" x", b"x ", b":path", b"host"]
)


@given(st.lists(st.tuples(BYTES, BYTES), max_size=4), BYTES, BYTES, BYTES)
def test_no_bytes_of_a_field_become_another_line(fields, method, path, authority):
    head = [
        (b":method", b"G" + method), (b":scheme", b"https"), (b":authority", b"a" + authority),
        (b":path", b"/" + path), *fields,
    ]  # fmt: skip
    try:
        raw = request_bytes(head, 443, ended=True)
        parsed = parse_head(raw)
    except BadRequest:
        return
    assert (parsed.method.encode(), parsed.target.encode()) == (b"G" + method, b"/" + path)
    rest = [(b"host", b"a" + authority), *(field for field in fields if field[0] != b"host")]
    assert list(parsed.fields) == rest


def test_fields_that_go_out():
    fields = [*HEAD, (b"host", b"a.test"), (b"proxy-authorization", b"x"), (b"te", b"trailers"),
              (b"expect", b"100-continue"), (b"x", b"1")]  # fmt: skip
    assert outgoing_fields(fields, expects=False) == [(b"te", b"trailers"), (b"x", b"1")]
    assert (b"expect", b"100-continue") in outgoing_fields(fields, expects=True)


def test_responses():
    ok = [(b":status", b"200"), (b"content-length", b"5"), (b"proxy-x", b"1")]
    assert response_head(ok, "GET") == (200, [(b"content-length", b"5")], 5)
    assert response_head(ok, "HEAD")[2] == 0
    assert response_head([(b":status", b"304"), (b"content-length", b"5")], "GET")[2] == 0
    assert response_head([(b":status", b"103")], "GET") == (103, [], None)
    for bad in (
        [], [(b"x", b"1")], [(b":status", b"20")], [(b":status", b"099")], [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")], [(b"x", b"1"), (b":status", b"200")],
        [(b":status", b"200"), (b"connection", b"close")], [(b":status", b"200"), (b"X", b"1")],
        [(b":status", b"200"), (b"x", b"1\r\ny: z")], [*ok, (b"content-length", b"5")],
        [(b":status", b"200"), (b"content-length", b"+5")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    ):  # fmt: skip
        with pytest.raises(BadResponse):
            response_head(bad, "GET")


def test_trailers():
    check_trailers([(b"grpc-status", b"0"), (b"grpc-message", b"")])
    for name in (b"host", b"content-length", b":path", b"authorization", b"proxy-x", b"X", b"te"):
        with pytest.raises(FieldFault):
            check_trailers([(name, b"trailers")])
