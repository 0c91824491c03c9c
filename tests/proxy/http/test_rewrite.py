"""The rewriting of an allowed request: its head, and its body as events."""

from __future__ import annotations

import pytest
from running_proxy import AUTH, http

from nono_trio.core.http.http1 import CLOSE, MessageWriter
from nono_trio.core.http.message import BodyData, MessageEnded, RequestStarted
from nono_trio.core.http.websocket import UPGRADE_FIELDS
from nono_trio.core.policy.upstream_proxy import parse_upstream_proxy
from nono_trio.proxy.access.authorizer import HttpRequest, read_request
from nono_trio.proxy.http.rewrite import rewrite
from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.upstream.proxy_chain import ProxyChain
from nono_trio.testing import FakeResolver, LoopbackDialler

WEBSOCKET = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip


def request(method: str, url: str, *fields: str, body: bytes = b"") -> HttpRequest:
    found, rest = read_request(http(method, url, *fields), body)
    assert isinstance(found, HttpRequest)
    assert rest == b""
    return found


def chain(password: bytes | None = None) -> ProxyChain:
    user = "" if password is None else "me@"
    proxy = parse_upstream_proxy(f"http://{user}proxy.test:3128", [], password, {})
    assert proxy is not None
    return ProxyChain(proxy, FakeResolver(), LoopbackDialler(), DEFAULT_LIMITS)


def test_the_head_is_made_anew_and_the_token_stays_here():
    found = request("GET", "http://a.test:8080/p?q", "X-Kept: Yes", "Connection: X-Hop", "X-Hop: 1")
    outgoing = rewrite(found, None)
    assert outgoing.started == RequestStarted(
        1, b"GET", b"/p?q", b"a.test:8080", ((b"X-Kept", b"Yes"),)
    )
    assert (outgoing.connection, outgoing.is_last, outgoing.websocket_key) == ((), False, None)
    assert AUTH.encode() not in MessageWriter().write(outgoing.started)


def test_an_upstream_proxy_gets_the_absolute_form_and_its_own_credentials():
    found = request("GET", "http://a.test/p")
    assert rewrite(found, chain()).started.target == b"http://a.test/p"
    assert rewrite(found, chain()).started.fields == ()
    [(name, value)] = rewrite(found, chain(b"secret")).started.fields
    assert name == b"Proxy-Authorization"
    assert value.startswith(b"Basic ")
    assert value.decode() != AUTH


@pytest.mark.parametrize(("method", "is_last"), [("DELETE", True), ("POST", False)])
def test_a_body_that_servers_may_leave_unread_makes_the_request_the_last(method, is_last):
    outgoing = rewrite(request(method, "http://a.test/", "Content-Length: 2", body=b"{}"), None)
    assert outgoing.is_last is is_last
    assert outgoing.connection == ((CLOSE,) if is_last else ())


def test_a_websocket_handshake_keeps_its_upgrade():
    outgoing = rewrite(request("GET", "http://a.test/", *WEBSOCKET), None)
    assert outgoing.connection == UPGRADE_FIELDS
    assert outgoing.websocket_key == b"dGhlIHNhbXBsZSBub25jZQ=="
    written = MessageWriter(connection=outgoing.connection).write(outgoing.started)
    assert written.endswith(b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")


def test_http1_writes_framing_that_no_event_has():
    found = request(
        "POST", "http://a.test/", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"
    )
    started = rewrite(found, None).started
    assert started.fields == ()
    assert found.early == (BodyData(1, b"ab"), MessageEnded(1))
    writer = MessageWriter(chunked=True)
    assert b"".join(map(writer.write, (started, *found.early))) == (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )


def test_every_event_carries_the_stream_of_its_request():
    found = request("PUT", "http://a.test/", "Content-Length: 2", body=b"ab")
    found.stream_id = 7
    assert rewrite(found, None).started.stream_id == 7


def test_no_secret_is_in_a_repr():
    outgoing = rewrite(request("GET", "http://a.test/?s3cr3t", "Cookie: s3cr3t"), chain(b"s3cr3t"))
    assert "s3cr3t" not in repr(outgoing.started)
