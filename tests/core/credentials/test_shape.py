"""A stand-in has the shape of its secret and no other part of it."""

from __future__ import annotations

import json
import random
import re
import zlib
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.shape import (
    MIN_LENGTH,
    MIN_SECRET,
    PREFIXES,
    UnfitSecret,
    stand_in_like,
)

GITHUB = b"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"  # a known example with a right checksum
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def draw_from(seed: int):
    return random.Random(seed).randrange


def made(secret: bytes, seed: int = 1, **options: bool) -> bytes:
    return stand_in_like(secret, draw_from(seed), **options)


def classes(text: bytes) -> bytes:
    return re.sub(rb"[a-z]", b"a", re.sub(rb"[A-Z]", b"A", re.sub(rb"[0-9]", b"0", text)))


def jwt(claims: object, signature: bytes = b"s" * 32) -> bytes:
    parts = (b'{"alg":"HS256","typ":"JWT"}', json.dumps(claims).encode(), signature)
    return b".".join(urlsafe_b64encode(one).rstrip(b"=") for one in parts)


@given(st.binary(min_size=MIN_SECRET, max_size=200), st.integers(0, 2**32))
def test_a_stand_in_is_long_and_has_nothing_of_the_secret(secret, seed):
    stand_in = made(secret, seed)
    assert secret not in stand_in
    assert len(stand_in) >= MIN_LENGTH
    assert re.fullmatch(rb"[!-~]+", stand_in)
    assert not set(b'%\\"') & set(stand_in)
    assert stand_in != made(secret, seed + 1)


@given(st.sampled_from(PREFIXES), st.from_regex(rb"[A-Za-z0-9_.-]{40,90}", fullmatch=True))
def test_prefix_length_and_classes_of_a_long_secret_stay(prefix, rest):
    secret = prefix + b"a1" + rest
    stand_in = made(secret)
    assert stand_in.startswith(prefix)
    if len(stand_in) == len(secret):
        assert classes(stand_in) == classes(secret)
    else:  # mostly punctuation
        assert len(re.findall(rb"[A-Za-z0-9]", rest)) < 20


@pytest.mark.parametrize(
    ("secret", "shape"),
    [
        (b"sk-ant-api03-" + b"aB3-" * 23 + b"xAA", rb"sk-ant-api03-([a-z][A-Z]\d-){23}[a-z]AA"),
        (b"sk-" + b"aB3d" * 5 + b"T3BlbkFJ" + b"aB3d" * 5, rb"sk-\w{20}T3BlbkFJ\w{20}"),
        (b"sk-or-v1-" + b"0f" * 32, rb"sk-or-v1-[0-9a-f]{64}"),
        (b"0F" * 20, rb"[0-9A-F]{40}"),
        (b"12" * 20, rb"\d{40}"),
        (b"123e4567-e89b-42d3-a456-426614174000", rb"[\da-f-]{14}4[\da-f-]{4}a[\da-f]{3}-\w{12}"),
        (b"AKIAIOSFODNN7EXAMPLE", rb"AKIA[A-Z2-7]{16}"),
        (b"AIza" + b"Sy_d" * 9, rb"AIza([A-Z][a-z]_[a-z]){9}"),
        (b"acme_0123456789abcdef01234567", rb"acme_[0-9a-f]{24}"),
        (b"github_pat_" + b"1A" * 11 + b"_" + b"b2" * 29 + b"c", rb"github_pat_\w{22}_\w{59}"),
    ],
)  # fmt: skip
def test_well_known_keys_keep_what_tools_check(secret, shape):
    assert re.fullmatch(shape, made(secret)), made(secret)
    assert len(made(secret)) == len(secret)


def test_a_checksum_is_right_if_the_one_of_the_secret_is():
    for prefix in (b"ghp_", b"ghs_", b"npm_"):
        stand_in = made(prefix + GITHUB[4:]).decode()
        body, given_sum = stand_in[4:-6], stand_in[-6:]
        number = 0
        for one in given_sum:
            number = number * 62 + BASE62.index(one)
        assert number == zlib.crc32(body.encode())
        assert len(stand_in) == 40
    wrong = GITHUB[:-1] + b"8"
    assert classes(made(wrong)) == classes(wrong)


def test_base64_stays_decodable_by_strict_decoders():
    secret = b"YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo="
    for seed in range(64):
        stand_in = made(secret, seed)
        assert len(b64decode(stand_in, validate=True)) == 26
        assert stand_in[-2:] == secret[-2:]


def test_a_jwt_keeps_header_times_and_names():
    claims = {
        "iss": "https://login.example.com/", "sub": "al\u00efce\n", "exp": 1893456000, "iat": 1,
        "nbf": 2.5, "admin": True, "roles": ["Reader"], "nested": {"mail": "a@example.com"},
    }  # fmt: skip
    secret = jwt(claims)
    header, payload, signature = made(secret).split(b".")
    assert header == secret.split(b".")[0]
    read = json.loads(urlsafe_b64decode(payload + b"=="))
    assert [*read] == [*claims]
    assert (read["exp"], read["iat"], read["nbf"], read["admin"]) == (1893456000, 1, 2.5, True)
    assert read["nested"]["mail"] != "a@example.com"
    assert re.fullmatch(r"[a-z]{2}[\u00ef][a-z]{2}\n", read["sub"])
    assert re.fullmatch(r"[a-z]{5}://[a-z]+\.[a-z]+\.[a-z]{3}/", read["iss"])
    assert len(urlsafe_b64decode(signature + b"=")) == 32
    assert signature != secret.split(b".")[2]


def test_a_client_that_reads_its_claims_can_keep_them():
    secret = jwt({"account": "a-1"})
    stand_in = made(secret, keeps_claims=True)
    assert stand_in.split(b".")[:2] == secret.split(b".")[:2]
    assert stand_in.split(b".")[2] != secret.split(b".")[2]


@pytest.mark.parametrize("secret", [b"hunter2!", b"correct-horse", b"1234567890", b"!" * 40])
def test_a_secret_with_little_randomness_gets_a_longer_stand_in(secret):
    stand_in = made(secret)
    assert len(stand_in) >= MIN_LENGTH
    assert secret not in stand_in
    assert len(set(re.findall(rb"[A-Za-z0-9]", stand_in))) > 5


def test_a_passphrase_keeps_no_word():
    secret = b"tiger-battery-staple-horse-window-candle-river"
    assert not {*secret.split(b"-")} & {*made(secret).split(b"-")}


@pytest.mark.parametrize("secret", [b"", b"1234567", b"a" * 65537])
def test_a_secret_that_fits_no_stand_in_is_refused_without_showing_it(secret):
    with pytest.raises(UnfitSecret) as caught:
        made(secret)
    assert not secret or secret.decode() not in caught.value.reason
