"""Network events of the proxy: who asked for what, and what was decided.

Rules of this file: an event is made before its decision takes effect, so `status` stays null and
`reason` is ours; a path goes in without the values of its query; the token and what a request
presented instead of it never go in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from nono_trio.core.log.events import NetworkEvent

if TYPE_CHECKING:
    from nono_trio.core.log.events import AuthOutcome, DenialCategory, Mode


@dataclass(slots=True)
class Subject:
    """What a decision is about. `target` is "" when none could be read.

    `presented` is None for a request without a token. `note` is what the record says if the request
    is allowed: the entry, where that is one that lets more through than a plain one would.
    `upstream` is the upstream proxy that it goes through (mode `external`).
    """

    mode: Mode
    target: str
    port: int | None = None
    method: str | None = None
    path: str | None = None
    presented: AuthOutcome | None = None
    note: str | None = None
    upstream: str | None = None


@dataclass(slots=True)
class Refusal:
    """Why a request is refused: the status and the text that are answered, and the category that
    is recorded."""

    status: int
    reason: str
    hint: str | None = None
    category: DenialCategory | UnsetType = UNSET


def allowed(subject: Subject, now: int) -> NetworkEvent:
    """The event that lets a request through; `now` in milliseconds since 1970."""
    presented = subject.presented
    return NetworkEvent(
        timestamp_unix_ms=now,
        mode=subject.mode,
        decision="allow",
        auth_mechanism=UNSET if presented is None else "proxy_authorization",
        auth_outcome=UNSET if presented is None else presented,
        target=subject.target,
        upstream=subject.upstream or UNSET,
        port=subject.port,
        method=subject.method,
        path=subject.path,
        reason=subject.note,
    )


def denied(subject: Subject, refusal: Refusal, now: int) -> NetworkEvent:
    """The event that keeps a request out; `now` in milliseconds since 1970."""
    presented = subject.presented
    return NetworkEvent(
        timestamp_unix_ms=now,
        mode=subject.mode,
        decision="deny",
        auth_mechanism=UNSET if presented is None else "proxy_authorization",
        auth_outcome=UNSET if presented is None else presented,
        denial_category=refusal.category,
        target=subject.target,
        upstream=subject.upstream or UNSET,
        port=subject.port,
        method=subject.method,
        path=subject.path,
        reason=refusal.reason,
    )
