"""What the proxy says itself, and what the gate says of a head."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_proxy import TOKEN, connect, http

from nono_trio.core.http.request_head import BadRequest
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.authorizer import MEMORY, RequestAuthorizer
from nono_trio.proxy.access.token import Token
from nono_trio.proxy.http.error_response import refusal
from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.upstream.resolver import AddressResolver
from nono_trio.testing import FakeResolver

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


def gate(*allow: str) -> RequestAuthorizer:
    policy = Policy.build(list(allow))
    return RequestAuthorizer(
        policy, Token(TOKEN), AddressResolver(policy, FakeResolver(), DEFAULT_LIMITS)
    )


def test_a_known_head_is_judged_as_the_first_time():
    judge = gate("allowed.test").judge
    for target, status in (("allowed.test:443", None), ("evil.test:443", 403)):
        for _ in range(2):
            request, refused, rest = judge(connect(target), b"early")
            assert request.subject.target == target.split(":")[0]
            assert (refused and refused.status) == status
            assert rest == b"early"


def test_what_is_remembered_is_bounded_and_never_a_guess():
    ours = gate()
    for number in range(3 * MEMORY):
        ours.judge(connect(f"h{number}.test:443"), b"")
        ours.judge(connect(f"h{number}.test:443").replace(b"Basic ", b"Basic eDp5"), b"")
    assert len(ours._known) <= MEMORY
    assert all(request.subject.presented == "succeeded" for request, _ in ours._known.values())


def test_plain_requests_are_never_shared():
    ours = gate("a.test")
    raw = http("POST", "http://a.test/", "Content-Length: 3")
    (one, _, rest), (two, _, _) = ours.judge(raw, b"abcdef"), ours.judge(raw, b"")
    assert one.plain is not None
    assert two.plain is not None
    assert (one.plain.early, rest) == (b"abc", b"def")
    assert one.plain.body.done
    assert not two.plain.body.done


@pytest.mark.parametrize(
    "body", [b"5\nhello\r\n", b"0x5\r\nhello\r\n", b"5;x\rhello\r\n", b"1;" + b"x" * 2000]
)
def test_framing_that_came_along_is_judged_before_anything_is_asked(body):
    with pytest.raises(BadRequest):
        gate("a.test").judge(http("POST", "http://a.test/", "Transfer-Encoding: chunked"), body)


@pytest.mark.parametrize("presented", ["", "x", TOKEN[:-1], TOKEN + "x", "é", "\0"])
def test_only_the_token_is_the_token(presented):
    assert not Token(TOKEN).matches(presented.encode())
    assert Token(TOKEN).matches(TOKEN.encode())
    assert TOKEN not in repr(Token(TOKEN))
