"""Patterns of a search, against a slow reading of the same rules."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.audit.search.patterns import (
    PathGlob,
    ProgramGlob,
    TextGlob,
    folded,
    parse_host_glob,
)
from nono_trio.errors import UsageError

LETTERS = "ab.*?/K\u212a\u0130é\n"  # a Kelvin sign and a dotted I, whose lower case is ASCII
patterns = st.text(LETTERS, max_size=8)
texts = st.text(LETTERS.replace("*", "").replace("?", "") + "x", max_size=12)


def slowly(pattern, text):
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(one, re.escape(one)) for one in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


@given(patterns, texts)
def test_a_pattern_fits_what_its_wildcards_say(pattern, text):
    assert TextGlob(pattern).fits(text) == slowly(pattern, text)


@given(st.lists(st.sampled_from(["aa", "ab.", "b", "*", "?", "é", '"', "\\", "K"]), max_size=5))
def test_a_literal_stands_in_the_json_of_what_fits(pieces):
    glob = TextGlob("".join(pieces))
    text = "".join("xy" if piece == "*" else "z" if piece == "?" else piece for piece in pieces)
    assert glob.fits(text)
    if glob.literal is not None:
        for ascii_only in (True, False):
            raw = json.dumps(text, ensure_ascii=ascii_only).encode().lower()
            assert glob.literal in raw


def test_many_stars_take_no_time_that_grows_with_them():
    assert not TextGlob("*a" * 30 + "*b").fits("a" * 20_000)


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("api.example.com", "api.example.com", 443),
        ("API.Example.COM", "api.example.com", 443),
        ("api.example.com.", "api.example.com", 80),
        ("api.example.com", "API.example.com.", 80),
        ("api.example.com:443", "api.example.com", 443),
        ("api.example.com:*", "api.example.com", None),
        ("*.example.com", "a.b.example.com", 443),
        ("*example.com", "example.com", 443),
        ("*:8443", "any.test", 8443),
        ("ap?.example.com", "api.example.com", 443),
        ("2001:db8::1", "2001:db8::1", 443),
        ("2001:0DB8:0::1", "2001:db8::1", 443),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:db8::1]", "2001:db8::1", 80),
        ("2001:db8:*", "2001:db8::7", 80),
        ("192.0.2.*", "192.0.2.9", 80),
        ("bücher.example", "xn--bcher-kva.example", 443),
        ("*.bücher.example:443", "www.xn--bcher-kva.example", 443),
    ],
)
def test_a_host_is_found_however_it_is_written(pattern, host, port):
    assert parse_host_glob(pattern).fits(host, port)


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("*.example.com", "example.com", 443),
        ("example.com", "example.com.evil.test", 443),
        ("example.com", "notexample.com", 443),
        ("example.com:80", "example.com", 443),
        ("example.com:80", "example.com", None),
        ("k.test", "\u212a.test", 443),
        ("[ab].test", "a.test", 443),
    ],
)
def test_what_a_host_pattern_does_not_mean(pattern, host, port):
    assert not parse_host_glob(pattern).fits(host, port)


@pytest.mark.parametrize(
    ("pattern", "message", "hint"),
    [
        ("https://a.test/x", "expected a host, got a URL", "write the host: --host a.test; the"),
        ("me@a.test", "expected a host, got a user and a host", "write the host: --host a.test"),
        ("10.0.0.0/8", "expected a host, got a range", "--host 10.0.0.0"),
        ("a.test:x", "expected a port from 0 to 65535", "for example api.example.com"),
        ("a.test:70000", "expected a port from 0 to 65535", "for example"),
        (":443", "expected a host", "--host '*:443'"),
        ("*ü.test", "expected a label without wildcards", "whole labels"),
    ],
)
def test_what_is_no_host(pattern, message, hint):
    with pytest.raises(UsageError, match=f"--host {re.escape(ascii(pattern))}: {message}") as error:
        parse_host_glob(pattern)
    assert hint in str(error.value.hint)


@given(st.text(max_size=6), st.text("abK\u212a.", max_size=6))
def test_folding_is_that_of_raw_bytes(before, text):
    assert folded(text).encode() == text.encode().lower()
    assert folded(before + text) == folded(before) + folded(text)


@pytest.mark.parametrize(
    ("pattern", "path", "fits", "fits_missing"),
    [
        ("/home/me/.ssh", "/home/me/.ssh", True, True),
        ("/home/me/.ssh", "/home/me/.ssh/id_a", True, True),
        ("/home/me/.ssh/", "/home/me/.ssh/id_a", True, True),
        ("/home/me/.ssh", "/home/me/.sshx", False, False),
        ("/home/me/.ssh/id_a", "/home/me/.ssh", False, True),
        ("/home/me/.ssh/*", "/home/me/.ssh", False, True),
        ("/home/me/.ssh/*", "/home/me/.s", False, False),
        ("/etc/*", "/etc/a/b", True, True),
        ("*.env", "/srv/site/.env", True, True),
        ("*.env", "/srv", False, False),
        ("/", "/any", True, True),
    ],
)
def test_paths_below_and_above(pattern, path, fits, fits_missing):
    """The record of a file ends with the first name that is missing."""
    glob = PathGlob(TextGlob(pattern))
    assert (glob.fits(path), glob.fits_missing(path)) == (fits, fits_missing)


@pytest.mark.parametrize("pattern", ["/v1/messages", "/v1/*", "/v1/messages?beta=*", "*=*"])
def test_the_path_of_a_request_has_its_query_or_not(pattern):
    assert PathGlob(TextGlob(pattern)).fits_request("/v1/messages?beta=[REDACTED]")


@pytest.mark.parametrize(
    "pattern", ["python3*", "/usr/bin/*", "agent.py", "/srv/agent.py", "python3.11 agent.py", "py"]
)
def test_a_program_by_name_path_and_script(pattern):
    fits = ProgramGlob(TextGlob(pattern)).fits
    assert fits("/usr/bin/python3.11", ["py", "/srv/agent.py"])
    assert not fits(None, None)
    assert not fits("/usr/local/bin/sh", ["sh"])
