"""`audit learn`: from a log to the profile that allows exactly what it shows."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from harness import Origin, Sessions, serving

from nono_trio.audit.read.learn import MAX_TARGETS, learn
from nono_trio.core.log.events import Flow, Network, NetworkEvent, encode_flow
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.reasons import with_allow_entry
from nono_trio.core.policy.rule import parse_allow
from nono_trio.core.profile.parser import read_profile


def event(target, port, decision="allow", reason=None, mode="connect", category=msgspec.UNSET):
    return NetworkEvent(
        timestamp_unix_ms=1, mode=mode, decision=decision, target=target, port=port,
        reason=reason, denial_category=category,
    )  # fmt: skip


def log(directory, *events, flows=()):
    """A log that `learn` can read: it takes records at their word."""
    lines = [
        msgspec.json.encode({"sequence": number, "event": msgspec.to_builtins(Network(event=one))})
        for number, one in enumerate(events)
    ]
    (directory / "audit-events.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    text = b"".join(
        encode_flow(
            Flow(
                sequence=0, target=target, port=port, address=address, opened_unix_ms=1,
                duration_ms=1, bytes_up=0, bytes_down=0, closed_by="client",
            )
        )
        for target, port, address in flows
    )  # fmt: skip
    (directory / "flows.ndjson").write_bytes(text)
    return learn(directory)


def test_allowed_hosts_are_entries_with_their_ports(tmp_path):
    learned = log(
        tmp_path,
        event("b.example.com", 443),
        event("a.example.com", 8443),
        event("a.example.com", 8443),
        event("2001:db8::1", 443),
        event("c.example.com", 80, "approve_granted"),
        event("d.example.com", 80, "approve_requested"),
    )
    assert learned.entries == {
        "[2001:db8::1]:443": 1,
        "a.example.com:8443": 2,
        "b.example.com:443": 1,
        "c.example.com:80": 1,
    }
    assert learned.refused == []


def test_denied_hosts_are_apart_and_the_allowed_that_failed_are_none(tmp_path):
    learned = log(
        tmp_path,
        event("a.example.com", 443),
        event("a.example.com", 443, "deny", "nothing answers"),
        event("x.example.com", 443, "deny", "not on the allowlist"),
        event("y.example.com", 443, "deny", "not on the allowlist"),
        event("y.example.com", 443, "deny", "not on the allowlist"),
        event("169.254.169.254", 80, "deny", "metadata"),
        event("", None, "deny", "malformed"),
        event("nono-trio:audit", None, "deny", "3 events lost"),
    )
    assert list(learned.entries) == ["a.example.com:443"]
    assert [(one.target, one.count, one.can_be_allowed) for one in learned.refused] == [
        ("y.example.com", 2, True),
        ("169.254.169.254", 1, False),
        ("x.example.com", 1, True),
    ]


def test_what_was_let_through_and_never_reached_is_no_entry(tmp_path):
    """Before: a typing error in a host's name became an entry of the profile."""
    dead = {"reason": "can't connect to typo.example.com:80: the name has no address"}
    learned = log(
        tmp_path,
        event("web.example.com", 443, reason="--observe"),
        event("typo.example.com", 80, reason="--observe"),
        event("typo.example.com", 80, "deny", **dead, category="upstream_connect_failed"),
        event("vm", 80, reason="--observe"),
        event("vm", 80, "deny", "vm resolved to 127.0.0.1, a loopback address"),
        event("flaky.example.com", 80, reason="--observe"),
        event("flaky.example.com", 80, "deny", "nothing", category="upstream_connect_failed"),
        event("flaky.example.com", 80, reason="--observe"),
    )
    assert learned.entries == {"flaky.example.com:80": 2, "web.example.com:443": 1}
    assert learned.unreached == {
        "typo.example.com:80": dead["reason"],
        "vm:80": "vm resolved to 127.0.0.1, a loopback address",
    }


