"""tls:// and tcp:// entries: what they mean, and which of several entries decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nono_trio.core.log.events import NetworkEvent
from nono_trio.core.log.notices import gap_record
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.allow_entry import allow_entry, allow_flag, denial_text, entry
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.reasons import with_allow_entry
from nono_trio.core.policy.request_note import parse_note
from nono_trio.core.policy.rule import Inspection, parse_allow
from nono_trio.errors import UsageError

NAME, TLS, NONE = Inspection.NAME, Inspection.TLS, Inspection.NONE
PORTS = (22, 80, 443, 8443)


def shown(entries: list[str], host: str) -> dict[int, Inspection]:
    """Return what a policy asks of connections to the ports that it allows."""
    policy = Policy.build(entries)
    verdicts = {port: policy.decide(parse_host(host), port) for port in PORTS}
    return {port: verdict.inspection for port, verdict in verdicts.items() if verdict.allowed}


@pytest.mark.parametrize(
    ("text", "host", "expected"),
    [
        ("a.test", "a.test", {80: NAME, 443: NAME}),
        ("a.test:*", "a.test", {22: NONE, 80: NAME, 443: NAME, 8443: NONE}),
        ("a.test:8443", "a.test", {8443: NONE}),
        ("tls://a.test", "a.test", {443: TLS}),
        ("TLS://A.test.", "a.test", {443: TLS}),
        ("tls://a.test:8443", "a.test", {8443: TLS}),
        ("tls://*.test", "a.test", {443: TLS}),
        ("tls://*.test", "test", {}),
        ("tls://192.0.2.1", "192.0.2.1", {443: TLS}),
        ("tls://[2001:db8::1]", "2001:db8::1", {443: TLS}),
        ("tls://2001:db8::1", "2001:db8::1", {443: TLS}),
        ("tls://[2001:db8::1]:8443", "2001:db8::1", {8443: TLS}),
        ("tcp://a.test:22", "a.test", {22: NONE}),
        ("tcp://a.test:80", "a.test", {80: NONE}),
        ("tcp://a.test:443", "a.test", {443: NONE}),
        ("tcp://a.test:*", "a.test", dict.fromkeys(PORTS, NONE)),
        ("tcp://*.test:443", "b.a.test", {443: NONE}),
        ("tcp://[2001:db8::1]:443", "2001:db8::1", {443: NONE}),
        ("tcp://db:8443", "db", {8443: NONE}),
    ],
)
def test_a_form_opens_its_ports_for_what_it_says(text, host, expected):
    assert shown([text], host) == expected
    assert parse_allow(text).text == text


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["a.test", "tls://a.test"], {80: NAME, 443: TLS}),
        (["tls://a.test", "tcp://a.test:443"], {443: NONE}),
        (["a.test:443", "tcp://a.test:*"], dict.fromkeys(PORTS, NONE)),
        (["a.test:*", "tls://a.test"], {22: NONE, 80: NAME, 443: TLS, 8443: NONE}),
        (["a.test:8443", "tls://a.test:8443"], {8443: NONE}),
        (["a.test", "tls://*.test"], {80: NAME, 443: TLS}),
        (["*.test", "tls://a.test"], {80: NAME, 443: TLS}),
    ],
)
def test_of_several_entries_the_loosest_decides_in_any_order(entries, expected):
    assert shown(entries, "a.test") == expected
    assert shown(entries[::-1], "a.test") == expected


def test_an_exact_entry_still_opens_private_addresses_beside_a_looser_wildcard():
    policy = Policy.build(["a.test:443", "tls://*.test"])
    host = parse_host("a.test")
    assert policy.decide(host, 443).rule == "tls://*.test"
    assert policy.check_address(host, 443, "10.0.0.1").allowed
    assert not policy.check_address(parse_host("b.test"), 443, "10.0.0.1").allowed


def test_a_deny_entry_denies_whatever_is_spoken():
    policy = Policy.build(["tcp://a.test:*", "tls://b.test"], ["a.test", "b.test:443"])
    assert not policy.decide(parse_host("a.test"), 22).allowed
    assert not policy.decide(parse_host("b.test"), 443).allowed


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tcp://a.test", "tcp://a.test:22"),
        ("tcp://[2001:db8::1]", "tcp://[2001:db8::1]:22"),
        ("tls://a.test:80", "tcp://a.test:80"),
        ("tls://a.test:*", "name each port"),
        ("tls://a.test/path", "HOST"),
        ("tls://https://a.test", "HOST"),
        ("tls://tls://a.test", "HOST"),
        ("tls://", "HOST"),
        ("tls:a.test", "HOST"),
        ("udp://a.test:53", "HOST"),
        ("https://a.test", "a.test:443"),
        ("tls://*", "*.example.com"),
        ("tcp://*:22", "*.example.com"),
        ("tls://169.254.169.254", "no flag opens it"),
        ("tcp://metadata.google.internal:80", "no flag opens it"),
        ("tls://*.localhost", "name each one"),
    ],
)
def test_a_form_that_can_not_be_meant_has_a_hint(text, hint):
    with pytest.raises(UsageError, match="--allow-domain") as refused:
        parse_allow(text)
    assert ascii(text) in refused.value.message
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize("text", ["tls://a.test", "tcp://a.test:22", "TLS://*.a.test:8443"])
def test_a_deny_entry_with_a_scheme_is_refused_with_the_plain_one(text):
    with pytest.raises(UsageError, match="--deny-domain") as refused:
        Policy.build(deny=[text])
    assert f"write {text[6:]}," in str(refused.value.hint)
    Policy.build(deny=[text[6:]])


hosts = st.one_of(
    st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){1,3}", fullmatch=True),
    st.ip_addresses().map(str),
)


@given(hosts, st.integers(1, 65535), st.sampled_from(["", "tls://", "tcp://"]))
def test_an_entry_that_is_made_is_one_that_can_be_read(host, port, scheme):
    text = entry(host, port, scheme)
    try:
        rule = parse_allow(text)
    except UsageError:  # a host that stays closed, or TLS on port 80
        return
    assert (rule.host.name, rule.ports, rule.scheme) == (parse_host(host).name, (port,), scheme)
    reason = with_allow_entry("some reason", text)
    assert allow_entry(rule.host.name, port, reason) == entry(rule.host.name, port, scheme)
    assert parse_note(f"--allow-domain {text}").scheme == scheme


@given(st.lists(st.sampled_from(["", "tls://", "tcp://"]), min_size=1, max_size=3))
def test_one_more_entry_never_closes_anything(schemes):
    entries = [entry("a.test", 443, scheme) for scheme in schemes]
    before = 0
    for count in range(1, len(entries) + 1):
        now = shown(entries[:count], "a.test")[443]
        assert now >= before
        before = now


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (None, None),
        ("", None),
        ("a.test is a cloud metadata name", None),
        ("a.test:443 is not on the allowlist", "a.test:443"),
        (with_allow_entry("no name", "tls://a.test:443"), "tls://a.test:443"),
        (with_allow_entry("no name", "tls://evil.test:1"), "tls://a.test:443"),
        (with_allow_entry("no name", "ftp://a.test:443"), None),
        (with_allow_entry("no name", "tls://a.test:443") + " and more", None),
    ],
)
def test_of_a_reason_no_more_than_the_form_is_taken(reason, expected):
    assert allow_entry("a.test", 443, reason) == expected


@pytest.mark.parametrize("reason", [None, "", "--open-port", "--allow-domain a.test", "x tls://"])
def test_other_records_name_no_form(reason):
    assert parse_note(reason).scheme == ""


def test_what_lacks_a_port_or_a_reason_or_is_about_the_log_names_no_entry():
    reason = "a.test:443 is not on the allowlist"
    assert allow_entry("a.test", 443, reason) == "a.test:443"
    for named in (allow_entry, allow_flag):
        assert named("a.test", None, reason) is named("a.test", 443, None) is None
    refused = NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision="deny", target="a.test", port=443,
        reason=reason,
    )  # fmt: skip
    assert denial_text(refused) == f"{reason} (to allow: --allow-domain a.test:443)"
    assert denial_text(replace(refused, decision="allow")) is None
    assert denial_text(gap_record(3, "queue full", 1).event) is None
