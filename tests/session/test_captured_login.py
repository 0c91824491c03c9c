"""An agent signs in inside of its cage: it has stand-ins, and its login lasts and is refreshed."""

from __future__ import annotations

import json
import stat
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import file_keyring
import pytest
from harness import PROBES, SYSTEM_PYTHON, free_port, landlock_isolation, serving
from oauth_server import OAuthServer
from own_ca import write_authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Sessions

AUTH = "auth.example"
API = "api.example"
OTHER = "other.example"
AGENT = str(PROBES / "login_agent.py")
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
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


@pytest.fixture
def world(sessions: Sessions, tmp_path: Path) -> Iterator[World]:
    (tmp_path / "world").mkdir()
    found = World(sessions, tmp_path / "world")
    with serving(found.auth), serving(found.api), serving(found.other):
        yield found


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_device_login_lasts_over_sessions_and_is_refreshed(isolation, world) -> None:
    where = "in a file (0600): there is no keyring on this machine"
    if isolation == "landlock":
        world.use_keyring()
        where = "sealed by a key of the keyring (file_keyring)"
    thief = f"steal:https://{world.where['other']}/x"
    first = world.run(isolation, "device", "api", thief, options=("-v",), shows=where)
    assert first["device"] == [200, "alice"]  # it read the claims of its id_token
    assert first["api"] == [200, "hello alice"]
    assert first[thief] == [403, 403]
    stolen = b"".join(world.other.bodies)  # the last byte of a stand-in never goes
    assert not [one for one in first["tokens"].values() if str(one).encode() in stolen]
    assert first["tokens"]["access_token"].startswith("gho_")
    assert first["tokens"]["expires_in"] == 3600
    [kept] = world.kept
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second = world.run(isolation, "api")
    assert second["api"] == [200, "hello alice"]
    assert second["tokens"] == first["tokens"]
    world.auth.expire()
    third = world.run(isolation, "api", "json")
    assert third["api"] == [401, [200, "alice"], 200, "hello alice"]
    assert third["json"] == [[200, "alice"], 200, "hello alice"]
    assert third["tokens"]["refresh_token"] != first["tokens"]["refresh_token"]
    grants = [form["grant_type"] for _, form, _ in world.auth.requests]
    assert grants[-2:] == ["refresh_token", "refresh_token"]
    assert {fields["Accept-Encoding"] for _, _, fields in world.auth.requests} == {"identity"}
    assert world.sessions.verdict(world.sessions.directories[-1])[0] == 0
    [home] = json.loads(world.sessions.call("home", "list", "--json").stdout)["homes"]
    assert world.sessions.call("home", "remove", home["name"]).returncode == 0
    assert world.kept == []
    assert world.keyring is None or json.loads(world.keyring.read_text()) == {}


def test_a_private_home_forgets_its_login(world) -> None:
    said = world.run("namespace", "device", "api", options=("--home", "private"))
    assert said["api"] == [200, "hello alice"]
    assert world.kept == []


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_browser_login_by_a_loopback_redirect(isolation, world) -> None:
    port = free_port()
    world.auth.answers_forms = True
    arguments = [
        "run", "--isolation", isolation, *world.options, "--listen-port", str(port),
        *world.command(f"code:{port}", "api"),
    ]  # fmt: skip
    with world.sessions.started(*arguments) as process:
        assert process.stdout.readline() == "ready\n"
        # The user agrees in a browser outside of the cage, and the server sends it here.
        world.auth.codes.add("0123456789abcdef")
        url = f"http://127.0.0.1:{port}/callback?code=0123456789abcdef&state=s"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.read() == b"done"
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert said["api"] == [200, "hello alice"]
    world.assert_hidden(out, err)
