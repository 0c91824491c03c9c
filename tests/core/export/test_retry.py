from datetime import UTC, datetime

import pytest

from nono_trio.core.export.retry import (
    MOST_ASKED_SECONDS,
    MOST_SECONDS,
    Backoff,
    parse_retry_after,
)

NOW = datetime(2026, 7, 2, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Thu, 02 Jul 2026 12:00:30 GMT", 30.0),
        ("Thu, 02 Jul 2026 11:00:00 GMT", 0.0),
        ("9" * 400, MOST_ASKED_SECONDS),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Thu, 99 Jul 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text, seconds):
    assert parse_retry_after(text, NOW) == seconds


def test_waits_double_up_to_a_bound_and_begin_anew():
    longest = Backoff(lambda: 1.0)
    waits = [longest.next_seconds() for _ in range(9)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MOST_SECONDS, MOST_SECONDS, MOST_SECONDS]
    longest.reset()
    assert longest.next_seconds() == 1.0
    for _ in range(2000):
        longest.next_seconds()
    assert Backoff(lambda: 0.0).next_seconds() == 0.5


def test_what_the_receiver_asks_for_is_waited_but_not_for_ever():
    backoff = Backoff(lambda: 0.0)
    assert backoff.next_seconds(30.0) == 30.0
    assert backoff.next_seconds(1e9) == MOST_ASKED_SECONDS
