"""Hellos for a host whose requests must be seen, where bytes are passed on without a look."""

from __future__ import annotations

import pytest
from hellos import ECH, extension, hello, message, record, records, server_name, vector

from nono_trio.core.net.client_hello import BadHello, ClientHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.decision import Decision
from nono_trio.proxy.access.hello_authorizer import (
    MISDIRECTED,
    HelloAuthorizer,
    second_hello,
)
from nono_trio.proxy.access.hello_guard import HelloGuard, UnreadHello, UnseenHello

SEEN = "api.example.com"
NAME, LITERAL = "cdn.example.net", "192.0.2.1"
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
ASKS = record(b"\2" + vector(3, b"\3\3" + RETRY + b"\0\x13\x01\0"))
NO_NAME = record(message())
WARNING = record(b"\1\x5a", kind=21)
POLICY = Policy.build(
    [f"tls://{NAME}", f"tls://{LITERAL}", "cover.example.net"],
    endpoints=[f"allow GET https://{SEEN}/public/**"],
)


def long_hello(name: str) -> bytes:
    padding = extension(21, bytes(17_000))
    return records(message(server_name(name.encode()), padding), 16_000)


def told(guard: HelloGuard, says: bytes, size: int) -> None:
    for at in range(0, len(says), size):
        guard.client_says(says[at : at + size])


def authorized(host: str, name: str, *, hides: bool = True, policy: Policy = POLICY) -> Decision:
    parsed = parse_host(host)
    authorizer = HelloAuthorizer(policy, parsed, 443, policy.decide(parsed, 443))
    return authorizer.authorize(ClientHello(name, (), hides))


def test_a_name_that_must_be_seen_is_refused_outside_of_ech_on_a_connection_to_a_name():
    """ECH can be pretended: then the server takes the name outside."""
    decision = authorized(NAME, SEEN)
    assert decision.refusal is not None
    assert decision.refusal.reason == (
        f"the TLS hello asks for {SEEN}, whose requests must be seen, on a connection to {NAME}"
    )
    assert (decision.target, decision.refusal.status) == (SEEN, 421)
    for allowed in (NAME, "cover.example.net"):
        assert authorized(NAME, allowed).refusal is None


@pytest.mark.parametrize("hides", [True, False])
def test_it_is_intercepted_on_a_connection_to_an_address(hides):
    decision = authorized(LITERAL, SEEN, hides=hides)
    assert decision.destination == (parse_host(SEEN), 443)
    assert decision.allowing_verdict.intercepted


def test_the_name_outside_is_free_where_the_hello_ends_here():
    policy = Policy.build(["a.example.com", "b.example.com"], intercept=["all"])
    decision = authorized("a.example.com", "b.example.com", policy=policy)
    assert decision.destination == (parse_host("a.example.com"), 443)
    assert decision.allowing_verdict.intercepted


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("says", "fault"),
    [
        (hello(SEEN), UnseenHello),
        (hello(SEEN, ECH), UnseenHello),
        (hello(f"{SEEN}."), UnseenHello),
        (WARNING * 2 + hello(SEEN), UnseenHello),
        (record(b"\1", kind=20) + WARNING + hello(SEEN), UnseenHello),
        (hello(SEEN).replace(b"\x16\3", b"\x16\2", 1), UnseenHello),
        (long_hello(SEEN), UnreadHello),
        (long_hello(SEEN).replace(b"\x16\3", b"\x16\2", 1), UnreadHello),
        (hello(f"{SEEN}\0"), UnreadHello),
        (hello(SEEN, server_name(b"x")), UnreadHello),
        (record(b"") + hello(SEEN), UnreadHello),
    ],
    ids=[
        "plain", "ech", "dot", "warnings", "change of ciphers", "version", "long",
        "version and long", "unreadable name", "two names", "empty record",
    ],
)  # fmt: skip
def test_no_spelling_of_the_hello_passes(says, fault, size):
    with pytest.raises(fault):
        told(HelloGuard(POLICY), says, size)


@pytest.mark.parametrize("foreseen", [True, False])
def test_nor_does_it_as_the_second_hello(foreseen):
    guard = HelloGuard(POLICY)
    assert not guard.client_says(NO_NAME)
    if not foreseen:
        guard.server_says(ASKS)
    with pytest.raises(UnseenHello):
        guard.client_says(hello(SEEN))


def test_nor_does_it_after_another_name():
    guard = HelloGuard(POLICY)
    guard.client_says(hello("other.example.com"))
    guard.server_says(ASKS)
    with pytest.raises(UnseenHello):
        guard.client_says(hello(SEEN))


@pytest.mark.parametrize(
    "says",
    [b"SSH-2.0-x\r\n", b"\x16\1\0\0\1\0\0\0", b"\x16\x10" + hello(SEEN), b"\x15\1\0\0\x02\0\0\0\0"],
    ids=["text", "length first", "other version", "no alert"],
)
def test_other_protocols_are_not_looked_at_further(says):
    guard = HelloGuard(POLICY)
    assert guard.client_says(says)
    assert guard.server_says(b"anything")


def test_a_server_that_speaks_first_does_not_end_the_watch():
    guard = HelloGuard(POLICY)
    assert guard.server_says(b"220 mail.example.net\r\n")
    with pytest.raises(UnseenHello):
        guard.client_says(hello(SEEN))


def test_a_hello_for_another_host_goes_on_until_the_server_has_answered():
    guard = HelloGuard(POLICY)
    assert not guard.client_says(hello("other.example.com"))
    assert guard.server_says(record(b"\2" + vector(3, b"\3\3" + bytes(32) + b"\0\x13\x01\0")))
    assert guard.client_says(record(bytes(100), kind=23))


def test_the_record_says_why():
    first = Decision("connect", NAME, 8443, "CONNECT", host=parse_host(NAME))
    faults: list[BadHello | OtherHello] = []
    for says in (long_hello(SEEN), hello(SEEN)):
        try:
            HelloGuard(POLICY).client_says(says)
        except (BadHello, OtherHello) as fault:
            faults.append(fault)
    reasons = [decision.refusal.reason for decision in (second_hello(first, f) for f in faults)]
    assert reasons == [
        "the TLS hello is longer than 16384 bytes",
        f"the TLS hello asks for {SEEN}, whose requests must be seen, on a connection to {NAME}",
    ]


@pytest.mark.parametrize(
    ("name", "target"), [("other.test", "other.test"), (None, NAME), ("no host!", NAME)]
)
def test_the_record_of_another_second_hello_has_the_name_that_it_asks_for(name, target):
    first = Decision("connect", NAME, 8443, "CONNECT", None, "succeeded", parse_host(NAME))
    decision = second_hello(first, OtherHello(ClientHello(name, (), False)))
    assert (decision.target, decision.port, decision.method) == (target, 8443, "TLS")
    assert decision.presented == "succeeded"
    assert decision.refusal is not None
    assert decision.refusal.status == MISDIRECTED


@pytest.mark.parametrize("shown", ["[2001:db8::1]", "192.0.2.1"])
def test_the_record_of_an_unseen_hello_names_the_address_of_its_connection(shown):
    host, fault = parse_host(shown), UnseenHello(ClientHello(SEEN, (), False))
    refusal = second_hello(Decision("connect", host.name, 443, host=host), fault).refusal
    assert refusal is not None
    assert refusal.reason.endswith(f"on a connection to {shown}")
