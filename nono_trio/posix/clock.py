"""The wall clock in the formats of a session's files."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time_ns


def rfc3339(time: datetime | None = None) -> str:
    """Return `time` (default: now) in UTC, RFC 3339, microseconds."""
    moment = time or datetime.now(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def unix_ms() -> int:
    """Return the wall clock in milliseconds since 1970."""
    return time_ns() // 1_000_000


def unix_ns() -> int:
    """Return the wall clock in nanoseconds since 1970."""
    return time_ns()
