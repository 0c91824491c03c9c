"""`why --url` answers what the proxy would: by the same function, for the same spelling."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from endpoint_paths import spellings

from nono_trio.cli import main as command_line
from nono_trio.config.options import NetworkOptions, RunOptions, SessionOptions
from nono_trio.core.net.host import parse_host
from nono_trio.explain.why_url import explain_url
from nono_trio.session.prepare import build_policy

FLAGS = [
    *("--allow-domain", "whole.test", "--allow-domain", "https://p.test/pub/**"),
    *("--allow-domain", "tls://tls.test:8443", "--deny-domain", "bad.test"),
    *("--allow-endpoint", "read-only https://git.test/**"),
    *("--deny-endpoint", "DELETE https://whole.test/**"),
    *("--deny-endpoint", "DELETE https://deny.test/**"),
    *("--allow-domain", "seen.test", "--intercept", "seen.test", "--allow-domain", "un.test"),
]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))

    def ask(*arguments, code=0):
        assert command_line.exit_code(["why", "--json", *arguments]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if not code else err

    return ask


@pytest.mark.parametrize(
    ("url", "method", "status", "rule", "reason"),
    [
        ("https://whole.test/x", None, "allowed", "--allow-domain whole.test", "no endpoint rule"),
        (
            "https://whole.test/x",
            "delete",
            "denied",
            "--deny-endpoint 'DELETE https://",
            "denied by",
        ),
        (
            "https://p.test/pub/x",
            "PUT",
            "allowed",
            "--allow-domain 'https://p.test/pub/**'",
            "rule",
        ),
        ("https://p.test/priv", None, "denied", None, "fits no endpoint rule"),
        ("https://p.test/pub/../priv", None, "denied", None, "/priv fits no endpoint rule"),
        ("https://p.test/pub/%252e%252e/", None, "denied", None, "ambiguous dot segment"),
        ("https://p.test/pub/é ü", None, "allowed", "--allow-domain 'https://p.test", "rule"),
        ("https://P.TEST.:443/pub/x#y", None, "allowed", "--allow-domain 'https://p.test", "rule"),
        ("https://p.test:8443/pub/x", None, "denied", None, "fits no endpoint rule"),
        ("http://p.test/pub/x", None, "denied", None, "fits no endpoint rule"),
        ("https://deny.test/x", None, "denied", None, "not on the allowlist"),
        ("https://git.test/a/git-upload-pack", "POST", "allowed", "--allow-endpoint", "rule"),
        ("https://git.test/a/git-receive-pack", "POST", "denied", None, "fits no endpoint rule"),
        ("https://seen.test/..;/", None, "allowed", "--allow-domain seen.test", "no endpoint rule"),
        (
            "https://un.test",
            None,
            "allowed",
            "--allow-domain un.test",
            "requests to it are not seen",
        ),
        ("http://un.test?x", None, "allowed", "--allow-domain un.test", "an entry allows it"),
        ("http://tls.test:8443/", None, "denied", None, "allowed for TLS, this is plain HTTP"),
        ("https://bad.test/", None, "denied", "--deny-domain bad.test", "on the deny list"),
        ("https://other.test/", None, "denied", None, "not on the allowlist"),
        ("https://[2001:db8::1]/", None, "denied", None, "not on the allowlist"),
    ],
)
def test_answers(ask, url, method, status, rule, reason):
    words = ["--method", method] if method else []
    answer = ask("--url", url, *words, *FLAGS)
    assert answer["status"] == status
    assert reason in answer["reason"]
    assert (answer["rule"] is None) if rule is None else answer["rule"].startswith(rule)
    assert answer["subject"].startswith(f"{method or 'GET'} http")


@pytest.mark.parametrize(
    "url",
    [
        "https://p.test/priv/a%2fb",
        "https://p.test:8443/x",
        "http://p.test/x",
        "https://other.test/",
        "https://deny.test/",
    ],
)
def test_the_flag_that_is_suggested_is_right(ask, url):
    hint = ask("--url", url, *FLAGS)["hint"]
    words = shlex.split(hint.removeprefix("allow it with "))
    assert ask("--url", url, *FLAGS, *words)["status"] == "allowed"
    another = ask("--url", f"{url}y", *FLAGS, *words)["status"]
    assert another == ("denied" if "p.test" in url else "allowed")


@pytest.mark.parametrize(
    "words",
    [
        ("--url", "a.test"),
        ("--url", "ftp://a.test/"),
        ("--url", "https://u:p@a.test/"),
        ("--url", "https://a.test:0/"),
        ("--url", "https://a.test:70000/"),
        ("--url", "https:///x"),
        ("--url", "https://a.test\\@b.test/x", "--method", "G T"),
        ("--url", "https://a.test/", "--method", "G T"),
        ("--url", "https://a.test/", "--host", "a.test"),
        ("--method", "GET", "--host", "a.test"),
        ("--url", "https://a.test/", "--port", "443"),
    ],
)
def test_what_is_no_url(ask, words):
    assert "hint: " in ask(*words, code=2)


MCP = [
    *("--allow-mcp-tool", "search_*,method:resources/* https://m.test/mcp"),
    *("--deny-mcp-tool", "search_all https://m.test/mcp"),
]


@pytest.mark.parametrize(
    ("tool", "status", "rule", "reason"),
    [
        ("search_one", "allowed", "--allow-mcp-tool 'search_*", "rule allows"),
        ("search_all", "denied", "--deny-mcp-tool 'search_all https://", "denied by the rule"),
        ("Search_All", "denied", "--deny-mcp-tool", "denied by the rule"),
        ("drop", "denied", None, "fits no MCP rule"),
        ("method:resources/read", "allowed", "--allow-mcp-tool", "rule allows"),
        ("method:prompts/get", "denied", None, "fits no MCP rule"),
        ("method:initialize", "allowed", "--allow-mcp-tool", "rule allows"),
    ],
)
def test_a_question_about_a_tool(ask, tool, status, rule, reason):
    answer = ask("--url", "https://m.test/mcp", "--mcp-tool", tool, *MCP)
    assert answer["status"] == status
    assert reason in answer["reason"]
    assert (answer["rule"] is None) if rule is None else answer["rule"].startswith(rule)
    assert answer["subject"] == f"POST https://m.test:443/mcp ({tool})"
    if rule is None:
        words = shlex.split(answer["hint"].removeprefix("allow it with "))
        again = ask("--url", "https://m.test/mcp", "--mcp-tool", tool, *MCP, *words)
        assert again["status"] == "allowed"


def test_questions_about_no_tool(ask):
    url = ("--url", "https://m.test/mcp", *MCP)
    note = "MCP rules judge a body too: ask with --mcp-tool TOOL"
    assert note in ask(*url, "--method", "POST")["notes"]
    assert "hint: " in ask("--host", "m.test", "--mcp-tool", "a", code=2)
    for tool in ("", "a%zz", "method:tools/call", "a\nb"):
        assert "hint: " in ask(*url, "--mcp-tool", tool, code=2)


def test_the_line_of_a_profile_is_named(ask, tmp_path):
    profile = tmp_path / "p.toml"
    profile.write_text('[[network.endpoint]]\nhost = "a.test"\nmethods = ["GET"]\npath = "/x"\n')
    answer = ask("--url", "https://a.test/x", "-p", str(profile))
    assert answer["rule"] == f"GET https://a.test/x ({profile}:1: network.endpoint)"
    assert ask("--host", "a.test", "-p", str(profile))["rule"] == answer["rule"]


def test_it_agrees_with_the_proxys_function_about_every_spelling(tmp_path):
    network = NetworkOptions(
        endpoints=["allow GET https://p.test/public/**", "deny * https://p.test/public/*.json"]
    )
    audit = None
    options = RunOptions((), SessionOptions(network, audit), None)
    policy = build_policy(network)
    for one in spellings():
        if not re.fullmatch("/[!-~]*", one.path) or "#" in one.path:
            continue
        verdict = policy.endpoint_verdict("https", parse_host("p.test"), 443, "GET", one.path)
        answer = explain_url(options, f"https://p.test{one.path}", "GET")
        assert (answer.allowed, answer.hint) == (verdict.allowed, verdict.hint), one.path
        assert verdict.allowed or answer.reason == verdict.reason
