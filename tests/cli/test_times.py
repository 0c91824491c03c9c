"""Times that a person types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nono_trio.cli.times import MAX_AGE, parse_age, parse_since, parse_until
from nono_trio.errors import UsageError


def test_days_are_whole_days():
    begin, end = parse_since("2026-07-02"), parse_until("2026-07-02")
    assert end - begin == timedelta(days=1) - timedelta(microseconds=1)
    moment = "2026-07-02T12:00:00+02:00"
    assert parse_since(moment) == parse_until(moment) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("0m", timedelta()),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("999999999d", MAX_AGE),
    ],
)
def test_an_age_counts_back_from_now(text, age):
    assert parse_age(text, "--older-than") == age
    for parse in (parse_since, parse_until):
        before = datetime.now(UTC)
        moment = parse(text)
        assert before - age <= moment <= datetime.now(UTC) - age


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7w", "-7d", "7 d", "7D", "7d\n", "\u0667d", "1e3d"]
)
def test_what_is_no_age(text):
    with pytest.raises(UsageError, match="--older-than: expected an age, got "):
        parse_age(text, "--older-than")
    if text != "7":
        with pytest.raises(UsageError, match="--since: expected a day, a time or an age, got"):
            parse_since(text)
