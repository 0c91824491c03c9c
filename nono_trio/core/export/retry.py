"""How long to wait before a receiver is asked again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_SECONDS: Final = 1.0
MOST_SECONDS: Final = 60.0
# A receiver may ask for a longer pause, but not for one that looks like the end.
MOST_ASKED_SECONDS: Final = 600.0
_DIGITS: Final = 9


class Backoff:
    """Doubles the wait after each failure, with jitter, so that many shippers spread out.

    `random` returns a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float], first: float = FIRST_SECONDS) -> None:
        self._random = random
        self._first = first
        self.failures = 0

    def next_seconds(self, asked: float | None = None) -> float:
        """Count a failure and return the wait; `asked` is what the receiver asked for at least."""
        most = min(self._first * 2.0 ** min(self.failures, 30), MOST_SECONDS)
        self.failures += 1
        wait = most * (0.5 + self._random() / 2)
        return max(wait, min(asked or 0.0, MOST_ASKED_SECONDS))

    def reset(self) -> None:
        """Begin anew: the receiver has answered."""
        self.failures = 0


def parse_retry_after(text: str, now: datetime | None = None) -> float | None:
    """Return the seconds in a Retry-After field: a number or a date; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _DIGITS else MOST_ASKED_SECONDS
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None
