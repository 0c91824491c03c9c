"""One place counts attempts: sequences of records and the numbers that each must give.

The numbers are (denied, failed, allowed).
"""

from __future__ import annotations

import pytest

from nono_trio.core.log.events import Network, NetworkEvent
from nono_trio.core.log.file_events import leading_to, unseen_files
from nono_trio.core.log.nono_events import (
    CapabilityDecision,
    CapabilityEntry,
    CapabilityRequest,
    DenialReason,
    Denied,
    Timestamp,
)
from nono_trio.core.policy import attempts
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.core.policy.judging import Judging, parse_expected
from nono_trio.core.policy.rule import parse_deny

FAILED = "upstream_connect_failed"
NO_TOKEN = "authentication_failed"


def record(target, port, decision, reason=None, *, method="CONNECT", mode="connect", **more):
    return Network(
        event=NetworkEvent(
            timestamp_unix_ms=1, mode=mode, decision=decision, target=target, port=port,
            method=method, reason=reason, **more,
        )
    )  # fmt: skip


def allow(target="a.test", port=443, **more):
    return record(target, port, "allow", **more)


def asked(target="a.test", port=443, **more):
    """An allowed request with the token."""
    return allow(target, port, auth_outcome="succeeded", **more)


def get(target="a.test", port=80, decision="allow", reason=None, **more):
    return record(target, port, decision, reason, method="GET", mode="reverse", path="/", **more)


def deny(target="evil.test", port=443, reason=None, **more):
    missing = f"{target}:{port} is not on the allowlist"
    return record(target, port, "deny", reason or missing, denial_category="host_denied", **more)


def tried(target="evil.test", port=443, **more):
    """A denial of a program that knows of no proxy."""
    return deny(target, port, method=None, **more)


UNFIT = "GET https://a.test/x fits no endpoint rule of the host"
DEAD = "can't connect to a.test:443: the TLS handshake failed: certificate expired"


def tls(make, **more):
    """A record of a connection whose TLS ends in the proxy."""
    return make(mode="connect_intercept", **more)


def refused_tls(**more):
    reason = "the TLS handshake with the program failed: the program does not trust us"
    return deny("a.test", reason=reason, **more)


def inside(decision="allow", reason=None, **more):
    """A request under such TLS."""
    return record(
        "a.test", 443, decision, reason, method="GET", mode="connect_intercept", path="/", **more
    )


def request(decision="allow", reason=None, **more):
    return inside(decision, reason, auth_outcome="succeeded", **more)


def dns(target="evil.test", reason="the name is not allowed on any port"):
    return deny(target, 53, reason, method="DNS")


def failed(target="a.test", port=443, reason=None, *, category=FAILED, **more):
    text = reason or f"can't connect to {target}:{port}: the connection was refused"
    return record(target, port, "deny", text, denial_category=category, **more)


def challenge(target="a.test", port=443):
    return record(
        target, port, "deny", "proxy authentication is required", denial_category=NO_TOKEN
    )


def hello(reason, target="a.test", port=443, *, through_proxy=True):
    more = {"auth_outcome": "succeeded"} if through_proxy else {}
    return deny(target, port, reason, method="TLS", **more)


def own(target, reason):
    return record(f"nono-trio:{target}", None, "deny", reason, method=None)


def file(path, access="Read", decision=None, leads_to=None):
    reason = "not granted" if leads_to is None else leading_to(leads_to)
    request = CapabilityRequest(
        request_id="view-1", path=path, access=access, child_pid=1, session_id="5e55"
    )
    entry = CapabilityEntry(
        timestamp=Timestamp(secs_since_epoch=1, nanos_since_epoch=0), request=request,
        decision=decision or Denied(Denied=DenialReason(reason=reason)), backend="view",
        duration_ms=0,
    )  # fmt: skip
    return CapabilityDecision(entry=entry)


NEVER_ANSWERED = "the proxy asked for its password and never got it"
NO_SNI = "the TLS hello names no host (no SNI)"
OTHER_SNI = "the TLS hello asks for b.test, but the connection is to a.test"
CLOSED = "a.test resolved to 127.0.0.1, a loopback address"
LISTED = "a.test resolved to 192.0.2.1, which is on the deny list"

