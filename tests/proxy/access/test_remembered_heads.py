"""Heads that are remembered: the outcome is the same as without, and no secret is kept."""

from __future__ import annotations

import re
import tracemalloc

import pytest
import running_proxy
from hostile_heads import CASES, expand, request
from hostile_siblings import (
    ADDRESSES,
    AUTH,
    CONNECT_TARGETS,
    CREDENTIALS,
    FIELDS,
    HOSTS,
    HTTP_TARGETS,
    LINES,
)
from running_proxy import http, running

from nono_trio.core.http import field_block
from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.field_block import MAX_REMEMBERED, MEMORY, MOST_FIELDS, requests
from nono_trio.core.http.http1 import MessageWriter
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access import authorizer
from nono_trio.proxy.access.authorizer import HttpRequest, RequestAuthorizer, Token
from nono_trio.proxy.http.rewrite import rewrite

POLICY = Policy.build(["allowed.test:443", "localhost-origin.test:80", "ok.test:80"])
GET = "GET http://ok.test/a HTTP/1.1"
LONG = "x" * (MAX_REMEMBERED - 80)


@pytest.fixture(autouse=True)
def nothing_remembered():
    requests.forget_all()
    yield
    requests.forget_all()


def judges() -> RequestAuthorizer:
    return RequestAuthorizer(POLICY, Token("t0k"))


def heads() -> list[bytes]:
    """Every hostile head, the good ones beside them, and each block of fields with other lines."""
    wires = [expand(case["request"]) for case in CASES]
    wires += [request(f"CONNECT {target} HTTP/1.1") for target, _ in CONNECT_TARGETS]
    wires += [request(f"GET {target} HTTP/1.1") for target, _ in HTTP_TARGETS]
    wires += [request(f"GET http://{address}/ HTTP/1.1") for address, _ in ADDRESSES]
    wires += [request(line) for line, _ in LINES]
    wires += [request("CONNECT allowed.test:443 HTTP/1.1", host=host) for host, _ in HOSTS]
    wires += [request(GET, *fields) for fields, _ in FIELDS]
    wires += [f"{GET}\r\nHost: a\r\n{field}\r\n\r\n".encode("latin-1") for field, _ in CREDENTIALS]
    wires += [request(GET, "Accept: */*", "Connection: close, X", "Expect: 100-continue")]
    wires += [request(GET, "TE: trailers, gzip", "Accept:\t a \t", "user-AGENT:x"), request(GET)]
    wires += [request(GET, f"User-Agent: {LONG[:size]}") for size in range(0, len(LONG), 90)]
    blocks = [wire.partition(b"\r\n")[2] for wire in wires]
    others = (b"POST http://ok.test/b?k=v HTTP/1.1", b"GET http://ok.test/c HTTP/1.0",
              b"CONNECT allowed.test:443 HTTP/1.1", b"TRACE http://ok.test/ HTTP/1.1")  # fmt: skip
    return wires + [line + b"\r\n" + block for line in others for block in blocks]


def outcome(ours: RequestAuthorizer, wire: bytes) -> tuple[object, ...]:
    """All that follows from a head: refusal, or decision, framing, and bytes for the upstream."""
    end = wire.find(b"\r\n\r\n") + 4
    if end == 3:
        return ("incomplete",)
    try:
        found, decision, rest = ours.authorize(wire[:end], wire[end:])
    except BadRequest as fault:
        return fault.status, fault.reason, fault.target, str(fault)
    head = found.head
    framing = head.body, head.length, head.expects_continue, head.keep_alive, head.fields
    about = type(found), decision.event(0), decision.refusal, rest, framing, found.host, found.port
    if not isinstance(found, HttpRequest):
        return about
    outgoing = rewrite(found, None)
    sent = MessageWriter(connection=outgoing.connection).write(outgoing.started)
    found.path, found.early = "changed", ()  # as a handler may do
    return (*about, found.body.done, sent, outgoing.is_last, outgoing.websocket_key)


def test_a_head_has_the_same_outcome_whether_it_is_remembered_or_not(monkeypatch):
    wires, ours = heads(), judges()
    with monkeypatch.context() as off:
        off.setattr(field_block, "MAX_REMEMBERED", -1)
        off.setattr(authorizer, "MAX_REMEMBERED", -1)
        without = [outcome(judges(), wire) for wire in wires]
        assert [*requests] == []
    kept = 0
    for wire, expected in zip(wires, without, strict=True):
        requests.forget_all()
        assert outcome(judges(), wire) == expected
    for wire, expected in zip(wires, without, strict=True):
        for _ in range(3):  # the second and third time with what the first has left
            assert outcome(ours, wire) == expected
        kept += bool([*requests])
    assert kept > len(wires) / 2
    assert len({status for status, *_ in without}) > 8


