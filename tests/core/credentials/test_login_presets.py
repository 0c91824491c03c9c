"""Presets of logins: one flag opens what an agent's sign-in asks, and captures each token URL."""

from __future__ import annotations

import json

import pytest
from checkout import ROOT

from nono_trio.core.credentials.credential import Place
from nono_trio.core.credentials.login_presets import LOGIN_PRESETS
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.presets import PRESETS
from nono_trio.errors import UsageError

PROFILES = {
    "claude-login": "claude-code", "codex-login": "codex", "gemini-login": "gemini-cli",
    "github-login": "developer",
}  # fmt: skip


@pytest.mark.parametrize("name", LOGIN_PRESETS)
def test_each_preset_makes_a_login(name) -> None:
    assert name not in PRESETS
    made, preset = make_credential(name, {}), LOGIN_PRESETS[name]
    assert made.login is not None
    assert made.kind == "login"
    assert [one.text for one in made.login.token_urls] == [*preset.token_urls]
    assert {"access_token", "refresh_token", *preset.fields} <= {*made.login.fields}
    assert made.places == preset.places
    assert Place.BODY not in made.places
    assert not any(one.wildcard or one.scheme == "http" for one in made.hosts)
    own = make_credential(name, {}, hosts=["a.example.com"], places=["query"])
    assert ([one.text for one in own.hosts], own.endpoints) == (["a.example.com"], ())
    assert own.places == {Place.QUERY}
    with pytest.raises(UsageError, match="no source beside a login"):
        make_credential(name, {}, source="env://TOKEN")
    text = (ROOT / "docs" / "logins.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    assert all(f"`{one}`" in row for one in (preset.stored_in, *preset.hosts))


@pytest.mark.parametrize(
    ("name", "method", "url", "allowed"),
    [
        ("claude-login", "POST", "https://platform.claude.com/v1/oauth/token", True),
        ("claude-login", "POST", "https://platform.claude.com/v1/oauth/other", False),
        ("claude-login", "POST", "https://api.anthropic.com/v1/messages", True),
        ("codex-login", "POST", "https://auth.openai.com/oauth/token", True),
        ("codex-login", "POST", "https://auth.openai.com/api/accounts/deviceauth/token", True),
        ("codex-login", "POST", "https://auth.openai.com/oauth/other", False),
        ("codex-login", "POST", "https://chatgpt.com/backend-api/codex/responses", True),
        ("codex-login", "GET", "https://chatgpt.com/api/auth/session", False),
        ("gemini-login", "POST", "https://oauth2.googleapis.com/token", True),
        ("gemini-login", "POST", "https://oauth2.googleapis.com/tokeninfo", True),
        ("gemini-login", "POST", "https://www.googleapis.com/oauth2/v4/token", False),
        ("gemini-login", "POST", "https://accounts.google.com/o/oauth2/v2/token", False),
        ("gemini-login", "GET", "https://www.googleapis.com/oauth2/v2/userinfo", True),
        ("gemini-login", "POST", "https://cloudcode-pa.googleapis.com/v1internal:x", True),
        ("github-login", "POST", "https://github.com/login/device/code", True),
        ("github-login", "POST", "https://github.com/login/oauth/access_token", True),
        ("github-login", "GET", "https://api.github.com/user", True),
        ("github-login", "POST", "https://api.github.com/graphql", False),
    ],
)
def test_one_flag_opens_what_a_sign_in_asks_beside_the_profile(
    sessions, name, method, url, allowed
) -> None:
    done = sessions.call(
        "why", "--json", "--url", url, "--method", method, "-p", PROFILES[name],
        "--credential", name,
    )  # fmt: skip
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert (said["status"] == "allowed") == allowed, said
