"""The answer of a credential_process is read strictly, and its keys are shown nowhere."""

from __future__ import annotations

import json
import secrets

import pytest

from nono_trio.core.credentials.aws_keys import (
    AwsKeys,
    BadAwsKeys,
    make_keys,
    parse_keys,
    stand_ins_like,
)

KEY_ID = "ASIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ=="
ANSWER = {"Version": 1, "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET}


def answer(**more: object) -> bytes:
    return json.dumps(ANSWER | more).encode()


def test_an_answer_with_and_without_an_end():
    found = parse_keys(answer(SessionToken=TOKEN, Expiration="2027-01-15T08:00:00Z", Extra=[1]))
    assert found.keys.texts() == (KEY_ID.encode(), SECRET.encode(), TOKEN.encode())
    assert found.expires == 1_800_000_000
    assert parse_keys(answer(Expiration="2027-01-15T10:00:00+02:00")).expires == 1_800_000_000
    assert parse_keys(answer()).expires is None
    assert parse_keys(answer()).keys.session_token is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        SECRET.encode(),
        answer(Version=2),
        answer(Version="1"),
        answer(AccessKeyId=""),
        answer(AccessKeyId="AKIA/X"),
        answer(SecretAccessKey=SECRET + "\n"),
        answer(SecretAccessKey=None),
        answer(SessionToken=f"{TOKEN} x"),
        answer(SessionToken="tök"),
        answer(Expiration="soon"),
        answer(Expiration="2027-01-15T08:00:00"),
        answer(Expiration=1_800_000_000),
        answer() + b"x",
        answer(Extra="x" * 70_000),
    ],
)
def test_a_bad_answer_is_refused_without_a_word_of_it(data):
    with pytest.raises(BadAwsKeys) as caught:
        parse_keys(data)
    assert SECRET not in caught.value.reason
    assert TOKEN not in caught.value.reason


def test_no_repr_shows_a_key():
    assert repr(make_keys(b"key-id", b"secret", b"token")) == "AwsKeys()"


def test_stand_ins_have_the_shape_of_the_keys():
    real = AwsKeys(KEY_ID.encode(), SECRET.encode(), TOKEN.encode())
    made = stand_ins_like(real, secrets.randbelow)
    assert made.access_key_id.startswith(b"ASIA")
    assert [len(one) for one in made.texts()] == [len(one) for one in real.texts()]
    assert not set(made.texts()) & set(real.texts())
    assert stand_ins_like(AwsKeys(*real.texts()[:2]), secrets.randbelow).session_token is None
