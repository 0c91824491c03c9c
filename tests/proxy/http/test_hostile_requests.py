"""Hostile requests against a real proxy, up to its last byte, dial and audit record.

tests/data/hostile-inputs.json is a collection of attacks on proxies, each with the answers that
would be safe; what follows it are siblings that the collection does not have.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from checkout import TESTS
from hostile_siblings import (
    ADDRESSES,
    CONNECT_TARGETS,
    CREDENTIALS,
    FIELDS,
    HOSTS,
    HTTP_TARGETS,
    LINES,
)
from hostile_siblings import (
    AUTH as SIBLINGS_AUTH,
)
from msgspec.structs import replace
from origin import Origin, serving
from running_proxy import AUTH, QUICK, TOKEN, Running, Wire, connect, http, running, until

from nono_trio.core.log.events import Network, decode_payload, encode_payload
from nono_trio.core.log.record import encode_record
from nono_trio.testing import FakeResolver, LoopbackDialler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALLOW = ["allowed.test:443", "localhost-origin.test:80"]
DNS = {"allowed.test": [["192.0.2.10"]], "localhost-origin.test": [["192.0.2.20"]]}
MACRO = re.compile(r"\{([^{}]{1,8})\*(\d+)\}", re.DOTALL)
CASES = json.loads((TESTS / "data" / "hostile-inputs.json").read_text("utf-8"))
PLAIN = [case for case in CASES if "delivery" not in case]
BY_NAME = {case["name"]: case for case in CASES}
LIMITS = replace(QUICK, head=1.0, keep_alive=1.0, idle=3.0)


def expand(request: str, port: int) -> bytes:
    request = request.replace("{AUTH}", AUTH).replace("{PROXY}", f"127.0.0.1:{port}")
    request = request.replace("{CRLF*1000}", "\r\n" * 1000)
    return MACRO.sub(lambda match: match[1] * int(match[2]), request).encode("latin-1")


def answers_of(case: dict) -> dict[str, list[list[str]]]:
    """A resolver's table: each name's answers, one after the other."""
    table = {name: list(answers) for name, answers in DNS.items()}
    for name, addresses in case.get("fixture", {}).get("dns", {}).items():
        if addresses and " then " in addresses[0]:
            table[name] = [[one] for one in addresses[0].split(" then ")]
        else:
            table[name] = [addresses]
    return table


@dataclass
class Scene:
    """A proxy in front of an origin that stands for every host there is."""

    proxy: Running
    origin: Origin

    async def outcome(self, wire: Wire, request: bytes, *, at_once: bool) -> list[str]:
        """Statuses in their order; "close" where the connection ended without one."""
        statuses: list[str] = []
        tunnel = request.startswith(b"CONNECT")
        method = "HEAD" if request.startswith(b"HEAD") else "GET"
        while (answer := await wire.answer("CONNECT" if tunnel else method)) is not None:
            statuses.append(str(answer.status))
            if at_once or (tunnel and answer.status == 200):
                return statuses
        return [*statuses, "close"]

    def check_log(self, case: dict, statuses: list[str], port: int) -> None:
        events = self.proxy.recorder.events
        lines = [encode_record(0, None, encode_payload(Network(event=one)))[0] for one in events]
        for line, event in zip(lines, events, strict=True):
            assert line.count(b"\n") == 1
            assert decode_payload(json.loads(line)["event_json"].encode()).event == event
            assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", line)
        for secret in [AUTH.split()[1], *case.get("audit_must_not_contain", ())]:
            assert expand(secret, port) not in b"".join(lines)
        refused = not any(status.startswith("2") for status in statuses)
        if refused and "fixture" not in case:
            assert len(events) <= 1, "one refused request, one record"
        if refused:
            assert all(event.decision == "deny" for event in events if event.port is None)

    def check_dials(self, case: dict, statuses: list[str]) -> None:
        host, _, port = (case.get("dial") or "").rpartition(":")
        addresses = DNS[host][0] if host in DNS else [host]
        may = {(address, int(port)) for address in addresses} if host else set()
        assert set(self.proxy.dialler.dialled) <= may
        if not any(status.startswith("2") for status in statuses) and "fixture" not in case:
            assert self.proxy.resolver.asked == []
            assert self.proxy.dialler.dialled == []


def is_expected(statuses: list[str], expect: str) -> bool:
    """True if one of the alternatives came. A `close` needs no status before it, and a clean end
    may follow the last status."""
    for alternative in expect.split("|"):
        wanted = alternative.split(",")
        if statuses == wanted or statuses == [*wanted, "close"]:
            return True
    return False


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with serving() as origin:
        dialler, resolver = LoopbackDialler(origin.port), FakeResolver()
        async with running(ALLOW, resolver=resolver, dialler=dialler, limits=LIMITS) as proxy:
            yield Scene(proxy, origin)


@pytest.mark.parametrize("half_close", [True, False], ids=["half-closed", "open"])
@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["name"])
async def test_case_of_the_collection(case, half_close, scene, caplog):
    await run_case(case, scene, caplog, half_close=half_close)


async def run_case(case: dict, scene: Scene, caplog, *, half_close: bool, step: int = 0) -> None:
    proxy = scene.proxy
    proxy.resolver.table = answers_of(case)
    request = expand(case["request"], proxy.port)
    async with proxy.client() as wire:
        try:
            for at in range(0, len(request), step or len(request)):
                await wire.send(request[at : at + (step or len(request))])
            if half_close:
                await wire.end()
        except trio.BrokenResourceError:
            pass  # refused before all of it was sent
        statuses = await scene.outcome(
            wire, request, at_once=not half_close and "," not in case["expect"]
        )
    assert is_expected(statuses, case["expect"]), statuses
    scene.check_log(case, statuses, proxy.port)
    scene.check_dials(case, statuses)
    assert all(
        item.encode() not in scene.origin.seen for item in case.get("origin_must_not_see", ())
    )
    assert AUTH.encode() not in scene.origin.seen
    assert b"proxy-auth" not in bytes(scene.origin.seen).lower()
    assert caplog.records == []
    # and the next client is served
    answer = await proxy.ask(connect("evil.test:443"))
    assert answer is not None
    assert answer.status == 403


SHORT = [case for case in PLAIN if len(case["request"]) < 400 and "*" not in case["request"]]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case["name"])
async def test_case_of_the_collection_in_small_pieces(case, scene, caplog):
    if case["name"].startswith("s-chunk-") or case["name"] == "s-get-with-body":
        # the head is complete and allowed before the body is malformed: a dial is right then
        case = case | {"dial": "localhost-origin.test:80", "fixture": {}}
    await run_case(case, scene, caplog, half_close=False, step=5)


async def test_a_client_that_sends_nothing(scene):
    async with scene.proxy.client() as wire:
        assert await wire.ends()
    assert scene.proxy.recorder.events == []


async def test_a_head_that_is_cut_off(scene):
    case = BY_NAME["t-half-close"]
    async with scene.proxy.client() as wire:
        await wire.send(expand(case["request"], 0))
        await wire.end()
        statuses = await scene.outcome(wire, b"", at_once=False)
    assert is_expected(statuses, case["expect"])
    assert [event.decision for event in scene.proxy.recorder.events] == ["deny"]


async def test_a_reset_after_a_connect(scene):
    scene.proxy.resolver.table = dict(DNS)
    async with scene.proxy.client() as wire:
        await wire.send(expand(BY_NAME["t-rst-after-connect"]["request"], 0))
        await scene.proxy.events(1)
        wire.reset()
    assert [event.decision for event in scene.proxy.recorder.events] == ["allow"]
    await until(scene.origin.closed.is_set)
    answer = await scene.proxy.ask(connect("evil.test:443"))
    assert answer is not None
    assert answer.status == 403


async def test_a_client_that_never_reads(scene):
    scene.proxy.resolver.table = dict(DNS)
    async with scene.proxy.client() as wire:
        await wire.send(expand(BY_NAME["t-slow-read"]["request"], 0))
        await scene.proxy.events(1)
        answer = await scene.proxy.ask(http("GET", "http://localhost-origin.test/small"))
        assert answer is not None
        assert answer.body == b"ok"


async def test_a_flood_of_denials(scene):
    request = expand(BY_NAME["t-deny-flood"]["request"], 0)

    async def flood() -> None:
        for _ in range(250):
            async with scene.proxy.client() as wire:
                await wire.send(request)
                answer = await wire.answer()
                assert answer is not None
                assert answer.status == 403

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(flood)
    assert len(scene.proxy.recorder.events) == 2000


def with_auth(
    line: str, *fields: str, host: str | None = "Host: allowed.test", body: str = ""
) -> str:
    lines = [line, *([host] if host else []), "Proxy-Authorization: {AUTH}", *fields]
    return "".join(f"{one}\r\n" for one in [*lines, ""]) + body


POST = "POST http://localhost-origin.test/sink HTTP/1.1"
CHUNKED = "Transfer-Encoding: chunked"
BAD_CHUNKS = [
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5;\rx\r\nhello\r\n0\r\n\r\n",
    "5 ;x\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "0\r\nContent-Length: 9\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\nHost: evil.test\r\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    "0\r\nGET http://evil.test/ HTTP/1.1\r\n\r\n",
    "1;" + "x" * 2000 + "\r\na\r\n0\r\n\r\n",
    "1;x\r\na\r\n" * 3 + "ffffffffffffffffff\r\n",
]
SIBLINGS = [
    *((with_auth(f"CONNECT {target} HTTP/1.1"), status) for target, status in CONNECT_TARGETS),
    *((with_auth(f"CONNECT {one}:443 HTTP/1.1"), status) for one, status in ADDRESSES),
    *((with_auth(f"GET http://{one}/ HTTP/1.1"), status) for one, status in ADDRESSES),
    *((with_auth(f"GET {target} HTTP/1.1"), status) for target, status in HTTP_TARGETS),
    *((with_auth(POST, *fields, body="0\r\n\r\n"), status) for fields, status in FIELDS),
    *(
        (with_auth("CONNECT allowed.test:443 HTTP/1.1", host=host), status)
        for host, status in HOSTS
    ),
    *((with_auth(line), status) for line, status in LINES),
    *(
        (f"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\n{field}\r\n\r\n", status)
        for field, status in CREDENTIALS
    ),
    *((with_auth(POST, CHUNKED, body=body), "400") for body in BAD_CHUNKS),
]


@pytest.mark.parametrize(("request_text", "status"), SIBLINGS)
async def test_siblings_of_the_collection(request_text, status, scene, caplog):
    scene.proxy.resolver.table = dict(DNS)
    request_text = request_text.replace("Bearer t0k", f"Bearer {TOKEN}")
    request_text = request_text.replace(SIBLINGS_AUTH.split()[1], AUTH.split()[1])
    request = request_text.replace("{AUTH}", AUTH).encode("latin-1")
    async with scene.proxy.client() as wire:
        await wire.send(request)
        await wire.end()
        statuses = await scene.outcome(wire, request, at_once=False)
    assert statuses[0] == status
    refused = status[0] != "2"
    assert len(scene.proxy.recorder.events) >= 1
    if refused:
        assert scene.proxy.recorder.events[0].decision == "deny"
        assert (scene.proxy.resolver.asked, scene.proxy.dialler.dialled) == ([], [])
    assert AUTH.encode() not in scene.origin.seen
    assert caplog.records == []
