"""MCP rules: how they are written, which message they cover, and which one decides."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_bodies import ALLOWED, DENIED, JSON, call, message, readings, spellings

from nono_trio.core.http.mcp_message import Message, cut_off, too_late, too_long
from nono_trio.core.log.events import NetworkEvent
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.allow_entry import allow_flag
from nono_trio.core.policy.endpoint_pattern import PathPattern
from nono_trio.core.policy.endpoint_verdict import DEFAULT_RULE, EndpointVerdict
from nono_trio.core.policy.mcp_rule import mcp_text, parse_mcp_entry, rule_name
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.outcome import outcome_of
from nono_trio.core.policy.request_note import McpCall, parse_note, with_call
from nono_trio.core.policy.rule_entry import parse_rule_entry
from nono_trio.errors import UsageError

URL = "https://a.test/mcp"
FIELDS = [(b"content-type", b"application/json")]


def policy(*entries: str, observe: bool = False, allow: tuple[str, ...] = ()) -> Policy:
    return Policy.build([*allow], [], [], False, endpoints=entries, observe=observe)


def asked(
    rules: Policy, body: bytes, target: str = "/mcp", *, kind: str = JSON, method: str = "POST",
    scheme: str = "https", port: int = 443,
) -> EndpointVerdict:  # fmt: skip
    verdict = rules.endpoint_verdict(scheme, parse_host("a.test"), port, method, target)
    if not verdict.allowed or verdict.messages is None:
        return verdict
    if not verdict.messages.are_about(has_body=bool(body)):
        return verdict
    return verdict.messages.judge([(b"content-type", kind.encode())], body)[-1]


@pytest.mark.parametrize(
    "text",
    [
        "search",
        "https://a.test/mcp",
        "search  https://a.test/mcp",
        "search https://a.test/mcp?x=1",
        "search ftp://a.test/mcp",
        "search, https://a.test/mcp",
        ",search https://a.test/mcp",
        "method: https://a.test/mcp",
        "a%zz https://a.test/mcp",
        "a%ff https://a.test/mcp",
        "search https://a.test/../mcp",
        "a\tb https://a.test/mcp",
        "search https://a.test/mcp allow_encoded_slash",
    ],
)
def test_what_is_no_rule_names_the_flag(text):
    with pytest.raises(UsageError) as raised:
        parse_mcp_entry(f"allow mcp {text}")
    assert raised.value.message.startswith("--allow-mcp-tool ")
    assert raised.value.hint


def test_a_rule_is_written_as_it_is_read():
    for entry in (
        "allow mcp search_*,method:resources/* https://a.test/mcp",
        "deny mcp * https://*.a.test:8443/x/**",
        "audit mcp a%2Cb http://a.test",
    ):
        rule = parse_mcp_entry(entry)
        assert rule.endpoint.entry == entry
        assert parse_rule_entry(entry) == (rule.endpoint, rule)
    for names in ([], [""], ["a", ""]):  # what means nothing must not mean everything
        with pytest.raises(UsageError, match="expected names"):
            parse_mcp_entry(f"allow mcp {mcp_text('a.test', '/**', names, [])}")
    assert mcp_text("a.test", "/m", ["a,b c"], ["ping"]) == "a%2Cb%20c,method:ping https://a.test/m"
    tool = mcp_text("a.test", "/m", ["method:ping"], [])  # a tool of that name, and no method
    assert parse_mcp_entry(f"allow mcp {tool}").tools == (("method:ping",),)


@pytest.mark.parametrize(
    ("names", "allowed", "denied"),
    [
        ("search", [call("search")], [call("search2"), call("Search"), call("xsearch")]),
        ("s*h,get", [call("search"), call("sh"), call("get")], [call("s"), call("gets")]),
        ("*", [call("a"), call("é")], [message("resources/read"), message("prompts/get")]),
        ("method:resources/*", [message("resources/read"), message("ping")],
         [call("a"), message("prompts/get"), message("resource/read")]),
        ("method:*", [call("a"), message("x/y")], [message("Tools/Call", name="a")]),
        ("a,method:*", [call("a"), message("x/y")],
         [call("b"), message("Tools/Call", name="b"), message("TOOLS/CALL", name="a")]),
        ("a%2Cb,c%2A", [call("a,b"), call("c*")], [call("a"), call("b"), call("cd")]),
    ],
)  # fmt: skip
def test_which_message_a_rule_covers(names, allowed, denied):
    rules = policy(f"allow mcp {names} {URL}")
    assert all(asked(rules, body).allowed for body in allowed)
    assert not any(asked(rules, body).allowed for body in denied)


@pytest.mark.parametrize(
    "body",
    [
        message("initialize"),
        message("ping"),
        message("tools/list"),
        message("server/discover"),
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
    ],
)
def test_a_rule_about_a_tool_covers_what_a_session_needs(body):
    assert asked(policy(f"allow mcp search {URL}"), body).allowed
    assert asked(policy(f"audit mcp search {URL}"), body).action == "audit"


def test_the_order_of_the_rules():
    rules = policy(
        f"allow mcp search,both {URL}", f"audit mcp both,seen {URL}", f"deny mcp *_repo {URL}",
        f"deny mcp method:ping {URL}",
    )  # fmt: skip
    assert asked(rules, call("search")).action == "allow"
    assert asked(rules, call("both")).action == "allow"
    seen = asked(rules, call("seen"))
    assert (seen.allowed, seen.action, seen.observed) == (True, "audit", True)
    denied = asked(rules, call(DENIED))
    assert (denied.rule, denied.action) == (f"mcp *_repo {URL}", "deny")
    assert denied.hint == f"drop --deny-mcp-tool '*_repo {URL}'"
    assert not asked(rules, message("ping")).allowed
    assert asked(rules, call("other")).rule == DEFAULT_RULE
    watched = asked(policy(f"allow mcp search {URL}", observe=True), call("other"))
    assert (watched.allowed, watched.action, watched.is_observed) == (True, "audit", True)


def test_a_deny_rule_alone_leaves_the_rest_open_and_disregards_case():
    rules = policy(f"deny mcp {DENIED} https://a.test", allow=("a.test",))
    for body in (call("search"), message("resources/read"), b'{"jsonrpc":"2.0","result":1}'):
        assert asked(rules, body).allowed
    for tool in (DENIED, DENIED.upper(), "\uff44elete_repo"):
        assert not asked(rules, call(tool), "/any/path").allowed
    assert not asked(rules, call(), kind="text/plain").allowed
    assert asked(rules, b"", method="GET").allowed


@pytest.mark.parametrize("names", ["delete_a,method:*", "delete_a,method:tools/call"])
def test_a_deny_rule_is_about_each_of_its_names(names):
    rules = policy(f"deny mcp {names} {URL}", allow=("a.test",))
    for tool in ("delete_a", "search"):
        assert not asked(rules, call(tool)).allowed
    rules = policy(f"deny mcp delete_a,method:prompts/* {URL}", allow=("a.test",))
    assert asked(rules, call("search")).allowed
    assert not asked(rules, message("Prompts/Get")).allowed


def test_the_path_is_compared_with_each_rule_once_for_a_whole_batch(monkeypatch):
    asked_for: list[object] = []

    def may_cover(self: PathPattern, target: object) -> bool:
        asked_for.append(self.text)
        return True

    monkeypatch.setattr(PathPattern, "may_cover", may_cover)
    rules = policy(f"deny mcp x {URL}", f"deny mcp y {URL}", f"allow mcp {ALLOWED} {URL}")
    assert asked(rules, b"[%b]" % b",".join([call()] * 32)).allowed
    assert len(asked_for) == 5  # each rule to find those about the path, then those that deny


def test_a_batch_is_denied_if_one_of_its_calls_is():
    rules = policy(f"allow mcp {ALLOWED} {URL}")
    verdict = rules.endpoint_verdict("https", parse_host("a.test"), 443, "POST", "/mcp")
    assert verdict.messages is not None
    good, bad = call(), call(DENIED, 2)
    assert len(verdict.messages.judge(FIELDS, b"[%b,%b]" % (good, good))) == 2
    (denied,) = verdict.messages.judge(FIELDS, b"[%b,%b]" % (good, bad))
    assert DENIED in (denied.reason or "")
    assert denied.message_id is None
    assert asked(rules, bad).message_id == 2


def test_rules_hold_for_their_path_and_for_all_that_a_server_takes_for_it():
    rules = policy(
        f"allow mcp search {URL}", "allow * https://a.test/**", "allow * http://a.test/**"
    )
    for target in ("/mcp/", "/MCP", "/mcp;x", "/mcp?x=1", "/mcp%3Fx", "//mcp", "/./mcp"):
        assert not asked(rules, call(DENIED), target).allowed, target
    assert not asked(rules, call("search"), scheme="http", port=80).allowed
    assert not asked(rules, call("search"), method="PUT").allowed
    assert asked(rules, b"x", "/other", kind="text/plain").allowed


def test_a_host_with_mcp_rules_is_intercepted_and_closed_for_the_rest():
    rules = policy(f"allow mcp search {URL}")
    assert rules.intercepts(parse_host("a.test"), 443)
    assert rules.decide(parse_host("a.test"), 443).allowed
    assert not asked(rules, b"", "/other", method="GET").allowed
    assert asked(rules, b"", method="GET").allowed
    assert asked(rules, b"", method="DELETE").allowed
    assert not asked(rules, b"x", method="GET").allowed
    assert not asked(rules, b"", method="POST").allowed
    denied = policy(f"deny mcp x {URL}", allow=("a.test",))
    assert denied.intercepts(parse_host("a.test"), 8443)
    with pytest.raises(UsageError, match="contradicts the rule"):
        Policy.build([], [], [], False, endpoints=[f"deny mcp x {URL}"], no_intercept=["a.test"])
    with pytest.raises(UsageError, match="contradicts the rule"):
        Policy.build(["tcp://a.test:443"], [], [], False, endpoints=[f"deny mcp x {URL}"])


@pytest.mark.parametrize(
    "body", [call("a"), call("a,b"), call("x y*'\"$(z)"), call("ünï"), call("method:x"),
             message("resources/read"), message("a,b c/*"), call("a" * 250)]
)  # fmt: skip
def test_the_hint_allows_what_was_denied_and_the_log_says_the_same(body):
    rules = policy(f"allow mcp search {URL}")
    denied = asked(rules, body)
    assert not denied.allowed
    flag, text = shlex.split((denied.hint or "").removeprefix("allow it with "))
    assert flag == "--allow-mcp-tool"
    assert asked(policy(f"allow mcp {text}"), body).allowed
    assert not asked(policy(f"allow mcp {text}"), call("a other")).allowed
    logged = allow_flag("a.test", 443, denied.reason)
    assert logged == (denied.hint or "").removeprefix("allow it with ")


def test_no_flag_is_for_a_path_with_a_star_or_a_name_that_was_cut():
    rules = policy("allow mcp search https://a.test/**")
    assert "no MCP rule" in (asked(rules, call("a"), "/x*").hint or "")
    long = asked(rules, call("é" * 200))
    assert "..." in (long.reason or "")
    assert allow_flag("a.test", 443, long.reason) is None


@pytest.mark.parametrize(
    "found", [McpCall("tools/call", "a", "sha256:00"), McpCall("ping"), McpCall("tools/call", "a")]
)
def test_the_record_of_a_call_is_read_back(found):
    assert parse_note(with_call(None, found)).call == found
    noted = parse_note(with_call("--observe", found))
    assert (noted.call, noted.observed) == (found, True)


def test_a_record_has_no_argument_and_no_control_character():
    rules = policy(f"allow mcp * {URL}")
    seen = asked(rules, call("tool", secret="hunter2"))
    assert seen.call is not None
    assert seen.call.arguments.startswith("sha256:")
    assert "hunter2" not in repr(
        (seen, asked(policy(f"allow mcp x {URL}"), call("y", s="hunter2")))
    )


def test_a_message_that_did_not_come_whole_has_failed_and_was_not_denied():
    verdict = policy(f"allow mcp a {URL}").endpoint_verdict(
        "https", parse_host("a.test"), 443, "POST", "/mcp"
    )
    assert verdict.messages is not None
    for fault, outcome in (
        (cut_off(), "failed"), (too_late(10.0), "failed"), (too_long(), "denied"),
    ):  # fmt: skip
        reason = verdict.messages.unreadable(fault).reason
        event = NetworkEvent(
            timestamp_unix_ms=1, mode="connect_intercept", decision="deny", target="a.test",
            denial_category="endpoint_policy", reason=reason,
        )  # fmt: skip
        assert outcome_of(event) == outcome


RULES = (
    policy(f"allow mcp {ALLOWED} {URL}"),
    policy(f"deny mcp {DENIED} {URL}", allow=("a.test",)),
    policy(f"allow mcp *,method:* {URL}", f"deny mcp delete_* {URL}"),
    policy(f"allow mcp {ALLOWED},method:* {URL}"),
)


def test_no_spelling_of_a_denied_call_is_allowed():
    cases = [*spellings()]
    assert len(cases) > 180
    for rules in RULES:
        passed = [
            name
            for name, body, kind in cases
            if asked(rules, body, kind=kind).allowed
            and any(DENIED in tool for _, tool in readings(body))
        ]
        assert passed == []


PARTS = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"method"', '"Method"', '"params"', '"name"', '"tools/call"',
     '"tools/list"', '"delete_repo"', '"search"', '"jsonrpc":"2.0"', '"id":1', " ", "\\u0074",
     call().decode(), call(DENIED).decode(), "\ufeff", "null"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=14), coding=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_no_text_that_some_server_takes_for_a_denied_call_is_allowed(parts, coding):
    body = "".join(parts).encode(coding)
    for rules in RULES:
        if asked(rules, body).allowed:
            assert not any(DENIED in tool for _, tool in readings(body))


def test_a_name_in_a_rule_is_for_one_message_alone():
    assert rule_name(Message("tools/call", "method:x")) == "method%3Ax"
    assert rule_name(Message("resources/read")) == "method:resources/read"
