"""The tokens of captured logins in a kept home's entry: written, read again, copied, forgotten."""

from __future__ import annotations

import json
import os
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from nono_trio.core.credentials.login import parse_login
from nono_trio.core.credentials.login_tokens import LoginToken, TokenQuestion
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.errors import UsageError
from nono_trio.session.homes.kept_homes import Homes, WantedHome
from nono_trio.session.tokens import captured_logins, kept_tokens
from nono_trio.session.tokens.captured_logins import SessionLogins
from nono_trio.session.tokens.token_store import TOKENS, TokensUnreadable, read_tokens, write_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "https://auth.example.com/oauth/token"
TOKEN = "gho_abcDEF0123456789abcDEF0123456789abcd"
JSON = b"application/json"
ONE = LoginToken("access_token", TOKEN.encode(), b"stand-in-0123456789-0123")


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """A directory, open while the block runs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def credential(name: str = "agent", url: str = URL):
    login = parse_login(name, token_urls=[url])
    return make_credential(name, {}, hosts=["api.example.com"], login=login)


def sign_in(session: SessionLogins, token: str = TOKEN, number: int = 0) -> str:
    body = json.dumps({"access_token": token}).encode()

    async def run() -> bytes:
        login = session.logins[number]
        return await login.answered(TokenQuestion(b""), JSON, body, is_success=True)

    return str(json.loads(trio.run(run))["access_token"])


def test_a_login_lasts_into_the_next_session(tmp_path):
    first = SessionLogins([credential(), credential("other")], str(tmp_path))
    told: list[int] = []
    first.logins[0].changed = lambda: told.append(len(first.logins[0].held))
    given = sign_in(first)
    assert told == [1]
    assert given.startswith("gho_")
    assert given != TOKEN
    first.close()
    found = tmp_path / TOKENS
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [TOKENS]
    second = SessionLogins([credential(), credential("other")], str(tmp_path))
    [held] = second.logins[0].held
    assert (held.stand_in.decode(), trio.run(held.secret).decode()) == (given, TOKEN)
    assert second.logins[1].held == ()
    assert TOKEN not in f"{held} {second.logins[0]} {second.logins[0].tokens.tokens}"
    assert sign_in(second) == given
    second.close()


def test_a_login_with_other_token_urls_is_another(tmp_path):
    first = SessionLogins([credential()], str(tmp_path))
    sign_in(first)
    first.close()
    other = SessionLogins([credential(url="https://auth.example.net/oauth/token")], str(tmp_path))
    assert other.logins[0].held == ()
    sign_in(other, f"{TOKEN}2")
    other.close()
    again = SessionLogins([credential()], str(tmp_path))
    assert trio.run(again.logins[0].held[0].secret).decode() == TOKEN
    again.close()


def test_a_home_that_ends_with_the_session_writes_nothing(tmp_path):
    session = SessionLogins([credential()], None)
    given = sign_in(session)
    assert session.logins[0].held[0].stand_in.decode() == given
    session.close()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "made",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"logins":{"a":[{"name":"x","token":"?","stand_in":""}]}}'),
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: (path.write_text('{"logins":{}}'), os.link(path, path.with_name("other"))),
    ],
)
def test_a_file_that_is_not_ours_is_not_read_and_the_user_is_told(tmp_path, made):
    made(tmp_path / TOKENS)
    session = SessionLogins([credential()], str(tmp_path))
    assert session.logins[0].held == ()
    [warning] = session.warnings
    assert "can't be used" in warning
    session.close()


def test_modes_that_a_command_changed_are_set_again(tmp_path):
    with open_directory(tmp_path) as directory:
        write_tokens(directory, {"agent": [ONE]})
        (tmp_path / f"{TOKENS}.0123").write_text("of a killed session")
        for mode in (0o666, 0o000):
            (tmp_path / TOKENS).chmod(mode)
            assert read_tokens(directory) == {"agent": (ONE,)}
            assert stat.S_IMODE((tmp_path / TOKENS).stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [TOKENS]


def test_another_users_file_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with open_directory(tmp_path) as directory:
        write_tokens(directory, {"agent": [ONE]})
        os.chown(tmp_path / TOKENS, 65534, 65534)
        with pytest.raises(TokensUnreadable, match="another user"):
            read_tokens(directory)


def test_a_login_that_can_not_be_kept_lasts_for_the_session(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_tokens, "write_tokens", full)
    session = SessionLogins([credential()], str(tmp_path))
    given = sign_in(session)
    assert session.logins[0].held[0].stand_in.decode() == given
    assert session.notes == ["a login is not kept for the next session: no space left on device"]
    session.close()


async def test_nothing_is_written_after_a_write_that_was_given_up(tmp_path, monkeypatch):
    began, ends, written = threading.Event(), threading.Event(), []

    def hang(_directory: int, logins: object, *_: object) -> None:
        written.append(logins)
        began.set()
        ends.wait(60)

    async def sign_in(number: int) -> None:
        body = json.dumps({"access_token": TOKEN + str(number)}).encode()
        await session.logins[0].answered(TokenQuestion(b""), JSON, body, is_success=True)

    monkeypatch.setattr(kept_tokens, "write_tokens", hang)
    monkeypatch.setattr(captured_logins, "WRITE_SECONDS", 0.5)
    session = SessionLogins([credential()], str(tmp_path))
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sign_in, 1)
                await trio.to_thread.run_sync(began.wait, 60)
                monkeypatch.setattr(captured_logins, "WRITE_SECONDS", 30.0)
                nursery.start_soon(sign_in, 2)
    finally:
        ends.set()
        session.close()
    assert len(written) == 1
    assert session.notes == [
        "a login is not kept for the next session: its file system does not answer"
    ]


def test_two_sessions_have_their_own_copies_and_removal_forgets_them(tmp_path):
    homes = Homes(str(tmp_path / "homes"))
    wanted = WantedHome("agent-x", "landlock", "agent", str(tmp_path))
    first = homes.claim(wanted, ())
    session = SessionLogins([credential()], os.path.dirname(first.path))
    given = sign_in(session)
    second = homes.claim(wanted, ())
    assert second.name == "agent-x-2.landlock"
    copied = SessionLogins([credential()], os.path.dirname(second.path))
    assert copied.logins[0].held[0].stand_in.decode() == given
    sign_in(copied, f"{TOKEN}2")
    assert [one.token.token for one in session.logins[0].held] == [TOKEN.encode()]
    for one, home in ((session, first), (copied, second)):
        one.close()
        home.close()
    for name in (first.name, second.name):
        homes.remove(name)
    left = b"".join(one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())
    assert TOKEN.encode() not in left


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_urls": []}, {"token_urls": [URL] * 9}, {"token_urls": ["auth.example.com"]},
        {"token_urls": [URL], "fields": ["expires_in"]}, {"token_urls": [URL], "fields": [""]},
        {"token_urls": [URL], "fields": ["a\x1b"]}, {"token_urls": [URL], "fields": ["a"] * 17},
    ],
)  # fmt: skip
def test_settings_of_a_login_that_can_not_be_meant_are_refused(wrong):
    with pytest.raises(UsageError, match="credential agent"):
        parse_login("agent", **wrong)


def test_a_login_has_no_source_of_its_own():
    login = parse_login("agent", token_urls=[URL], fields=["session_token"])
    assert "session_token" in login.fields
    with pytest.raises(UsageError, match="no source beside a login"):
        make_credential("agent", {}, hosts=["a.example"], source="env://A", login=login)
