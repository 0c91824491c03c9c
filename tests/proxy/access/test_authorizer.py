"""The authorizers give the policy's own answer, for every host and port, in every mode."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_proxy import TOKEN, connect, http

from nono_trio.core.net.client_hello import ClientHello
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.authorizer import RequestAuthorizer, Token
from nono_trio.proxy.access.decision import refusal_of
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.proxy.access.transparent_authorizer import (
    InterceptedAuthorizer,
    TransparentAuthorizer,
)

ALLOW = ["a.test", "*.b.test:*", "b.test:8443", "tcp://c.test:22", "10.1.2.3:5432", "[fd00::1]:*"]
DENY = ["x.b.test", "y.b.test:8080"]
POLICIES = {
    "entries": Policy.build(ALLOW, DENY),
    "nothing": Policy.build(),
    "blocked": Policy.build(ALLOW, block=True),
    "observed": Policy.build(ALLOW, DENY, observe=True),
}
NAMES = [
    "a.test", "b.test", "x.b.test", "y.b.test", "z.b.test", "c.test", "evil.test", "localhost",
    "metadata.google.internal",
]  # fmt: skip
LITERALS = ["10.1.2.3", "10.1.2.4", "[fd00::1]", "127.0.0.1", "169.254.169.254", "192.0.2.1"]
LAST_PORT = 65535
WELL_KNOWN = [22, 53, 80, 443, 3128, 5432, 8080, 8443]

policies = st.sampled_from([*POLICIES.values()])
hosts = st.sampled_from([*NAMES, *LITERALS])
ports = st.sampled_from(WELL_KNOWN) | st.integers(1, LAST_PORT)


@given(policies, hosts, ports)
def test_of_the_proxy(policy, host, port):
    verdict = policy.decide(parse_host(host), port)
    authorizer = RequestAuthorizer(policy, Token(TOKEN))
    again = connect(f"{host}:{port}")
    for raw in (again, again, http("GET", f"http://{host}:{port}/")):
        decision = authorizer.authorize(raw, b"")[1]
        assert (decision.verdict, decision.refusal) == (verdict, refusal_of(verdict))
        assert (decision.host, decision.port) == (parse_host(host), port)
        assert decision.event(1).decision == ("allow" if verdict.allowed else "deny")


@given(policies, st.sampled_from(NAMES), st.sampled_from(LITERALS), ports)
def test_of_a_transparent_connection(policy, name, literal, port):
    """Its host is a name, or an address on which each request names one."""
    for text, asked in ((name, name), (literal, name), (literal, literal)):
        host, expected = parse_host(text), policy.decide(parse_host(asked), port)
        about = (policy, host, port, policy.decide(host, port))
        raw = f"GET / HTTP/1.1\r\nHost: {asked}:{port}\r\n\r\n".encode()
        by_field = TransparentAuthorizer(*about).authorize(raw, b"")[1]
        hello = ClientHello(None if asked == literal else asked, (), False)
        for decision in (by_field, HelloAuthorizer(*about).authorize(hello)):
            assert (decision.verdict, decision.refusal) == (expected, refusal_of(expected))
            assert (decision.host, decision.port) == (parse_host(asked), port)


@pytest.mark.parametrize("host", ["evil.test", "z.b.test"])
def test_no_port_has_another_answer(host):
    """The ports that services have, and others by chance: these tests are run often."""
    policy = POLICIES["entries"]
    authorizer = RequestAuthorizer(policy, Token(TOKEN))
    some = {*range(1, 1024), *WELL_KNOWN, *random.sample(range(1024, LAST_PORT + 1), 1000)}
    opened = {
        port
        for port in some
        if authorizer.authorize(connect(f"{host}:{port}"), b"")[1].refusal is None
    }
    assert opened == (some if host == "z.b.test" else set())


def test_a_plain_request_needs_an_entry_that_is_not_for_tls():
    policy = Policy.build(["tls://a.test:8443", "tls://b.test:8443", "b.test:8443"])
    authorizer = RequestAuthorizer(policy, Token(TOKEN))
    answers = {
        host: authorizer.authorize(http("GET", f"http://{host}:8443/"), b"")[1]
        for host in ("a.test", "b.test", "c.test")
    }
    refusals = {host: one.refusal and one.refusal.reason for host, one in answers.items()}
    assert refusals["b.test"] is None
    assert "TLS" in str(refusals["a.test"])
    assert refusals["c.test"] == policy.decide(parse_host("c.test"), 8443).reason


def test_a_hello_that_hides_its_name_behind_a_closed_host_is_refused():
    """Each refusal stays one; that of a host without an entry names the entry for hidden names."""
    policy = Policy.build(["192.0.2.1", "*.b.test"], ["x.b.test"])
    literal = parse_host("192.0.2.1")
    authorizer = HelloAuthorizer(policy, literal, 443, policy.decide(literal, 443))
    for name, entry in (("x.b.test", None), ("metadata.google.internal", None),
                        ("evil.test", "tls://evil.test:443"), ("a.b.test", None)):  # fmt: skip
        verdict = policy.decide(parse_host(name), 443)
        refusal = authorizer.authorize(ClientHello(name, (), True)).refusal
        assert refusal is not None
        if entry is not None:
            assert refusal.hint == f"allow it with --allow-domain {entry}"
            assert entry in refusal.reason
        elif not verdict.allowed:
            assert refusal == refusal_of(verdict)


@pytest.mark.parametrize(
    ("authorizer", "status", "mode"),
    [(TransparentAuthorizer, 403, "reverse"), (InterceptedAuthorizer, 421, "connect_intercept")],
)
def test_a_connection_to_a_name_carries_requests_for_no_other(authorizer, status, mode):
    policy, host = Policy.build(["a.test", "b.test"]), parse_host("a.test")
    about = authorizer(policy, host, 443, policy.decide(host, 443), "succeeded")
    for asked, refused in (("a.test:443", None), ("b.test:443", status)):
        raw = f"GET /x HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode()
        decision = about.authorize(raw, b"")[1]
        assert (decision.refusal and decision.refusal.status) == refused
        assert (decision.mode, decision.target, decision.presented) == (
            mode, asked.removesuffix(":443"), "succeeded",
        )  # fmt: skip
