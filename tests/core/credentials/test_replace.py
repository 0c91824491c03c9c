"""Secrets in texts of the user's are replaced in every spelling, and nothing else is changed."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.replace import with_stand_ins

SECRET, STAND_IN = b"s3cr/t+k&y=", b"st4nd-in-of-it"
PAIRS = [(SECRET, STAND_IN)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"key = %s\n", b"key = %s\n"),
        (b"machine a.example login me password %s", b"machine a.example login me password %s"),
        (b"%s%s", b"%s%s"),
    ],
)
def test_each_occurrence_is_replaced(text, expected) -> None:
    count = text.count(b"%s")
    assert with_stand_ins(text % ((SECRET,) * count), PAIRS) == expected % ((STAND_IN,) * count)


def test_it_is_found_in_percent_escapes_and_json() -> None:
    escaped = quote(SECRET, safe="").encode()
    assert with_stand_ins(b"https://a:" + escaped + b"@b/", PAIRS) == b"https://a:st4nd-in-of-it@b/"
    quoted = 'with "quotes"\n and more'
    text = json.dumps({"key": quoted}).encode()
    assert with_stand_ins(text, [(quoted.encode(), STAND_IN)]) == b'{"key": "st4nd-in-of-it"}'


@pytest.mark.parametrize("user", ["u", "us", "use", "user"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_it_is_found_in_the_base64_of_a_user_and_a_password(user, encode) -> None:
    encoded = encode(user.encode() + b":\xff\xfe" + SECRET)
    text = b'{"auths": {"registry.example.com": {"auth": "%s"}}}'
    found = with_stand_ins(text % encoded, PAIRS)
    assert found == text % encode(user.encode() + b":\xff\xfe" + STAND_IN)


def test_the_longer_of_two_secrets_goes_first() -> None:
    pairs = [(b"abcdefgh", b"11111111"), (b"abcdefghijkl", b"222222222222")]
    assert with_stand_ins(b"abcdefgh abcdefghijkl", pairs) == b"11111111 222222222222"


@given(st.binary(max_size=200))
def test_a_text_without_a_secret_stays_as_it_is(text) -> None:
    if SECRET not in text:
        assert with_stand_ins(text, [(b"another secret that is not there", STAND_IN)]) == text


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(min_size=8, max_size=40))
def test_no_secret_is_left(before, after, secret) -> None:
    if secret not in b"ssssssss":
        made = with_stand_ins(before + secret + after, [(secret, b"X")])
        assert secret not in made or secret in b"X" + before + after
