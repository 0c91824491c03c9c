"""Every denial code with its sentence: the one place that writes a `reason` and reads it back.

Upstream's record has a reason, but no field for a code or a hint. So the sentence carries the code,
its values, and the entry that would have allowed the request. request_note.py has the text of an
allowed request, core/log/notices.py the records about the log.

Rules of this file:
- A sentence never changes: it is how old logs are read.
- A parser of core/http or core/net has texts of its own; their code is OTHER.
- A reason may come from a log that another program wrote. A reader takes only a choice of our own
  forms from it; host and port of an entry come from the record.
"""

from __future__ import annotations

import re
from enum import Enum, unique
from functools import cache, lru_cache
from typing import Final, TypeAlias

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import AddressClass
from nono_trio.core.policy.rule import ALLOW_FLAG, TCP_SCHEME, TLS_SCHEME

OPEN_PORT_FLAG: Final = "--open-port"
LISTEN_PORT_FLAG: Final = "--listen-port"
OBSERVE_FLAG: Final = "--observe"

Value: TypeAlias = str | int | float | AddressClass


@unique
class DenialCode(Enum):
    """A code's value is its sentence, with its values in braces.

    `count`, `port` and `status` are int, `seconds` is float, `address_class` is AddressClass,
    `detail` is any text, all others are text without spaces. `destination` is HOST:PORT.
    """

    # The policy, by name.
    NOT_ALLOWED = "{destination} is not on the allowlist"
    ON_DENY_LIST = "{destination} is on the deny list"
    NETWORK_BLOCKED = "the network is blocked"
    METADATA_NAME = "{host} is a cloud metadata name"
    CLOSED_ADDRESS = "{host} is {address_class}"
    SEARCHED_METADATA_NAME = "{host} is looked up as {name}, a cloud metadata name"
    SEARCHED_ON_DENY_LIST = "{host} is looked up as {name}, which is on the deny list"
    # The policy, by resolved address.
    RESOLVED_CLOSED = "{host} resolved to {address}, {address_class}"
    RESOLVED_ON_DENY_LIST = "{host} resolved to {address}, which is on the deny list"
    RESOLVED_LOCAL = "{host} resolved to {address}, an address of this machine"
    RESOLVED_NO_ADDRESS = "{host} resolved to something that is no address"
    # A request to the proxy.
    TOKEN_MISSING = "proxy authentication is required"
    TOKEN_WRONG = "the proxy token is wrong"
    SIGNATURE_REFUSED = "the AWS signature of the request {detail}"
    STAND_IN_MISSING = "the request to the route has not the stand-in of its credential"
    TOKENS_SUPPRESSED = "{count} more requests without the right token since the last record"
    UNANSWERED = "the proxy asked for its password and never got it"
    UNANSWERED_MORE = "{count} more requests for which the proxy never got its password"
    IS_PROXY = "the target is this proxy itself"
    ADDRESS_IS_PROXY = "the address is the proxy itself"
    TLS_ONLY = "{destination} is allowed for TLS, this is plain HTTP"
    HEAD_TIMEOUT = "the head was not complete within {seconds} seconds"
    HEAD_CUT = "the connection was closed in the middle of a head"
    PROXY_FULL = "the proxy has as many connections as it can hold"
    AUDIT_BUSY = "the audit log can't keep up, nothing was done"
    # A request or a TLS hello to the server itself, in a tunnel or without the proxy.
    NO_HTTP = "expected an HTTP/1.1 request, got something else"
    SERVER_BEFORE_HTTP = "the server spoke first, where an HTTP/1.1 request was expected"
    OTHER_HOST_FIELD = "the Host field asks for {asked}, but the connection is to {host}"
    NO_SERVER_NAME = "the TLS hello names no host (no SNI)"
    HIDDEN_SERVER_NAME = "the TLS hello hides the host it asks for (ECH)"
    BAD_SERVER_NAME = "the TLS hello's server name can't be read: {detail}"
    OTHER_SERVER_NAME = "the TLS hello asks for {asked}, but the connection is to {host}"
    SERVER_BEFORE_TLS = "the server spoke first, where a TLS client hello was expected"
    HELLO_TIMEOUT = "the TLS hello was not complete within {seconds} seconds"
    HELLO_CUT = "the connection was closed in the middle of the TLS hello"
    SECOND_HELLO_OTHER = (
        "the second TLS hello of the connection asks for another host than the first"
    )
    SECOND_HELLO_BAD = "the second TLS hello can't be read: {detail}"
    # A connection whose requests must be seen.
    INTERCEPT_FAILED = "the TLS handshake with the program failed: {detail}"
    INTERCEPT_TIMEOUT = "the TLS handshake with the program took longer than {seconds} seconds"
    NO_HTTP_OFFERED = "the TLS hello offers protocols without HTTP/1.1 (ALPN)"
    NO_SHARED_PROTOCOL = (
        "the TLS hello offers HTTP/2 without HTTP/1.1 (ALPN), and the server does not speak HTTP/2"
    )
    INTERCEPTED_NO_HTTP = "expected an HTTP/1.1 request under TLS, got something else"
    INTERCEPTED_NO_TLS = "expected TLS or an HTTP/1.1 request, got something else"
    INTERCEPTED_ELSEWHERE = (
        "the TLS hello asks for {asked}, whose requests must be seen, on a connection to {host}"
    )
    INTERCEPTED_SILENT = "nothing came, where TLS or an HTTP/1.1 request was expected"
    # A program that knows of no proxy.
    NAME_IMPOSSIBLE = "the name is not one that a host can have"
    NAME_NOT_ALLOWED = "the name is not allowed on any port"
    NO_QUERY = "expected a DNS query, got something else: {detail}"
    QUERIES_SUPPRESSED = "{count} more queries for denied names"
    QUERIES_LOST = "{count} queries came too fast to be read"
    NO_LISTENERS_LEFT = "no more ports can be listened at for programs without the proxy"
    NEEDS_PORT = "a program without the proxy needs an entry with the port"
    PORTS_SUPPRESSED = "{count} more connections to refused ports"
    DATAGRAM = "datagrams other than DNS are not let through"
    DATAGRAM_TO_ALLOWED = "{destination} is allowed for TCP, datagrams are not let through"
    DATAGRAMS_SUPPRESSED = "{count} more refused datagrams"
    HOST_LOOPBACK = "port {port} is open on this machine's loopback, not on the command's own"
    PACKETS_LOST = "{count} packets to refused ports came too fast to be read"
    CONNECTIONS_LOST = "{count} connections came too late to be decided"
    DIRECT = "a direct connection, past the proxy"
    DIRECT_UNKNOWN = "a connection of a program that can't be looked into"
    DIRECT_SUPPRESSED = "{count} more refused connections"
    UNRECORDED = "{count} more denied attempts without a record of their own"
    # Endpoint rules. `url` has no query.
    PORT_WITHOUT_RULE = "no endpoint rule of the host opens {destination}"
    ENDPOINT_NOT_ALLOWED = "{method} {url} fits no endpoint rule of the host"
    ENDPOINT_DENIED = "{method} {url} is denied by the endpoint rule {detail}"
    ENCODED_SLASH = "{method} {url} has an encoded slash, which no endpoint rule of the host allows"
    PATH_REFUSED = "the request's path {detail}"
    OVERRIDE_FIELD = (
        "the field {name} may name another method or path than the one that rules judge"
    )
    # MCP rules. `tool` and `mcp_method` are as in a rule, `arguments` is sha256:HEX or none.
    MCP_TOOL_NOT_ALLOWED = (
        "the MCP tool {tool} of {url} fits no MCP rule of the host (arguments {arguments})"
    )
    MCP_TOOL_DENIED = (
        "the MCP tool {tool} of {url} (arguments {arguments}) is denied by the rule {detail}"
    )
    MCP_METHOD_NOT_ALLOWED = "the MCP method {mcp_method} of {url} fits no MCP rule of the host"
    MCP_METHOD_DENIED = "the MCP method {mcp_method} of {url} is denied by the rule {detail}"
    MCP_UNREADABLE = "the MCP message {detail}"
    MCP_CUT = "the MCP message was cut off"
    MCP_TIMEOUT = "the MCP message was not complete within {seconds} seconds"
    MCP_UPGRADE = "a WebSocket is refused where MCP rules judge messages"
    # Credentials. `credential` is a name.
    EXFILTRATION = "exfiltration detected: {detail} has the stand-in of credential {credential}"
    EXFILTRATION_LATE = (
        "exfiltration detected on the way: {detail} has the stand-in of credential {credential}"
    )
    SECRET_UNUSABLE = "the secret of credential {credential} can't be used: {detail}"
    # --open-port and --listen-port.
    RELAY_FULL = "{count} connections to port {port} are open"
    RELAY_UNANSWERED = "nothing answers on port {port}: {detail}"
    # An allowed host that could not be reached; the rest of this group are its details.
    CONNECT_FAILED = "can't connect to {destination}: {detail}"
    DIAL_TIMEOUT = "no answer within {seconds} seconds"
    NAME_WITHOUT_ADDRESS = "the name has no address"
    NAME_UNKNOWN = "the name has no address ({detail})"
    NAME_UNRESOLVABLE = "the name can't be looked up"
    NAME_WITH_MANY_ADDRESSES = "the name has more than {count} addresses"
    RESOLVE_TIMEOUT = "the name was not resolved within {seconds} seconds"
    RESOLVER_BUSY = "too many earlier look-ups have had no answer yet"
    TLS_FAILED = "the TLS handshake failed: {detail}"
    PROTOCOL_GONE = "the server has spoken HTTP/2 before and does not any more"
    UPSTREAMS_FULL = "{count} connections to the server are open and take no more requests"
    TLS_TIMEOUT = "the TLS handshake took longer than {seconds} seconds"
    # The upstream proxy.
    UPSTREAM_REFUSED = "the upstream proxy {proxy} refused the connection ({status})"
    UPSTREAM_WANTS_USER = "the upstream proxy {proxy} asks for a user and password ({status})"
    UPSTREAM_REFUSED_USER = (
        "the upstream proxy {proxy} did not accept the user and password ({status})"
    )
    UPSTREAM_UNREACHABLE = "can't connect to the upstream proxy {proxy}: {detail}"
    UPSTREAM_TIMEOUT = "the upstream proxy did not answer within {seconds} seconds"
    UPSTREAM_UNRESOLVED = "can't look up the upstream proxy {proxy}: {detail}"
    UPSTREAM_RESOLVE_TIMEOUT = "the upstream proxy's name was not resolved in time"
    UPSTREAM_BAD_CERTIFICATE = "the upstream proxy's certificate can't be trusted: {detail}"
    UPSTREAM_HANDSHAKE_FAILED = "the upstream proxy's TLS handshake failed"
    UPSTREAM_HANDSHAKE_TIMEOUT = "the upstream proxy's TLS handshake took too long"
    UPSTREAM_BAD_ANSWER = "the upstream proxy's answer is malformed"
    UPSTREAM_ENDLESS_ANSWER = "the upstream proxy sent interim responses without end"
    UPSTREAM_CLOSED = "the upstream proxy closed the connection without an answer"
    UPSTREAM_BROKE = "the upstream proxy's connection broke: {detail}"
    # The text of a parser, and whatever else a log may hold.
    OTHER = "{detail}"


