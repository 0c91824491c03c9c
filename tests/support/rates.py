"""How many records of repeated denials a test may see, however long a busy machine took."""

from __future__ import annotations

from typing import Any

from nono_trio.proxy.access.denial_throttle import MAX_RECORDS_A_SECOND


def most_records(decisions: list[dict[str, Any]]) -> int:
    """The most records that the throttle makes between the first and the last of `decisions`, and
    the two counts at the end."""
    times = [one["timestamp_unix_ms"] for one in decisions]
    seconds = (max(times) - min(times)) // 1000 + 1
    return MAX_RECORDS_A_SECOND * (seconds + 1) + 2
