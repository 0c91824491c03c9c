"""The proxy's own answers, and the decisions of its authorizer."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_proxy import TOKEN, connect, http

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.message import BodyData, MessageEnded
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.authorizer import MEMORY, HttpRequest, RequestAuthorizer, Token
from nono_trio.proxy.http.error_response import refusal

STATUSES = [400, 403, 405, 407, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505]


def read(answer: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    return response, body


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_a_whole_response(status, close):
    response, body = read(refusal(status, "no", "yes", close=close))
    headers = dict(response.headers)
    assert response.status_code == status
    assert response.reason.endswith(b": no")
    assert body == b"nono-trio: no\nhint: yes\n"
    assert headers[b"content-type"] == b"text/plain"
    assert headers.get(b"connection") == (b"close" if close else None)
    assert (b"proxy-authenticate" in headers) is (status == 407)
    assert (b"allow" in headers) is (status == 405)


@given(st.text(max_size=40), st.text(max_size=40) | st.none())
def test_no_text_breaks_out_of_an_answer(reason, hint):
    _, body = read(refusal(403, reason, hint, close=True))
    assert body.isascii()
    assert body.count(b"\n") == (2 if hint else 1)


def test_head_gets_no_body():
    answer = refusal(403, "no", None, close=False, body=False)
    response, body = read(answer, "HEAD")
    assert (body, dict(response.headers)[b"content-length"]) == (b"", b"14")


def authorizer(*allow: str) -> RequestAuthorizer:
    return RequestAuthorizer(Policy.build(list(allow)), Token(TOKEN))


def test_a_remembered_head_gets_the_same_decision():
    authorize = authorizer("allowed.test").authorize
    for target, status in (("allowed.test:443", None), ("evil.test:443", 403)):
        for _ in range(2):
            _, decision, rest = authorize(connect(target), b"early")
            assert decision.target == target.split(":")[0]
            assert (decision.refusal and decision.refusal.status) == status
            assert rest == b"early"


def test_remembered_heads_are_bounded_and_had_the_right_token():
    ours = authorizer()
    for number in range(3 * MEMORY):
        ours.authorize(connect(f"h{number}.test:443"), b"")
        ours.authorize(connect(f"h{number}.test:443").replace(b"Basic ", b"Basic eDp5"), b"")
    assert 0 < len(ours.remembered) <= MEMORY
    assert all(decision.presented == "succeeded" for decision in ours.remembered)


def test_plain_requests_are_never_shared():
    ours = authorizer("a.test")
    raw = http("POST", "http://a.test/", "Content-Length: 3")
    (one, _, rest), (two, _, _) = ours.authorize(raw, b"abcdef"), ours.authorize(raw, b"")
    assert isinstance(one, HttpRequest)
    assert isinstance(two, HttpRequest)
    assert (one.early, rest) == ((BodyData(1, b"abc"), MessageEnded(1)), b"def")
    assert two.early == ()
    assert not one.has_open_body
    assert two.has_open_body


@pytest.mark.parametrize(
    "body", [b"5\nhello\r\n", b"0x5\r\nhello\r\n", b"5;x\rhello\r\n", b"1;" + b"x" * 2000]
)
def test_framing_that_came_with_the_head_is_checked_first(body):
    with pytest.raises(BadRequest):
        authorizer("a.test").authorize(
            http("POST", "http://a.test/", "Transfer-Encoding: chunked"), body
        )


def test_trailers_that_came_with_the_head_are_kept():
    raw = http("POST", "http://a.test/", "Transfer-Encoding: chunked")
    request, _, rest = authorizer("a.test").authorize(raw, b"2\r\nab\r\n0\r\nX-A: b\r\n\r\nrest")
    assert isinstance(request, HttpRequest)
    assert request.early == (BodyData(1, b"ab"), MessageEnded(1, ((b"X-A", b"b"),)))
    assert (request.has_open_body, rest) == (False, b"rest")


@pytest.mark.parametrize("presented", ["", "x", TOKEN[:-1], TOKEN + "x", "é", "\0"])
def test_only_the_token_is_the_token(presented):
    assert not Token(TOKEN).matches(presented.encode())
    assert Token(TOKEN).matches(TOKEN.encode())
    assert TOKEN not in repr(Token(TOKEN))