_CLASSES: Final = {one.words: one for one in AddressClass}
_PATTERNS: Final = {
    "count": "[0-9]{1,18}",
    "port": "[0-9]{1,5}",
    "status": "[0-9]{3}",
    "seconds": r"[0-9]{1,18}(?:\.[0-9]{1,18})?(?:e[+-][0-9]{2,3})?",
    "address_class": "|".join(map(re.escape, _CLASSES)),
    "detail": ".*",
}
_WORD: Final = r"\S+"
_FIELD: Final = late_pattern(r"\{([a-z_]+)\}")
_ALLOW_ENTRY: Final = f" (to allow: {ALLOW_FLAG} "
_ENTRY: Final = late_pattern(rf"((?:{TLS_SCHEME}|{TCP_SCHEME}|)[^/]+)\)")
_SUPPRESSED: Final = late_pattern(r"; ([1-9][0-9]{0,17}) more since the last record\Z")


class Reason(msgspec.Struct, frozen=True):
    """A reason that was read.

    `allow_entry` is the entry in it, "" for none. `suppressed` is the number of earlier denials of
    the same kind that have no record of their own.
    """

    code: DenialCode
    values: dict[str, Value] = msgspec.field(default_factory=dict)
    allow_entry: str = ""
    suppressed: int = 0