TABLE = {
    "nothing": ([], (0, 0, 0)),
    "one allowed": ([asked()], (0, 0, 1)),
    "two allowed": ([asked(), asked("b.test")], (0, 0, 2)),
    "the same twice": ([asked(), asked()], (0, 0, 2)),
    "one denied": ([deny()], (1, 0, 0)),
    "the same denied twice": ([deny(), deny()], (2, 0, 0)),
    "two ports of a host": ([deny(port=80), deny(port=443)], (2, 0, 0)),
    "a plain request": ([get()], (0, 0, 1)),
    "a plain request, denied": ([get("evil.test", 80, "deny", "no")], (1, 0, 0)),
    "looked up and never tried": ([dns()], (1, 0, 0)),
    "looked up twice and never tried": ([dns(), dns()], (1, 0, 0)),
    "two names looked up": ([dns("a.evil.test"), dns("b.evil.test")], (2, 0, 0)),
    "looked up, then tried": ([dns(), tried()], (1, 0, 0)),
    "looked up twice, then tried": ([dns(), dns(), tried()], (1, 0, 0)),
    "tried, then looked up again": ([dns(), tried(), dns()], (1, 0, 0)),
    "looked up, then tried at two ports": ([dns(), tried(port=80), tried()], (2, 0, 0)),
    "looked up, another tried": ([dns("x.test"), tried()], (2, 0, 0)),
    "a challenge": ([challenge()], (0, 0, 0)),
    "a challenge that is answered": ([challenge(), asked()], (0, 0, 1)),
    "a challenge, then denied": (
        [challenge("evil.test"), deny(auth_outcome="succeeded")], (1, 0, 0)),
    "a wrong token": (
        [record("a.test", 443, "deny", "the proxy token is wrong", denial_category=NO_TOKEN,
                auth_outcome="failed")], (0, 0, 0)),
    "many challenges": ([challenge()] * 5, (0, 0, 0)),
    "an allowed host that is dead": ([asked(), failed()], (0, 1, 0)),
    "a dead host tried twice": ([asked(), failed(), asked(), failed()], (0, 2, 0)),
    "dead, then alive": ([asked(), failed(), asked()], (0, 1, 1)),
    "two at once, one dead": ([asked(), asked(), failed()], (0, 1, 1)),
    "an allowed name without address": (
        [asked(), failed(reason="can't connect to a.test:443: the name has no address")],
        (0, 1, 0)),
    "a plain request to a dead host": (
        [get(), failed(port=80, method="GET", mode="reverse")], (0, 1, 0)),
    "the upstream proxy refuses": (
        [asked(mode="external"), failed(category="external_proxy_rejected", mode="external",
         reason="the upstream proxy p.test:1 refused the connection (403)")], (0, 1, 0)),
    "a dead host without its first record": ([failed()], (0, 1, 0)),
    "allowed, then a closed address": ([asked(), deny("a.test", reason=CLOSED)], (1, 0, 0)),
    "allowed, then a denied address": ([asked(), deny("a.test", reason=LISTED)], (1, 0, 0)),
    "a tunnel, then a hello without name": ([asked(), hello(NO_SNI)], (1, 0, 0)),
    "a tunnel, then a hello for another": ([asked(), hello(OTHER_SNI, "b.test")], (1, 0, 0)),
    "no proxy, a hello without name": (
        [allow(method="TLS"), hello(NO_SNI, through_proxy=False)], (1, 0, 1)),
    "a CONNECT and the request in it": (
        [asked(port=80), get(auth_outcome="succeeded")], (0, 0, 1)),
    "a CONNECT and two requests in it": (
        [asked(port=80), get(auth_outcome="succeeded"), get(auth_outcome="succeeded")], (0, 0, 2)),
    "a CONNECT with another host in it": (
        [asked(port=80), get(decision="deny", auth_outcome="succeeded",
         reason="the Host field asks for b.test, but the connection is to a.test")], (1, 0, 0)),
    "two requests under intercepted TLS": (
        [asked(), tls(asked), request(), request()], (0, 0, 2)),
    "a request that a rule refuses": ([asked(), tls(asked), request("deny", UNFIT)], (1, 0, 0)),
    "a request that a rule refuses after one that it allows": (
        [asked(), tls(asked), request(), request("deny", UNFIT), request()], (1, 0, 2)),
    "a program that does not trust the session": (
        [asked(), tls(asked), tls(refused_tls, auth_outcome="succeeded")], (0, 1, 0)),
    "intercepted, and the server is dead": (
        [asked(), tls(asked), request(), request("deny", DEAD, denial_category=FAILED)], (0, 1, 0)),
    "intercepted without a proxy": (
        [tls(allow, method="TLS"), inside(), inside(), inside("deny", UNFIT)], (1, 0, 2)),
    "intercepted without a proxy or trust": (
        [tls(allow, method="TLS"), tls(refused_tls, method="TLS")], (0, 1, 0)),
    "an open port": ([record("127.0.0.1", 5432, "allow", "--open-port", method=None)], (0, 0, 1)),
    "an open port without a service": (
        [record("127.0.0.1", 5432, "allow", "--open-port", method=None),
         failed("127.0.0.1", 5432, "nothing answers on port 5432: Connection refused",
                method=None)], (0, 1, 0)),
    "waiting for an open port": (
        [record("127.0.0.1", 1, "allow", "--open-port", method=None),
         failed("127.0.0.1", 1, "nothing answers on port 1: Connection refused", method=None)]
        * 3, (0, 3, 0)),
    "a port that only the machine's loopback has": (
        [tried("127.0.0.1", 5432, reason="port 5432 is open on this machine's loopback, not on the"
            " command's own")], (0, 0, 0)),
    "a datagram": (
        [deny("time.test", 123, reason="datagrams other than DNS are not let through",
            method="UDP")], (1, 0, 0)),
    "a datagram to an allowed host": (
        [deny("a.test", 443, reason="a.test:443 is allowed for TCP, datagrams are not let through",
            method="UDP")], (0, 1, 0)),
    "loopback past the proxy": (
        [tried("127.0.0.1", 5432, reason="a direct connection, past the proxy")], (0, 0, 0)),
    "IPv6 loopback past the proxy": (
        [tried("::1", 5432, reason="a direct connection, past the proxy")], (0, 0, 0)),
    "loopback through the proxy": (
        [deny("127.0.0.1", 6379, reason="127.0.0.1 is a loopback address")], (1, 0, 0)),
    "an address past the proxy": (
        [tried("192.0.2.1", 9092, reason="a direct connection, past the proxy")], (1, 0, 0)),
    "an unknown target past the proxy": (
        [own("direct", "a connection of a program that can't be looked into")], (1, 0, 0)),
    "a port without listener": ([tried("192.0.2.1", 9092)], (1, 0, 0)),
    "repeats in a reason": (
        [tried(reason="evil.test:443 is not on the allowlist; 7 more since the last record")],
        (1, 0, 0)),
    "repeats at the end": (
        [tried(), own("refused", "9 more connections to refused ports"),
         own("dns", "3 more queries for denied names"),
         own("direct", "4 more refused connections")], (1, 0, 0)),
    "denied attempts without a record": (
        [tried(), own("refused", "9 more denied attempts without a record of their own")],
        (10, 0, 0)),
    "a metadata address": (
        [deny("169.254.169.254", 80, reason="169.254.169.254 is a cloud metadata address")],
        (1, 0, 0)),
    "on the deny list": ([deny(reason="evil.test:443 is on the deny list")], (1, 0, 0)),
    "the proxy is full": (
        [record("a.test", 443, "deny", "the proxy has as many connections as it can hold")],
        (0, 1, 0)),
    "half a request": (
        [record("", None, "deny", "the connection was closed in the middle of a head")],
        (0, 1, 0)),
    "a malformed request": ([record("", None, "deny", "bad request line")], (1, 0, 0)),
    "an allowed port with no listener left": (
        [tried("a.test", 443, reason="no more ports can be listened at for programs without the"
               " proxy")], (0, 1, 0)),
    "events lost": ([own("audit", "7 events lost: queue full")], (0, 0, 0)),
    "records that bind": (
        [record("nono-trio:policy", None, "allow", f"sha256:{'0' * 64}", method=None)], (0, 0, 0)),
    "files looked up": ([file("/home/a/.netrc"), file("/home/a/.npmrc")], (0, 0, 0)),
    "a file created": ([file("/home/a/x", "Write")], (0, 0, 0)),
    "let through by --observe": ([asked(reason="--observe")], (0, 0, 1)),
    "let through, then dead": ([asked(reason="--observe"), failed()], (0, 1, 0)),
    "let through, then a closed address": (
        [asked(reason="--observe"), deny("a.test", reason=CLOSED)], (1, 0, 0)),
    "packets lost": (
        [own("refused", "3 packets to refused ports came too fast to be read")], (0, 0, 0)),
    "look-ups lost": ([unseen_files(2, "5e55", 1)], (0, 0, 0)),
    "a challenge that is never answered": (
        [challenge("evil.test"), deny(reason=NEVER_ANSWERED)], (1, 0, 0)),
    "challenges that are never answered, without their hosts": (
        [own("challenges", "2 more requests for which the proxy never got its password")],
        (2, 0, 0)),
    "an approval granted": ([record("a.test", 443, "approve_granted")], (0, 0, 1)),
    "an approval refused": ([record("a.test", 443, "approve_denied")], (1, 0, 0)),
}  # fmt: skip


