"""Plain requests to hosts with endpoint rules: the decision, what is sent, and the record."""

from __future__ import annotations

import base64

import pytest
from msgspec import UNSET

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.allow_entry import allow_flag
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.authorizer import HttpRequest, RequestAuthorizer, Token
from nono_trio.proxy.access.decision import Decision
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.proxy.access.transparent_authorizer import TransparentAuthorizer

RULES = ["allow GET http://a.test/pub/**", "audit PUT http://a.test/**"]
CREDENTIAL = base64.b64encode(b"any:secret").decode()


def decide(
    request: str, *, observe: bool = False, fields: str = ""
) -> tuple[HttpRequest, Decision]:
    authorizer = RequestAuthorizer(Policy.build(endpoints=RULES, observe=observe), Token("secret"))
    head = f"{request} HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic {CREDENTIAL}\r\n"
    found, decision, _ = authorizer.authorize(f"{head}{fields}\r\n".encode(), b"")
    assert isinstance(found, HttpRequest)
    return found, decision


def test_the_spelling_that_was_judged_is_sent_and_recorded():
    request, decision = decide("GET http://a.test/pub/./%7Ea%2d?q=1")
    event = decision.event(1)
    assert request.target.path == b"/pub/~a-?q=1"
    assert (event.decision, event.path, event.reason) == ("allow", "/pub/~a-?q=[REDACTED]", None)
    assert (event.endpoint_policy_action, event.endpoint_policy_rule) == (
        "allow", "GET http://a.test/pub/**",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_line", "fields", "status", "words"),
    [
        ("GET http://a.test/pub/../x", "", 403, "GET http://a.test/x fits no endpoint rule"),
        ("GET http://a.test/pub/..;/x", "", 400, "ambiguous dot segment"),
        ("GET http://a.test/pub/", "X_Original-Url: /x\r\n", 403, "x_original-url may name"),
        ("MOVE http://a.test/pub/", "Destination: /x\r\n", 403, "field destination may name"),
        ("GET http://A.TEST.:80/x", "", 403, "GET http://a.test/x fits no endpoint rule"),
        ("GET http://a.test:81/x", "", 403, "GET http://a.test:81/x fits no endpoint rule"),
    ],
)
def test_a_refused_request(request_line, fields, status, words):
    decision = decide(request_line, fields=fields)[1]
    refusal = decision.refusal
    assert refusal is not None
    assert (refusal.status, refusal.category) == (status, "endpoint_policy")
    assert words in refusal.reason
    assert decision.event(1).endpoint_policy_action == "deny"


def test_rules_that_only_deny_open_nothing():
    policy = Policy.build(endpoints=["deny PUT http://b.test/**"])
    authorizer = RequestAuthorizer(policy, Token("secret"))
    for method, reason in [("GET", "b.test:80 is not on the allowlist"), ("PUT", "is denied by")]:
        head = f"{method} http://b.test/ HTTP/1.1\r\nHost: b.test\r\n"
        head += f"Proxy-Authorization: Basic {CREDENTIAL}\r\n\r\n"
        _, decision, _ = authorizer.authorize(head.encode(), b"")
        assert decision.refusal is not None
        assert reason in decision.refusal.reason
        assert decision.event(1).decision == "deny"


@pytest.mark.parametrize("rule", ["allow GET https://b.test/**", "deny PUT https://b.test/**"])
def test_what_is_no_http_gets_no_hint_that_contradicts_a_rule(rule):
    policy, host = Policy.build(endpoints=[rule]), parse_host("b.test")
    requests = TransparentAuthorizer(policy, host, 80, policy.decide(host, 80))
    hellos = HelloAuthorizer(policy, host, 8443, policy.decide(host, 8443))
    for decision in (
        requests.malformed(b"\x16\x03\x01", BadRequest(400, "no request")),
        hellos.malformed(BadHello("expected a TLS client hello", is_tls=False)),
    ):
        assert decision.refusal is not None
        flag = allow_flag("b.test", decision.port, decision.refusal.reason)
        assert flag is not None
        assert decision.refusal.hint == f"allow it with {flag}"
        assert "tcp://" not in flag


def test_what_observe_lets_through_is_noted_and_what_an_audit_rule_does_is_not():
    observed = decide("POST http://a.test/x", observe=True)[1].event(1)
    assert (observed.decision, observed.reason) == ("allow", "--observe")
    audited = decide("PUT http://a.test/x", observe=True)[1].event(1)
    assert (audited.decision, audited.reason) == ("allow", None)
    assert (audited.endpoint_policy_action, observed.endpoint_policy_action) == ("audit", "audit")
    assert audited.endpoint_policy_rule is not UNSET
