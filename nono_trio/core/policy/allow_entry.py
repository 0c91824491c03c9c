"""The entry that would have allowed a denied request, and a denial as a sentence that names it.

Rules of this file: host and port of an entry come from the record, never from its reason. A host
of which the record shows only a part has no entry.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.log.notices import is_about_log
from nono_trio.core.log.redaction import REDACTED
from nono_trio.core.net.address import AddressClass, parse_address
from nono_trio.core.policy.reasons import (
    OPEN_PORT_FLAG,
    DenialCode,
    Reason,
    parse_reason,
    without_allow_entry,
)
from nono_trio.core.policy.request_note import McpCall
from nono_trio.core.policy.rule import ALLOW_FLAG, RESOLVE_FLAG, entry_scheme

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent

_WITHOUT_ENTRY: Final = frozenset({
    DenialCode.DATAGRAM, DenialCode.DATAGRAM_TO_ALLOWED, DenialCode.HOST_LOOPBACK,
    DenialCode.NO_QUERY, DenialCode.UNANSWERED, DenialCode.EXFILTRATION,
    DenialCode.EXFILTRATION_LATE, DenialCode.SIGNATURE_REFUSED,
})  # fmt: skip
_ENDPOINT_CODES: Final = frozenset({DenialCode.ENDPOINT_NOT_ALLOWED, DenialCode.ENCODED_SLASH})
_MCP_CODES: Final = frozenset({
    DenialCode.MCP_TOOL_NOT_ALLOWED, DenialCode.MCP_METHOD_NOT_ALLOWED,
})  # fmt: skip
_SHOWN_URL: Final = late_pattern(r"(https?)://[^/]+(/[!-~]*)")
LOOK_UP: Final = "DNS"  # the method of a record of a name look-up
MAX_HOST_FLAGS: Final = 16  # of one host; a command that tries more ports scans


class DeniedHost(msgspec.Struct):
    """The attempts on one host that were denied, or that failed: requests by port, and look-ups of
    its name."""

    target: str
    ports: Counter[int | None] = msgspec.field(default_factory=Counter)
    look_ups: int = 0
    allow_flags: dict[str, None] = msgspec.field(default_factory=dict)
    """The flags that would have allowed it, in the order of the denials."""
    listed: Counter[int | None] = msgspec.field(default_factory=Counter)
    """Those of `ports` that an entry of the deny list refused."""
    reason: str = ""
    """The reason of the first of them, without the entry that would have allowed it."""

    @property
    def requests(self) -> int:
        """The number of attempts; a name that was only looked up is one."""
        return self.ports.total() or min(self.look_ups, 1)

    def refuse(self, port: int | None, reason: str | None, *, listed: bool, times: int = 1) -> None:
        """Count a request, or as many; of a scan of many ports only the first flags are kept."""
        if not self.reason:
            self.reason = without_allow_entry(reason or "denied")
        self.ports[port] += times
        if listed:
            self.listed[port] += times
        if len(self.allow_flags) < MAX_HOST_FLAGS:
            flag = allow_flag(self.target, port, reason)
            if flag is not None:
                self.allow_flags[flag] = None

    def look_up(self, reason: str | None) -> None:
        """Count a look-up of the name."""
        self.reason = self.reason or (reason or "denied")
        self.look_ups += 1


def entry(target: str, port: int, scheme: str = "") -> str:
    """Return an entry for one host at one port; an IPv6 address is put in brackets."""
    return f"{scheme}[{target}]:{port}" if ":" in target else f"{scheme}{target}:{port}"


def allow_entry(target: str, port: int | None, reason: str | None) -> str | None:
    """Return the entry that would have allowed a denied request.

    Returns None if no entry would, or if it takes more than one.
    """
    if reason is None or port is None or REDACTED in target:
        return None
    return _allow_entry(target, port, parse_reason(reason))


def _allow_entry(target: str, port: int, reason: Reason) -> str | None:
    if reason.allow_entry:
        return entry(target, port, entry_scheme(reason.allow_entry))
    return entry(target, port) if reason.code is DenialCode.NOT_ALLOWED else None


def no_entry_allows(reason: str | None) -> bool:
    """Return True for a denial that no allow entry would change."""
    return reason is not None and parse_reason(reason).code in _WITHOUT_ENTRY


@lru_cache(maxsize=1024)  # a program asks for the same again and again
def allow_flag(target: str, port: int | None, reason: str | None) -> str | None:
    """Return the flag with its value that would have allowed a denied request.

    Returns None if no single flag would.
    """
    if reason is None or port is None or REDACTED in target:
        return None
    read = parse_reason(reason)
    named = _allow_entry(target, port, read)
    if named is not None:
        return f"{ALLOW_FLAG} {named}"
    if read.code is DenialCode.HOST_LOOPBACK:
        return f"{OPEN_PORT_FLAG} {port}"
    if read.code in _ENDPOINT_CODES:
        return _endpoint_flag(target, port, read)
    if read.code in _MCP_CODES:
        return _mcp_flag(target, port, read)
    if read.code is DenialCode.PORT_WITHOUT_RULE:
        return _whole_port_flag(target, port)
    address = parse_address(str(read.values.get("address", "")))
    if address is None:
        return None
    if read.code is DenialCode.RESOLVED_LOCAL:
        return f"{ALLOW_FLAG} {entry(str(address), port)}"
    if read.values.get("address_class") is AddressClass.PRIVATE:
        return f"{ALLOW_FLAG} {entry(target, port)}"
    if read.values.get("address_class") is AddressClass.LOOPBACK:
        pinned = f"[{address}]" if address.version == 6 else str(address)
        return f"{RESOLVE_FLAG} {entry(target, port)}:{pinned}"
    return None


def _endpoint_flag(target: str, port: int, reason: Reason) -> str | None:
    """The flag that would have allowed a request by method and path, as the policy suggests it."""
    from nono_trio.core.policy.endpoint_flag import suggested_flag  # late: few sessions have any

    shown = _SHOWN_URL.fullmatch(str(reason.values.get("url", "")))
    if shown is None:
        return None
    return suggested_flag(shown[1], target, port, str(reason.values.get("method", "")), shown[2])


def _mcp_flag(target: str, port: int, reason: Reason) -> str | None:
    """The flag that would have allowed an MCP message."""
    from nono_trio.core.policy.mcp_policy import suggested_mcp_flag  # late: few sessions have any

    shown = _SHOWN_URL.fullmatch(str(reason.values.get("url", "")))
    if shown is None:
        return None
    tool, method = reason.values.get("tool"), reason.values.get("mcp_method")
    call = McpCall(str(method or ""), str(tool or ""))
    return suggested_mcp_flag(shown[1], target, port, call, shown[2])


def _whole_port_flag(target: str, port: int) -> str | None:
    from nono_trio.core.policy.endpoint_flag import whole_port_flag  # late: few sessions have any

    return whole_port_flag(target, port)


def denial_text(event: NetworkEvent) -> str | None:
    """Return a denial as a sentence with the flag that would allow it; None for any other event.

    The sentence contains text of a program or a log, so the caller must remove control characters.
    """
    if event.decision != "deny" or is_about_log(event):
        return None
    shown = entry(event.target, event.port) if event.port is not None else event.target
    if event.method == LOOK_UP:
        return f"{event.target} was looked up: {event.reason}"
    reason = event.reason or str(event.denial_category or "denied")
    sentence = without_allow_entry(reason)
    text = reason if event.target and shown in sentence else f"{shown}: {reason}"
    flag = allow_flag(event.target, event.port, event.reason)
    return text if flag is None or flag in text else f"{text} (to allow: {flag})"
