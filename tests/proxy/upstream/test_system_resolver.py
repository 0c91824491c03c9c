"""Which names are asked for, of whom, and what a name that hangs can take from the others."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter

import pytest
import trio
from checkout import SUPPORT
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from running_proxy import BOUND, PATIENT, connect, running, until

from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.resolver_files import (
    MAX_SEARCH_DOMAINS,
    hosts_addresses,
    look_up_names,
    search_domains,
)
from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.upstream import local_addresses
from nono_trio.proxy.upstream.interfaces import ResolveFailed
from nono_trio.proxy.upstream.resolver import AddressDenied, AddressResolver
from nono_trio.proxy.upstream.system_resolver import (
    PLACES_OF_A_ZONE,
    THREADS_OF_A_ZONE,
    SystemResolver,
)
from nono_trio.testing import FakeResolver, LoopbackDialler

PROBE = SUPPORT / "probes" / "search_domains.py"
SEARCH = ("a.corp.test", "corp.test")
HOSTS_FILE = """\
# a comment with db in it
127.0.0.1\tlocalhost
192.0.2.1  DB.Corp.Test db   # and db2
fe80::1%eth0 db
192.0.2.1  db
not-an-address db
"""


def refused_network() -> str | None:
    """Return why this machine can't make a network namespace, None if it can."""
    for program in ("unshare", "mount", "ip"):
        if shutil.which(program) is None:
            return f"there is no {program}(8)"
    tried = subprocess.run(["unshare", "-rmn", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("db", ("192.0.2.1", "fe80::1")),
        ("DB.corp.test", ("192.0.2.1",)),
        ("localhost", ("127.0.0.1",)),
        ("db2", ()),
        ("a", ()),
        ("not-an-address", ()),
    ],
)
def test_a_hosts_file_is_read_as_the_system_reads_it(name, addresses):
    assert hosts_addresses(HOSTS_FILE, name) == addresses


@given(st.text(), st.text())
def test_no_text_is_too_odd_for_a_hosts_file(text, name):
    for address in hosts_addresses(text, name):
        assert parse_host(address).address is not None


@pytest.mark.parametrize(
    ("text", "own_name", "local_domain", "domains"),
    [
        ("search a.test b.test\nsearch Corp.Test. c.test", "h", None, ("corp.test", "c.test")),
        ("domain a.test b.test", "h", None, ("a.test",)),
        ("search a.test\ndomain b.test", "h", None, ("b.test",)),
        ("nameserver 127.0.0.53\n; search x.test\n# search y.test", "h.own.test", None,
         ("own.test",)),
        ("search .", "h.own.test", None, ()),
        ("search a.test", "h", "x.test y.test", ("x.test", "y.test")),
        ("search a.test", "h", "", ()),
        ("search 10.0.0.1 a..b *.c %d a.test", "h", None, ("a.test",)),
        ("search " + " ".join(f"{n}.test" for n in "abcdefgh"), "h", None,
         tuple(f"{n}.test" for n in "abcdef")),
    ],
)  # fmt: skip
def test_search_domains_as_the_system_has_them(text, own_name, local_domain, domains):
    assert search_domains(text, own_name, local_domain) == domains


@given(st.text(), st.text(), st.none() | st.text())
def test_no_text_is_too_odd_for_search_domains(text, own_name, local_domain):
    domains = search_domains(text, own_name, local_domain)
    assert len(domains) <= MAX_SEARCH_DOMAINS
    assert [parse_host(one).name for one in domains] == [*domains]


def test_only_a_name_without_a_dot_is_made_longer():
    assert look_up_names("db", SEARCH) == ("db.a.corp.test", "db.corp.test", "db")
    assert look_up_names("db.prod", SEARCH) == ("db.prod",)
    assert look_up_names("localhost", SEARCH) == ("localhost",)
    assert look_up_names("x" * 63, (".".join(["y" * 60] * 4),)) == ("x" * 63,)


# -- policy ---------------------------------------------------------------------------------------


def test_the_record_of_a_short_name_says_what_it_is_looked_up_as():
    policy = Policy.build(["db:5432"], search=SEARCH)
    verdict = policy.decide(parse_host("db"), 5432)
    assert verdict.note == "looked up as db.a.corp.test, db.corp.test, db"
    policy = Policy.build(["tcp://db:5432"], search=SEARCH)
    assert policy.decide(parse_host("db"), 5432).note == (
        "--allow-domain tcp://db:5432; looked up as db.a.corp.test, db.corp.test, db"
    )
    pinned = Policy.build(["db:5432"], resolve=["db:5432:127.0.0.1"], search=SEARCH)
    assert pinned.decide(parse_host("db"), 5432).note is None


