"""MCP rules at the proxy: what was judged is sent, and no denied call reaches the server."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from held_credentials import STAND_IN, credentials, held
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looked_into import HOST, LookedInto, looking_into
from mcp_bodies import ALLOWED, DENIED, JSON, call, message, readings, spellings
from origin import serving
from running_proxy import QUICK, Answer, Wire, http, running, until
from websocket_peer import FIELDS

from nono_trio.core.http.mcp_message import MAX_BODY
from nono_trio.errors import AuditBusy
from nono_trio.proxy.http.message_body import CONTINUE
from nono_trio.proxy.transport.client import Client
from nono_trio.proxy.transport.transport import SideFailed
from nono_trio.testing import FailingRecorder, FakeResolver, LoopbackDialler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = f"https://{HOST}/echo"
RULES = (f"allow mcp {ALLOWED} {URL}",)


def post(body: bytes, kind: str = JSON, *fields: str, target: str = "/echo") -> bytes:
    lines = [f"POST {target} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] * bool(kind)
    return "".join(f"{line}\r\n" for line in (*lines, *fields, "")).encode() + body


def chunked(body: bytes, sizes: list[int], *fields: str) -> bytes:
    lines = ["POST /echo HTTP/1.1", f"Host: {HOST}", "Transfer-Encoding: chunked", *fields]
    head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Type: {JSON}", "")).encode()
    at, chunks = 0, b""
    for size in [*sizes, len(body)]:
        piece = body[at : at + size]
        at += size
        if piece:
            chunks += b"%x\r\n%b\r\n" % (len(piece), piece)
    return head + chunks + b"0\r\n\r\n"


@asynccontextmanager
async def asking(at: LookedInto) -> AsyncIterator[object]:
    """Send requests in one tunnel, and in the next one after an answer that has ended it."""
    async with trio.open_nursery() as nursery:
        ended = trio.Event()
        open_wire: list[Wire] = []

        async def hold(task_status: trio.TaskStatus[Wire]) -> None:
            async with at.tunnel() as wire:
                task_status.started(wire)
                await ended.wait()

        async def ask(request: bytes) -> Answer:
            if not open_wire:
                open_wire.append(await nursery.start(hold))
            answer = await open_wire[0].exchange(request, "POST")
            assert answer is not None
            if answer.headers.get("connection") == "close":
                open_wire.clear()
            return answer

        yield ask
        ended.set()


def records(at: LookedInto) -> list[tuple[str, str | None]]:
    return [(one.decision, one.reason) for one in at.proxy.recorder.events if one.path is not None]


@pytest.mark.parametrize("rule", [RULES[0], f"allow mcp sk-* {URL}"])
async def test_a_tool_that_is_named_after_a_stand_in_is_recorded_without_it(rule):
    tool = STAND_IN.decode()
    bodies = call(tool), b"[%b,%b]" % (call(tool, 1), call(tool, 2))
    async with looking_into(rule, credentials=credentials(held())) as at, asking(at) as ask:
        for body in bodies:
            await ask(post(body))
        found = [reason or "" for _, reason in records(at)]
        assert tool not in repr(at.proxy.recorder.events)
        assert [one for one in found if "[REDACTED]" in one], found


async def test_an_allowed_call_is_recorded_before_it_is_sent_byte_for_byte():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        body = call(ALLOWED, query="hunter2").replace(b'"name"', b'"\\u006eame"')
        answer = await wire.exchange(post(body), "POST")
        assert answer is not None
        assert (answer.status, answer.body) == (200, body)
        event = at.proxy.recorder.events[-1]
        assert (event.method, event.path, event.decision) == ("POST", "/echo", "allow")
        assert event.endpoint_policy_rule == f"mcp {ALLOWED} {URL}"
        assert (event.reason or "").startswith(f"MCP tools/call {ALLOWED} sha256:")
        assert "hunter2" not in repr(at.proxy.recorder.events)


async def test_a_denied_call_gets_an_error_of_its_protocol_with_the_flag_that_allows_it():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        answer = await wire.exchange(post(call(DENIED, "x\n1")), "POST")
        assert answer is not None
        assert (answer.status, answer.headers["content-type"]) == (200, JSON)
        found = json.loads(answer.body)
        assert (found["id"], found["error"]["code"]) == ("x\n1", 403)
        assert f"allow it with --allow-mcp-tool '{DENIED} {URL}'" in found["error"]["message"]
        assert await wire.exchange(post(call()), "POST") is not None  # the connection goes on
        assert [one for one, _ in records(at)] == ["deny", "allow"]
        assert at.origin.bodies == [len(call())]


@pytest.mark.parametrize(
    "body", [b"[%b,%b]" % (call(), call(DENIED)), call(DENIED).replace(b'"id": 1, ', b"")]
)
async def test_a_denied_batch_or_notification_gets_a_403(body):
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        answer = await wire.exchange(post(body), "POST")
        assert answer is not None
        assert answer.status == 403
        assert f"the MCP tool {DENIED}".encode() in answer.body
        assert len(records(at)) == 1
        assert at.origin.requests == []


async def test_each_message_of_a_batch_is_a_record():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        batch = b"[%b,%b]" % (call(), message("tools/list", 2))
        answer = await wire.exchange(post(batch), "POST")
        assert answer is not None
        assert answer.body == batch
        notes = [reason for _, reason in records(at)]
        assert [(note or "").split(" ")[1] for note in notes] == ["tools/call", "tools/list"]


async def test_no_spelling_of_a_denied_call_reaches_the_server():
    async with looking_into(*RULES, f"deny mcp {DENIED} {URL}") as at, asking(at) as ask:
        count = 0
        for name, body, kind in spellings():
            before, seen = len(records(at)), len(at.origin.bodies)
            await ask(post(body, kind))
            count += 1
            assert len(records(at)) > before, name
            if at.origin.bodies[seen:]:
                assert not any(DENIED in tool for _, tool in readings(body)), name
        assert count > 180
        assert DENIED.encode() not in at.origin.seen
        await ask(post(call()))
        assert len(at.origin.bodies) == 1


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cases=st.lists(
        st.tuples(
            st.sampled_from([call(), call(DENIED), b"[%b,%b]" % (call(), call(DENIED))]),
            st.lists(st.integers(1, 40), max_size=30),
        ),
        min_size=10,
        max_size=15,
    )
)
async def test_chunks_change_nothing(cases):
    async with looking_into(*RULES) as at, asking(at) as ask:
        for body, sizes in cases:
            before = len(at.origin.bodies)
            answer = await ask(chunked(body, sizes))
            sent = at.origin.bodies[before:]
            assert sent == ([len(body)] if DENIED.encode() not in body else [])
            assert (answer.body == body) == bool(sent)


async def test_a_body_byte_by_byte_and_one_with_the_next_request_behind_it():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        for byte in chunked(call(), [1] * 20):
            await wire.send(bytes([byte]))
        answer = await wire.answer("POST")
        assert answer is not None
        assert answer.body == call()
        await wire.send(post(call(DENIED)) + post(call()))
        denied, allowed = await wire.answer("POST"), await wire.answer("POST")
        assert denied is not None
        assert allowed is not None
        assert b"fits no MCP rule" in denied.body
        assert allowed.body == call()


async def test_a_client_that_waits_gets_the_continue_from_the_proxy_and_the_server_is_not_asked():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        request = post(call(), JSON, "Expect: 100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        await wire.send(head + b"\r\n\r\n")
        assert await wire.receive_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert at.origin.requests == []
        answer = await wire.exchange(body, "POST")
        assert answer is not None
        assert answer.body == call()
        assert b"expect" not in dict(at.origin.requests[0].headers)


async def test_a_client_that_leaves_before_the_continue_is_recorded(monkeypatch):
    send = Client.send

    async def broken(client: Client, data: bytes) -> None:
        if data == CONTINUE:
            raise SideFailed("client")
        await send(client, data)

    monkeypatch.setattr(Client, "send", broken)
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        await wire.send(post(call(), JSON, "Expect: 100-continue").partition(call())[0])
        await until(lambda: records(at) == [("deny", "the MCP message was cut off")])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(call() + b" " * MAX_BODY), 413),
        (chunked(call() + b" " * MAX_BODY, [16384] * 8), 413),
        (post(call(), JSON, "Content-Encoding: gzip"), 415),
        (post(call(), JSON, "Content-Type: text/plain"), 415),
        (post(call(), "text/plain"), 415),
        (post(b""), 400),
        (post(call(), JSON, "Mcp-Name: delete_repo"), 400),
        (chunked(call(), []).replace(b"\r\n0\r\n", b"\r\nx\r\n"), 400),
        (post(call()).replace(b"POST", b"PUT", 1), 403),
    ],
)
async def test_what_can_not_be_judged_is_refused(request_, status):
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        answer = await wire.exchange(request_, "POST")
        assert answer is not None
        assert answer.status == status
        assert at.origin.requests == []
        assert at.proxy.recorder.events[-1].decision == "deny"


async def test_a_body_that_comes_too_slowly_or_not_at_all_is_recorded_and_refused():
    async with looking_into(*RULES, limits=QUICK) as at:
        async with at.tunnel() as wire:
            await wire.send(post(call())[:-5])
            answer = await wire.answer("POST")
            assert answer is not None
            assert answer.status == 408
        async with at.tunnel() as wire:
            await wire.send(post(call())[:-5])
        await until(lambda: len(records(at)) == 2)
        assert records(at)[1] == ("deny", "the MCP message was cut off")
        assert at.origin.requests == []


async def test_a_stream_of_the_server_passes_and_a_websocket_does_not():
    rules = (f"allow mcp {ALLOWED} https://{HOST}/**",)
    async with looking_into(*rules) as at:
        async with at.tunnel() as wire:
            answer = await wire.exchange(f"DELETE /small HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert answer is not None
            assert answer.status == 200
            at.origin.released.set()
            answer = await wire.exchange(f"GET /events HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert answer is not None
            assert answer.body == b"data: one\n\ndata: two\n\n"
        async with at.tunnel() as wire:
            lines = [f"GET /echo HTTP/1.1\r\nHost: {HOST}", *FIELDS, "", ""]
            answer = await wire.exchange("\r\n".join(lines).encode())
            assert answer is not None
            assert answer.status == 403


async def test_nothing_is_sent_if_the_log_can_not_be_written():
    recorder = FailingRecorder(2, AuditBusy("the queue is full"))  # the tunnel and its TLS
    async with looking_into(*RULES, recorder=recorder) as at, at.tunnel() as wire:
        answer = await wire.exchange(post(call()), "POST")
        assert answer is not None
        assert answer.status == 503
        assert at.origin.requests == []


async def test_plain_http_obeys_the_same_rules():
    url = "http://plain.test/echo"
    fields = (f"Content-Type: {JSON}", f"Content-Length: {len(call())}")
    denied = call(DENIED)
    async with (
        serving() as origin,
        running(
            resolver=FakeResolver({"plain.test": [["192.0.2.1"]]}),
            dialler=LoopbackDialler(origin.port),
            endpoints=[f"allow mcp {ALLOWED} {url}"],
        ) as proxy,
    ):
        answer = await proxy.ask(http("POST", url, *fields, body=call()), "POST")
        assert answer is not None
        assert answer.body == call()
        length = f"Content-Length: {len(denied)}"
        request = http("POST", url, fields[0], length, "Connection: close", body=denied)
        answer = await proxy.ask(request, "POST")
        assert answer is not None
        assert b"--allow-mcp-tool 'delete_repo http://plain.test/echo'" in answer.body
        assert origin.bodies == [len(call())]


async def test_the_answer_to_a_head_has_no_body():
    async with looking_into(*RULES, f"allow HEAD {URL}") as at, at.tunnel() as wire:
        await wire.send(post(call(DENIED)).replace(b"POST", b"HEAD", 1))
        answer = await wire.answer("HEAD")
        assert answer is not None
        assert answer.status == 403
        assert wire.unread == b""
        assert (await wire.exchange(post(call()), "POST")).body == call()


TRAILERS = ["x-sum: 1", "x-http-method-override: DELETE"]


@pytest.mark.parametrize("trailer", TRAILERS)
async def test_trailers_of_a_call_pass_or_are_refused_as_those_of_any_request(trailer):
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        request = chunked(call(), [7, 9])[:-2] + trailer.encode() + b"\r\n\r\n"
        answer = await wire.exchange(request, "POST")
        assert answer is not None
        is_good = trailer.startswith("x-sum")
        assert answer.status == (200 if is_good else 400)
        assert (trailer.encode() in at.origin.seen) == is_good
        assert (at.proxy.recorder.events[-1].decision == "allow") == is_good


async def test_a_host_without_mcp_rules_is_not_looked_into_further():
    async with looking_into(f"allow POST https://{HOST}/**") as at, at.tunnel() as wire:
        answer = await wire.exchange(post(b"\xff no json", "text/plain"), "POST")
        assert answer is not None
        assert answer.body == b"\xff no json"
