"""Each denial code has one sentence, which is written, read back, and never changed."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from installation import PACKAGE

from nono_trio.core.net.address import AddressClass
from nono_trio.core.policy.allow_entry import allow_flag
from nono_trio.core.policy.reasons import (
    DenialCode,
    Reason,
    format_reason,
    format_suppressed,
    parse_reason,
    with_allow_entry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.policy.reasons import Value

# The bytes in every log so far: a line here is added, never changed.
SENTENCES: dict[str, tuple[str, dict[str, Value]]] = {
    "a.test:443 is not on the allowlist": ("NOT_ALLOWED", {"destination": "a.test:443"}),
    "a.test:443 is on the deny list": ("ON_DENY_LIST", {"destination": "a.test:443"}),
    "the network is blocked": ("NETWORK_BLOCKED", {}),
    "metadata.goog is a cloud metadata name": ("METADATA_NAME", {"host": "metadata.goog"}),
    "[fe80::1] is a link-local address": (
        "CLOSED_ADDRESS", {"host": "[fe80::1]", "address_class": AddressClass.LINK_LOCAL},
    ),
    "metadata is looked up as metadata.a.test, a cloud metadata name": (
        "SEARCHED_METADATA_NAME", {"host": "metadata", "name": "metadata.a.test"},
    ),
    "a is looked up as a.b.test, which is on the deny list": (
        "SEARCHED_ON_DENY_LIST", {"host": "a", "name": "a.b.test"},
    ),
    "a.test resolved to 10.0.0.1, in a private range": (
        "RESOLVED_CLOSED",
        {"host": "a.test", "address": "10.0.0.1", "address_class": AddressClass.PRIVATE},
    ),
    "a.test resolved to ::1, which is on the deny list": (
        "RESOLVED_ON_DENY_LIST", {"host": "a.test", "address": "::1"},
    ),
    "a.test resolved to 192.0.2.7, an address of this machine": (
        "RESOLVED_LOCAL", {"host": "a.test", "address": "192.0.2.7"},
    ),
    "a.test resolved to something that is no address": ("RESOLVED_NO_ADDRESS", {"host": "a.test"}),
    "proxy authentication is required": ("TOKEN_MISSING", {}),
    "the proxy token is wrong": ("TOKEN_WRONG", {}),
    "the AWS signature of the request is not the one of the stand-in": (
        "SIGNATURE_REFUSED", {"detail": "is not the one of the stand-in"},
    ),
    "the request to the route has not the stand-in of its credential": ("STAND_IN_MISSING", {}),
    "7 more requests without the right token since the last record": (
        "TOKENS_SUPPRESSED", {"count": 7},
    ),
    "the proxy asked for its password and never got it": ("UNANSWERED", {}),
    "7 more requests for which the proxy never got its password": (
        "UNANSWERED_MORE", {"count": 7},
    ),
    "the target is this proxy itself": ("IS_PROXY", {}),
    "the address is the proxy itself": ("ADDRESS_IS_PROXY", {}),
    "a.test:80 is allowed for TLS, this is plain HTTP": ("TLS_ONLY", {"destination": "a.test:80"}),
    "the head was not complete within 10 seconds": ("HEAD_TIMEOUT", {"seconds": 10.0}),
    "the connection was closed in the middle of a head": ("HEAD_CUT", {}),
    "the proxy has as many connections as it can hold": ("PROXY_FULL", {}),
    "the audit log can't keep up, nothing was done": ("AUDIT_BUSY", {}),
    "expected an HTTP/1.1 request, got something else": ("NO_HTTP", {}),
    "the server spoke first, where an HTTP/1.1 request was expected": ("SERVER_BEFORE_HTTP", {}),
    "the Host field asks for b.test, but the connection is to a.test": (
        "OTHER_HOST_FIELD", {"asked": "b.test", "host": "a.test"},
    ),
    "the TLS hello names no host (no SNI)": ("NO_SERVER_NAME", {}),
    "the TLS hello hides the host it asks for (ECH)": ("HIDDEN_SERVER_NAME", {}),
    "the TLS hello's server name can't be read: the host is empty": (
        "BAD_SERVER_NAME", {"detail": "the host is empty"},
    ),
    "the TLS hello asks for b.test, but the connection is to a.test": (
        "OTHER_SERVER_NAME", {"asked": "b.test", "host": "a.test"},
    ),
    "the server spoke first, where a TLS client hello was expected": ("SERVER_BEFORE_TLS", {}),
    "the TLS hello was not complete within 0.25 seconds": ("HELLO_TIMEOUT", {"seconds": 0.25}),
    "the connection was closed in the middle of the TLS hello": ("HELLO_CUT", {}),
    "the second TLS hello of the connection asks for another host than the first": (
        "SECOND_HELLO_OTHER", {},
    ),
    "the second TLS hello can't be read: the TLS hello is malformed": (
        "SECOND_HELLO_BAD", {"detail": "the TLS hello is malformed"},
    ),
    "the TLS handshake with the program failed: no cipher in common": (
        "INTERCEPT_FAILED", {"detail": "no cipher in common"},
    ),
    "the TLS handshake with the program took longer than 10 seconds": (
        "INTERCEPT_TIMEOUT", {"seconds": 10.0},
    ),
    "the TLS hello offers protocols without HTTP/1.1 (ALPN)": ("NO_HTTP_OFFERED", {}),
    "the TLS hello offers HTTP/2 without HTTP/1.1 (ALPN), and the server does not speak HTTP/2": (
        "NO_SHARED_PROTOCOL", {},
    ),
    "expected an HTTP/1.1 request under TLS, got something else": ("INTERCEPTED_NO_HTTP", {}),
    "expected TLS or an HTTP/1.1 request, got something else": ("INTERCEPTED_NO_TLS", {}),
    "the TLS hello asks for a.test, whose requests must be seen, on a connection to b.test": (
        "INTERCEPTED_ELSEWHERE", {"asked": "a.test", "host": "b.test"},
    ),
    "nothing came, where TLS or an HTTP/1.1 request was expected": ("INTERCEPTED_SILENT", {}),
    "the name is not one that a host can have": ("NAME_IMPOSSIBLE", {}),
    "the name is not allowed on any port": ("NAME_NOT_ALLOWED", {}),
    "expected a DNS query, got something else: the class is not IN": (
        "NO_QUERY", {"detail": "the class is not IN"},
    ),
    "3 more queries for denied names": ("QUERIES_SUPPRESSED", {"count": 3}),
    "3 queries came too fast to be read": ("QUERIES_LOST", {"count": 3}),
    "no more ports can be listened at for programs without the proxy": ("NO_LISTENERS_LEFT", {}),
    "a program without the proxy needs an entry with the port": ("NEEDS_PORT", {}),
    "3 more connections to refused ports": ("PORTS_SUPPRESSED", {"count": 3}),
    "datagrams other than DNS are not let through": ("DATAGRAM", {}),
    "a.test:443 is allowed for TCP, datagrams are not let through": (
        "DATAGRAM_TO_ALLOWED", {"destination": "a.test:443"},
    ),
    "3 more refused datagrams": ("DATAGRAMS_SUPPRESSED", {"count": 3}),
    "port 5432 is open on this machine's loopback, not on the command's own": (
        "HOST_LOOPBACK", {"port": 5432},
    ),
    "3 packets to refused ports came too fast to be read": ("PACKETS_LOST", {"count": 3}),
    "3 connections came too late to be decided": ("CONNECTIONS_LOST", {"count": 3}),
    "a direct connection, past the proxy": ("DIRECT", {}),
    "a connection of a program that can't be looked into": ("DIRECT_UNKNOWN", {}),
    "3 more refused connections": ("DIRECT_SUPPRESSED", {"count": 3}),
    "3 more denied attempts without a record of their own": ("UNRECORDED", {"count": 3}),
    "no endpoint rule of the host opens a.test:8443": (
        "PORT_WITHOUT_RULE", {"destination": "a.test:8443"},
    ),
    "GET https://a.test/x fits no endpoint rule of the host": (
        "ENDPOINT_NOT_ALLOWED", {"method": "GET", "url": "https://a.test/x"},
    ),
    "GET https://a.test/x is denied by the endpoint rule GET https://a.test/**": (
        "ENDPOINT_DENIED",
        {"method": "GET", "url": "https://a.test/x", "detail": "GET https://a.test/**"},
    ),
    "GET https://a.test/x%2Fy has an encoded slash, which no endpoint rule of the host allows": (
        "ENCODED_SLASH", {"method": "GET", "url": "https://a.test/x%2Fy"},
    ),
    "the request's path climbs above the root": (
        "PATH_REFUSED", {"detail": "climbs above the root"},
    ),
    "the field x-original-url may name another method or path than the one that rules judge": (
        "OVERRIDE_FIELD", {"name": "x-original-url"},
    ),
    "the MCP tool a of https://a.test/mcp fits no MCP rule of the host (arguments none)": (
        "MCP_TOOL_NOT_ALLOWED",
        {"tool": "a", "url": "https://a.test/mcp", "arguments": "none"},
    ),
    "the MCP tool a of https://a.test/mcp (arguments sha256:00) is denied by the rule mcp a x": (
        "MCP_TOOL_DENIED",
        {"tool": "a", "url": "https://a.test/mcp", "arguments": "sha256:00", "detail": "mcp a x"},
    ),
    "the MCP method ping of https://a.test/mcp fits no MCP rule of the host": (
        "MCP_METHOD_NOT_ALLOWED", {"mcp_method": "ping", "url": "https://a.test/mcp"},
    ),
    "the MCP method ping of https://a.test/mcp is denied by the rule mcp method:* x": (
        "MCP_METHOD_DENIED",
        {"mcp_method": "ping", "url": "https://a.test/mcp", "detail": "mcp method:* x"},
    ),
    "the MCP message has a member twice": ("MCP_UNREADABLE", {"detail": "has a member twice"}),
    "the MCP message was cut off": ("MCP_CUT", {}),
    "the MCP message was not complete within 10 seconds": ("MCP_TIMEOUT", {"seconds": 10.0}),
    "a WebSocket is refused where MCP rules judge messages": ("MCP_UPGRADE", {}),
    "exfiltration detected: the head of the request has the stand-in of credential github": (
        "EXFILTRATION", {"detail": "the head of the request", "credential": "github"},
    ),
    "exfiltration detected on the way: a WebSocket message has the stand-in of credential a-b": (
        "EXFILTRATION_LATE", {"detail": "a WebSocket message", "credential": "a-b"},
    ),
    "the secret of credential github can't be used: it has a line break": (
        "SECRET_UNUSABLE", {"credential": "github", "detail": "it has a line break"},
    ),
    "256 connections to port 5432 are open": ("RELAY_FULL", {"count": 256, "port": 5432}),
    "nothing answers on port 5432: Connection refused": (
        "RELAY_UNANSWERED", {"port": 5432, "detail": "Connection refused"},
    ),
    "can't connect to [::1]:443: no answer within 10 seconds": (
        "CONNECT_FAILED", {"destination": "[::1]:443", "detail": "no answer within 10 seconds"},
    ),
    "no answer within 10 seconds": ("DIAL_TIMEOUT", {"seconds": 10.0}),
    "the name has no address": ("NAME_WITHOUT_ADDRESS", {}),
    "the name has no address (Name or service not known)": (
        "NAME_UNKNOWN", {"detail": "Name or service not known"},
    ),
    "the name can't be looked up": ("NAME_UNRESOLVABLE", {}),
    "the name has more than 32 addresses": ("NAME_WITH_MANY_ADDRESSES", {"count": 32}),
    "the name was not resolved within 10 seconds": ("RESOLVE_TIMEOUT", {"seconds": 10.0}),
    "too many earlier look-ups have had no answer yet": ("RESOLVER_BUSY", {}),
    "the TLS handshake failed: certificate expired": (
        "TLS_FAILED", {"detail": "certificate expired"},
    ),
    "the server has spoken HTTP/2 before and does not any more": ("PROTOCOL_GONE", {}),
    "4 connections to the server are open and take no more requests": (
        "UPSTREAMS_FULL", {"count": 4},
    ),
    "the TLS handshake took longer than 10 seconds": ("TLS_TIMEOUT", {"seconds": 10.0}),
    "the upstream proxy http://p.test:3128 refused the connection (403)": (
        "UPSTREAM_REFUSED", {"proxy": "http://p.test:3128", "status": 403},
    ),
    "the upstream proxy http://p.test:3128 asks for a user and password (407)": (
        "UPSTREAM_WANTS_USER", {"proxy": "http://p.test:3128", "status": 407},
    ),
    "the upstream proxy http://p.test:3128 did not accept the user and password (407)": (
        "UPSTREAM_REFUSED_USER", {"proxy": "http://p.test:3128", "status": 407},
    ),
    "can't connect to the upstream proxy http://p.test:3128: connection refused": (
        "UPSTREAM_UNREACHABLE", {"proxy": "http://p.test:3128", "detail": "connection refused"},
    ),
    "the upstream proxy did not answer within 10 seconds": ("UPSTREAM_TIMEOUT", {"seconds": 10.0}),
    "can't look up the upstream proxy http://p.test:3128: the name has no address": (
        "UPSTREAM_UNRESOLVED", {"proxy": "http://p.test:3128", "detail": "the name has no address"},
    ),
    "the upstream proxy's name was not resolved in time": ("UPSTREAM_RESOLVE_TIMEOUT", {}),
    "the upstream proxy's certificate can't be trusted: self-signed certificate": (
        "UPSTREAM_BAD_CERTIFICATE", {"detail": "self-signed certificate"},
    ),
    "the upstream proxy's TLS handshake failed": ("UPSTREAM_HANDSHAKE_FAILED", {}),
    "the upstream proxy's TLS handshake took too long": ("UPSTREAM_HANDSHAKE_TIMEOUT", {}),
    "the upstream proxy's answer is malformed": ("UPSTREAM_BAD_ANSWER", {}),
    "the upstream proxy sent interim responses without end": ("UPSTREAM_ENDLESS_ANSWER", {}),
    "the upstream proxy closed the connection without an answer": ("UPSTREAM_CLOSED", {}),
    "the upstream proxy's connection broke: broken pipe": (
        "UPSTREAM_BROKE", {"detail": "broken pipe"},
    ),
    "the host field is missing": ("OTHER", {"detail": "the host field is missing"}),
}  # fmt: skip


@pytest.mark.parametrize("text", SENTENCES)
def test_each_sentence_is_written_and_read(text: str) -> None:
    name, values = SENTENCES[text]
    assert format_reason(DenialCode[name], **values) == text
    assert parse_reason(text) == Reason(DenialCode[name], values)


def test_the_table_has_every_code() -> None:
    assert [name for name, _ in SENTENCES.values()] == [code.name for code in DenialCode]


words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)
hosts = st.from_regex(
    r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}|\[[0-9a-f:]{2,39}\]", fullmatch=True
)
kinds = {
    "count": st.integers(0, 10**18 - 1),
    "port": st.integers(0, 65_535),
    "status": st.integers(100, 599),
    "seconds": st.integers(0, 999_999).map(lambda number: number / 1000),
    "address_class": st.sampled_from(AddressClass),
    "detail": st.lists(words).map(" ".join),
    "address": st.ip_addresses().map(str),
    "destination": st.builds("{}:{}".format, hosts, st.integers(0, 65_535)),
}


@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    code = data.draw(st.sampled_from([code for code in DenialCode if code is not DenialCode.OTHER]))
    names = re.findall(r"\{(\w+)\}", code.value)
    values = {name: data.draw(kinds.get(name, hosts), label=name) for name in names}
    text = format_reason(code, **values)
    suppressed = data.draw(st.integers(0, 10**18 - 1))
    assert parse_reason(text + format_suppressed(suppressed)) == Reason(
        code, values, suppressed=suppressed
    )
    entry = data.draw(st.builds("{}{}".format, st.sampled_from(["", "tls://", "tcp://"]), hosts))
    text = with_allow_entry(text, entry) + format_suppressed(suppressed)
    assert parse_reason(text) == Reason(code, values, entry, suppressed)


@given(st.text() | st.lists(st.sampled_from([*SENTENCES, "; 3 more", " ", "\n"])).map("".join))
def test_a_text_of_anybody_is_read_without_an_error(text: str) -> None:
    reason = parse_reason(text)
    written = format_reason(reason.code, **reason.values)
    if reason.allow_entry:
        written = with_allow_entry(written, reason.allow_entry)
    assert written + format_suppressed(reason.suppressed) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", DenialCode.OTHER),
        ("a b is not on the allowlist", DenialCode.OTHER),
        ("a.test:443 is not on the allowlist\n", DenialCode.OTHER),
        ("a.test resolved to x; rm, a loopback address", DenialCode.OTHER),
        ("0" * 30 + " more refused connections", DenialCode.OTHER),
        ("٣ more refused connections", DenialCode.OTHER),
    ],
)
def test_what_is_almost_a_sentence_is_none(text: str, code: DenialCode) -> None:
    assert parse_reason(text) == Reason(code, {"detail": text})


def test_a_reason_is_read_in_linear_time() -> None:
    for text in ("x" * 10**6, "can't connect to " * 10**5, "a is looked up as " * 10**5):
        assert parse_reason(text).code in (DenialCode.OTHER, DenialCode.CONNECT_FAILED)


def test_a_repeated_denial_is_allowed_by_the_same_flag() -> None:
    text = "a.test:443 is not on the allowlist"
    assert allow_flag("a.test", 443, text) == "--allow-domain a.test:443"
    assert allow_flag("a.test", 443, text + format_suppressed(9)) == "--allow-domain a.test:443"


def users() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        if "DenialCode." in text:
            yield str(path), text


def codes_of(text: str) -> set[str]:
    return set(re.findall(r"DenialCode\.([A-Z_]+)", text))


def written() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the calls of `format_reason` whose code is a literal."""
    for path, text in users():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "format_reason":
                for name in codes_of(ast.unparse(node.args[0])):
                    yield path, name, node


def test_a_code_is_written_with_its_values() -> None:
    """Without this test, a missing value would raise only when the denial happens."""
    for path, name, call in written():
        wanted = set(re.findall(r"\{(\w+)\}", DenialCode[name].value))
        assert {keyword.arg for keyword in call.keywords} == wanted, (path, name)


def test_no_code_is_without_a_use() -> None:
    used = {name for _, text in users() for name in codes_of(text)}
    assert {code.name for code in DenialCode} - used == {"OTHER"}