def test_relayed_ports_are_no_hosts(tmp_path):
    learned = log(
        tmp_path,
        event("127.0.0.1", 5432, reason="--open-port"),
        event("127.0.0.1", 8080, reason="--listen-port"),
        event("127.0.0.1", 9, reason=None),
    )
    assert (learned.open_ports, learned.listen_ports) == ({5432}, {8080})
    assert list(learned.entries) == ["127.0.0.1:9"]


def test_a_name_that_led_to_loopback_was_pinned(tmp_path):
    learned = log(
        tmp_path,
        event("api.example.com", 443),
        event("far.example.com", 443),
        event("localhost", 80),
        event("127.0.0.1", 80),
        flows=[
            ("api.example.com", 443, "127.0.0.1"),
            ("far.example.com", 443, "203.0.113.9"),
            ("localhost", 80, "127.0.0.1"),
            ("127.0.0.1", 80, "127.0.0.1"),
            ("never.example.com", 80, "127.0.0.1"),
            ("api.example.com", 443, None),
            ("api.example.com", 443, "not an address"),
        ],
    )
    assert learned.resolve == ["api.example.com:443:127.0.0.1"]


def test_an_upstream_proxy_on_loopback_is_no_pin_of_the_hosts_behind_it(tmp_path):
    learned = log(
        tmp_path,
        event("a.example.com", 443, mode="external"),
        event("b.example.com", 443),
        flows=[("a.example.com", 443, "127.0.0.1"), ("b.example.com", 443, "127.0.0.1")],
    )
    assert learned.resolve == ["b.example.com:443:127.0.0.1"]


def test_what_is_kept_is_bounded_and_the_rest_counted(tmp_path):
    many = [event(f"h{number}.example.com", 80) for number in range(MAX_TARGETS + 5)]
    denied = [event(one.target, 81, "deny", "no") for one in many]
    learned = log(tmp_path, *many, *denied)
    assert (len(learned.allowed), len(learned.denied), learned.left_out) == (1000, 1000, 10)


@pytest.mark.parametrize(
    "target",
    ["a b", 'x"]\nblock = false', "\u202eexample.com", "*", "\x1b[2J", "*.example.com",
     "tls://example.com", "example.com:*", "[2001:db8::1]", "Example.com"],
)  # fmt: skip
def test_a_log_with_anything_for_a_host_teaches_nothing_of_it(tmp_path, target):
    looked_up = msgspec.structs.replace(event(target, 53, "deny", "no"), method=LOOK_UP)
    learned = log(tmp_path, event(target, 80), event(target, 81, "deny", "no\x1b"))
    assert learned.entries == {}
    assert not learned.refused[0].can_be_allowed
    [only] = log(tmp_path, looked_up).refused
    assert not only.can_be_allowed


# -- the command ----------------------------------------------------------------------------------


class Recorded(NamedTuple):
    """The state directory of a real session, the script that it ran, and the origin it reached."""

    state: Path
    script: str
    origin: Origin


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A session with allowed, denied, pinned and relayed connections; no test changes it."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    place = tmp_path_factory.mktemp("recorded")
    sessions = Sessions(place / "state", place)
    origin = Origin()
    name = f"api.example.com:{origin.port}"
    script = f"""
    curl -s -o /dev/null http://{name}/ http://127.0.0.1:{origin.port}/
    curl -s -o /dev/null http://evil.example.net/ http://169.254.169.254/
    """
    with serving(origin):
        done = sessions.run(
            "--resolve", f"{name}:127.0.0.1", "--allow-domain", "*.example.com:*",
            "--open-port", str(origin.port), "--", "sh", "-c", script,
        )  # fmt: skip
        assert len(origin.seen) == 2, done.stderr
        yield Recorded(sessions.state, script, origin)


@pytest.fixture
def session(sessions, recorded):
    """A copy of that session, for one test."""
    shutil.copytree(recorded.state, sessions.state)
    return recorded


