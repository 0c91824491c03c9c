"""Endpoint rules: which hosts are intercepted, which rule decides, what would allow."""

from __future__ import annotations

import shlex

import pytest

from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.allow_entry import allow_flag
from nono_trio.core.policy.endpoint_policy import (
    DEFAULT_RULE,
    NO_RULE_ALONE,
    NO_SHORT_RULE,
    EndpointVerdict,
)
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.rule import Inspection
from nono_trio.errors import UsageError


def ask(policy: Policy, method: str, url: str, fields: tuple[bytes, ...] = ()) -> EndpointVerdict:
    """The verdict about a URL with a port, as the proxy asks for it."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    host, _, port = authority.rpartition(":")
    return policy.endpoint_verdict(scheme, parse_host(host), int(port), method, f"/{path}", fields)


def intercepts(policy: Policy, host: str, port: int = 443) -> bool:
    return policy.intercepts(parse_host(host), port)


def test_a_url_entry_allows_its_paths_and_no_others():
    policy = Policy.build(["https://api.test/pub/**"])
    allowed = ask(policy, "DELETE", "https://api.test:443/pub/x?token=1")
    assert allowed == EndpointVerdict(
        True, "/pub/x?token=1", "/pub/x?token=[REDACTED]", "allow", "https://api.test/pub/**"
    )
    denied = ask(policy, "GET", "https://api.test:443/priv?token=1")
    assert (denied.allowed, denied.action, denied.rule) == (False, "deny", DEFAULT_RULE)
    assert denied.reason == "GET https://api.test/priv fits no endpoint rule of the host"
    assert denied.hint == "allow it with --allow-endpoint 'GET https://api.test/priv'"
    assert policy.decide(parse_host("api.test"), 443).allowed
    assert not policy.decide(parse_host("api.test"), 80).allowed


def test_the_hint_of_a_denial_allows_the_request():
    policy = Policy.build(["https://api.test/pub"])
    long = "/".join(["x" * 60] * 20)
    for method, url in [
        ("GET", "https://api.test:8443/a/b%20c"),
        ("get", "https://api.test:443/a"),
        ("POST", "http://api.test:80/a//b"),
        ("GET", "https://api.test:443/@a%2fb"),
        ("GET", f"https://api.test:443/{long}"),
        ("GET", f"https://api.test:443/a/{long.replace('/', 'y')}"),
        ("GET", "https://api.test:443/it's;x/(1)/"),
    ]:
        hint = ask(policy, method, url).hint or ""
        flag, entry = shlex.split(hint.removeprefix("allow it with "))
        assert flag == "--allow-endpoint"
        better = Policy.build(["https://api.test/pub"], endpoints=[f"allow {entry}"])
        assert ask(better, method, url).allowed, hint
        port = int(url.partition("test:")[2].partition("/")[0])
        of_log = shlex.split(allow_flag("api.test", port, ask(policy, method, url).reason) or "")
        assert of_log[0] == flag
        better = Policy.build(["https://api.test/pub"], endpoints=[f"allow {of_log[1]}"])
        assert ask(better, method, url).allowed, of_log


@pytest.mark.parametrize(("port", "scheme"), [(80, "http"), (8443, "https")])
def test_the_hint_for_another_port_opens_it_and_is_the_same_in_the_log(port, scheme):
    rules = ["allow GET https://api.test/pub/**"]
    denied = Policy.build(endpoints=rules).decide(parse_host("api.test"), port)
    flag = allow_flag("api.test", port, denied.reason)
    assert denied.hint == f"allow it with {flag}"
    _, entry = shlex.split(flag or "")
    better = Policy.build(endpoints=[*rules, f"allow {entry}"])
    assert better.decide(parse_host("api.test"), port).allowed
    assert ask(better, "PUT", f"{scheme}://api.test:{port}/x").allowed
    assert not ask(better, "PUT", "https://api.test:443/x").allowed


def test_the_hint_for_a_host_that_rules_only_deny_is_an_entry_for_it():
    rules = ["deny DELETE https://api.test/**"]
    denied = Policy.build(endpoints=rules).decide(parse_host("api.test"), 443)
    assert denied.hint == "allow it with --allow-domain api.test:443"
    assert allow_flag("api.test", 443, denied.reason) == "--allow-domain api.test:443"


def test_a_reason_of_another_program_makes_no_flag():
    for url in (
        "https://a.test",
        "https://a.test/x y",
        "x",
        "https://a.test/%zz",
        "https://a/../..",
    ):
        reason = f"GET {url} fits no endpoint rule of the host"
        assert allow_flag("a.test", 443, reason) is None
    reason = "G'T https://a.test/$(x) fits no endpoint rule of the host"
    words = shlex.split(allow_flag("a.test", 443, reason) or "")
    assert words == ["--allow-endpoint", "G'T https://a.test/$(x)"]
    assert (
        allow_flag("not a host", 443, "GET https://a.test/x fits no endpoint rule of the host")
        is None
    )
    assert allow_flag("not a host", 443, "no endpoint rule of the host opens a:443") is None


def test_endpoint_rules_close_the_rest_of_a_host_that_is_allowed_as_a_whole():
    policy = Policy.build(["api.test", "*.b.test"], endpoints=["allow GET https://api.test/pub/**"])
    assert ask(policy, "GET", "https://api.test:443/pub/x").allowed
    for url in ["https://api.test:443/x", "http://api.test:80/pub/x", "https://api.test:8443/pub"]:
        assert not ask(policy, "GET", url).allowed
    assert not intercepts(policy, "x.b.test")


def test_deny_rules_win_and_leave_the_rest_of_an_allowed_host_open():
    policy = Policy.build(["api.test"], endpoints=["deny DELETE,PUT https://api.test/adm/**"])
    for method, url in [
        ("DELETE", "https://api.test:443/adm/x"),
        ("delete", "https://api.test:443/adm"),
        ("PUT", "http://api.test:80/ADM/"),
        ("PUT", "https://api.test:8443/adm;v=1//x"),
    ]:
        denied = ask(policy, method, url)
        assert (denied.action, denied.rule) == ("deny", "DELETE,PUT https://api.test/adm/**")
        assert denied.hint == "drop --deny-endpoint 'DELETE,PUT https://api.test/adm/**'"
    assert ask(policy, "GET", "https://api.test:443/adm/x").rule == DEFAULT_RULE
    assert ask(policy, "PUT", "https://api.test:443/x").allowed
    both = Policy.build(["https://api.test/**"], endpoints=["deny * https://api.test/adm/**"])
    assert not ask(both, "GET", "https://api.test:443/adm/x").allowed


def test_an_audit_rule_lets_through_what_no_allow_rule_covers_and_says_so():
    endpoints = ["allow GET https://api.test/**", "audit * https://api.test/x/**"]
    policy = Policy.build(endpoints=endpoints)
    assert ask(policy, "GET", "https://api.test:443/x/y").action == "allow"
    audited = ask(policy, "POST", "https://api.test:443/x/y")
    assert (audited.allowed, audited.action, audited.observed) == (True, "audit", True)
    assert not ask(policy, "POST", "https://api.test:443/y").allowed


def test_observe_lets_through_what_fits_no_rule_but_not_what_one_denies():
    endpoints = ["allow GET https://api.test/**", "deny * https://api.test/x"]
    policy = Policy.build(endpoints=endpoints, observe=True)
    observed = ask(policy, "POST", "https://api.test:443/y")
    assert (observed.allowed, observed.observed, observed.rule) == (True, True, DEFAULT_RULE)
    assert not ask(policy, "POST", "https://api.test:443/x").allowed
    assert not ask(policy, "POST", "https://api.test:443/../x").allowed


def test_read_only_reads_and_fetches_but_does_not_push():
    policy = Policy.build(endpoints=["allow read-only https://git.test/org/**"])
    origin = "https://git.test:443/org/repo.git"
    for method, path in [
        ("GET", "/x"), ("HEAD", "/x"), ("OPTIONS", "/x"),
        ("GET", "/info/refs?service=git-upload-pack"), ("GET", "/info/refs"),
        ("POST", "/git-upload-pack"),
    ]:  # fmt: skip
        assert ask(policy, method, origin + path).allowed, path
    for method, path in [
        ("POST", "/x"), ("PUT", "/x"), ("DELETE", "/x"), ("TRACE", "/x"), ("get", "/x"),
        ("POST", "/git-receive-pack"), ("POST", "/git-upload-pack/x"),
        ("GET", "/info/refs?service=git-receive-pack"),
        ("GET", "/info/refs?service=git-upload-pack&service=git-receive-pack"),
        ("GET", "/info/refs?%73ervice=git%2Dreceive-pack"),
        ("GET", "/info/refs?x=1;service=git-receive-pack"),
    ]:  # fmt: skip
        assert not ask(policy, method, origin + path).allowed, path
    assert not ask(policy, "POST", "https://git.test:443/other/git-upload-pack").allowed


@pytest.mark.parametrize("rules", [["deny GET https://api.test/**"], []])
@pytest.mark.parametrize(
    "url", ["https://bob:s3cret@h.test/x", "https%3A%2F%2Fbob:s3cret%40h.test"]
)
def test_a_password_in_a_path_is_in_no_text_about_the_request(url, rules):
    policy = Policy.build(["https://api.test/pub"], endpoints=rules)
    found = ask(policy, "GET", f"https://api.test:443/fetch/{url}?token=1")
    assert not found.allowed
    assert not any(
        word in f"{found.path} {found.reason} {found.hint}" for word in ("s3cret", "bob")
    )
    assert "[REDACTED]" in (found.reason or "")


@pytest.mark.parametrize("path", ["/**", "/a**b/x", "/x/*/y", "/*", "/a/b*"])
def test_no_hint_has_a_wildcard_that_the_request_chose(path):
    policy = Policy.build(["https://api.test/pub"])
    found = ask(policy, "GET", f"https://api.test:443{path}")
    assert not found.allowed
    assert found.hint == NO_RULE_ALONE
    assert allow_flag("api.test", 443, found.reason) is None


@pytest.mark.parametrize("path", [f"/{'a' * 257}", f"/{'a' * 300}/b", f"/{'a' * 3000}/"])
def test_no_hint_for_one_path_allows_the_whole_host(path):
    policy = Policy.build(["https://api.test/pub"])
    found = ask(policy, "GET", f"https://api.test:443{path}")
    assert not found.allowed
    assert found.hint == NO_SHORT_RULE
    assert allow_flag("api.test", 443, found.reason) is None


@pytest.mark.parametrize("path", [f"/a/{'b' * 300}", f"/a/{'b' * 300}/c", "/a//b"])
def test_the_hint_of_a_long_path_keeps_its_short_beginning(path):
    policy = Policy.build(["https://api.test/pub"])
    found = ask(policy, "GET", f"https://api.test:443{path}")
    flag = "--allow-endpoint 'GET https://api.test/a/**'"
    assert found.hint == f"allow it with {flag}"
    assert allow_flag("api.test", 443, found.reason) == flag


def test_a_path_without_a_canonical_spelling_is_refused_where_rules_judge_it():
    policy = Policy.build(["https://api.test/**"], intercept=["seen.test"])
    refused = ask(policy, "GET", "https://api.test:443/a/..;x/b")
    assert (refused.allowed, refused.target, refused.status) == (False, "", 400)
    assert refused.reason == "the request's path has an ambiguous dot segment"
    seen = ask(policy, "GET", "https://seen.test:443/a/..;x/b?c=1")
    assert seen == EndpointVerdict(True, "/a/..;x/b?c=1", "/a/..;x/b?c=[REDACTED]")


def test_a_field_that_replaces_method_or_path_is_refused_where_rules_judge_them():
    policy = Policy.build(["https://api.test/**"], intercept=["seen.test"])
    for name in (
        *(b"x_http_method_override", b"X-Rewrite-URL", b"X.HTTP.Method.Override"),
        *(b"x~http~method~override", b"X-HTTP-Method`Override", b"x-amz-copy-source"),
        *(b"x-oss-copy-source", b"x-ms-file-rename-source", b"X!Rewrite!URL"),
    ):
        assert not ask(policy, "GET", "https://api.test:443/", (name,)).allowed
    for other in (b"x-original", b"accept", b"x-amz-copy-source-range", b"xhttpmethod"):
        assert ask(policy, "GET", "https://api.test:443/", (other,)).allowed
    fields = (b"host", b"x-original-url")
    refused = ask(policy, "GET", "https://api.test:443/", fields)
    assert (refused.allowed, refused.status) == (False, 403)
    assert "x-original-url" in (refused.reason or "")
    assert ask(policy, "GET", "https://seen.test:443/", fields).allowed


def test_the_hosts_that_are_intercepted():
    policy = Policy.build(
        ["tcp://db.test:5432", "tcp://*.c.test:22"],
        endpoints=["allow GET https://a.test/x", "deny GET https://*.b.test/x"],
        intercept=["*.i.test", "192.0.2.1"],
        no_intercept=["n.i.test"],
    )
    for host in ["a.test", "A.test.", "x.b.test", "x.i.test", "::ffff:192.0.2.1"]:
        for port in (80, 443, 22, 8443):
            assert intercepts(policy, host, port), host
    for host in ["b.test", "i.test", "n.i.test", "xa.test", "db.test", "x.c.test"]:
        assert not intercepts(policy, host), host
    every = Policy.build(
        ["tcp://db.test:5432", "x.test"], intercept=["all"], no_intercept=["n.test"]
    )
    assert intercepts(every, "x.test")
    assert not intercepts(every, "n.test")
    assert not intercepts(every, "db.test", 5432)
    assert not Policy.build(["x.test"]).intercepts(parse_host("x.test"), 443)


def test_a_name_without_a_dot_has_the_rules_of_its_full_names():
    policy = Policy.build(
        ["git:443", "other:443"], search=["corp.test", "lab.test"],
        endpoints=["allow GET https://git.corp.test/x", "deny * https://*.lab.test/secret/**"],
    )  # fmt: skip
    assert intercepts(policy, "git")
    assert ask(policy, "GET", "https://git:443/x").allowed
    assert not ask(policy, "GET", "https://git:443/y").allowed
    assert ask(policy, "GET", "https://other:443/y").allowed
    assert not ask(policy, "GET", "https://other:443/secret/y").allowed
    assert not Policy.build(["git:443"], search=["corp.test"]).intercepts(parse_host("git"), 443)


def test_the_verdict_about_a_connection_says_that_its_requests_are_seen():
    policy = Policy.build(["tls://*.a.test", "b.test"], endpoints=["allow GET https://x.a.test/"])
    verdict = policy.decide(parse_host("x.a.test"), 443)
    assert (verdict.allowed, verdict.intercepted, verdict.inspection) == (
        True, True, Inspection.NAME,
    )  # fmt: skip
    assert not policy.decide(parse_host("y.a.test"), 443).intercepted
    assert not policy.decide(parse_host("b.test"), 443).intercepted
    observing = Policy.build(observe=True, intercept=["all"])
    assert observing.decide(parse_host("c.test"), 443).intercepted


@pytest.mark.parametrize(
    ("no_intercept", "endpoint"),
    [
        ("a.test", "allow GET https://a.test/x"),
        ("A.TEST.", "deny GET https://a.test:8443/x"),
        ("*.test", "allow GET https://a.test/x"),
        ("a.b.test", "allow GET https://*.b.test/x"),
        ("*.test", "allow GET https://*.b.test/x"),
        ("*.a.b.test", "audit GET https://*.b.test/x"),
        ("::ffff:192.0.2.1", "allow GET https://192.0.2.1/x"),
    ],
)
def test_a_host_with_rules_is_not_left_alone(no_intercept: str, endpoint: str):
    with pytest.raises(UsageError, match="contradicts the rule") as caught:
        Policy.build(endpoints=[endpoint], no_intercept=[no_intercept])
    words = shlex.split(
        (caught.value.hint or "").removeprefix("drop ").removesuffix(", or the rule")
    )
    assert words == ["--no-intercept", no_intercept]


def test_an_entry_for_bytes_that_are_not_looked_at_contradicts_endpoint_rules():
    with pytest.raises(UsageError, match="intercepted on every port"):
        Policy.build(["tcp://a.test:22"], endpoints=["allow GET https://a.test/x"])


@pytest.mark.parametrize("text", ["a.test:443", "all", "a.test:*", "*", "https://a.test/", "a b"])
def test_hosts_that_are_left_alone_are_names_without_ports(text: str):
    with pytest.raises(UsageError, match="--no-intercept"):
        Policy.build(no_intercept=[text])
