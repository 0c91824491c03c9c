"""Accepted heads: the target, the token, and the fields that are sent on."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.field_block import FieldBlock
from nono_trio.core.http.header_fields import end_to_end_fields, presented_token
from nono_trio.core.http.message import RequestHead
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.target import connect_target, http_target
from nono_trio.core.net.host import Host


def head(*fields: bytes, line: bytes = b"GET http://a.test/ HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a.test", *fields]) + b"\r\n\r\n"


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "host", "port"),
        [
            ("a.test:443", "a.test", 443),
            ("A.Test.:1", "a.test", 1),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("[::1]:443", "::1", 443),
            ("[2001:DB8:0::1]:443", "2001:db8::1", 443),
            ("a_b.test:443", "a_b.test", 443),
        ],
    )
    def test_connect(self, target, host, port):
        parsed = parse_head(head(line=f"CONNECT {target} HTTP/1.1".encode()))
        found, found_port = connect_target(parsed)
        assert (found.name, found_port) == (host, port)

    @pytest.mark.parametrize(
        ("target", "host", "port", "authority", "path"),
        [
            ("http://a.test", "a.test", 80, b"a.test", b"/"),
            ("http://a.test/", "a.test", 80, b"a.test", b"/"),
            ("HTTP://A.TEST./x", "a.test", 80, b"a.test", b"/x"),
            ("http://a.test:80/x", "a.test", 80, b"a.test", b"/x"),
            ("http://a.test:8080/x", "a.test", 8080, b"a.test:8080", b"/x"),
            ("http://a.test?x", "a.test", 80, b"a.test", b"/?x"),
            ("http://a.test:81?x", "a.test", 81, b"a.test:81", b"/?x"),
            ("http://a.test/?a=b@c:d/\\?", "a.test", 80, b"a.test", b"/?a=b@c:d/\\?"),
            ("http://a.test//b.test/..%2f/./../", "a.test", 80, b"a.test", b"//b.test/..%2f/./../"),
            ("http://a.test/@b.test:1", "a.test", 80, b"a.test", b"/@b.test:1"),
            ("http://a.test/%0d%0aX:y", "a.test", 80, b"a.test", b"/%0d%0aX:y"),
            ('http://a.test/{|}^`"<>', "a.test", 80, b"a.test", b'/{|}^`"<>'),
            ("http://[::1]/", "::1", 80, b"[::1]", b"/"),
            ("http://[2001:DB8::1]:81/", "2001:db8::1", 81, b"[2001:db8::1]:81", b"/"),
        ],
    )
    def test_absolute_form(self, target, host, port, authority, path):
        found = http_target(parse_head(head(line=f"GET {target} HTTP/1.1".encode())))
        assert (found.host.name, found.port) == (host, port)
        assert (found.authority, found.path) == (authority, path)

    def test_options_of_a_whole_server(self):
        parsed = parse_head(head(line=b"OPTIONS http://a.test:81 HTTP/1.1"))
        assert http_target(parsed).path == b"*"
        parsed = parse_head(head(line=b"OPTIONS http://a.test:81/ HTTP/1.1"))
        assert http_target(parsed).path == b"/"

    def test_the_target_rules_whatever_host_says(self):
        parsed = parse_head(head(line=b"CONNECT b.test:443 HTTP/1.1"))
        assert connect_target(parsed) == (Host("b.test"), 443)


class TestToken:
    @pytest.mark.parametrize(
        ("value", "token"),
        [
            (b"Basic " + base64.b64encode(b"nono:t0k"), b"t0k"),
            (b"bAsIc " + base64.b64encode(b":t0k"), b"t0k"),
            (b"Basic " + base64.b64encode(b"user:t0k:x"), b"t0k:x"),
            (b"Basic " + base64.b64encode(b"user:"), b""),
            (b"Basic " + base64.b64encode("u:\N{SNOWMAN}".encode()), "\N{SNOWMAN}".encode()),
            (b"Bearer t0k", b"t0k"),
            (b"BEARER t0k", b"t0k"),
            (b"Basic " + base64.b64encode(b"no-colon"), None),
            (b"Basic " + base64.b64encode(b"u:t0k").rstrip(b"="), None),
            (b"Basic  " + base64.b64encode(b"u:t0k"), None),
            (b"Basic\t" + base64.b64encode(b"u:t0k"), None),
            (b"Basic " + base64.b64encode(b"u:t0k") + b" x", None),
            (b"Basic " + base64.b64encode(b"u:t0k") + b", Basic eDp5", None),
            (b"Basic !!!!", None),
            (b"Basic", None),
            (b"Basic ", None),
            (b"Bearer", None),
            (b"Bearer ", None),
            (b"Bearert0k", None),
            (b"Negotiate YII=", None),
            (b"t0k", None),
            (b"", None),
        ],
    )
    def test_presented(self, value, token):
        parsed = parse_head(head(b"Proxy-Authorization: " + value))
        assert presented_token(parsed.first(b"proxy-authorization")) == token

    def test_absent(self):
        parsed = parse_head(head(b"Authorization: Bearer t0k"))
        assert presented_token(parsed.first(b"proxy-authorization")) is None


class TestEndToEndFields:
    def test_fields_for_the_proxy_are_not_sent_on(self):
        fields = [
            (b"host", b"a.test"),
            (b"connection", b"X-Drop , Upgrade,,HTTP2-Settings"),
            (b"Connection", b"x-too"),
            (b"x-drop", b"1"),
            (b"X-Too", b"1"),
            (b"keep-alive", b"timeout=5"),
            (b"Proxy-Authorization", b"Basic x"),
            (b"proxy-connection", b"keep-alive"),
            (b"proxy-anything", b"1"),
            (b"te", b"trailers"),
            (b"trailer", b"x"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
            (b"http2-settings", b"AAMAAABk"),
            (b"content-length", b"5"),
            (b"x-kept", b"1"),
            (b"x-kept", b"2"),
        ]
        kept = [fields[0], *fields[-3:]]
        assert end_to_end_fields(fields) == kept

    @pytest.mark.parametrize("name", [b"host", b"content-length", b"authorization", b"cookie"])
    def test_connection_can_not_delete_guarding_fields(self, name):
        fields = [(b"connection", b"close, " + name.upper()), (name, b"v")]
        assert end_to_end_fields(fields) == [(name, b"v")]

    def test_other_fields_are_unchanged(self):
        assert end_to_end_fields([]) == []
        assert end_to_end_fields(iter([(b"a", b"b")])) == [(b"a", b"b")]


targets = st.text(alphabet="ahtps:/.@?#\\[]%*0189-_&=\t", min_size=1, max_size=30)


@given(targets | targets.map("http://".__add__))
def test_a_target_is_read_or_refused(target):
    asked = RequestHead(method="GET", target=target, version="1.1", block=FieldBlock(b""), raw=b"")
    for read in (connect_target, http_target):
        try:
            found = read(asked)
        except BadRequest as fault:
            refused = fault
        else:
            host, port = found[:2] if isinstance(found, tuple) else (found.host, found.port)
            assert 0 < port < 65536
            assert host.name in target.lower() or host.address is not None
            continue
        assert refused.status == 400
        assert re.fullmatch(r"[\x20-\x7e]+", refused.reason)