def test_remembered_requests_are_not_shared():
    ours = judges()
    for _ in range(3):
        found, _, rest = ours.authorize(request(GET), b"next")
        assert isinstance(found, HttpRequest)
        assert (found.path, len(found.early), rest) == ("/a", 1, b"next")
        found.path, found.early = "other", ()


SECRET = [
    "Authorization: Bearer s3cr3t", "Cookie: k=s3cr3t", "X-Api-Key: s3cr3t", "s3cr3t: x",
    "Referer: http://ok.test/?k=s3cr3t", "Sec-WebSocket-Key: s3cr3t", "If-None-Match: s3cr3t",
]  # fmt: skip


@pytest.mark.parametrize("field", SECRET)
@pytest.mark.parametrize("line", [GET, "CONNECT allowed.test:443 HTTP/1.1"])
def test_no_head_with_a_secret_is_remembered(line, field):
    ours = judges()
    for _ in range(3):
        ours.authorize(request(line, field), b"")
        parse_head(request(line, field).replace(b"Proxy-Authorization", b"User-Agent"))
    assert [*requests] == []
    assert ours.remembered == []


def test_no_wrong_token_no_query_and_no_stand_in_is_remembered():
    ours = judges()
    wrong = request(GET).replace(AUTH.encode(), b"Basic bm9ubzpzM2NyM3Q=")
    for _ in range(3):
        assert ours.authorize(wrong, b"")[1].presented == "failed"
    assert [*requests] == []
    for path in ("/a?k=s3cr3t", "/http://u:s3cr3t@h/", "/a%2fhttp%3A%2F%2Fs3cr3t@h"):
        for _ in range(3):
            ours.authorize(request(GET.replace("/a", path)), b"")
    with_stand_ins = RequestAuthorizer(POLICY, Token("t0k"), has_stand_ins=True)
    with_stand_ins.authorize(request(GET), b"")
    assert [*ours.remembered, *with_stand_ins.remembered] == []
    assert len([*requests]) == 1  # the right token's


async def test_the_token_is_forgotten_when_its_proxy_ends():
    async with running() as proxy:
        for path in "ab":  # the same fields
            async with proxy.client() as wire:
                assert await wire.exchange(http("GET", f"http://denied.test/{path}")) is not None
        assert any(running_proxy.AUTH.encode() in block for block in requests)
    assert [*requests] == []


def test_what_is_remembered_is_bounded():
    ours = judges()
    for number in range(3 * MEMORY):
        for path in ("a", "b"):  # a block is remembered when it comes again
            line = GET.replace("/a", f"/{path}{number}")
            ours.authorize(request(line, f"User-Agent: {number}"), b"")
        assert len([*requests]) <= MEMORY
        assert len(ours.remembered) <= MEMORY
    ours.authorize(request(GET, "User-Agent: " + "x" * MAX_REMEMBERED), b"")
    assert max(map(len, requests)) <= MAX_REMEMBERED
    assert all(re.fullmatch(rb"[\x20-\x7e\r\n]+", block) for block in requests)
    assert "Basic" not in repr(parse_head(request(GET)))


def test_what_many_short_fields_are_made_into_is_bounded():
    """A head of 1 KiB with 128 fields was 50 KiB as fields: 14 MiB for all."""

    def ask(numbers: range, paths: str, count: int) -> None:
        for number in numbers:
            for path in paths:
                head = request(
                    GET.replace("/a", f"/{path}"), f"DNT: {number}", *["TE:" + "x" * 40] * count
                )
                found, _, _ = ours.authorize(head, b"")
                assert isinstance(found, HttpRequest)
                rewrite(found, None)

    ours = judges()
    ask(range(2), "ab", MOST_FIELDS - 2)
    assert ([*requests], ours.remembered) == ([], [])
    tracemalloc.start()
    try:
        ask(range(MEMORY), "ab", MOST_FIELDS - 3)
        ask(range(MEMORY, 2 * MEMORY - 1), "a", MOST_FIELDS - 3)  # their blocks are others
        assert len([*requests]) == MEMORY
        assert len(ours.remembered) == MEMORY - 1
        assert tracemalloc.get_traced_memory()[0] < 2 * 4 * 2**20
    finally:
        tracemalloc.stop()