LOST = ("events lost", "packets lost", "look-ups lost")


def fold(records):
    tally = AttemptTally()
    tally.add_all(records)
    return tally


def numbers(records):
    tally = fold(records)
    return tally.denied, tally.failed, tally.allowed


def test_the_table_is_long_enough():
    assert len(TABLE) >= 40


@pytest.mark.parametrize("name", TABLE)
def test_what_a_sequence_counts_as(name):
    records, expected = TABLE[name]
    assert numbers(records) == expected


def test_no_number_is_ever_negative_and_none_depends_on_other_hosts():
    """Every sequence of the table after every other one adds up."""
    for first, (before, counted) in TABLE.items():
        other = [record_of_other_host(one) for one in before]
        for second, (after, expected) in TABLE.items():
            total = tuple(sum(pair) for pair in zip(counted, expected, strict=True))
            assert numbers([*other, *after]) == total, (first, second)


def record_of_other_host(one):
    if not isinstance(one, Network) or one.event.target.startswith("nono-trio:"):
        return one
    event = {name: getattr(one.event, name) for name in one.event.__struct_fields__}
    reason = (event["reason"] or "").replace("a.test", "a.other")
    target = event["target"].replace(".test", ".other")
    return Network(event=NetworkEvent(**(event | {"target": target, "reason": reason})))


