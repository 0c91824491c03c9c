"""Decisions: how often the policy is asked, what a decision allows, and what its record says."""

from __future__ import annotations

import msgspec
import pytest
from hellos import ECH, hello
from msgspec import UNSET
from msgspec.structs import replace
from origin import serving
from running_proxy import AUTH, connect, http, running
from transparent_cage import LITERAL, cage, get, greets
from tunnels import opened

from nono_trio.core.log.events import Network, encode_payload
from nono_trio.core.net.client_hello import ClientHello, read_client_hello
from nono_trio.core.net.host import Host, parse_host
from nono_trio.core.policy.endpoint_verdict import DEFAULT_RULE, EndpointVerdict
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.policy_verdict import Verdict
from nono_trio.proxy.access.decision import (
    CredentialUse,
    Decision,
    FlowStart,
    Recorded,
    Refusal,
    host_denied,
)
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.testing import FakeResolver, LoopbackDialler


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """The questions by name to every policy; those inside `check_address` are left out."""
    questions: list[tuple[str, int]] = []
    decide, check_address = Policy.decide, Policy.check_address

    def counted(policy: Policy, host: Host, port: int):
        questions.append((host.name, port))
        return decide(policy, host, port)

    def uncounted(*arguments, **settings):
        before = len(questions)
        verdict = check_address(*arguments, **settings)
        del questions[before:]
        return verdict

    monkeypatch.setattr(Policy, "decide", counted)
    monkeypatch.setattr(Policy, "check_address", uncounted)
    return questions


async def test_the_policy_is_asked_once_about_a_transparent_tls_connection(asked):
    async with serving(greets) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 443) as wire:
            await wire.send(hello("allowed.test"))
            assert await wire.receive()
        assert await at.events(1) == [("allow", "allowed.test", 443, "TLS")]
        assert [one for one in asked if one[1] == 443] == [("allowed.test", 443)]


async def test_it_is_asked_about_a_literal_and_about_the_name_in_the_hello(asked):
    async with serving(greets) as origin, cage(origin=origin) as at:
        async with at.connection(LITERAL, 443) as wire:
            await wire.send(hello("allowed.test"))
            assert await wire.receive()
        assert [one for one in asked if one[1] == 443] == [(LITERAL, 443), ("allowed.test", 443)]


@pytest.mark.parametrize(("port", "request_bytes"), [(22, b"SSH-"), (25, b"EHLO a\r\n")])
async def test_it_is_asked_once_about_any_transparent_connection(asked, port, request_bytes):
    async with serving(greets) as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", port) as wire:
            await wire.send(request_bytes)
            await at.events(1)
        assert [one for one in asked if one[1] == port] == [("allowed.test", port)]


async def test_it_is_asked_once_about_the_requests_of_a_transparent_connection(asked):
    async with serving() as origin, cage(origin=origin) as at:
        async with at.connection("allowed.test", 80) as wire:
            for _ in range(3):
                assert (await wire.exchange(get("allowed.test"))).status == 200
        assert len(await at.events(3)) == 3
        assert [one for one in asked if one[1] == 80] == [("allowed.test", 80)]


@pytest.mark.parametrize("port", [443, 80, 22])
async def test_it_is_asked_once_about_a_connect_and_what_it_carries(asked, port):
    first = {443: hello("allowed.test"), 80: get("allowed.test"), 22: b"SSH-"}[port]
    async with (
        serving(None if port == 80 else greets) as origin,
        opened(f"allowed.test:{port}", origin, allow=[f"allowed.test:{port}"]) as (proxy, wire),
    ):
        await wire.send(first)
        assert await wire.receive()
        assert asked == [("allowed.test", port)]
        assert all(event.decision == "allow" for event in proxy.recorder.events)


@pytest.mark.parametrize(
    ("request_bytes", "questions"),
    [
        (http("GET", "http://allowed.test/small"), [("allowed.test", 80)]),
        (http("GET", "http://evil.test/"), [("evil.test", 80)]),
        (connect("evil.test:443"), [("evil.test", 443)]),
        (connect("allowed.test:443").replace(AUTH.encode(), b"Basic eDp5"), []),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", []),
    ],
    ids=["allowed", "denied", "denied connect", "without the token", "malformed"],
)
async def test_it_is_asked_once_about_a_request(asked, request_bytes, questions):
    resolver = FakeResolver({"allowed.test": [["192.0.2.1"]]})
    async with serving() as origin:
        dialler = LoopbackDialler(origin.port)
        async with running(["allowed.test"], resolver=resolver, dialler=dialler) as proxy:
            assert await proxy.ask(request_bytes) is not None
            assert asked == questions


