"""What a record of a denial means to a person: above all, which entry would have allowed it.

A record has a reason and no field for a hint (its format is upstream's), so the reason itself says
what would lift the denial, in words that are made and read here and nowhere else.

Rules of this file: a reason that is read may come from a log, and so from anybody: no more than a
choice between our own forms is taken from it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.core.addresses import AddressClass, parse_address
from nono_trio.core.log_records import OWN_TARGETS, is_about_log
from nono_trio.core.rules import ALLOW_FLAG, RESOLVE_FLAG, TCP_SCHEME, TLS_SCHEME

if TYPE_CHECKING:
    from nono_trio.core.events import NetworkEvent

LOOK_UP: Final = "DNS"  # the method of a record about a name that was asked for, not connected to
UNTOLD: Final = f"{OWN_TARGETS}dns"  # look-ups that no other record tells of

LOOKED_UP_AS: Final = "looked up as "  # then the full names that an allowed short one stands for

_NOT_ALLOWED: Final = " is not on the allowlist"
_LIFTED: Final = re.compile(rf" \(to allow: {ALLOW_FLAG} ({TLS_SCHEME}|{TCP_SCHEME}|)[^/]+\)\Z")
_RESOLVED: Final = re.compile(r".* resolved to ([0-9a-fA-F.:]+), (.*)\Z")
THIS_MACHINE: Final = "an address of this machine"
_NOTED: Final = re.compile(rf"{ALLOW_FLAG} ({TLS_SCHEME}|{TCP_SCHEME})", re.IGNORECASE)


@dataclass
class DeniedHost:
    """What a host was denied: requests by port, and look-ups of its name."""

    target: str
    ports: Counter[int | None] = field(default_factory=Counter)
    look_ups: int = 0
    lifting: dict[str, None] = field(default_factory=dict)
    """The flags that would have allowed it, in the order in which they were missed."""

    @property
    def requests(self) -> int:
        """Denied requests; look-ups count where nothing else was tried."""
        return self.ports.total() or self.look_ups


def entry(target: str, port: int, scheme: str = "") -> str:
    """An entry for one host at one port; an IPv6 address in brackets."""
    return f"{scheme}[{target}]:{port}" if ":" in target else f"{scheme}{target}:{port}"


def not_allowed(shown: str) -> str:
    """The reason of a denial for want of an entry; `shown` is host and port."""
    return f"{shown}{_NOT_ALLOWED}"


def lifted_by(reason: str, lifting: str) -> str:
    """The reason of a denial that the entry `lifting` would have kept away."""
    return f"{reason} (to allow: {ALLOW_FLAG} {lifting})"


def lifting_entry(target: str, port: int | None, reason: str | None) -> str | None:
    """The entry that would have allowed a denied request; None where there is none, or where it
    takes more than one entry."""
    if reason is None or port is None:
        return None
    if reason.endswith(_NOT_ALLOWED):
        return entry(target, port)
    match = _LIFTED.search(reason)
    return None if match is None else entry(target, port, match[1])


def resolved_to(shown: str, address: str, words: str) -> str:
    """The reason of a denial for what a host resolved to; `words` say what is wrong with it."""
    return f"{shown} resolved to {address}, {words}"


def lifting_flag(target: str, port: int | None, reason: str | None) -> str | None:
    """The flag with its value that would have allowed a denied request, None where no single one
    would."""
    lifting = lifting_entry(target, port, reason)
    if lifting is not None:
        return f"{ALLOW_FLAG} {lifting}"
    match = _RESOLVED.match(reason or "")
    address = parse_address(match[1]) if match is not None else None
    if match is None or address is None or port is None:
        return None
    if match[2] == THIS_MACHINE:
        return f"{ALLOW_FLAG} {entry(str(address), port)}"
    if match[2] == AddressClass.PRIVATE.words:
        return f"{ALLOW_FLAG} {entry(target, port)}"
    if match[2] == AddressClass.LOOPBACK.words:
        pinned = f"[{address}]" if address.version == 6 else str(address)
        return f"{RESOLVE_FLAG} {entry(target, port)}:{pinned}"
    return None


def denial_text(event: NetworkEvent) -> str | None:
    """One denial as a sentence with the flag that would allow it; None for any other event.

    It has what a program or a log put into it: whoever shows it cleans it.
    """
    if event.decision != "deny" or is_about_log(event):
        return None
    shown = entry(event.target, event.port) if event.port is not None else event.target
    if event.method == LOOK_UP:
        return f"{event.target} was looked up: {event.reason}"
    reason = event.reason or str(event.denial_category or "denied")
    sentence = _LIFTED.sub("", reason)
    text = reason if event.target and shown in sentence else f"{shown}: {reason}"
    flag = lifting_flag(event.target, event.port, event.reason)
    return text if flag is None or flag in text else f"{text} (to allow: {flag})"


def noted_scheme(reason: str | None) -> str:
    """The scheme of the entry that an allowed request's record names; "" if it names none."""
    match = _NOTED.match(reason or "")
    return "" if match is None else match[1].lower()
