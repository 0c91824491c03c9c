"""Hosts that --no-intercept leaves alone, and the hints that name the flag."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import trio
from hellos import extension, hello, openssl_hello, vector
from looked_into import HOST, client_context, interception, looking_into, origin_context, under_tls
from msgspec.structs import replace
from origin import serving
from running_proxy import PATIENT, Wire, connect, running
from transparent_cage import get

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.log.events import NetworkEvent
from nono_trio.core.net.client_hello import BadHello, ClientHello
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.endpoint_policy import check_no_intercept
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.reasons import DenialCode
from nono_trio.proxy.access.decision import Decision
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.proxy.access.transparent_authorizer import (
    InterceptedAuthorizer,
    TransparentAuthorizer,
    not_seen,
)
from nono_trio.testing import FakeResolver, LoopbackDialler

ADDRESS, ALONE = "192.0.2.1", "other.test"
RULE = f"allow GET https://{HOST}/**"
FLAG = f"--no-intercept {HOST}"


@pytest.mark.parametrize("name", [ALONE, HOST])
async def test_a_host_is_left_alone_on_a_connect_by_address_too(name):
    """`--intercept all` is about the address as well. The name in the hello decides."""
    authority = "origin" if name == ALONE else "session"
    async with (
        serving(tls=await origin_context()) as origin,
        running(
            [ADDRESS, ALONE, HOST],
            resolver=FakeResolver({HOST: [[ADDRESS]]}),
            dialler=LoopbackDialler(origin.port),
            intercept=["all"],
            no_intercept=[ALONE],
            interception=interception(),
        ) as proxy,
        proxy.client() as wire,
    ):
        await wire.exchange(connect(f"{ADDRESS}:443"), "CONNECT")
        context = client_context(trusts=authority)
        context.check_hostname = False
        async with under_tls(wire, name, context) as secure:
            assert (await secure.exchange(get(name))).status == 200


def hidden(*, intercept: list[str], allow: tuple[str, ...] = (), name: str = ALONE) -> Decision:
    policy = Policy.build([ADDRESS, HOST, *allow], intercept=intercept, no_intercept=[ALONE])
    host = parse_host(ADDRESS)
    authorizer = HelloAuthorizer(policy, host, 443, policy.decide(host, 443))
    return authorizer.authorize(ClientHello(name, (), True))


def test_nor_is_it_intercepted_for_the_address_if_its_name_is_hidden():
    allowed = hidden(intercept=["all"], allow=(f"tls://{ALONE}",))
    assert allowed.destination[0].name == ALONE
    assert not allowed.allowing_verdict.intercepted
    assert hidden(intercept=["all"], allow=(ALONE,)).refusal is not None
    assert hidden(intercept=["all"], name=HOST).destination[0].name == HOST
    named = hidden(intercept=[ADDRESS], allow=(ALONE,))
    assert named.destination[0].name == ADDRESS
    assert named.allowing_verdict.intercepted


async def test_a_connect_whose_tunnel_has_not_begun_gives_its_place_to_another_client():
    """Nothing was dialled for it."""
    limits = replace(PATIENT, connections=3, refusals=2)
    async with looking_into(limits=limits) as at, AsyncExitStack() as stack:
        wires: list[Wire] = []
        for _ in range(3):
            wires.append(await stack.enter_async_context(at.proxy.client()))
            assert (await wires[-1].exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
        async with at.tunnel() as wire:
            assert (await wire.exchange(get(HOST, "/"))).status == 200
            assert await wires[0].ends()
        assert {event.decision for event in at.proxy.recorder.events} == {"allow"}


def hints(policy: Policy, target: str = HOST) -> list[str | None]:
    """The hints of all refusals of what can't be seen."""
    host = parse_host(target)
    about = policy, host, 8443, policy.decide(host, 8443)
    bad = BadRequest(400, "no request")
    decisions = [
        HelloAuthorizer(*about).malformed(BadHello("no TLS", is_tls=False)),
        HelloAuthorizer(*about).server_first(),
        TransparentAuthorizer(*about).malformed(b"SSH-2.0", bad),
        InterceptedAuthorizer(*about).malformed(b"SSH-2.0", bad),
        InterceptedAuthorizer(*about).silent(),
    ]
    refusals = [one.refusal for one in decisions if one is not None]
    refusals.append(not_seen(policy, DenialCode.INTERCEPTED_SILENT, host))
    return [one.hint for one in refusals if one is not None]


def test_no_hint_names_a_flag_that_contradicts_a_rule():
    by_rule = Policy.build(endpoints=[f"allow GET https://{HOST}:8443/**"])
    assert hints(by_rule) == [None] * 6
    for suffix in ("allow", "deny"):
        wide = Policy.build([f"{HOST}:8443"], endpoints=[f"{suffix} GET https://*.test/**"])
        assert hints(wide) == [None] * 6
    for target in (HOST, "[2001:db8::1]"):
        flagged = hints(Policy.build([f"{target}:8443"], intercept=["all"]), target)
        assert len(flagged) == 6
        for hint in flagged:
            words = str(hint).split()
            assert check_no_intercept(words[words.index("--no-intercept") + 1]) is not None


@pytest.mark.parametrize("rules", [(), (RULE,)])
@pytest.mark.parametrize("fault", ["protocols", "trust"])
async def test_nor_does_that_of_a_handshake_that_fails(monkeypatch, rules, fault):
    decisions: list[Decision] = []
    event = Decision.event

    def noted(decision: Decision, now: int, more: str = "") -> NetworkEvent:
        decisions.append(decision)
        return event(decision, now, more)

    monkeypatch.setattr(Decision, "event", noted)
    async with looking_into(*rules) as at, at.proxy.client() as wire:
        await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
        if fault == "protocols":
            await wire.send(hello(HOST, extension(16, vector(2, vector(1, b"smtp")))))
        else:
            await wire.send(openssl_hello(HOST))
            await wire.end()
        with suppress(trio.BrokenResourceError):
            while await wire.receive():
                pass
        refusal = decisions[-1].refusal
    assert refusal is not None
    assert refusal.category == "intercept_handshake_failed"
    assert (FLAG in str(refusal.hint)) == (not rules)
    if fault == "trust":
        assert str(refusal.hint).startswith("nono-trio doctor says which programs trust")