def read(raw: bytes) -> ClientHello:
    found = read_client_hello(raw)
    assert isinstance(found, ClientHello)
    return found


@pytest.mark.parametrize("extensions", [(), (ECH,)])
@pytest.mark.parametrize("name", ["allowed.test", "evil.test", "hidden.test"])
@pytest.mark.parametrize("target", ["allowed.test", "hidden.test", LITERAL])
def test_a_hello_asks_about_each_host_once(asked, target, name, extensions):
    policy, host = Policy.build(["allowed.test", "tls://hidden.test", LITERAL]), parse_host(target)
    authorizer = HelloAuthorizer(policy, host, 443, policy.decide(host, 443), "succeeded")
    decision = authorizer.authorize(read(hello(name, *extensions)))
    assert len(set(asked)) == len(asked)
    assert (decision.mode, decision.port, decision.method) == ("connect", 443, "TLS")
    assert decision.presented == "succeeded"


ALLOWED = Decision("connect", "a.test", 443, "CONNECT", None, "succeeded", Host("a.test"))


def test_only_an_allowed_request_has_a_destination():
    policy = Policy.build(["a.test"])
    verdict = policy.decide(Host("a.test"), 443)
    allowed = Decision("connect", "a.test", 443, host=Host("a.test"), verdict=verdict)
    assert allowed.destination == (Host("a.test"), 443)
    assert (allowed.allowing_verdict, allowed.rule) == (verdict, "a.test")
    refused = allowed.refused(Refusal(403, "no"))
    malformed = Decision("connect", "a.test", 443)
    for decision in (refused, malformed):
        with pytest.raises(AssertionError):
            _ = decision.destination
        with pytest.raises(AssertionError):
            _ = decision.allowing_verdict


def test_every_kind_of_event_comes_from_one_builder():
    allowed = ALLOWED.event(1)
    refused = ALLOWED.refused(Refusal(403, "no", "hint", "host_denied")).event(2, "; 3 more")
    for event in (allowed, refused):
        assert (event.mode, event.target, event.port, event.method) == (
            "connect", "a.test", 443, "CONNECT",
        )  # fmt: skip
        assert (event.auth_mechanism, event.auth_outcome) == ("proxy_authorization", "succeeded")
    assert (allowed.decision, allowed.reason) == ("allow", None)
    assert (refused.decision, refused.reason) == ("deny", "no; 3 more")
    assert refused.denial_category == "host_denied"
    assert ALLOWED.refusal is None, "a decision was changed by a later one"
    through = ALLOWED.through("http://proxy.test:3128").event(3)
    assert (through.mode, through.upstream) == ("external", "http://proxy.test:3128")
    look_up = host_denied("b.test", 53, "no name", method="DNS").event(4)
    assert (look_up.target, look_up.port, look_up.method) == ("b.test", 53, "DNS")
    assert (look_up.decision, look_up.denial_category) == ("deny", "host_denied")


async def test_a_request_to_the_proxy_itself_is_refused_before_any_record_allows_it():
    async with running(["127.0.0.1:*", "127.0.0.2:*"]) as proxy:
        for address in ("127.0.0.1", "127.0.0.2"):
            for request in (
                connect(f"{address}:{proxy.port}"),
                http("GET", f"http://{address}:{proxy.port}/"),
            ):
                for _ in range(2):  # the second time the head is remembered
                    answer = await proxy.ask(request)
                    assert answer is not None
                    assert answer.status == 403
                    assert b"the target is this proxy itself" in answer.body
        assert {event.decision for event in proxy.recorder.events} == {"deny"}


@pytest.mark.parametrize(("rule", "note"), [(DEFAULT_RULE, "--observe"), ("GET https://a/b", None)])
def test_a_request_that_only_observe_lets_through_is_noted(rule, note):
    """An audit rule lets through too, and the record names it."""
    endpoint = EndpointVerdict(True, "/b", "/b", "audit", rule, observed=True)
    decision = Decision("reverse", "a", 80, verdict=Verdict(True), endpoint=endpoint)
    event = decision.event(1)
    assert (event.decision, event.reason) == ("allow", note)
    assert (event.endpoint_policy_action, event.endpoint_policy_rule) == ("audit", rule)