def test_the_learned_profile_allows_the_same_again(sessions, session):
    origin = session.origin
    done = sessions.call("audit", "learn")
    assert done.returncode == 0, done.stderr
    assert f"# Learned from session {sessions.only.name} (verified)" in done.stdout
    assert '  # "evil.example.net:80",  # 1x: ' in done.stdout
    assert '  # (stays closed) "169.254.169.254:80"' in done.stdout
    profile = read_profile(done.stdout, "learned.toml").accepted().profile
    assert profile.network.allow_domain == [f"api.example.com:{origin.port}"]
    assert profile.network.open_port == [origin.port]
    (sessions.home / "learned.toml").write_text(done.stdout)
    first = sessions.only
    sessions.run("-p", "learned.toml", "--", "sh", "-c", session.script)
    assert len(origin.seen) == 4
    (second,) = set(sessions.directories) - {first}
    told = [(one["decision"], one["target"]) for one in sessions.decisions(second)]
    assert told == [(one["decision"], one["target"]) for one in sessions.decisions(first)]


def test_a_denied_host_is_let_in_by_taking_the_mark_away(sessions, session):
    text = sessions.call("audit", "learn").stdout.replace('# "evil.', '"evil.')
    assert "evil.example.net:80" in tomllib.loads(text)["network"]["allow_domain"]


def test_learn_as_json(sessions, session):
    told = json.loads(sessions.call("audit", "learn", "latest", "--json").stdout)
    assert (told["schema"], told["session_id"], told["verdict"]) == (
        1, sessions.only.name, "verified",
    )  # fmt: skip
    assert told["profile"]["network"]["allow_domain"] == [f"api.example.com:{session.origin.port}"]
    assert read_profile(json.dumps(told["profile"]), "p.json").faults == ()
    assert [one["target"] for one in told["denied"]] == ["169.254.169.254", "evil.example.net"]


def test_a_tampered_log_teaches_nothing(sessions, session):
    path = sessions.only / "audit-events.ndjson"
    path.write_bytes(path.read_bytes().replace(b"evil.example.net", b"good.example.net"))
    done = sessions.call("audit", "learn")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tampered" in done.stderr
    assert "hint: nono-trio audit verify" in done.stderr


def test_a_log_that_is_no_file_teaches_nothing(sessions, session):
    log = sessions.only / "audit-events.ndjson"
    log.unlink()
    os.mkfifo(log)
    done = sessions.call("audit", "learn", "latest")
    assert (done.returncode, done.stdout) == (1, "")  # the ledger knows that it was sealed
    assert done.stderr.startswith("nono-trio: error: ")


def test_a_session_without_decisions(sessions):
    sessions.run("--", "true")
    profile = tomllib.loads(sessions.call("audit", "learn").stdout)
    assert profile["network"] == {"allow_domain": []}


def test_no_session(sessions):
    done = sessions.call("audit", "learn", "nope")
    assert done.returncode == 2
    assert "expected a session, got 'nope'" in done.stderr


def test_an_entry_is_proposed_in_the_form_that_allowed_it(tmp_path):
    learned = log(
        tmp_path,
        event("a.example.com", 443, reason="--allow-domain tls://*.example.com"),
        event("b.example.com", 443, reason="--allow-domain TCP://b.example.com:443"),
        event("2001:db8::1", 22, reason="--allow-domain tcp://[2001:db8::1]:22"),
        event("c.example.com", 443),
        flows=[("a.example.com", 443, "127.0.0.1")],
    )
    assert list(learned.entries) == [
        "tcp://[2001:db8::1]:22",
        "tls://a.example.com:443",
        "tcp://b.example.com:443",
        "c.example.com:443",
    ]
    assert learned.resolve == ["a.example.com:443:127.0.0.1"]
    for entry in learned.entries:
        parse_allow(entry)


def test_what_was_denied_is_offered_in_the_form_that_would_have_allowed_it(tmp_path):
    hidden = with_allow_entry("the TLS hello hides its host", "tls://a.example.com:443")
    learned = log(
        tmp_path,
        event("a.example.com", 443),
        event("a.example.com", 443, "deny", hidden),
        event("a.example.com", 443, "deny", "nothing answers"),
        event("b.example.com", 443, reason="--allow-domain tls://b.example.com"),
        event("b.example.com", 443, "deny", "nothing answers"),
        event("c.example.com", 443, "deny", with_allow_entry("no", "tls://x\x1b\ny:1")),
    )
    assert [one.entry for one in learned.refused] == [
        "tls://a.example.com:443",
        "tls://c.example.com:443",  # only the form is taken from the reason
    ]