def format_reason(code: DenialCode, /, **values: Value) -> str:
    """Return the sentence of a denial. Raises KeyError if a value of the code is missing."""
    return _FIELD.sub(lambda match: _format_value(values[match[1]]), code.value)


def with_allow_entry(reason: str, allow_entry: str) -> str:
    """Return the sentence of a denial with the entry that would have allowed the request."""
    return f"{reason}{_ALLOW_ENTRY}{allow_entry})"


def without_allow_entry(reason: str) -> str:
    """Return the sentence of a denial without the entry in it."""
    return reason.rpartition(_ALLOW_ENTRY)[0] or reason


def format_suppressed(count: int) -> str:
    """Return the end of a reason that counts `count` earlier denials; "" for none."""
    return f"; {count} more since the last record" if count else ""


def parse_reason(text: str) -> Reason:
    """Read a reason; a text that is not ours has the code OTHER. Raises nothing."""
    suppressed, allow_entry = 0, ""
    more = _SUPPRESSED.search(text, max(0, len(text) - 64))
    if more is not None:
        suppressed, text = int(more[1]), text[: more.start()]
    sentence, _, rest = text.rpartition(_ALLOW_ENTRY)
    entry_match = _ENTRY.fullmatch(rest) if sentence else None
    if entry_match is not None:
        allow_entry, text = entry_match[1], sentence
    for beginning, ending, code in _candidates(text[:1], text[-1:]):
        if text.startswith(beginning) and text.endswith(ending) and _may_be(code, text):
            match = _pattern(code).fullmatch(text)
            if match is not None:
                values = {
                    name: _read_value(name, found) for name, found in match.groupdict().items()
                }
                return Reason(code, values, allow_entry, suppressed)
    raise AssertionError("OTHER reads every text")


