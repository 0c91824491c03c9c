"""The answer of `why`: the same for hosts, URLs and paths."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """The answer; `rule` is the flag, entry or group that decided, `hint` what would change it."""

    subject: str
    allowed: bool
    reason: str
    rule: str | None = None
    hint: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
