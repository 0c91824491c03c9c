"""Dialling and resolving, with real sockets on loopback and small real bounds."""

from __future__ import annotations

import ast
import errno
import socket
from contextlib import ExitStack, closing

import pytest
import trio
from installation import PACKAGE
from msgspec.structs import replace

from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.upstream.dialer import TcpDialler, alternate_families
from nono_trio.proxy.upstream.interfaces import CheckedAddress, DialFailed, ResolveFailed
from nono_trio.proxy.upstream.resolver import MAX_ADDRESSES, AddressDenied, AddressResolver
from nono_trio.proxy.upstream.system_resolver import SystemResolver
from nono_trio.testing import FakeResolver

LIMITS = replace(DEFAULT_LIMITS, dial=0.3, attempt=0.05, resolve=0.2)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def black_hole():
    """An address whose listener is full, so that connecting to it hangs, and its port."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()


def checked(addresses: list[str], port: int) -> list[CheckedAddress]:
    return [CheckedAddress(address, port) for address in addresses]


def open_sockets() -> int:
    import os

    return len(os.listdir("/proc/self/fd"))


async def test_the_first_address_that_answers_is_reported(listener):
    port = listener.getsockname()[1]
    sock, address = await TcpDialler(LIMITS)(checked(["127.0.0.1"], port))
    with closing(sock):
        assert address == "127.0.0.1"
        assert sock.getpeername() == ("127.0.0.1", port)
        assert sock.getblocking() is False
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_refusal_moves_on_to_the_next_address(listener):
    port = listener.getsockname()[1]
    before = open_sockets()
    sock, address = await TcpDialler(LIMITS)(checked(["127.0.0.9", "127.0.0.1"], port))
    with closing(sock):
        assert address == "127.0.0.1"
    assert open_sockets() == before


async def test_a_silent_address_loses_its_head_start(black_hole):
    port = black_hole[1]
    with socket.create_server(("127.0.0.1", port)):
        before = open_sockets()
        patient = replace(LIMITS, dial=60)  # so that only the head start can have ended it
        with trio.fail_after(60):
            sock, address = await TcpDialler(patient)(checked(["127.0.0.2", "127.0.0.1"], port))
        with closing(sock):
            assert address == "127.0.0.1"
        assert open_sockets() == before


async def test_silence_everywhere_is_a_504(black_hole):
    before = open_sockets()
    with pytest.raises(DialFailed) as failed:
        await TcpDialler(LIMITS)(checked(["127.0.0.2"], black_hole[1]))
    assert failed.value.status == 504
    assert open_sockets() == before


async def test_refusals_everywhere_are_told():
    before = open_sockets()
    with pytest.raises(DialFailed) as failed:
        await TcpDialler(LIMITS)(checked(["127.0.0.1", "::1", "127.0.0.2"], 1))
    assert failed.value.status == 502
    assert failed.value.reason == "connection refused"
    assert open_sockets() == before


async def test_a_cancelled_dial_leaves_nothing_open(black_hole):
    before = open_sockets()
    with trio.move_on_after(0.02) as scope:
        await TcpDialler(LIMITS)(checked(["127.0.0.2", "127.0.0.2"], black_hole[1]))
    assert scope.cancelled_caught
    assert open_sockets() == before


async def test_no_descriptor_left_is_a_dial_that_failed(monkeypatch):
    def exhausted(*_arguments: object) -> socket.SocketType:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "SocketType", exhausted)
    with pytest.raises(DialFailed, match="too many open files"):
        await TcpDialler(LIMITS)(checked(["127.0.0.1"], 80))


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["1.1.1.1"], ["1.1.1.1"]),
        (["::1", "::2", "1.1.1.1"], ["::1", "1.1.1.1", "::2"]),
        (["1.1.1.1", "::1", "::2", "::3"], ["1.1.1.1", "::1", "::2", "::3"]),
        (["1.1.1.1", "2.2.2.2"], ["1.1.1.1", "2.2.2.2"]),
    ],
)
def test_families_take_turns(addresses, order):
    found = alternate_families(checked(addresses, 80))
    assert [one.address for one in found] == order


async def test_the_system_resolver_knows_localhost():
    found = await SystemResolver()("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    assert found


async def test_the_system_resolver_tells_what_failed():
    with pytest.raises(ResolveFailed) as failed:
        await SystemResolver()("a..b")
    assert failed.value.reason.isprintable()


def directory(*allow: str, resolver: FakeResolver | None = None) -> AddressResolver:
    return AddressResolver(Policy.build(list(allow)), resolver or FakeResolver(), LIMITS)


async def test_a_literal_is_its_own_address():
    found = await directory("192.0.2.7").addresses(parse_host("192.0.2.7"), 80)
    assert list(found.addresses) == [CheckedAddress("192.0.2.7", 80)]


def test_only_the_resolver_makes_an_address_that_may_be_dialled():
    made_in = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and "CheckedAddress" in ast.unparse(node.func)
    ]
    assert set(made_in) == {"proxy/upstream/resolver.py"}


async def test_what_the_resolver_has_not_checked_is_not_dialled(listener):
    before = open_sockets()
    with pytest.raises(AttributeError):
        await TcpDialler(LIMITS)(["127.0.0.1"])
    assert open_sockets() == before


async def test_too_many_addresses_are_refused():
    many = [f"192.0.2.{number}" for number in range(MAX_ADDRESSES + 1)]
    with pytest.raises(DialFailed):
        await directory("a.test", resolver=FakeResolver({"a.test": [many]})).addresses(
            parse_host("a.test"), 80
        )


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "fe80::1%eth0", "", "not an address", "0.0.0.0"]
)
async def test_bad_addresses_of_a_good_name(address):
    resolver = FakeResolver({"a.test": [["192.0.2.1", address]]})
    with pytest.raises(AddressDenied) as denied:
        await directory("a.test", resolver=resolver).addresses(parse_host("a.test"), 80)
    assert denied.value.reason.isprintable()


def test_own_ports_are_ours_on_every_local_address(listener):
    own = directory()
    own.add_own(listener)
    port = listener.getsockname()[1]
    assert own.is_own("127.0.0.1", port)
    assert own.is_own("127.3.2.1", port)
    assert not own.is_own("192.0.2.1", port)
    assert not own.is_own("127.0.0.1", port - 1)
