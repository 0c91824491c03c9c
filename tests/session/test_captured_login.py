"""An agent signs in inside of its cage: it has stand-ins, and its login lasts and is refreshed."""

from __future__ import annotations

import json
import stat
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import free_port, landlock_isolation, serving
from login_world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


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