@cache
def _most_specific_first() -> list[tuple[str, str, DenialCode]]:
    """Each code with the beginning and the end of its sentences, the longest beginning first."""
    ends = [(one.value.partition("{")[0], one.value.rpartition("}")[2], one) for one in DenialCode]
    return sorted(ends, key=lambda item: -len(item[0]))


@lru_cache(maxsize=1024)
def _candidates(first: str, last: str) -> list[tuple[str, str, DenialCode]]:
    """Those of `_most_specific_first` that fit a text with this first and this last character: a
    reason with a new name in it is read often."""
    return [
        (beginning, ending, code)
        for beginning, ending, code in _most_specific_first()
        if beginning[:1] in ("", first) and ending[-1:] in ("", last)
    ]


def _may_be(code: DenialCode, text: str) -> bool:
    """Return False for a text that lacks words of the code: then no pattern is compiled."""
    return all(words in text for words in _literals(code))


@cache
def _literals(code: DenialCode) -> list[str]:
    return _FIELD.split(code.value)[::2]


@cache
def _pattern(code: DenialCode) -> re.Pattern[str]:
    """The pattern of a code's sentences. It is compiled when first used: most never are."""
    literals, names = _literals(code), _FIELD.findall(code.value)
    groups = [f"(?P<{name}>{_PATTERNS.get(name, _WORD)})" for name in names]
    parts = zip(map(re.escape, literals), [*groups, ""], strict=True)
    return re.compile("".join(literal + group for literal, group in parts), re.DOTALL)


def _format_value(value: Value) -> str:
    if isinstance(value, AddressClass):
        return value.words
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_value(name: str, text: str) -> Value:
    if name == "address_class":
        return _CLASSES[text]
    if name == "seconds":
        return float(text)
    return int(text) if name in ("count", "port", "status") else text
