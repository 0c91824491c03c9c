"""An authorization server and its API on loopback, and runs of an agent that signs in there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import file_keyring
from harness import PROBES, SYSTEM_PYTHON
from oauth_server import OAuthServer
from own_ca import write_authority

if TYPE_CHECKING:
    from harness import Sessions

AUTH = "auth.example"
API = "api.example"
OTHER = "other.example"
AGENT = str(PROBES / "login_agent.py")
PROFILE = """
[network]
allow_endpoint = ["POST https://{auth}/oauth/device"]
allow_domain = ["{other}"]
intercept = ["other.example"]

[credentials.agent]
hosts = ["{api}"]

[credentials.agent.login]
token_urls = ["https://{auth}/oauth/token"]
"""


class World:
    """An authorization server, its API on another host, and a third host; all trust one root."""

    def __init__(self, sessions: Sessions, directory: Path) -> None:
        self.sessions = sessions
        self.keyring: Path | None = None
        certificate, key = write_authority(directory)
        self.auth, self.api, self.other = (
            OAuthServer(host, certificate, key) for host in (AUTH, API, OTHER)
        )
        self.api.valid = self.auth.valid
        self.where = {
            name: f"{name}.example:{server.port}"
            for name, server in (("auth", self.auth), ("api", self.api), ("other", self.other))
        }
        self.profile = directory / "agent.toml"
        self.profile.write_text(PROFILE.format(**self.where))
        pins = [("--resolve", f"{where}:127.0.0.1") for where in self.where.values()]
        self.options = [
            "--profile", str(self.profile), "--upstream-ca", str(certificate),
            *(word for pin in pins for word in pin), "--read", str(PROBES), "--home", "kept=agent",
        ]  # fmt: skip

    def use_keyring(self) -> None:
        """Have runs find a keyring."""
        self.keyring = self.profile.with_name("keyring.json")
        settings = self.profile.with_name("settings") / "python_keyring" / "keyringrc.cfg"
        settings.parent.mkdir(parents=True)
        settings.write_text(
            "[backend]\ndefault-keyring=file_keyring.Keyring\n"
            f"keyring-path={Path(file_keyring.__file__).parent}\n"
        )
        self.sessions.variables = {
            "XDG_CONFIG_HOME": str(settings.parents[1]),
            file_keyring.FILE: str(self.keyring),
        }

    def command(self, *steps: str) -> list[str]:
        return ["--", SYSTEM_PYTHON, AGENT, f"https://{self.where['auth']}",
                f"https://{self.where['api']}", *steps]  # fmt: skip

    def run(
        self, isolation: str, *steps: str, options: tuple[str, ...] = (), shows: str = ""
    ) -> dict[str, Any]:
        done = self.sessions.run(
            "--isolation", isolation, *self.options, *options, *self.command(*steps)
        )
        assert done.returncode == 0, done.stderr
        assert shows in done.stderr
        said: dict[str, Any] = json.loads(done.stdout.rpartition("ready\n")[2])
        self.assert_hidden(done.stdout, done.stderr)
        return said

    @property
    def kept(self) -> list[Path]:
        return [*self.sessions.home.rglob("tokens.json")]

    def assert_hidden(self, *texts: str) -> None:
        """No real token is in a text, or in a file but those of ours that keep them."""
        issued = [one.encode() for one in self.auth.issued]
        assert issued
        ours = (
            set() if self.keyring else {one for one in self.kept if one.parents[1].name == "homes"}
        )
        for root in (self.sessions.home, self.sessions.state):
            for path in root.rglob("*"):
                if path.is_file() and path not in ours:
                    data = path.read_bytes()
                    assert not [one for one in issued if one in data], path
        assert not [one for one in issued for text in texts if one.decode() in text]
