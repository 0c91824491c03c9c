"""Policy: which entry decides, what nothing opens, and which flag would change a denial."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.fake_ip import EVERY_PORT_NETWORKS
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy import network_policy as policy_module
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.policy_verdict import Verdict
from nono_trio.errors import UsageError

ALWAYS_CLOSED = [
    "169.254.169.254",
    "169.254.1.1",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "0.0.0.0",
    "[::]",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
    "240.0.0.1",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "x.metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
]


def decide(policy: Policy, host: str, port: int = 443) -> Verdict:
    return policy.decide(parse_host(host), port)


def check(policy: Policy, host: str, address: str, port: int = 443) -> Verdict:
    return policy.check_address(parse_host(host), port, address)


def test_nothing_is_allowed_without_an_entry():
    verdict = decide(Policy.build(), "allowed.test")
    assert verdict == Verdict(
        allowed=False,
        reason="allowed.test:443 is not on the allowlist",
        hint="allow it with --allow-domain allowed.test:443",
    )
    assert decide(Policy(), "allowed.test") == verdict


def test_a_blocked_network_stays_blocked_whatever_is_allowed():
    policy = Policy.build(["allowed.test"], resolve=["allowed.test:443:127.0.0.1"], block=True)
    blocked = Verdict(allowed=False, reason="the network is blocked", hint="drop --block-net")
    assert decide(policy, "allowed.test") == blocked
    assert check(policy, "allowed.test", "127.0.0.1") == blocked


@pytest.mark.parametrize(
    ("entry", "host", "ports"),
    [
        ("allowed.test", "allowed.test", {80, 443}),
        ("ALLOWED.test.", "allowed.test", {80, 443}),
        ("allowed.test:8443", "allowed.test", {8443}),
        ("allowed.test:*", "allowed.test", {22, 80, 443, 8443}),
        ("*.allowed.test", "a.allowed.test", {80, 443}),
        ("*.allowed.test:22", "a.b.c.allowed.test", {22}),
        ("*.allowed.test:*", "a.allowed.test", {22, 80, 443, 8443}),
        ("*.test", "allowed.test", {80, 443}),
        ("93.184.215.14", "93.184.215.14", {80, 443}),
        ("93.184.215.14:22", "93.184.215.14", {22}),
        ("[2606:2800::1]", "2606:2800::1", {80, 443}),
        ("[2606:2800:0::1]:22", "2606:2800::1", {22}),
        ("2606:2800::1", "2606:2800::1", {80, 443}),
        ("10.0.0.1", "10.0.0.1", {80, 443}),
        ("127.0.0.1:8443", "127.0.0.1", {8443}),
        ("localhost:*", "localhost", {22, 80, 443, 8443}),
        ("db:22", "db", {22}),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", "xn--bcher-kva.test", {80, 443}),
    ],
)
def test_an_entry_opens_its_ports_and_no_others(entry, host, ports):
    policy = Policy.build([entry])
    assert {port for port in (22, 80, 443, 8443) if decide(policy, host, port).allowed} == ports
    assert all(decide(policy, host, port).rule == entry for port in ports)


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("allowed.test", "sub.allowed.test"),
        ("allowed.test", "evilallowed.test"),
        ("allowed.test", "allowed.test.evil.test"),
        ("*.allowed.test", "allowed.test"),
        ("*.allowed.test", "evilallowed.test"),
        ("*.allowed.test", "a.allowed.test.evil.test"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("93.184.215.14", "64:ff9b::5db8:d70e"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("localhost", "foo.localhost"),
    ],
)
def test_an_entry_opens_no_neighbour(entry, host):
    assert not decide(Policy.build([entry]), host).allowed


@pytest.mark.parametrize("host", ALWAYS_CLOSED)
def test_what_is_always_closed_has_no_hint(host):
    verdict = decide(Policy.build(["*.internal", "*.test", "*.com:*"]), host, 80)
    assert not verdict.allowed
    assert verdict.rule is None
    assert verdict.hint is None


@pytest.mark.parametrize("entry", ALWAYS_CLOSED)
def test_what_is_always_closed_can_not_be_allowed(entry):
    with pytest.raises(UsageError, match="--allow-domain") as refused:
        Policy.build([entry])
    assert refused.value.hint is not None


@pytest.mark.parametrize(
    ("deny", "host", "port", "allowed"),
    [
        ("evil.allowed.test", "evil.allowed.test", 443, False),
        ("evil.allowed.test", "evil.allowed.test", 9999, False),
        ("evil.allowed.test", "good.allowed.test", 443, True),
        ("evil.allowed.test:80", "evil.allowed.test", 80, False),
        ("evil.allowed.test:80", "evil.allowed.test", 443, True),
        ("*.evil.allowed.test", "a.evil.allowed.test", 443, False),
        ("*.evil.allowed.test", "evil.allowed.test", 443, True),
        ("EVIL.allowed.test.", "evil.allowed.test", 443, False),
        ("10.0.0.1", "10.0.0.1", 443, False),
        ("10.0.0.1:22", "10.0.0.1", 443, True),
        ("[::ffff:10.0.0.1]", "10.0.0.1", 443, False),
        ("[2606:2800::1]", "2606:2800::1", 443, False),
    ],
)
def test_deny_beats_allow(deny, host, port, allowed):
    allow = ["*.allowed.test:*", "evil.allowed.test:*", "10.0.0.1:*", "[2606:2800::1]"]
    verdict = decide(Policy.build(allow, [deny]), host, port)
    assert verdict.allowed is allowed
    if not allowed:
        assert verdict.rule == deny
        assert verdict.hint == f"drop --deny-domain {deny}"


@pytest.mark.parametrize("address", ["93.184.215.14", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"])
def test_a_denied_address_is_denied_behind_a_name_and_in_every_spelling(address):
    policy = Policy.build(["allowed.test"], ["93.184.215.14"])
    verdict = check(policy, "allowed.test", address)
    assert not verdict.allowed
    assert verdict.rule == "93.184.215.14"
    assert verdict.hint == "drop --deny-domain 93.184.215.14"


@pytest.mark.parametrize(
    ("allow", "settings", "networks", "decided", "refused"),
    [
        (["a.test", "b.test:22", "10.0.0.1"], {}, (), (), ("a.test", "b.test", "10.0.0.1")),
        (["a.test:*"], {}, EVERY_PORT_NETWORKS, ("a.test",), ("b.test", "x.a.test", "10.0.0.1")),
        (["*.a.test:*"], {}, EVERY_PORT_NETWORKS, ("x.a.test",), ("a.test",)),
        (["tcp://a.test:*"], {}, EVERY_PORT_NETWORKS, ("a.test",), ()),
        (
            ["10.0.0.1:*", "tcp://10.0.0.1:*", "[fd00::1]:*"],
            {},
            ("10.0.0.1/32", "fd00::1/128"),
            ("10.0.0.1", "fd00::1"),
            ("10.0.0.2", "a.test"),
        ),
        (["a.test:*"], {"block": True}, (), (), ("a.test",)),
        (
            [],
            {"observe": True},
            (),
            (),
            ("a.test", "93.184.215.14", "10.0.0.1", "localhost"),
        ),
    ],
)
def test_hosts_of_which_every_port_is_decided(allow, settings, networks, decided, refused):
    policy = Policy.build(allow, **settings)
    assert policy.every_port_networks == networks
    asked = {host: policy.decides_every_port(parse_host(host)) for host in (*decided, *refused)}
    assert asked == dict.fromkeys(decided, True) | dict.fromkeys(refused, False)


def test_a_denied_address_beats_a_pin():
    policy = Policy.build(["a.test"], ["127.0.0.1"], ["a.test:443:127.0.0.1"])
    assert not check(policy, "a.test", "127.0.0.1").allowed


def test_a_denied_host_stays_denied_whatever_it_resolves_to():
    policy = Policy.build(["allowed.test"])
    host = parse_host("evil.test")
    assert policy.check_address(host, 443, "93.184.215.14") == policy.decide(host, 443)


@pytest.mark.parametrize(
    ("entry", "host", "address", "allowed"),
    [
        ("allowed.test", "allowed.test", "93.184.215.14", True),
        ("allowed.test", "allowed.test", "192.0.2.10", True),
        ("allowed.test", "allowed.test", "10.0.0.1", True),
        ("allowed.test", "allowed.test", "100.64.0.1", True),
        ("allowed.test", "allowed.test", "fd12::1", True),
        ("allowed.test", "allowed.test", "::ffff:10.0.0.1", True),
        ("allowed.test", "allowed.test", "127.0.0.1", False),
        ("allowed.test", "allowed.test", "::1", False),
        ("allowed.test", "allowed.test", "::ffff:127.0.0.1", False),
        ("allowed.test", "allowed.test", "169.254.169.254", False),
        ("allowed.test", "allowed.test", "64:ff9b::a9fe:a9fe", False),
        ("allowed.test", "allowed.test", "fe80::1%eth0", False),
        ("allowed.test", "allowed.test", "0.0.0.0", False),
        ("allowed.test", "allowed.test", "224.0.0.1", False),
        ("allowed.test", "allowed.test", "255.255.255.255", False),
        ("allowed.test", "allowed.test", "240.0.0.1", False),
        ("allowed.test", "allowed.test", "no address", False),
        ("*.test", "allowed.test", "93.184.215.14", True),
        ("*.test", "allowed.test", "10.0.0.1", False),
        ("*.test", "allowed.test", "100.64.0.1", False),
        ("*.test", "allowed.test", "fd12::1", False),
        ("*.test", "allowed.test", "127.0.0.1", False),
        ("*.test", "allowed.test", "100.100.100.200", False),
        ("localhost", "localhost", "127.0.0.1", True),
        ("localhost", "localhost", "::1", True),
        ("localhost", "localhost", "169.254.169.254", False),
        ("foo.localhost", "foo.localhost", "127.0.0.1", True),
        ("localhost.test", "localhost.test", "127.0.0.1", False),
        ("notlocalhost:443", "notlocalhost", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("[::1]", "::1", "::1", True),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1", True),
    ],
)
def test_addresses_of_an_allowed_name(entry, host, address, allowed):
    assert check(Policy.build([entry]), host, address).allowed is allowed


def test_an_exact_entry_opens_private_ranges_beside_a_wildcard():
    policy = Policy.build(["*.test", "db.test:443"])
    assert check(policy, "db.test", "10.0.0.1", 443).allowed
    assert not check(policy, "db.test", "10.0.0.1", 80).allowed


@pytest.mark.parametrize("entry", ["allowed.test", "*.test"])
def test_a_pin_opens_loopback_for_its_name_port_and_addresses_only(entry):
    policy = Policy.build([entry], resolve=["allowed.test:443:127.0.0.1,[::1]"])
    assert policy.addresses(parse_host("ALLOWED.test."), 443) == ("127.0.0.1", "::1")
    assert policy.addresses(parse_host("allowed.test"), 80) is None
    assert policy.addresses(parse_host("other.test"), 443) is None
    assert check(policy, "allowed.test", "127.0.0.1").allowed
    assert check(policy, "allowed.test", "::1").allowed
    assert not check(policy, "allowed.test", "127.0.0.2").allowed
    assert not check(policy, "allowed.test", "127.0.0.1", 80).allowed


def test_pins_of_one_name_add_up_in_their_order():
    policy = Policy.build(resolve=["a.test:443:192.0.2.2", "a.test:443:192.0.2.1"])
    assert policy.addresses(parse_host("a.test"), 443) == ("192.0.2.2", "192.0.2.1")


def test_a_pin_alone_allows_nothing():
    assert not decide(Policy.build(resolve=["a.test:443:127.0.0.1"]), "a.test").allowed


def test_one_word_may_be_denied_without_a_port():
    assert not decide(Policy.build(["db:443"], ["db"]), "db").allowed


@pytest.mark.parametrize(
    ("allow", "deny", "host", "address"),
    [
        ([], [], "allowed.test", "93.184.215.14"),
        ([], [], "[2606:2800::1]", "2606:2800::1"),
        ([], [], "127.0.0.1", "127.0.0.1"),
        ([], [], "::1", "::1"),
        ([], [], "localhost", "127.0.0.1"),
        (["*.test"], [], "allowed.test", "10.0.0.1"),
        (["*.test"], [], "allowed.test", "fd12::1"),
        (["*.test"], [], "allowed.test", "127.0.0.1"),
        (["allowed.test"], [], "allowed.test", "::1"),
        (["*.test"], ["allowed.test"], "allowed.test", "93.184.215.14"),
        (["*.test"], ["93.184.215.14:443"], "allowed.test", "93.184.215.14"),
    ],
)
def test_following_the_hints_opens_the_host(allow, deny, host, address):
    """The hint is the whole way: doing what it says leads to an allow, one step at a time."""
    allow, deny, resolve = list(allow), list(deny), list[str]()
    flags = {"--allow-domain": allow, "--deny-domain": deny, "--resolve": resolve}
    for _ in range(3):
        verdict = check(Policy.build(allow, deny, resolve), host, address)
        if verdict.allowed:
            break
        *words, flag, entry = shlex.split(str(verdict.hint))
        (flags[flag].remove if words == ["drop"] else flags[flag].append)(entry)
    assert verdict.allowed


def test_the_verdict_cache_is_bounded_and_changes_no_answer(monkeypatch):
    monkeypatch.setattr(policy_module, "VERDICT_CACHE", 8)
    policy = Policy.build(["*.test"])
    for number in range(50):
        assert decide(policy, f"n{number}.test").allowed
        assert not decide(policy, f"n{number}.evil").allowed
        assert policy.remembered <= 8
    assert decide(policy, "n0.test") is decide(policy, "n0.test")


@given(st.ip_addresses(), st.sampled_from(["allowed.test", "a.wild.test", "localhost"]))
def test_a_check_never_opens_what_decide_closed_and_gives_its_reason(address, name):
    policy = Policy.build(["allowed.test", "*.wild.test"])
    verdict = check(policy, name, str(address))
    assert verdict.allowed is (verdict.reason is None)
    if name == "localhost":
        assert not verdict.allowed


def test_observing_lets_through_what_no_entry_names_and_says_so():
    policy = Policy.build(["named.test"], ["denied.test"], observe=True)
    verdict = check(policy, "any.test", "93.184.215.14")
    assert (verdict.allowed, verdict.observed, verdict.note) == (True, True, "--observe")
    assert decide(policy, "93.184.215.14").observed
    named = check(policy, "named.test", "93.184.215.14")
    assert (named.allowed, named.observed, named.note) == (True, False, None)
    assert not decide(policy, "denied.test").allowed
    assert not decide(Policy.build(block=True, observe=True), "any.test").allowed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd12::1", "169.254.169.254", "fe80::1",
        "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "0.0.0.0", "::", "224.0.0.1",
        "255.255.255.255", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::",
    ],
)  # fmt: skip
def test_observing_opens_no_address_that_is_not_public(address):
    """Neither as it is asked for nor as what a name leads to."""
    policy = Policy.build(observe=True)
    assert not decide(policy, address).allowed
    assert not check(policy, "any.test", address).allowed


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "metadata.google.internal"])
def test_observing_opens_no_name_of_this_machine(host):
    assert not decide(Policy.build(observe=True), host).allowed


def test_observing_opens_no_address_of_this_machine():
    policy = Policy.build(observe=True)
    local = policy.check_address(parse_host("any.test"), 443, "93.184.215.14", is_local=True)
    assert not local.allowed


SPELLINGS = ["[::ffff:8.8.8.8]", "[64:ff9b::808:808]", "[2002:808:808::1]"]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_no_spelling_of_an_address_gets_round_a_deny_entry(spelled):
    plain = "8.8.8.8"
    allow = [f"{one}:443" for one in (plain, spelled)]
    for denied in (plain, spelled):
        policy = Policy.build(allow, [denied])
        answers = [policy.decide(parse_host(one), 443) for one in (plain, spelled)]
        assert [one.allowed for one in answers] == [False, False]
        assert {one.rule for one in answers} == {denied}
        for address in (plain, spelled.strip("[]")):
            assert not check(Policy.build(["a.test"], [denied]), "a.test", address).allowed


@pytest.mark.parametrize(
    ("deny", "search", "reason"),
    [
        ([], ["metadata.google.internal"], "metadata"),
        ([], ["corp.test", "metadata.google.internal"], "metadata"),
        (["db.corp.test"], ["corp.test"], "deny list"),
        (["*.corp.test:443"], ["other.test", "corp.test"], "deny list"),
    ],
)
@pytest.mark.parametrize("observe", [True, False])
def test_a_short_host_is_closed_if_one_of_its_full_names_is(deny, search, reason, observe):
    allow = [] if observe else ["db:443"]
    policy = Policy.build(allow, deny, search=search, observe=observe)
    verdict = decide(policy, "db")
    assert (verdict.allowed, verdict.rule) == (False, deny[0] if deny else None)
    assert reason in str(verdict.reason)
    assert f"db.{search[-1]}" in str(verdict.reason)
    assert (verdict.hint is None) is (not deny)
    pinned = Policy.build(["db:443"], deny, ["db:443:192.0.2.1"], search=search)
    assert decide(pinned, "db").allowed, "a pinned host is not looked up"


def test_the_full_names_of_a_short_host_are_noted_in_their_order():
    policy = Policy.build(["db:443", "a.test", "192.0.2.1"], search=["one.test", "two.test"])
    assert decide(policy, "db").looked_up == ("db.one.test", "db.two.test", "db")
    assert decide(policy, "a.test").looked_up == decide(policy, "192.0.2.1").looked_up == ()


@pytest.mark.parametrize(
    ("allow", "resolve", "is_allowed"),
    [
        (["a.test"], [], False),
        (["*.test"], [], False),
        (["a.test", "192.0.2.7"], [], True),
        (["a.test", "192.0.2.7:80"], [], False),
        (["a.test", "192.0.2.8"], [], False),
        (["a.test"], ["a.test:443:192.0.2.7"], True),
        (["a.test"], ["a.test:80:192.0.2.7"], False),
        (["a.test"], ["b.test:443:192.0.2.7"], False),
    ],
)
def test_an_address_of_this_machine_needs_an_entry_or_a_pin_of_its_own(allow, resolve, is_allowed):
    policy, host = Policy.build(allow, resolve=resolve), parse_host("a.test")
    verdict = policy.check_address(host, 443, "192.0.2.7", is_local=True)
    assert verdict.allowed is is_allowed
    if not is_allowed:
        assert verdict.hint == "name the address with --allow-domain 192.0.2.7:443"
    assert policy.check_address(host, 443, "192.0.2.7").allowed
