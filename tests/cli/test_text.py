from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import sealed_session as made
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.cli.text import (
    ago,
    clean,
    clock_time,
    command_text,
    counted,
    decision_line,
    shorten,
    size_text,
    target_text,
)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("bücher.example 😀", "bücher.example 😀"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("\u2028\u2029\u0085\u200b\ufeff", "\\u2028\\u2029\\x85\\u200b\\ufeff"),
        ("\u2066\u2069\u061c", "\\u2066\\u2069\\u061c"),
        ("\xa0", "\\xa0"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_shown_as_an_escape(text, cleaned):
    assert clean(text) == cleaned


@given(st.text())
def test_nothing_unprintable_ever_gets_through(text):
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)


def test_the_line_of_a_denied_connect():
    assert decision_line(made.network().event) == (
        "12:03:04.123+00:00 deny  connect  evil.test:443  host evil.test is not on the allowlist"
    )


def test_the_line_of_an_allowed_connect_ends_with_its_target():
    line = decision_line(made.network(decision="allow", target="example.com").event)
    assert line == "12:03:04.123+00:00 allow connect  example.com:443"


def test_the_line_of_a_plain_request():
    event = made.network(
        decision="allow", target="example.com", mode="reverse", method="GET", path="/a", status=200
    ).event
    assert decision_line(event) == (
        "12:03:04.123+00:00 allow reverse  example.com:443  GET /a  status 200"
    )


def test_a_line_without_a_reason_says_the_category():
    event = made.network(reason=None, denial_category="upstream_connect_failed").event
    assert decision_line(event).endswith("  upstream connect failed")


@given(st.text(), st.text(), st.text(), st.integers(0, 2**64))
def test_any_event_is_one_printable_line(target, reason, path, time):
    event = made.network(time, target=target, reason=reason, path=path).event
    line = decision_line(event)
    assert line.isprintable()
    assert len(line) < 1200


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("example.com", 443, "example.com:443"),
        ("::1", 443, "[::1]:443"),
        ("::ffff:1.2.3.4", 80, "[::ffff:1.2.3.4]:80"),
        ("ex\x1bample:443", None, "ex\\x1bample:443"),
        ("example.com", None, "example.com"),
        ("", None, "(malformed request)"),
        ("", 443, "(malformed request)"),
    ],
)
def test_targets(host, port, text):
    assert target_text(host, port) == text


def test_a_time_past_the_calendar_is_a_number():
    assert clock_time(2**64 - 1) == "18446744073709551615 ms"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1m ago"),
        (3599, "59m ago"),
        (3600, "1h ago"),
        (86_400, "1d ago"),
        (29 * 86_400, "29d ago"),
        (31 * 86_400, "2026-06-01"),
    ],
)
def test_how_long_ago(seconds, text):
    now = datetime(2026, 7, 2, 12, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (2 * 10**15, "2000.0 TB"),
    ],
)
def test_sizes(count, text):
    assert size_text(count) == text


def test_small_words():
    assert (counted(1, "record"), counted(0, "record")) == ("1 record", "0 records")
    assert (shorten("abc", 3), shorten("abcd", 3), shorten("a", 0)) == ("abc", "ab…", "…")


COMMANDS = [
    ["sh", "-c", "echo \"a b\" 'c' $HOME `id` \\"],
    ["", "'", '"', 'a"b', "$x", "~", "*", "a;b", "#", "--flag=a b"],
    ["bücher", "a\nb", "\x1b[31mred'\\", "\u202e\u200b\x85", "\U000e0041", "\x01f", "\x7f1"],
    ["undecoded: \udc80\udcff", "\udcffé"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shell_takes_a_command_back_as_it_was(command):
    text = command_text(command)
    assert text.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {text}"],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(argument) for argument in command]


@given(st.lists(st.text(), min_size=1))
def test_a_command_is_always_one_printable_line(command):
    assert command_text(command).isprintable()
