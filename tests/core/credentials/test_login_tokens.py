"""The tokens of a login: captured from answers, swapped into requests to the token endpoint."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from urllib.parse import parse_qs, quote

import pytest

from nono_trio.core.credentials.login_tokens import (
    MAX_TOKENS,
    LoginToken,
    LoginTokens,
    TokenQuestion,
)
from nono_trio.core.credentials.token_answer import TOKEN_FIELDS, BadAnswer
from tests.core.credentials.test_shape import jwt

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
NOTHING = TokenQuestion(b"")
ACCESS = "gho_abcDEF0123456789abcDEF0123456789abcd"
REFRESH = "1//0eXampleRefresh-token_0123456789-0123456789"


def made(*kept: LoginToken) -> LoginTokens:
    return LoginTokens(TOKEN_FIELDS, random.Random(3).randrange, kept)


def answered(login: LoginTokens, question: TokenQuestion = NOTHING, **fields: object):
    body = json.dumps(fields).encode()
    return json.loads(login.answered(question, JSON, body, is_success=True))


def asked(login: LoginTokens, **fields: str) -> TokenQuestion:
    return login.question(JSON, json.dumps(fields).encode())


def test_a_login_a_refresh_and_a_second_session():
    login = made()
    first = answered(login, access_token=ACCESS, refresh_token=REFRESH, expires_in=60)
    assert first["expires_in"] == 60
    assert not {ACCESS, REFRESH} & {*first.values()}
    question = asked(login, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert json.loads(question.body)["refresh_token"] == REFRESH
    assert [one.name for one in question.used] == ["refresh_token"]
    second = answered(login, question, access_token=f"{ACCESS}2", refresh_token=f"{REFRESH}2")
    known = {one.stand_in.decode(): one.token.decode() for one in login.tokens}
    assert known == {
        first["access_token"]: ACCESS,
        second["access_token"]: f"{ACCESS}2",
        second["refresh_token"]: f"{REFRESH}2",
    }
    again = made(*login.tokens)
    question = asked(again, refresh_token=second["refresh_token"])
    assert json.loads(question.body)["refresh_token"] == f"{REFRESH}2"


def test_a_token_that_comes_again_keeps_its_stand_in():
    login = made()
    first = answered(login, access_token=ACCESS, refresh_token=REFRESH)
    question = asked(login, refresh_token=first["refresh_token"])
    second = answered(login, question, access_token=f"{ACCESS}2", refresh_token=REFRESH)
    assert first["refresh_token"] == second["refresh_token"]
    assert len(login.tokens) == 3


def test_a_new_jwt_has_the_new_claims():
    login = made()
    for end in (1_800_000_000, 1_900_000_000):
        token = jwt({"exp": end}).decode()
        given = answered(login, access_token=token)["access_token"]
        assert given.rpartition(".")[0] == token.rpartition(".")[0]
        assert given != token


def test_a_form_is_swapped_too_and_others_fields_keep_the_stand_in():
    login = made(LoginToken("refresh_token", REFRESH.encode(), b"stand-in-0123456789"))
    body = b"refreshToken=stand-in-0123456789&scope=x+stand-in-0123456789"
    assert login.question(FORM, body) == TokenQuestion(body)
    form = login.question(FORM, b"a=b&refresh_token=stand-in-0123456789").body
    assert parse_qs(form.decode()) == {"a": ["b"], "refresh_token": [REFRESH]}
    for content_type, other in ((b"text/plain", body), (None, b"x"), (JSON, b"{"), (JSON, b"")):
        assert login.question(content_type, other).body == other


@pytest.mark.parametrize(
    "echo",
    [REFRESH, f"no {REFRESH}", quote(REFRESH, safe=""), b64encode(REFRESH.encode()).decode()],
)
@pytest.mark.parametrize("is_success", [True, False])
def test_an_answer_that_repeats_a_token_does_not_go_on(echo, is_success):
    login = made(LoginToken("refresh_token", REFRESH.encode(), b"stand-in-0123456789"))
    question = asked(login, refresh_token="stand-in-0123456789")
    body = json.dumps({"error": "invalid_scope", "error_description": echo}).encode()
    for content_type in (JSON, b"text/html"):
        with pytest.raises(BadAnswer) as refused:
            login.answered(question, content_type, body, is_success=is_success)
        assert REFRESH not in refused.value.reason
    with pytest.raises(BadAnswer):
        login.with_head(question, [(b"X-Debug", echo.encode())])
    assert len(login.tokens) == 1


def test_an_error_page_goes_on_and_a_success_that_is_no_answer_does_not():
    login = made()
    assert login.answered(NOTHING, b"text/html", b"<p>", is_success=False) == b"<p>"
    assert login.answered(NOTHING, None, b"", is_success=True) == b""
    with pytest.raises(BadAnswer):
        login.answered(NOTHING, b"text/html", b"<p>", is_success=True)
    with pytest.raises(BadAnswer):
        login.answered(NOTHING, JSON, b'{"access_token":"short"}', is_success=True)
    for said in (b"bad refresh_token: it is gone", b"the access_token=... is none", b"{}, {}"):
        assert login.answered(NOTHING, b"text/plain", said, is_success=False) == said


def test_the_newest_tokens_are_kept_and_none_is_shown():
    login = made()
    for number in range(MAX_TOKENS + 5):
        answered(login, access_token=f"{ACCESS}{number}")
    assert len(login.tokens) == MAX_TOKENS
    assert login.tokens[-1].token == f"{ACCESS}{MAX_TOKENS + 4}".encode()
    assert ACCESS not in repr(login.tokens) + repr(TokenQuestion(ACCESS.encode()))
