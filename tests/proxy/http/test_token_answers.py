"""Answers of a token URL on their way to the command: held back, changed, refused."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from looked_into import HOST, client_context, looking_into, origin_context, under_tls
from running_proxy import connect

from nono_trio.core.credentials.login import parse_login
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.token_answer import MAX_ANSWER
from nono_trio.proxy.credentials.credentials import Credentials
from nono_trio.session.tokens.captured_logins import SessionLogins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = f"https://{HOST}/oauth/token"
ACCESS = b"gho_abcDEF0123456789abcDEF0123456789abcd"
ODD = (b"access_token[]", b"access+token", b"%20access_token", b"access%E2%80%8Btoken")
REFRESH = b"1//0eXampleRefresh-token_0123456789-0123456789"
BODY = b'{"access_token":"%s","refresh_token":"%s","expires_in":60}' % (ACCESS, REFRESH)
FORM_TYPE = b"application/x-www-form-urlencoded"
FORM = f"Content-Type: {FORM_TYPE.decode()}"


def answer(
    body: bytes = BODY, *fields: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json"
) -> bytes:
    head = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, *fields]
    if not any(
        one.lower().startswith((b"transfer", b"content-length", b"x-close")) for one in fields
    ):
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body])


@asynccontextmanager
async def proxied(*said: bytes, **settings: object) -> AsyncIterator[tuple]:
    """A client behind a CONNECT of a proxy with a login, and what it has to do with."""
    login = parse_login("agent", token_urls=[URL])
    credential = make_credential("agent", {}, hosts=[HOST], login=login)
    session = SessionLogins([credential], None)
    seen: list[bytes] = []
    answers = iter(said)  # a request that may not be repeated has a connection of its own

    async def behaviour(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, await origin_context(), server_side=True)
        while True:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = await tls.receive_some(65536)
                if not piece:
                    return
                data += piece
            seen.append(data)
            one = next(answers)
            await tls.send_all(one)
            if b"X-Close" in one:
                await tls.aclose()
                return

    async with (
        looking_into(
            behaviour=behaviour, credentials=Credentials([], session.logins), **settings
        ) as both,
        both.tunnel() as wire,
    ):
        yield wire, seen, session.logins[0], both


async def ask(wire, path: str = "/oauth/token", body: bytes = b"a=b", *fields: str):
    return await wire.exchange(raw("POST", path, FORM, *fields, body=body))


def raw(method: str, path: str, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *fields]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    "said",
    [
        answer(),
        answer(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), b"Transfer-Encoding: chunked"),
        answer(BODY, b"X-Close: yes"),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(),
    ],
)
async def test_an_answer_has_stand_ins_and_a_length_of_its_own(said):
    async with proxied(said) as (wire, seen, login, _):
        found = await ask(wire, "/oauth/token", b"a=b", "Accept-Encoding: gzip, br")
        assert found.status == 200
        given = json.loads(found.body)
        assert given["expires_in"] == 60
        stand_ins = {one.token.token: one.stand_in.decode() for one in login.held}
        assert stand_ins == {ACCESS: given["access_token"], REFRESH: given["refresh_token"]}
        assert b"gzip" not in seen[0]
        assert b"\r\nAccept-Encoding: identity\r\n" in seen[0]


async def test_no_head_before_the_answer_and_no_reason_phrase_goes_on():
    early = b"HTTP/1.1 103 Early Hints\r\nX-Token: %s\r\n\r\n" % ACCESS
    async with proxied(early + answer(status=b"200 " + ACCESS)) as (wire, _, _, _):
        await wire.send(raw("POST", "/oauth/token", FORM, body=b"a=b"))
        data = b""
        while not data.endswith(b'"expires_in":60}'):
            data += await wire.receive()
        assert data.startswith(b"HTTP/1.1 200 \r\n")
        assert ACCESS not in data


async def test_a_refresh_goes_out_with_the_token_and_its_answer_is_captured_again():
    second = BODY.replace(b"abcd", b"wxyz").replace(b"6789-", b"6780-")
    async with proxied(answer(), answer(second)) as (wire, seen, login, both):
        first = json.loads((await ask(wire)).body)
        body = f"grant_type=refresh_token&refresh_token={first['refresh_token']}".encode()
        again = json.loads((await ask(wire, "/oauth/token", body)).body)
        assert seen[1].endswith(
            b"&refresh_token=1%2F%2F0eXampleRefresh-token_0123456789-0123456789"
        )
        assert again["refresh_token"] != first["refresh_token"]
        assert [one.token.name for one in login.held] == [
            "access_token", "access_token", "refresh_token",
        ]  # fmt: skip
        assert both.records()[-1] == ("connect_intercept", "allow", "POST", "/oauth/token")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(gzip.compress(BODY), b"Content-Encoding: gzip"), "compressed"),
        (answer(b"", b"Location: /x", status=b"307 Temporary Redirect"), "redirect"),
        (answer(b"<p>", kind=b"text/html"), "neither JSON nor a form"),
        (answer(BODY, b"Content-Type: text/plain"), "two content types"),
        (answer(BODY[:-1]), "not valid JSON"),
        (answer(b'{"access_token":"short"}'), "shorter than"),
        (answer(b"{" + b" " * MAX_ANSWER + b"}"), "longer than"),
        (answer(BODY[:-1], b"Content-Length: 500", b"X-Close: yes"), "closed"),
        (answer(BODY, b"Content-Length: 5", b"Content-Length: 6"), "framing"),
        (answer(BODY[:-1] + b',"x":"Bearer ' + ACCESS + b'"}'), "within another text"),
        (answer(BODY, b"X-Token: " + ACCESS), "within another text"),
        (answer(BODY, b"Set-Cookie: session=" + b64encode(REFRESH)), "within another text"),
        (answer(BODY, ACCESS + b": 1"), "within another text"),
        (answer(BODY, kind=FORM_TYPE), "form escapes"),
        (answer(b"a=b;access_token=" + ACCESS, kind=FORM_TYPE), "form escapes"),
        (answer(BODY[:-1] + b',"a":1,"a":2}', status=b"400 Bad"), "twice"),
        (answer(BODY, status=b"400 Bad", kind=b"text/plain"), "neither JSON nor a form"),
        (answer(b"<p>access\\u005ftoken = " + ACCESS, status=b"500 Bad"), "not valid JSON"),
        (answer(b"<raw%2Dkey><id_token>" + ACCESS, status=b"500 Bad"), "not valid JSON"),
    ],
)
async def test_an_answer_that_could_hand_out_a_token_is_refused(said, words):
    async with proxied(said) as (wire, _, login, both):
        found = await ask(wire)
        assert found is None or found.status == 502
        assert found is None or re.search(words, found.body.decode())
        assert login.held == ()
        if found is not None:
            assert ACCESS not in found.body
            last = both.proxy.recorder.events[-1]
            assert last.decision == "deny"
            assert ACCESS.decode() not in str(last)


async def test_a_token_that_comes_back_in_a_head_or_an_error_is_refused():
    for said in (
        answer(b"{}", b"X-Debug: " + REFRESH),
        answer(b'{"error":"x","error_description":"no %s"}' % REFRESH, status=b"400 Bad"),
        answer(REFRESH, status=b"500 Oops", kind=b"text/html"),
    ):
        async with proxied(answer(), said) as (wire, seen, _, _):
            first = json.loads((await ask(wire)).body)
            body = f"refresh_token={first['refresh_token']}".encode()
            found = await ask(wire, "/oauth/token", body)
            assert b"refresh_token=1%2F%2F0eX" in seen[1]
            assert found.status == 502
            assert REFRESH not in found.body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/oauth/%74oken", 200), ("/oauth/./token", 200), ("/x/../oauth/token", 200),
        ("/OAuth/Token", 200), ("/oauth/token/", 200), ("/oauth//token", 200),
        ("/oauth/token;x=1", 200), ("/oauth/token?x=y", 200), ("/oauth%2Ftoken", 200),
        ("/oauth/token.json", 200), ("/oauth/..%2ftoken", 400), ("/oauth\\token", 400),
        ("/oauth/%252e/token", 400), ("//oauth/token", 400),
    ],
)  # fmt: skip
async def test_no_spelling_of_the_path_gets_a_real_token(path, status):
    async with proxied(answer()) as (wire, seen, _, _):
        found = await ask(wire, path)
        assert found.status == status
        assert ACCESS not in found.body
        assert bool(seen) is (status == 200)


@pytest.mark.parametrize("name", ["X-Original-URL", "x_rewrite_url"])
async def test_no_field_that_names_the_path_gets_a_real_token(name):
    async with proxied(answer()) as (wire, seen, _, both):
        found = await ask(wire, "/api", b"a=b", f"{name}: /oauth/token")
        assert (found.status, seen) == (400, [])
        assert ACCESS not in found.body
        assert "may name the path" in both.proxy.recorder.events[-1].reason


@pytest.mark.parametrize("name", ODD)
async def test_no_spelling_of_a_field_gives_a_real_token(name):
    async with proxied(answer(b"a=b&%s=%s" % (name, ACCESS), kind=FORM_TYPE)) as (
        wire,
        _,
        login,
        _,
    ):
        found = await ask(wire)
        assert found.status == 200
        assert found.body == b"a=b&%s=%s" % (name, login.held[0].stand_in)


async def test_other_paths_of_the_host_stream_as_ever():
    async with proxied(answer(b"not json", kind=b"text/plain")) as (wire, _, _, _):
        assert (await ask(wire, "/api")).body == b"not json"


async def test_a_body_that_is_too_long_and_a_websocket_are_refused():
    async with proxied() as (wire, seen, _, _):
        assert (await ask(wire, "/oauth/token", b"a" * 70_000)).status == 413
        assert seen == []
    async with proxied() as (wire, seen, _, _):
        upgrade = (
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )  # fmt: skip
        found = await wire.exchange(raw("GET", "/oauth/token", *upgrade))
        assert found.status == 400
        assert seen == []


async def test_such_a_host_is_offered_http1_alone():
    async with proxied() as (_, _, _, both), both.proxy.client() as wire:
        assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
        context = client_context(alpn=("h2", "http/1.1"))
        async with under_tls(wire, context=context) as secure:
            assert secure.stream.selected_alpn_protocol() == "http/1.1"
