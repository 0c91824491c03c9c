"""Four hundred spellings against twenty rules and eleven kinds of server: none gets past a rule.

For every request that a rule lets through, no server may read the target that is sent as a
resource that the rule does not cover. The servers (tests/support/endpoint_paths.py) share no code
with the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from endpoint_paths import DECODING, SPLITTING, covered, spellings
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.log.redaction import redact_path
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy

if TYPE_CHECKING:
    from nono_trio.core.policy.endpoint_verdict import EndpointVerdict

HOST = parse_host("api.test")
PATHS = [one.path for one in spellings()]

ALLOWED = [
    "/public/**", "/public/*", "/public/*.json", "/public/x", "/", "/users/*/public",
    "/users/**/public", "/api/v1/**", "/api/*/x", "/org/**", "/org/repo.git/git-upload-pack",
    "/**/x", "/@scope/*",
]  # fmt: skip
WITH_SLASHES = ["/@scope%2Fname", "/*"]
DENIED = ["/admin/**", "/admin", "/admin/x", "/*/secret.json", "/org/**/git-receive-pack"]


def verdict(policy: Policy, path: str, method: str = "GET") -> EndpointVerdict:
    return policy.endpoint_verdict("https", HOST, 443, method, path)


def test_there_are_twenty_rules():
    assert len([*ALLOWED, *WITH_SLASHES, *DENIED]) == 20


@pytest.mark.parametrize("pattern", [*ALLOWED, *WITH_SLASHES])
def test_what_an_allow_rule_lets_through_is_covered_at_every_server(pattern: str):
    word = " allow_encoded_slash" if pattern in WITH_SLASHES else ""
    policy = Policy.build(endpoints=[f"allow GET https://api.test{pattern}{word}"])
    servers = SPLITTING if word else (*SPLITTING, *DECODING)
    through = 0
    for path in PATHS:
        found = verdict(policy, path)
        if not found.allowed:
            continue
        through += 1
        for server in servers:
            resource = server(found.target)
            assert covered(pattern, resource), (path, found.target, server.__name__, resource)
    assert through


@pytest.mark.parametrize("pattern", DENIED)
def test_what_a_deny_rule_does_not_deny_leads_to_it_at_no_server(pattern: str):
    policy = Policy.build(["api.test"], endpoints=[f"deny * https://api.test{pattern}"])
    through = 0
    for path in PATHS:
        found = verdict(policy, path)
        if not found.allowed:
            continue
        through += 1
        for server in (*SPLITTING, *DECODING):
            resource = server(found.target)
            assert not covered(pattern, resource), (path, found.target, server.__name__, resource)
    assert through > len(PATHS) // 4


def test_read_only_lets_no_spelling_push():
    policy = Policy.build(endpoints=["allow read-only https://api.test/**"])
    for path in PATHS:
        found = verdict(policy, path, "POST")
        for server in (*SPLITTING, *DECODING) if found.allowed else ():
            assert server(found.target)[-1] == "git-upload-pack", (path, server.__name__)


pieces = st.lists(
    st.sampled_from(
        [
            *("/", "/", "/", "//", "..", ".", "%2e", "%2E%2e", "%252e", "%2f", "%252F", ";", "%3b"),
            *("admin", "ADMIN", "adm%69n", "public", "x", "*", "%3f", "%20", "%c3%a9", "~", "%7e"),
            *("?", "a=1", "&", "@", ":", "%40", "%ef%bc%8f", "..;", "$DATA"),
        ]
    ),
    max_size=14,
)


@given(pieces.map("".join), st.sampled_from(["GET", "POST", "get"]))
def test_matched_is_sent_and_recorded(text: str, method: str):
    """The verdict about the target that is sent is the same verdict: nothing is left to change."""
    endpoints = [
        "allow GET https://api.test/public/**", "allow * https://api.test/*/x",
        "deny * https://api.test/**/admin/**", "audit POST https://api.test/x/**",
    ]  # fmt: skip
    policy = Policy.build(endpoints=endpoints)
    found = verdict(policy, f"/{text}", method)
    if not found.target:
        assert not found.allowed
        assert found.path == redact_path(f"/{text}")
        return
    assert verdict(policy, found.target, method) == found
    sent, recorded = found.target.partition("?"), found.path.partition("?")
    assert recorded[0] == redact_path(sent[0])
    assert recorded[1] == sent[1]
    if found.allowed:
        for server in (*SPLITTING, *DECODING):
            resource = server(found.target)
            assert not covered("/admin/**", resource), (found.target, server.__name__)
            opened = ("/public/**", "/*/x", "/x/**")
            assert any(covered(one, resource) for one in opened), (found.target, server.__name__)
