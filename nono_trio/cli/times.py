"""Times that a person types: a day, a time of a day, or an age such as `7d`.

Days are local days, as the times on the screen are local; a time may be given with its offset. An
age counts back from now.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final

from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

AGE_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
# No log is older than a lifetime, and a time must stay within the calendar.
MAX_AGE: Final = timedelta(days=36_500)
FORMS_OF_TIME: Final = "for example 2026-07-02, 2026-07-02T12:00:00+02:00, 30m, 12h or 7d"
_AGE: Final = late_pattern(r"([0-9]{1,9})([mhd])")


def parse_since(text: str, flag: str = "--since") -> datetime:
    """The beginning of a day, or a time; raises UsageError that names the flag."""
    return _parse_day(text, flag)[0]


def parse_until(text: str) -> datetime:
    """The end of a day, or a time; raises UsageError."""
    moment, is_day = _parse_day(text, "--until")
    return moment + timedelta(days=1) - timedelta(microseconds=1) if is_day else moment


def parse_age(text: str, flag: str) -> timedelta:
    """An age: `30m`, `12h`, `7d`; raises UsageError that names the flag."""
    age = _age(text)
    if age is None:
        raise UsageError(
            f"{flag}: expected an age, got {text!r}", hint="for example 30m, 12h or 7d"
        )
    return age


def today() -> datetime:
    """Local midnight."""
    return datetime.combine(datetime.now().astimezone().date(), time()).astimezone()


def _parse_day(text: str, flag: str) -> tuple[datetime, bool]:
    age = _age(text)
    if age is not None:
        return datetime.now(UTC) - age, False
    try:
        moment = datetime.fromisoformat(text).astimezone()
        moment + timedelta(days=1)  # the end of that day is a time as well
    except (ValueError, OverflowError):
        raise UsageError(
            f"{flag}: expected a day, a time or an age, got {text!r}", hint=FORMS_OF_TIME
        ) from None
    return moment, len(text) <= len("2026-07-02")


def _age(text: str) -> timedelta | None:
    match = _AGE.fullmatch(text)
    if match is None or not text.isascii():
        return None
    return min(MAX_AGE, timedelta(**{AGE_UNITS[match[2]]: int(match[1])}))
