"""Outcome of a refused request: the one condition for the tally, the verdict and the throttles.

Rules of this file: only a request that the policy refused counts as denied. A hit of a deny entry
has its own outcome. A request that the policy allowed, or did not judge, has failed. A refused
connection to loopback does not count. A refused look-up of a name is denied for every reason.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.net.address import is_loopback, parse_address
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.reasons import DenialCode, parse_reason

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent

Outcome: TypeAlias = Literal["denied", "listed", "failed", "loopback"]

FAILED_CATEGORIES: Final = ("upstream_connect_failed", "external_proxy_rejected")
# The policy allowed it, or was not asked: no answer in time, no room, a broken connection.
_FAILED_CODES: Final = frozenset({
    DenialCode.PROXY_FULL, DenialCode.AUDIT_BUSY, DenialCode.HEAD_TIMEOUT, DenialCode.HEAD_CUT,
    DenialCode.HELLO_TIMEOUT, DenialCode.HELLO_CUT, DenialCode.RELAY_FULL,
    DenialCode.RELAY_UNANSWERED, DenialCode.NO_LISTENERS_LEFT, DenialCode.NEEDS_PORT,
    DenialCode.DATAGRAM_TO_ALLOWED, DenialCode.INTERCEPT_FAILED, DenialCode.INTERCEPT_TIMEOUT,
    DenialCode.NO_HTTP_OFFERED, DenialCode.MCP_CUT, DenialCode.MCP_TIMEOUT,
    DenialCode.SECRET_UNUSABLE,
})  # fmt: skip
_LISTED_CODES: Final = frozenset({
    DenialCode.ON_DENY_LIST, DenialCode.SEARCHED_ON_DENY_LIST, DenialCode.RESOLVED_ON_DENY_LIST,
    DenialCode.ENDPOINT_DENIED, DenialCode.MCP_TOOL_DENIED, DenialCode.MCP_METHOD_DENIED,
})  # fmt: skip
# Only made after the record that allows.
_SECOND_CODES: Final = frozenset({
    DenialCode.RESOLVED_CLOSED, DenialCode.RESOLVED_ON_DENY_LIST, DenialCode.RESOLVED_LOCAL,
    DenialCode.RESOLVED_NO_ADDRESS, DenialCode.ADDRESS_IS_PROXY, DenialCode.INTERCEPT_FAILED,
    DenialCode.INTERCEPT_TIMEOUT, DenialCode.SECRET_UNUSABLE,
    DenialCode.EXFILTRATION_LATE,
})  # fmt: skip
# Made after the record of a CONNECT; on a connection without the proxy there is no such record.
_TUNNEL_CODES: Final = frozenset({
    DenialCode.NO_HTTP, DenialCode.SERVER_BEFORE_HTTP, DenialCode.OTHER_HOST_FIELD,
    DenialCode.NO_SERVER_NAME, DenialCode.HIDDEN_SERVER_NAME, DenialCode.BAD_SERVER_NAME,
    DenialCode.OTHER_SERVER_NAME, DenialCode.SERVER_BEFORE_TLS, DenialCode.HELLO_TIMEOUT,
    DenialCode.HELLO_CUT,
})  # fmt: skip
# Not counted if they are about a loopback address.
_LOOPBACK_CODES: Final = frozenset({DenialCode.DIRECT, DenialCode.HOST_LOOPBACK})


class ReadReason(msgspec.Struct, frozen=True):
    """The part of a reason that decides what an attempt counts as."""

    code: DenialCode
    count: int
    suppressed: int
    other_host: str
    outcome: Literal["denied", "listed", "failed"]
    """The outcome by the code alone."""
    about_loopback: bool
    """It does not count if its target is a loopback address."""
    is_second: bool
    """The request was allowed before."""
    ends_tunnel: bool
    """Its CONNECT was allowed before, if it came through the proxy."""


def outcome_of(event: NetworkEvent) -> Outcome:
    """Return what the record of a refused request counts as."""
    if event.method == LOOK_UP:
        return "denied"
    read = read_reason(event.reason or "")
    if read.about_loopback and _is_at_loopback(event.target):
        return "loopback"
    return "failed" if event.denial_category in FAILED_CATEGORIES else read.outcome


def is_counted(event: NetworkEvent) -> bool:
    """Return True if the policy refused the request: it neither failed nor was it for loopback."""
    return outcome_of(event) in ("denied", "listed")


@lru_cache(maxsize=1024)
def read_reason(reason: str) -> ReadReason:
    """Read the reason of a record. Raises nothing."""
    read = parse_reason(reason)
    count = read.values.get("count", 0)
    host = str(read.values.get("host", "")).removeprefix("[").removesuffix("]")
    return ReadReason(
        read.code,
        count if isinstance(count, int) else 0,
        read.suppressed,
        host,
        outcome=_outcome(read.code),
        about_loopback=read.code in _LOOPBACK_CODES,
        is_second=read.code in _SECOND_CODES,
        ends_tunnel=read.code in _TUNNEL_CODES,
    )


def _outcome(code: DenialCode) -> Literal["denied", "listed", "failed"]:
    if code in _FAILED_CODES:
        return "failed"
    return "listed" if code in _LISTED_CODES else "denied"


@lru_cache(maxsize=1024)
def _is_at_loopback(target: str) -> bool:
    address = parse_address(target)
    return address is not None and is_loopback(address)
