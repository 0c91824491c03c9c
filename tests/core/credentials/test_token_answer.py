"""The answer of a token endpoint: tokens are replaced, and nothing else changes."""

from __future__ import annotations

import json
import random
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.shape import stand_in_like
from nono_trio.core.credentials.token_answer import (
    MAX_ANSWER,
    MAX_DEPTH,
    BadAnswer,
    TokenAnswer,
    read_token_answer,
)
from tests.core.credentials.test_shape import jwt

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded; charset=utf-8"
ACCESS = b"sk-ant-oat01-abcDEF0123456789abcDEF0123456789"
REFRESH = b"1//0eXampleRefresh-token_0123456789"


def stand_ins_of(answer: TokenAnswer) -> dict[bytes, bytes]:
    draw = random.Random(7).randrange
    return {one: stand_in_like(one, draw, keeps_claims=True) for _, one in answer.values}


def replaced(data: bytes, content_type: bytes | None = JSON) -> bytes:
    answer = read_token_answer(content_type, data)
    return answer.with_stand_ins(stand_ins_of(answer))


def test_json_of_an_authorization_server_keeps_all_but_its_tokens():
    data = (
        b'{ "token_type":"Bearer",\n  "access_token" : "%s", "expires_in": 28800,'
        b' "refresh_token":"%s","scope":"a b", "account": {"uuid": "1-2", "e": 1.50} }\n'
    ) % (ACCESS, REFRESH)
    answer = read_token_answer(b"Application/JSON; charset=utf-8", data)
    assert answer.tokens == {"access_token": ACCESS, "refresh_token": REFRESH}
    assert answer.lifetime == 28800
    stand_ins = stand_ins_of(answer)
    made = answer.with_stand_ins(stand_ins)
    assert made == data.replace(ACCESS, stand_ins[ACCESS]).replace(REFRESH, stand_ins[REFRESH])
    assert ACCESS not in made
    assert REFRESH not in made


def test_a_form_as_github_sends_it():
    pairs = {
        "access_token": "gho_+/=0123456789abcdef",
        "scope": "repo,gist",
        "token_type": "bearer",
    }
    made = replaced(urlencode(pairs).encode(), FORM)
    found = parse_qs(made.decode(), strict_parsing=True)
    assert found["access_token"][0].startswith("gho_")
    assert found["access_token"] != [pairs["access_token"]]
    assert made.endswith(b"&scope=repo%2Cgist&token_type=bearer")


def test_claims_of_a_jwt_stay_readable_and_its_signature_changes():
    token = jwt({"sub": "alice", "exp": 2_000_000_000, "account": "a-1"})
    made = json.loads(replaced(json.dumps({"id_token": token.decode()}).encode()))["id_token"]
    assert made.rpartition(".")[0] == token.decode().rpartition(".")[0]
    assert made != token.decode()


@pytest.mark.parametrize(
    "name", ["access_token", "accessToken", "Access_Token", "access-token", "access\\u005ftoken"]
)
def test_spellings_of_a_field_are_found_at_any_depth(name):
    data = b'{"ok":true,"authed_user":[{"%s":"%s"}]}' % (name.encode(), ACCESS)
    assert ACCESS not in replaced(data)


def test_a_token_with_escapes_or_under_another_name_is_replaced_too():
    escaped = b"\\u0073" + ACCESS[1:].replace(b"-", b"\\u002d")
    made = replaced(b'{"access_token":"%s","same":"%s","list":["%s"]}' % (escaped, ACCESS, escaped))
    found = json.loads(made)
    assert found["access_token"] == found["same"] == found["list"][0] != ACCESS.decode()


@pytest.mark.parametrize(
    ("data", "code", "lifetime"),
    [
        (b'{"error":"slow_down","error_description":"wait"}', "slow_down", None),
        (b'{"error":"Not a \\u001b code"}', None, None),
        (b'{"access_token":null,"refresh_token":"","expires_in":"3600"}', None, 3600),
        (b'{"expires_in":-1}', None, None),
        (b'{"expires_in":true}', None, None),
        (b'{"expires_in":1e300}', None, None),
        (b'{"expires_in":599.9}', None, 599),
    ],
)  # fmt: skip
def test_an_answer_without_a_token_goes_on_as_it_is(data, code, lifetime):
    answer = read_token_answer(JSON, data)
    assert not answer.tokens
    assert (answer.error, answer.lifetime) == (code, lifetime)
    assert answer.with_stand_ins({}) == data


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (JSON, b'{"access_token":"%s","access_token":"x"}' % ACCESS),
        (JSON, b'{"access_token":"x","accessToken":"%s"}' % ACCESS),
        (JSON, b'{"access_token":"x","access\\u005ftoken":"%s"}' % ACCESS),
        (JSON, b'{"scope":"a","scope":"b"}'),
        (JSON, b'{"access_token":12345678901234567890}'),
        (JSON, b'{"access_token":{"value":"%s"}}' % ACCESS),
        (JSON, b'{"access_token":["%s"]}' % ACCESS),
        (JSON, b'{"access_token":"%s"} x' % ACCESS),
        (JSON, b'{"access_token":"%s"' % ACCESS),
        (JSON, b'["%s"]' % ACCESS),
        (JSON, b'\xef\xbb\xbf{"access_token":"%s"}' % ACCESS),
        (JSON, b'{"access_token":"\xff%s"}' % ACCESS),
        (JSON, '{"access_token":"abcdefgh"}'.encode("utf-16")),
        (JSON, b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"),
        (JSON, b'{"a":' * 100_000),
        (JSON, b'{"a":"' + b"x" * MAX_ANSWER + b'"}'),
        (JSON, b'{"access_token":"%s","header":"Bearer %s"}' % (ACCESS, ACCESS)),
        (JSON, b'{"access_token":"%s","u":"Bearer \\u0073%s"}' % (ACCESS, ACCESS[1:])),
        (JSON, b'{"access_token":"%s","%s":1}' % (ACCESS, ACCESS)),
        (JSON, b'{"a":[' + b",".join([b'{"id_token":"%s"}' % ACCESS] * 17) + b"]}"),
        (FORM, b"access_token=%s&access_token=x" % ACCESS),
        (FORM, b"access_token=%s&access%%5ftoken=x" % ACCESS),
        (FORM, b"access_token=%s&header=Bearer+%s" % (ACCESS, ACCESS)),
        (FORM, b"access_token=%ff"),
        (b"text/html", b"<html>"),
        (b"text/plain", b"access_token=%s" % ACCESS),
        (None, b"access_token=%s" % ACCESS),
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_refused(content_type, data):
    with pytest.raises(BadAnswer) as refused:
        replaced(data, content_type)
    assert ACCESS.decode() not in refused.value.reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(ACCESS.decode()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4), st.booleans())
def test_any_json_has_the_same_meaning_but_for_its_tokens(members, ascii_only):
    members["access_token"] = ACCESS.decode()
    data = json.dumps(members, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        answer = read_token_answer(JSON, data)
    except BadAnswer:
        assert b"\\ud" in data or b"\xed" in data  # a half of a pair of surrogates
        return
    new = stand_ins_of(answer)[ACCESS]
    made = json.loads(answer.with_stand_ins({ACCESS: new}))
    assert made == json.loads(json.dumps(members).replace(ACCESS.decode(), new.decode()))
    assert repr(answer).count(ACCESS.decode()) == 0