@pytest.mark.parametrize("denied", ["db.corp.test", "*.corp.test", "db.a.corp.test:5432"])
def test_a_short_name_that_leads_to_a_denied_one_is_denied(denied):
    policy = Policy.build(["db:5432"], deny=[denied], search=SEARCH)
    verdict = policy.decide(parse_host("db"), 5432)
    assert not verdict.allowed
    assert "is looked up as db." in verdict.reason
    assert verdict.hint == f"drop --deny-domain {denied}"


def test_a_short_name_never_leads_to_a_metadata_service():
    policy = Policy.build(["x:80"], search=("metadata.google.internal",))
    verdict = policy.decide(parse_host("x"), 80)
    assert not verdict.allowed
    assert "cloud metadata" in verdict.reason


def test_an_address_of_this_machine_needs_an_entry_that_is_exactly_it():
    host = parse_host("a.test")
    for allow in (["a.test"], ["*.test"], ["a.test", "192.0.2.2:80"]):
        verdict = Policy.build(allow).check_address(host, 443, "192.0.2.2", is_local=True)
        assert not verdict.allowed
        assert verdict.reason == "a.test resolved to 192.0.2.2, an address of this machine"
        assert verdict.hint == "name the address with --allow-domain 192.0.2.2:443"
    for policy in (
        Policy.build(["a.test", "192.0.2.2:443"]),
        Policy.build(["a.test"], resolve=["a.test:443:192.0.2.2"]),
    ):
        assert policy.check_address(host, 443, "192.0.2.2", is_local=True).allowed
    literal = parse_host("192.0.2.2")
    assert Policy.build(["192.0.2.2"]).check_address(literal, 443, "192.0.2.2", is_local=True)
    private = Policy.build(["a.test"]).check_address(host, 443, "10.1.2.3", is_local=True)
    assert not private.allowed
    assert Policy.build(["a.test"]).check_address(host, 443, "10.1.2.3").allowed


# -- this machine's addresses ---------------------------------------------------------------------


def own_address() -> str | None:
    """An address of this machine that is not loopback; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.99", 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def test_local_addresses_by_the_kernels_routes():
    for address in ("127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", own_address()):
        assert address is None or local_addresses.is_local(address)
    for address in ("192.0.2.99", "2001:db8::99", "::ffff:192.0.2.99", "no address", ""):
        assert not local_addresses.is_local(address)


def test_without_netlink_a_trial_bind_is_what_is_left(monkeypatch):
    def refused(_address: object) -> int:
        raise PermissionError

    monkeypatch.setattr(local_addresses, "route_type", refused)
    assert local_addresses.is_local("127.0.0.1")
    assert not local_addresses.is_local("192.0.2.99")


@pytest.mark.skipif(refused_network() is not None, reason=str(refused_network()))
def test_an_address_that_can_only_be_bound_is_not_local():
    script = (
        "import subprocess\n"
        "from nono_trio.proxy.upstream.local_addresses import is_local, can_be_bound\n"
        "from ipaddress import ip_address\n"
        "open('/proc/sys/net/ipv4/ip_nonlocal_bind', 'w').write('1')\n"
        "subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "subprocess.run(['ip', 'addr', 'add', '192.0.2.50/32', 'dev', 'lo'], check=True)\n"
        "print(can_be_bound(ip_address('192.0.2.99')), is_local('192.0.2.99'),\n"
        "      is_local('192.0.2.50'))\n"
    )
    # A private /proc would need more than this; sysctls of a network are the network's own.
    done = subprocess.run(
        ["unshare", "-rmn", sys.executable, "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "ip_nonlocal_bind" in done.stderr:
        pytest.skip("sysctls of an own network can't be written here")
    assert done.stdout == "True False True\n", done.stderr


async def test_a_wildcards_zone_can_not_point_at_this_machine():
    directory = AddressResolver(
        Policy.build(["*.test"]),
        FakeResolver({"a.test": [["198.51.100.7"]]}),
        DEFAULT_LIMITS,
        is_local=lambda address: address == "198.51.100.7",
    )
    with pytest.raises(AddressDenied, match="an address of this machine"):
        await directory.addresses(parse_host("a.test"), 443)


# -- what is asked for ----------------------------------------------------------------------------


@pytest.mark.skipif(refused_network() is not None, reason=str(refused_network()))
def test_the_name_that_was_checked_is_the_name_that_is_asked_for():
    names = ["good.test", "db", "whole.test", "filed", "filed.test", "localhost", "gone"]
    done = subprocess.run(
        ["unshare", "-rmn", sys.executable, str(PROBE), *names],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    # The system's own look-up would have found good.test.corp.test, at a private address.
    assert seen["good.test"]["asked"] == ["good.test"]
    assert "has no address" in seen["good.test"]["failed"]
    assert "--allow-domain good.test.corp.test:443" in seen["good.test"]["hint"]
    assert seen["whole.test"] == {"asked": ["whole.test"], "addresses": ["192.0.2.6"], "name": None}
    assert seen["db"] == {
        "asked": ["db.corp.test"], "addresses": ["192.0.2.5"], "name": "db.corp.test",
    }  # fmt: skip
    for name in ("filed", "filed.test"):
        assert seen[name] == {"asked": [], "addresses": ["192.0.2.7"], "name": None}
    assert seen["localhost"] == {"asked": [], "addresses": ["127.0.0.1"], "name": None}
    assert seen["gone"]["asked"] == ["gone", "gone.corp.test"]
    assert seen["gone"]["hint"] is None


async def test_the_flow_names_what_was_dialled():
    resolver = FakeResolver({"db.corp.test": [["192.0.2.5"]]})
    with socket.create_server(("127.0.0.1", 0)) as origin:
        dialler = LoopbackDialler(origin.getsockname()[1])
        limits = replace(PATIENT, idle=0.5)  # no server accepts, so none closes
        async with running(
            ["db:5432"], resolver=resolver, dialler=dialler, search=SEARCH, limits=limits
        ) as proxy:
            async with proxy.client() as wire:
                answer = await wire.exchange(connect("db:5432"), "CONNECT")
                assert answer is not None
                assert answer.status == 200
            (flow,) = await proxy.flows(1)
        assert (flow.target, flow.name, flow.address) == ("db", "db.corp.test", "192.0.2.5")
        (event,) = proxy.recorder.events
        assert event.reason == "looked up as db.a.corp.test, db.corp.test, db"
        assert resolver.asked == ["db.a.corp.test", "db.corp.test"]


async def test_a_kubernetes_name_is_refused_with_its_full_name():
    async with running(["redis.prod:6379"], search=("svc.cluster.test",)) as proxy:
        answer = await proxy.ask(connect("redis.prod:6379"), "CONNECT")
    assert answer is not None
    assert answer.status == 502
    assert b"--allow-domain redis.prod.svc.cluster.test:6379" in answer.body


# -- names that hang ------------------------------------------------------------------------------


class Hanging:
    """getaddrinfo of a system in which names below `hangs` get no answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.release = threading.Event()

    def __call__(self, name: str) -> tuple[str, ...]:
        self.asked[name] += 1
        if name.endswith(".hangs.test"):
            self.release.wait(BOUND)
            return ("192.0.2.66",)
        return ("192.0.2.1",)


