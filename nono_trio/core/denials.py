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
from typing import Final

from nono_trio.core.log_records import OWN_TARGETS
from nono_trio.core.rules import ALLOW_FLAG, TCP_SCHEME, TLS_SCHEME

LOOK_UP: Final = "DNS"  # the method of a record about a name that was asked for, not connected to
UNTOLD: Final = f"{OWN_TARGETS}dns"  # look-ups that no other record tells of

LOOKED_UP_AS: Final = "looked up as "  # then the full names that an allowed short one stands for

_NOT_ALLOWED: Final = " is not on the allowlist"
_LIFTED: Final = re.compile(rf" \(to allow: {ALLOW_FLAG} ({TLS_SCHEME}|{TCP_SCHEME}|)[^/]+\)\Z")
_NOTED: Final = re.compile(rf"{ALLOW_FLAG} ({TLS_SCHEME}|{TCP_SCHEME})", re.IGNORECASE)


@dataclass
class DeniedHost:
    """What a host was denied: requests by port, and look-ups of its name."""

    target: str
    ports: Counter[int | None] = field(default_factory=Counter)
    look_ups: int = 0
    lifting: dict[str, None] = field(default_factory=dict)
    """The entries that would have allowed it, in the order in which they were missed."""

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


def noted_scheme(reason: str | None) -> str:
    """The scheme of the entry that an allowed request's record names; "" if it names none."""
    match = _NOTED.match(reason or "")
    return "" if match is None else match[1].lower()
