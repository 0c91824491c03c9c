"""Tokens for a client's id and secret: fetched at the start, and again before their end."""

from __future__ import annotations

import json

import pytest
import trio
from harness import serving
from oauth_server import CLIENT, SECRET, OAuthServer

from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.oauth2 import parse_oauth2
from nono_trio.core.credentials.secret import Secret
from nono_trio.errors import UsageError
from nono_trio.session.credentials.client_credentials import client_credentials_reader
from nono_trio.session.credentials.readers import SourceFailed
from nono_trio.session.credentials.sources import SecretSource
from nono_trio.session.credentials.table import open_credentials
from nono_trio.session.tokens.token_endpoint import Route

HOST = "auth.example"
VARIABLE = "CLIENT_SECRET"
ROUTE = Route((), lambda _name: ("127.0.0.1",))


@pytest.fixture
def server():
    found = OAuthServer()
    with serving(found):
        yield found


def credential(server: OAuthServer, client_secret: str = f"env://{VARIABLE}", **settings: object):
    url = f"http://{HOST}:{server.port}/oauth/token"
    oauth2 = parse_oauth2("api", token_url=url, client_id=CLIENT, client_secret=client_secret)
    return make_credential(
        "api", {}, hosts=["api.example"], variables=["API_TOKEN"], oauth2=oauth2, **settings
    )  # type: ignore[arg-type]


def opened(server: OAuthServer, secret: str = SECRET, **settings: object):
    return open_credentials(
        [credential(server, **settings)], {VARIABLE: secret}, route=lambda: ROUTE
    )


def test_the_first_token_comes_before_the_command_starts(server):
    session = opened(server)
    [held] = session.held
    assert held.at_start.decode() in server.valid
    assert held.stand_in.startswith(b"gho_")
    assert held.stand_in.decode() not in server.issued
    assert trio.run(held.secret) == held.at_start
    assert len(server.requests) == 1
    session.close()


def test_a_token_that_can_not_be_had_refuses_the_run_unless_it_is_optional(server):
    with pytest.raises(UsageError, match=r"no token: .* refused: invalid_client") as refused:
        opened(server, "wrong secret")
    assert "wrong secret" not in f"{refused.value.message} {refused.value.hint}"
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"
    session = opened(server, "wrong secret", optional=True)
    assert session.held == ()
    assert "no stand-in" in session.warnings[0]


def test_it_is_fetched_again_before_its_end_by_one_task_for_all(server):
    server.lifetime = 120  # 60 of them are used
    now = [0.0]
    one = credential(server)
    reader = client_credentials_reader(one.oauth2, _Fixed(), ROUTE)
    source = SecretSource("oauth2", reader, clock=lambda: now[0])

    async def run() -> None:
        first = await source.current()
        now[0] = 40.0
        assert await source.current() == first
        assert len(server.requests) == 1
        now[0] = 61.0
        found: list[bytes] = []

        async def ask() -> None:
            found.append((await source.current()).reveal())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert len({*found}) == 1
        assert found[0] != first.reveal()
        assert len(server.requests) == 2

    trio.run(run)


def test_a_token_that_a_host_refused_is_fetched_once_more(server):
    now = [0.0]
    one = credential(server)
    source = SecretSource("oauth2", client_credentials_reader(one.oauth2, _Fixed(), ROUTE),
                          clock=lambda: now[0])  # fmt: skip

    async def run() -> None:
        first = await source.current()
        source.refused()  # it is new: a host that refuses all is not a reason to ask for ever
        assert await source.current() == first
        now[0] = 10.0
        source.refused()
        second = await source.current()
        assert second != first
        source.refused()
        assert await source.current() == second

    trio.run(run)
    assert len(server.requests) == 2


class _Fixed:
    def read(self):
        return Secret(SECRET.encode())

    def stop(self) -> None:
        """Nothing waits."""


def said(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (said("302 Found", b""), "redirect"),
        (said("500 Oops", b"<p>", "text/html"), "status 500"),
        (said("200 OK", b"<p>", "text/html"), "neither JSON nor a form"),
        (said("200 OK", b'{"token_type":"x"}'), "status 200"),
        (said("403 No", b'{"access_token":"gho_0123456789"}'), "status 403"),
        (said("200 OK", json.dumps({"access_token": "a b" * 9}).encode()), "other characters"),
        (said("400 Bad", b'{"error":"\\u001b[31m"}'), "status 400"),
    ],
)
def test_an_answer_without_a_token_is_an_error_of_our_own_words(server, raw, words):
    server.raw = raw
    with pytest.raises(SourceFailed, match=words) as failed:
        client_credentials_reader(credential(server).oauth2, _Fixed(), ROUTE).read()
    assert "\x1b" not in failed.value.reason
    assert "gho_" not in failed.value.reason


def test_settings_that_contradict_each_other_are_refused(server):
    with pytest.raises(UsageError, match="no source beside"):
        credential(server, source="env://OTHER")
    with pytest.raises(UsageError, match="not the secret itself") as refused:
        credential(server, client_secret=SECRET)
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"
    with pytest.raises(UsageError, match=r"expected \[credentials\.api\.oauth2\]"):
        make_credential("api", {}, hosts=["api.example"], source="env://A", kind="oauth2")
