"""Text for a terminal: untrusted strings made harmless, times, sizes, and the line of a decision.

Rules of this file: whatever came from the child, the network or a log goes through `clean` before
it is printed, so that no escape sequence, line break or text direction of theirs reaches the
terminal; what was replaced stays visible. Colour is in style.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Protocol

from nono_trio.core.log.notices import is_about_log
from nono_trio.core.log.shown_text import clean as clean
from nono_trio.core.log.shown_text import command_text as command_text
from nono_trio.core.log.shown_text import counted as counted
from nono_trio.core.log.shown_text import detail_parts
from nono_trio.core.log.shown_text import duration_text as duration_text
from nono_trio.core.log.shown_text import shorten as shorten
from nono_trio.core.log.shown_text import size_text as size_text
from nono_trio.core.log.shown_text import target_text as target_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.policy.allow_entry import DeniedHost
    from nono_trio.core.policy.attempts import AttemptTally

# A request path may be 8 KiB long; a line of that length is not read by anybody.
# The end of a run mentions this many attempts without a record of their own, or more. Fewer are
# everyday: a name is looked up twice and has two addresses.
FLOOD = 20
MAX_DETAIL = 160

MAX_PORTS = 8  # of one host in one line: who tries more of them scans
DEFAULT_WIDTH = 100  # in a pipe, where there is no terminal to ask
MIN_LAST = 20  # of a table's last column (a command line), however narrow the terminal is


class Numbers(Protocol):
    """The attempts of a session."""

    @property
    def allowed(self) -> int:
        """Those that were allowed and went out."""
        ...

    @property
    def denied(self) -> int:
        """Those that the policy refused."""
        ...

    @property
    def failed(self) -> int:
        """Those that were allowed and came to nothing."""
        ...


def decision_line(event: NetworkEvent) -> str:
    """One network decision for a person, without its newline; the time is local."""
    time, decision, rest = decision_cells(event)
    return f"{time} {decision:<{6 if is_about_log(event) else 5}} {rest}"


def decision_cells(event: NetworkEvent) -> tuple[str, str, str]:
    """The parts of such a line: time, decision, the rest."""
    time = clock_time(event.timestamp_unix_ms)
    if is_about_log(event):
        return time, "log", _detail(event)
    parts = [f"{event.mode:<7}", target_text(event.target, event.port), _detail(event)]
    return time, event.decision, "  ".join(part for part in parts if part)


def denied_text(host: DeniedHost) -> str:
    """`host:80,443`, or that it was only looked up; of more than MAX_PORTS ports the lowest."""
    name = target_text(host.target, None)
    if not host.ports:
        return f"{name}, only looked up"
    ports = sorted(port for port in host.ports if port is not None)
    if not ports or not host.target:
        return name
    more = ",..." if len(ports) > MAX_PORTS else ""
    return f"{name}:{','.join(map(str, ports[:MAX_PORTS]))}{more}"


def numbers_text(numbers: Numbers) -> str:
    """`2 denied, 1 failed, 3 allowed`: the three numbers that every command shows."""
    return f"{numbers.denied:,} denied, {numbers.failed:,} failed, {numbers.allowed:,} allowed"


def flood_text(repeats: int) -> str:
    """The sentence about attempts that came too fast for a record each."""
    return f"{repeats:,} attempts more came too fast for a record of their own"


def all_numbers_text(attempts: AttemptTally) -> str:
    """As `numbers_text`, with what the three numbers leave out."""
    left_out = [
        f"{count:,} {what}"
        for count, what in (
            (attempts.repeats, "repeats of denials"),
            (len(attempts.without_token), "without the proxy's password"),
            (attempts.loopback, "refused at loopback"),
        )
        if count
    ]
    not_counted = f" (not counted: {', '.join(left_out)})" if left_out else ""
    return f"{numbers_text(attempts)}{not_counted}"


def clock_time(unix_ms: int) -> str:
    """Local time of day with milliseconds and its zone; the bare number for a time past the
    calendar."""
    time = time_of(unix_ms)
    return f"{unix_ms} ms" if time is None else time.timetz().isoformat(timespec="milliseconds")


def moment_text(unix_ms: int | None) -> str:
    """Local date and time with milliseconds and offset; the bare number past the calendar."""
    if unix_ms is None:
        return "(no time)".ljust(len("2026-07-02 12:03:04.123+00:00"))
    time = time_of(unix_ms)
    return f"{unix_ms} ms" if time is None else time.isoformat(sep=" ", timespec="milliseconds")


def utc_text(unix_ms: int | None) -> str | None:
    """Date and time in UTC, for --json; None for a time that has no such form."""
    time = None if unix_ms is None else time_of(unix_ms, UTC)
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(unix_ms: int, zone: tzinfo | None = None) -> datetime | None:
    """The time in ms since 1970, in a zone or else local; None past the calendar."""
    try:
        time = datetime.fromtimestamp(unix_ms / 1000, UTC)
        return time.astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return None


def local_time(time: datetime) -> str:
    """Date, time and offset to the second, in local time; in its own zone near a calendar's end."""
    with suppress(ValueError, OverflowError, OSError):
        time = time.astimezone()
    return time.isoformat(sep=" ", timespec="seconds")


def ago(time: datetime, now: datetime) -> str:
    """How long ago, as people say it; the date once it is over a month."""
    seconds = int((now - time).total_seconds())
    if seconds < 60:
        return "just now"
    for unit, length, limit in (("m", 60, 3600), ("h", 3600, 86_400), ("d", 86_400, 30 * 86_400)):
        if seconds < limit:
            return f"{seconds // length}{unit} ago"
    return local_time(time)[: len("2026-07-02")]


def table_lines(table: Sequence[Sequence[str]], right: Container[int] = ()) -> Iterator[str]:
    """Rows of cells in columns; `right` are those of numbers, the last gets what width is left."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    left = max(MIN_LAST, _terminal_width() - sum(widths) - 2 * len(widths))
    for row in table:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, shorten(row[-1], left)]).rstrip()


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return DEFAULT_WIDTH


def _detail(event: NetworkEvent) -> str:
    return "  ".join(shorten(clean(part), MAX_DETAIL) for part in detail_parts(event))