@pytest.mark.parametrize("max_hosts", [2, 3, 1000])
def test_records_folded_by_kind_count_as_one_by_one(monkeypatch, max_hosts):
    """Whatever comes between two records that say the same: every two sequences of the table."""
    monkeypatch.setattr(attempts, "MAX_HOSTS", max_hosts)
    other = [deny("x.test"), asked("y.test", reason="--observe")]
    for first, _ in TABLE.values():
        for second, _ in TABLE.values():
            order = [*first, *other, *second, *first[::-1], *second, *other, *second[::-1], *first]
            kinds = {id(one): one for one in order}
            place = {one: number for number, one in enumerate(kinds)}
            one_by_one, by_kind = fold(order), AttemptTally()
            by_kind.add_kinds([*kinds.values()], [place[id(one)] for one in order])
            assert by_kind == one_by_one
            # The tables are shown in their order.
            assert shown(by_kind) == shown(one_by_one)


def test_a_place_that_becomes_free_is_taken_by_the_next_record(monkeypatch):
    monkeypatch.setattr(attempts, "MAX_HOSTS", 2)
    full = "the proxy has as many connections as it can hold"
    before, one_by_one, by_kind = [dns(), deny("x.test")], AttemptTally(), AttemptTally()
    kinds, order = [deny("y.test"), record("evil.test", 443, "deny", full)], [0, 1, 0]
    one_by_one.add_all([*before, *(kinds[place] for place in order)])
    by_kind.add_all(before)
    by_kind.add_kinds(kinds, order)
    assert [*one_by_one.denied_hosts] == ["x.test", "y.test"]
    assert by_kind == one_by_one


def shown(tally):
    hosts = [*tally.denied_hosts.values(), *tally.failed_hosts.values()]
    flags = [[*host.allow_flags] for host in hosts]
    return [host.target for host in hosts], flags, tally.allowed_targets(), [*tally.observed]


def test_repeats_are_told_apart():
    assert fold(TABLE["repeats at the end"][0]).repeats == 16
    assert fold(TABLE["repeats in a reason"][0]).repeats == 7


