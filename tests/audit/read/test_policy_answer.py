"""What a past session's policy said about a host or a path, and which line of it."""

from __future__ import annotations

import pytest
from msgspec import structs

from nono_trio.audit.read.policy_answer import host_answer, path_answer, url_answer
from nono_trio.core.log.policy_json import (
    FilePolicy,
    GrantedPath,
    NetworkPolicy,
    SessionPolicy,
    SourcedEntry,
)
from nono_trio.errors import LogUnreadable, UsageError


def sourced(entry, source="--allow-domain"):
    return SourcedEntry(entry=entry, source=source)


def grant(path, access="read", *, is_file=False):
    return GrantedPath(
        path=path, access=access, is_file=is_file, source=f"p.toml:3: {access}", asked_for=True
    )


POLICY = SessionPolicy(
    network=NetworkPolicy(
        allow=[
            sourced("api.example.com"),
            sourced("*.example.org:8443", "agent.toml:7: network.allow_domain"),
            sourced("db.example.com:5432"),
        ],
        deny=[sourced("bad.example.org", "--deny-domain")],
        pins=[sourced("DB.example.com:5432:10.0.0.7", "--resolve")],
        open_ports=[6379],
    ),
    files=FilePolicy(
        grants=[
            grant("/home/a/project", "readwrite"),
            grant("/home/a"),
            grant("/home/a/out", "write"),
            grant("/home/a/one", is_file=True),
            grant("/run/a.sock", "socket", is_file=True),
        ],
        denied=["/home/a/.ssh", "/home/a/.aws/key"],
        bypasses=["/home/a/.aws"],
    ),
)


@pytest.mark.parametrize(
    ("host", "port", "allowed", "line"),
    [
        ("api.example.com", 443, True, "api.example.com (--allow-domain)"),
        ("API.example.com.", 80, True, "api.example.com (--allow-domain)"),
        ("api.example.com", 8080, False, None),
        ("a.example.org", 8443, True,
         "*.example.org:8443 (agent.toml:7: network.allow_domain)"),
        ("bad.example.org", 8443, False, "bad.example.org (--deny-domain)"),
        ("example.net", 443, False, None),
        ("169.254.169.254", 80, False, None),
        ("127.0.0.1", 6379, True, "--open-port 6379"),
        ("localhost", 6379, True, "--open-port 6379"),
        ("127.0.0.1", 6380, False, None),
    ],
)  # fmt: skip
def test_hosts(host, port, allowed, line):
    answer = host_answer(POLICY, host, port)
    assert (answer.allowed, answer.line) == (allowed, line)
    assert answer.reason


def test_a_pin_is_named():
    note = host_answer(POLICY, "db.example.com", 5432).note
    assert note == "pinned to 10.0.0.7 (--resolve)"


def test_a_closed_network_says_so():
    closed = SessionPolicy(network=NetworkPolicy(block=True, allow=POLICY.network.allow))
    answer = host_answer(closed, "api.example.com", 443)
    assert (answer.allowed, answer.line) == (False, "--block-net")


def test_what_is_no_host_is_a_usage_error_and_an_unknown_entry_is_unreadable():
    with pytest.raises(UsageError, match="--host"):
        host_answer(POLICY, "a b", 443)
    strange = SessionPolicy(network=NetworkPolicy(allow=[sourced("quic://a.example.com:1")]))
    with pytest.raises(LogUnreadable, match="can't be read"):
        host_answer(strange, "a.example.com", 443)


@pytest.mark.parametrize(
    ("path", "operation", "allowed", "reason"),
    [
        ("/home/a/project/x", "write", True, "/home/a/project was granted, readwrite"),
        ("/home/a/x", "read", True, "/home/a was granted, read"),
        ("/home/a/x", "write", False, "/home/a was granted, read only"),
        ("/home/a/out/x", "write", True, "/home/a/out was granted, write"),
        ("/home/a/out/x", "read", True, "/home/a was granted, read"),
        ("/home/ab", "read", False, "no grant covered it"),
        ("/home/a/one", "read", True, "/home/a/one was granted, read"),
        ("/home/a/.ssh/id", "read", False, "/home/a/.ssh was closed, whatever was granted"),
        ("/home/a/.aws/x", "read", True, "/home/a was granted, read"),
        ("/home/a/.aws/key", "read", False, "/home/a/.aws/key was closed, whatever was granted"),
        ("/run/a.sock", "read", False, "/run/a.sock was granted, socket"),
        ("/etc/shadow", "read", False, "no grant covered it"),
    ],
)
def test_paths(path, operation, allowed, reason):
    answer = path_answer(POLICY, path, operation)
    assert (answer.allowed, answer.reason) == (allowed, reason)


def test_a_directory_of_the_cages_own_is_said():
    """The command could write there, and yet it reached no file of the machine."""
    namespace = structs.replace(POLICY, isolation="namespace")
    for path in ("/tmp/x", "/dev/shm", "/proc/1/status"):
        answer = path_answer(namespace, path, "write")
        assert not answer.allowed
        assert "the cage had its own /" in (answer.note or "")
    assert path_answer(namespace, "/tmpx", "write").note is None
    assert path_answer(POLICY, "/tmp/x", "write").note is None


def test_a_session_without_a_cage():
    assert path_answer(SessionPolicy(), "/x", "write").allowed


def test_requests_are_answered_by_the_rules_that_judged_them():
    network = NetworkPolicy(
        allow=[sourced("https://a.test/pub/**"), sourced("whole.test"), sourced("tls://t.test")],
        endpoints=[
            sourced("deny DELETE https://whole.test/**", "--deny-endpoint"),
            sourced("allow mcp search https://m.test", "p.toml:9: network.mcp"),
            sourced("audit GET https://a.test/x", "p.toml:3: network.endpoint"),
        ],
    )
    policy = SessionPolicy(network=network)
    for method, url, allowed, line, words in [
        ("GET", "https://a.test/pub/x", True, "https://a.test/pub/** (--allow-domain)", "rule"),
        ("GET", "https://a.test/x", True, "GET https://a.test/x (p.toml:3: network.endpoint)",
         "let through and recorded"),
        ("GET", "https://a.test/y", False, None, "fits no endpoint rule"),
        ("GET", "https://a.test/pub/..;/y", False, None, "ambiguous"),
        ("DELETE", "https://whole.test/", False,
         "DELETE https://whole.test/** (--deny-endpoint)", "denied by"),
        ("GET", "http://whole.test/", True, "whole.test (--allow-domain)", "an entry"),
        ("GET", "http://t.test:443/", False, "tls://t.test (--allow-domain)", "plain HTTP"),
        ("GET", "https://other.test/", False, None, "allowlist"),
    ]:  # fmt: skip
        answer = url_answer(policy, url, method)
        assert (answer.allowed, answer.line) == (allowed, line), url
        assert words in answer.reason
        assert answer.subject.startswith(f"{method} http")
    answer = url_answer(policy, "https://m.test/mcp", "POST", "search")
    assert answer.line == "mcp search https://m.test (p.toml:9: network.mcp)"
    assert answer.subject == "POST https://m.test:443/mcp (search)"
    assert not url_answer(policy, "https://m.test/mcp", "POST", "drop").allowed
    unreadable = SessionPolicy(network=NetworkPolicy(endpoints=[sourced("allow https://a.test")]))
    with pytest.raises(LogUnreadable):
        url_answer(unreadable, "https://a.test/", "GET")