@pytest.fixture
def hanging():
    hanging = Hanging()
    yield hanging
    hanging.release.set()


async def give_up(resolver: SystemResolver, name: str, hanging: Hanging) -> None:
    """Look a name up, and go away as soon as the system is asked for it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver, name)
        await until(lambda: hanging.asked[name] > 0)
        nursery.cancel_scope.cancel()


async def test_names_that_hang_leave_the_others_their_places(hanging, tmp_path):
    resolver = SystemResolver(tmp_path / "hosts", hanging)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(resolver, f"{number}.hangs.test")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(BOUND):
            assert await resolver("good.example") == ("192.0.2.1",)
        assert hanging.asked.total() <= PLACES_OF_A_ZONE + 1
        nursery.cancel_scope.cancel()


async def test_a_place_is_free_again_at_the_deadline_and_threads_are_bounded(hanging, tmp_path):
    resolver = SystemResolver(tmp_path / "hosts", hanging)
    for number in range(THREADS_OF_A_ZONE):
        await give_up(resolver, f"{number}.hangs.test", hanging)
    with pytest.raises(ResolveFailed, match="too many earlier look-ups"):
        await resolver("98.hangs.test")
    assert await resolver("good.example") == ("192.0.2.1",)
    hanging.release.set()
    with trio.fail_after(BOUND):
        while True:
            try:
                assert await resolver("99.hangs.test") == ("192.0.2.66",)
                break
            except ResolveFailed:  # until the threads have ended
                await trio.sleep(0.01)


async def test_one_name_takes_one_thread(hanging, tmp_path):
    resolver = SystemResolver(tmp_path / "hosts", hanging)
    results = []

    async def ask() -> None:
        results.append(await resolver("a.hangs.test"))

    await give_up(resolver, "a.hangs.test", hanging)  # the look-up is there for others
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        hanging.release.set()
    assert results == [("192.0.2.66",)] * 50
    assert hanging.asked == {"a.hangs.test": 1}


@given(st.text(st.characters(max_codepoint=127), max_size=300))
def test_every_host_has_names_to_look_up(text):
    try:
        host = parse_host(text)
    except BadHost:
        return
    assert look_up_names(host.name, SEARCH)[-1] == host.name
