"""Presets of captured logins: what an agent asks when it signs in, by the credential's name.

Rules of this file:
- It is data, from the public source of each agent. Claude Code has no public source: its URLs are
  those of public clients that sign in as it does.
- `token_urls` are all URLs that give tokens, at any host that the preset or a profile opens: one
  that is missing would hand the command a real token. A rule for POST closes the rest of its host.
- Hosts are bound as narrowly as the agent's requests allow. GitHub is read-only, as in presets.py.

Sources, as of November 2026:
- openai/codex: codex-rs/login/src/server.rs, device_code_auth.rs, auth/manager.rs, auth/revoke.rs.
- google-gemini/gemini-cli: packages/core/src/code_assist/oauth2.ts (userinfo) and server.ts
  (cloudcode-pa); googleapis/google-auth-library-nodejs, which it signs in with:
  src/auth/oauth2client.ts (the token URL at oauth2.googleapis.com, tokeninfo).
- cli/cli: internal/authflow/flow.go; cli/oauth: oauth.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.credential import DEFAULT_PLACES, Place
from nono_trio.core.credentials.login import LoginSettings, parse_login
from nono_trio.core.policy.endpoint_rule import READ_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class LoginPreset:
    """The settings of an agent's login; `endpoints` are entries of --allow-endpoint, `stored_in` is
    the file of its own in which it has the tokens, for the docs."""

    agent: str
    hosts: tuple[str, ...]
    token_urls: tuple[str, ...]
    stored_in: str
    fields: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    places: frozenset[Place] = frozenset({Place.HEADER})

    def settings(self, name: str) -> LoginSettings:
        """Return the login of credential `name`."""
        return parse_login(name, token_urls=self.token_urls, fields=self.fields)


LOGIN_PRESETS: Final[Mapping[str, LoginPreset]] = {
    "claude-login": LoginPreset(
        "Claude Code",
        ("api.anthropic.com",),
        (
            "https://platform.claude.com/v1/oauth/token",
            "https://console.anthropic.com/v1/oauth/token",
            "https://api.anthropic.com/v1/oauth/token",
            "https://api.anthropic.com/api/oauth/claude_cli/create_api_key",
        ),
        "~/.claude/.credentials.json",
        fields=("raw_key",),
    ),
    "codex-login": LoginPreset(
        "Codex CLI",
        ("chatgpt.com", "api.openai.com"),
        ("https://auth.openai.com/oauth/token", "https://auth.openai.com/oauth/revoke"),
        "~/.codex/auth.json",
        endpoints=(
            "* https://chatgpt.com/backend-api/**",
            "POST https://auth.openai.com/api/accounts/deviceauth/usercode",
            "POST https://auth.openai.com/api/accounts/deviceauth/token",
        ),
    ),
    "gemini-login": LoginPreset(
        "Gemini CLI",
        ("cloudcode-pa.googleapis.com", "www.googleapis.com", "oauth2.googleapis.com"),
        ("https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"),
        "~/.gemini/oauth_creds.json",
        endpoints=(
            "POST https://oauth2.googleapis.com/token",
            "GET,POST https://oauth2.googleapis.com/tokeninfo",
            "GET https://www.googleapis.com/oauth2/v2/userinfo",
        ),
    ),
    "github-login": LoginPreset(
        "GitHub CLI",
        ("api.github.com", "uploads.github.com", "github.com"),
        ("https://github.com/login/oauth/access_token",),
        "~/.config/gh/hosts.yml",
        endpoints=(
            "POST https://github.com/login/device/code",
            "POST https://github.com/login/oauth/access_token",
            f"{READ_ONLY} https://github.com/**",
            f"{READ_ONLY} https://api.github.com/**",
            f"{READ_ONLY} https://uploads.github.com/**",
        ),
        places=DEFAULT_PLACES,
    ),
}