def test_a_name_that_was_only_looked_up_is_offered_as_a_host(tmp_path):
    asked = [
        NetworkEvent(
            timestamp_unix_ms=1, mode="connect", decision="deny", target=name, port=53,
            method="DNS", reason="the name is not allowed on any port",
        )
        for name in ("a.example.com", "b.example.com", "b.example.com", "c.example.com", "word")
    ]  # fmt: skip
    learned = log(
        tmp_path, *asked, event("a.example.com", 443, "deny", "no"), event("c.example.com", 25)
    )
    assert [(one.entry, one.count, one.can_be_allowed) for one in learned.refused] == [
        ("b.example.com", 2, True),
        ("a.example.com:443", 1, True),
        ("word", 1, False),
    ]


def request(method, path, decision="allow", reason=None, *, mode="connect_intercept", port=443):
    return NetworkEvent(
        timestamp_unix_ms=1, mode=mode, decision=decision, target="a.test", port=port,
        method=method, path=path, reason=reason,
        endpoint_policy_action="allow" if decision == "allow" else "deny",
    )  # fmt: skip


def test_mcp_messages_are_learned_as_their_tools_and_methods(tmp_path):
    refused = (
        "the MCP tool drop of https://a.test/mcp fits no MCP rule of the host (arguments none)"
    )
    listed = "the MCP tool x of https://a.test/mcp (arguments none) is denied by the rule mcp x y"
    learned = log(
        tmp_path,
        request("POST", "/mcp", reason="MCP tools/call search sha256:00"),
        request("POST", "/mcp", reason="--observe; MCP tools/call search sha256:01"),
        request("POST", "/mcp", reason="MCP resources/read"),
        request("POST", "/mcp", reason="MCP (response)"),
        request("POST", "/mcp", reason=f"MCP tools/call {'x' * 300}..."),
        request("POST", "/mcp", "deny", refused),
        request("POST", "/mcp", "deny", listed),
        request("POST", "/mcp", "deny", "the MCP message was cut off"),
        request("GET", "/mcp"),
    )
    assert learned.tools == {
        "search https://a.test/mcp": 2,
        "method:resources/read https://a.test/mcp": 1,
    }
    assert learned.denied_tools == {"drop https://a.test/mcp": 1}
    assert learned.endpoints == {"GET https://a.test/mcp": 1}
    assert learned.left_out == 1


def test_a_host_with_judged_requests_is_learned_as_its_requests(tmp_path):
    denied = "PUT https://a.test/x fits no endpoint rule of the host"
    learned = log(
        tmp_path,
        event("a.test", 443),
        event("b.test", 443),
        request("GET", "/v1/items?page=[REDACTED]"),
        request("GET", "/v1/items"),
        request("POST", "/@s%2Fn", port=8443),
        request("GET", "/y", mode="reverse", port=80),
        request("PUT", "/x", "deny", denied),
        request("GET", "/a*b"),
        request("get", "/lower"),
        request("GET", "/" + "x" * 300),
        request("G'T $(x)", "/y"),
        request("GET", "/../x", "deny", "the request's path climbs above the root"),
    )
    assert learned.entries == {"b.test:443": 1}
    assert learned.endpoints == {
        "GET https://a.test/v1/items": 2,
        "POST https://a.test:8443/@s%2Fn": 1,
        "GET http://a.test/y": 1,
    }
    assert learned.denied_endpoints == {"PUT https://a.test/x": 1}
    assert learned.left_out == 4
    policy = Policy.build(endpoints=[f"allow {one}" for one in learned.endpoints])
    host = parse_host("a.test")
    assert policy.endpoint_verdict("https", host, 8443, "POST", "/@s%2fn").allowed
    assert not policy.endpoint_verdict("https", host, 443, "GET", "/v1").allowed