def test_what_a_record_has_no_value_for_it_leaves_out():
    plain = msgspec.json.decode(encode_payload(Network(event=ALLOWED.event(1))))["event"]
    assert plain == {
        "timestamp_unix_ms": 1, "mode": "connect", "decision": "allow", "target": "a.test",
        "port": 443, "method": "CONNECT", "path": None, "status": None, "reason": None,
        "auth_mechanism": "proxy_authorization", "auth_outcome": "succeeded",
    }  # fmt: skip
    anonymous = replace(ALLOWED, presented=None, endpoint=EndpointVerdict(True, "/", "/")).event(1)
    left_out = (anonymous.auth_mechanism, anonymous.auth_outcome)
    left_out += (anonymous.endpoint_policy_action, anonymous.endpoint_policy_rule)
    assert left_out == (UNSET,) * 4


def test_a_credential_is_in_use_only_where_the_request_is_allowed():
    used = replace(ALLOWED, credentials=CredentialUse(("one", "two"), "header"), route="route")
    allowed, refused = used.event(1), used.refused(Refusal(403, "no")).event(1)
    assert (allowed.route_id, allowed.managed_credential_active) == ("one,two", True)
    assert (allowed.injection_mode, refused.injection_mode) == ("header", UNSET)
    assert (refused.route_id, refused.managed_credential_active) == ("one,two", UNSET)
    routed = replace(used, credentials=CredentialUse(), mechanism="bearer").event(1)
    assert (routed.route_id, routed.managed_credential_active) == ("route", UNSET)
    assert routed.auth_mechanism == "bearer"


def test_a_stand_in_that_goes_on_is_named_once():
    decision = ALLOWED.with_passed_on("one").with_passed_on("two").with_passed_on("one")
    assert decision.note == "stand-in passed on: one, two"


def test_the_names_of_a_look_up_are_noted_where_we_look_up():
    verdict = Verdict(True, "tcp://a:22", scheme="tcp://", looked_up=("a.corp.test", "a"))
    decision = replace(ALLOWED, verdict=verdict)
    entry = "--allow-domain tcp://a:22"
    assert decision.note == f"{entry}; looked up as a.corp.test, a"
    assert decision.through("http://proxy.test:3128").note == entry


def test_the_line_of_a_flow(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 12.5)
    start = FlowStart(Recorded(ALLOWED, 7), "192.0.2.1", 1000, started=10.0)
    plain, full = start.end(3, 4, "client"), replace(start, name="a.corp.test").end(
        3, 4, "client", 200, first_byte=10.25
    )  # fmt: skip
    assert (plain.sequence, plain.target, plain.port, plain.address) == (
        7, "a.test", 443, "192.0.2.1",
    )  # fmt: skip
    assert (plain.opened_unix_ms, plain.duration_ms, plain.closed_by) == (1000, 2500, "client")
    assert (plain.bytes_up, plain.bytes_down) == (3, 4)
    assert (plain.name, plain.status, plain.first_byte_ms) == (UNSET, UNSET, UNSET)
    assert (full.name, full.status, full.first_byte_ms) == ("a.corp.test", 200, 250)


CHANGES = {
    "mode": "reverse", "target": "b.test", "port": 80, "method": "GET", "path": "/",
    "presented": None, "host": Host("b.test"),
    "verdict": Verdict(True, "tcp://a:22", scheme="tcp://"),
    "refusal": Refusal(403, "no"), "upstream": "http://proxy.test:3128",
    "endpoint": EndpointVerdict(True, "/b", "/b", "audit", DEFAULT_RULE, observed=True),
    "route": "route", "mechanism": "bearer", "credentials": CredentialUse(("one",), "header"),
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_what_was_computed_for_a_decision_is_not_used_for_a_later_one(field):
    assert set(CHANGES) == set(Decision.__struct_fields__)
    first = replace(ALLOWED, verdict=Verdict(True))
    before = first.event(1), first.destination, first.spoken
    later = replace(first, **{field: CHANGES[field]})
    fresh = Decision(*[getattr(later, name) for name in Decision.__struct_fields__])
    for time, more in [(1, ""), (2, ""), (3, "; 4 more")]:
        assert later.event(time, more) == fresh.event(time, more)
    if field != "refusal":
        assert (later.destination, later.spoken) == (fresh.destination, fresh.spoken)
    assert (first.event(1), first.destination, first.spoken) == before