def test_what_was_only_observed_is_named():
    asked_for = [asked(reason="--observe"), asked("b.test", reason="--allow-domain tls://b.test:1")]
    assert [*fold(asked_for).observed] == ["a.test:443"]


def test_a_flood_of_names_is_counted_and_not_kept(monkeypatch):
    monkeypatch.setattr(attempts, "MAX_HOSTS", 10)
    monkeypatch.setattr(attempts, "MAX_KEYS", 10)
    monkeypatch.setattr(attempts, "MAX_FILES", 10)
    names = [f"h{number}.test" for number in range(50)]
    tally = fold([one for name in names for one in (dns(name), deny(name), allow(name + "x"))])
    assert (tally.allowed, len(tally.denied_hosts), len(tally.allowed_targets())) == (50, 10, 10)
    assert tally.denied >= 50
    assert Judging("policy").strays(tally)
    files = fold(
        [file(f"/f{number}", access) for number in range(50) for access in ("Read", "Write")]
    )
    assert (len(files.looked_up_files), len(files.created)) == (10, 10)


# -- what makes a run fail ------------------------------------------------------------------------


def code(records, fail_on="policy", *, expect=(), paths=(), deny_list=(), child=0):
    judging = Judging(
        fail_on, parse_expected(expect), tuple(paths), tuple(map(parse_deny, deny_list))
    )
    return judging.exit_code(child, fold(records))


@pytest.mark.parametrize("name", TABLE)
def test_a_denied_attempt_fails_a_run_and_nothing_else_does(name):
    records, (denied, _, _) = TABLE[name]
    is_listed = name in ("on the deny list", "allowed, then a denied address")
    is_stray = (denied and not is_listed) or name in ("a file created", *LOST)
    assert code(records) == (3 if is_stray else 0)
    # Look-ups are only counted as lost where the verdict depends on them.
    assert code(records, None) == (3 if name == "look-ups lost" else 0)
    assert code(records, child=7) == 7


def test_expected_hosts_are_no_reason():
    records = [dns("t.evil.test"), deny(port=443), deny(port=80)]
    assert code(records, expect=["evil.test"]) == 3
    assert code(records, expect=["evil.test", "*.evil.test"]) == 0
    assert code(records, expect=["*.evil.test", "evil.test:443"]) == 3
    assert code(records, expect=["*.evil.test", "EVIL.test:443", "evil.test.:80"]) == 0
    assert code([deny("192.0.2.1", 1)], expect=["192.0.2.1"]) == 0
    assert code([dns()], expect=["evil.test:443"]) == 0
    assert code([dns("other.test")], expect=["evil.test:443"]) == 3


def test_the_record_of_a_denial_is_a_reason_as_the_verdict_has_it():
    """The throttles ask for each record what the verdict asks for all of them at the end."""
    for name in (
        "loopback past the proxy", "a datagram to an allowed host", "a datagram",
        "on the deny list", "looked up and never tried", "an address past the proxy",
    ):  # fmt: skip
        (one,) = TABLE[name][0]
        for fail_on in ("policy", "all"):
            assert Judging(fail_on).is_reason(one.event) == (code([one], fail_on) == 3), name
    expecting = Judging("all", parse_expected(["evil.test:443"]))
    assert not expecting.is_reason(deny().event)
    assert expecting.is_reason(deny(port=80).event)
    assert not expecting.is_reason(dns().event)


def test_the_deny_list_is_a_reason_only_if_all_is():
    records = [deny(reason="evil.test:443 is on the deny list")]
    assert code(records) == 0
    assert code(records, "all") == 3
    assert code([*records, deny(port=80)]) == 3
    assert code([dns()], deny_list=["evil.test"]) == 0
    assert code([dns()], "all", deny_list=["evil.test"]) == 3
    # Before: a look-up of a host was never a reason if an entry denied one port of it.
    assert code([dns()], deny_list=["evil.test:25"]) == 3
    assert code([dns()], deny_list=["evil.test:443"]) == 0
    assert not Judging("policy", deny_list=(parse_deny("evil.test:443"),)).is_reason(dns().event)


def test_files():
    probes = [file("/h/.netrc"), file("/h/.npmrc")]
    assert code(probes) == 0
    assert code(probes, "all") == 3
    assert code([file("/h/x", "Write")]) == 3
    assert code([file("/h/x", "Write")], None) == 0
    assert code([file("/h/.ssh")], None, paths=["/h/.ssh"]) == 3
    assert code([file("/h/.ssh")], None, paths=["/h/.ssh/id_rsa"]) == 3
    assert code([file("/h/.ssh/config")], None, paths=["/h/.ssh"]) == 3
    assert code([file("/h/.ssh2")], None, paths=["/h/.ssh"]) == 0
    assert code([file("/h/.aws")], None, paths=["/h/.a*"]) == 3
    assert code([file("nono-trio:view")], "all", paths=["/h"]) == 0
    assert code([file("/h/.ssh", decision="Granted")], "all", paths=["/h/.ssh"]) == 0


def test_a_pattern_has_its_directory_as_well():
    """Before: the look-up of a directory that the cage lacks named only the directory."""
    assert code([file("/h/.aws")], None, paths=["/h/.aws/*"]) == 3
    assert code([file("/h/.aws/credentials")], None, paths=["/h/.aws/*"]) == 3
    assert code([file("/h/.azure")], None, paths=["/h/.aws/*"]) == 0
    assert code([file("/h")], None, paths=["/h/.a*"]) == 3
    assert code([file("/h/b")], None, paths=["/h/.a*"]) == 0


def test_the_directories_and_names_of_tripwires():
    judging = Judging(paths=("/h/.ssh/id_x", "/h/.aws/*", "/wire", "/h/.ssh/id_y"))
    assert judging.directories == ("/h/.ssh", "/h/.aws", "")
    named = ("/h/.ssh/id_x", "/h/.aws/new", "/wire")
    assert all(judging.is_named(path) for path in named)
    others = ("/h/.ssh", "/h/.aws", "/wire/below", "/h/.aws/new/below")
    assert not any(judging.is_named(path) for path in others)


def test_only_a_star_is_special_in_a_pattern():
    """Before: [id] was a set of letters, and * went on behind a slash."""
    assert code([file("/srv/[id]/key")], None, paths=["/srv/[id]/key"]) == 3
    assert code([file("/srv/[id]/a[1]?")], None, paths=["/srv/[id]/*[1]?"]) == 3
    assert code([file("/srv/[id]/a1x")], None, paths=["/srv/[id]/*[1]?"]) == 0
    assert code([file("/h/.a/b/c")], None, paths=["/h/.a*"]) == 3  # below it
    assert code([file("/h/x/key")], None, paths=["/h/*key"]) == 0
    assert code([file("/h/link", leads_to="/h/.aws/x/y")], None, paths=["/h/.a*"]) == 3


def test_what_was_lost_is_a_reason_where_it_could_be_one():
    packets = own("refused", "3 packets to refused ports came too fast to be read")
    events = own("audit", "7 events lost: queue full")
    files = unseen_files(2, "5e55", 1)
    assert code([packets], None, paths=["/h"]) == 0
    assert code([events], None, paths=["/h"]) == 3
    assert code([files], None, paths=["/h"]) == 3
    assert code([packets, events, files], None) == 3  # counted only where a run depends on it
    assert code([packets, events], None) == 0
    late = own("refused", "2 connections came too late to be decided")
    strays = Judging("policy").strays(fold([packets, packets, events, late]))
    assert dict(strays.unseen) == {"refused packets": 6, "records": 7, "connections": 2}


def test_a_look_up_weighs_where_it_may_be_a_reason():
    wire = Judging(paths=("/h/.ssh",))
    assert wire.weighs("/h/.ssh", creates=False)
    assert not wire.weighs("/h/.npmrc", creates=True)
    assert wire.weighs(None, creates=False)
    assert Judging("policy").weighs(None, creates=True)
    assert not Judging("policy").weighs("/h", creates=False)
    assert Judging("all").weighs("/h", creates=False)
    assert not Judging().weighs(None, creates=True)


def test_a_symlink_to_a_tripwire_trips_it():
    assert code([file("/h/link", leads_to="/h/.ssh")], None, paths=["/h/.ssh/id"]) == 3
    assert code([file("/h/link", leads_to="/h/.ssh/id/x")], None, paths=["/h/.ssh/id"]) == 3
    assert code([file("/h/link", leads_to="/h/.config")], None, paths=["/h/.ssh/id"]) == 0
    assert code([file("/home", leads_to="/var/home")], None, paths=["/var/home/me/.ssh"]) == 0
