"""`profile list|show|validate|init` as a user meets them."""

from __future__ import annotations

import json
import tomllib

import pytest

from nono_trio.cli.profile_render import template
from nono_trio.config import profiles
from nono_trio.core.profile.parser import read_profile
from nono_trio.core.profile.schema import Profile


def environ(sessions):
    return {"HOME": str(sessions.home)}


def test_list(sessions, own):
    own("ci.toml", "meta.description = 'mine'\nextends = 'default'")
    own("bad.toml", "x = 1")
    done = sessions.call("profile", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == len(profiles.available(environ(sessions)))
    assert lines[0].split()[:3] == ["bad", "user", "broken:"]
    assert lines[1].split() == ["ci", "user", "mine"]
    assert any("yours of that name shadows it" in line for line in lines)
    told = json.loads(sessions.call("profile", "list", "--json").stdout)
    assert told["schema"] == 1
    rows = {(row["name"], row["source"]): row for row in told["profiles"]}
    assert rows["ci", "user"]["extends"] == ["default"]
    assert rows["ci", "built-in"]["shadowed"] is True
    assert "bad.toml:1: x: unknown key" in rows["bad", "user"]["error"]


def test_show_prints_a_profile_that_means_the_same(sessions, own):
    own(
        "p.toml",
        'extends = "claude-code"\nmeta.description = "a \\"b\\" \\u202e"\n'
        'environment.set = { A = "\\u007f # \\n" }\naudit.queue = 9\n'
        '[[network.endpoint]]\nhost = "a.test"\nmethods = ["GET"]\nquery = { "a b" = "\\"" }\n',
    )
    done = sessions.call("profile", "show", "p")
    assert done.returncode == 0, done.stderr
    reading = read_profile(done.stdout, "shown.toml")
    assert reading.faults == ()
    whole = profiles.load("p", environ(sessions)).sourced.profile
    shown = reading.accepted().profile
    for table in Profile.__struct_fields__:
        if table != "extends":
            assert getattr(shown, table) == getattr(whole, table)
    assert "# built-in claude-code.toml:" in done.stdout
    assert "p.toml:4" in done.stdout
    assert "# package_registries on this machine: " in done.stdout


def test_show_has_the_notes_of_every_profile_that_is_extended(sessions, own):
    own("p.toml", 'extends = "codex"\nmeta.notes = ["Mine.", "Mine.", "\\u001b[2J"]\n')
    done = sessions.call("profile", "show", "p")
    assert "danger-full-access" in done.stdout
    assert "codex login --device-auth" in done.stdout
    assert done.stdout.count('"Mine."') == 1
    assert "\x1b" not in done.stdout
    told = json.loads(sessions.call("profile", "show", "p", "--json").stdout)
    assert told["profile"]["meta"]["notes"][-2:] == ["Mine.", "\x1b[2J"]
    own("q.toml", "meta.notes = 'one'")
    assert "meta.notes: expected a list" in sessions.call("profile", "validate", "q").stdout


def test_show_as_json(sessions, own):
    path = own("p.toml", 'extends = "offline"\nnetwork.open_port = [1]')
    told = json.loads(sessions.call("profile", "show", "p", "--json").stdout)
    assert (told["schema"], told["name"], told["source"]) == (1, "p", "user")
    assert told["chain"] == ["built-in default.toml", "built-in offline.toml", str(path)]
    assert told["profile"]["network"] == {"block": True, "open_port": [1]}
    expected = {"key": "network.open_port", "entry": "1", "origin": f"{path}:2"}
    assert expected in told["origins"]


def test_validate(sessions, own):
    own("good.toml", 'extends = "ci"')
    path = own("bad.toml", "x = 1\n[network]\ngroups = ['githbu']")
    own("base.toml", 'extends = "bad"')
    done = sessions.call("profile", "validate", "good")
    assert (done.returncode, done.stdout, done.stderr) == (0, "good: valid\n", "")
    done = sessions.call("profile", "validate", str(path))
    assert done.returncode == 2
    assert f"{path}:1: x: unknown key\n" in done.stdout
    assert f"{path}:3: network.groups: unknown group 'githbu'\n  hint: did you mean" in done.stdout
    assert "2 errors" in done.stderr
    done = sessions.call("profile", "validate", "base")
    assert done.returncode == 2
    assert f"error: {path}:1: x: unknown key" in done.stderr
    told = json.loads(sessions.call("profile", "validate", str(path), "--json").stdout)
    assert (told["schema"], told["valid"]) == (1, False)
    assert [(one["line"], one["key"]) for one in told["errors"]] == [
        (1, "x"),
        (3, "network.groups"),
    ]
    done = sessions.call("profile", "validate", "nope", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["valid"] is False


def test_init_begins_a_profile_once(sessions):
    path = sessions.home / ".config/nono-trio/profiles/mine.toml"
    done = sessions.call("profile", "init", "mine", "--extends", "ci", "--extends", "python-dev")
    assert (done.returncode, done.stdout) == (0, f"{path}\n")
    assert tomllib.loads(path.read_text())["extends"] == ["ci", "python-dev"]
    assert sessions.call("profile", "validate", "mine").returncode == 0
    path.write_text("changed")
    done = sessions.call("profile", "init", "mine")
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert path.read_text() == "changed"
    told = json.loads(sessions.call("profile", "init", "x", "-o", "x.toml", "--json").stdout)
    assert told == {"schema": 1, "name": "x", "path": "x.toml"}
    for arguments in (["../x"], ["y", "--extends", "nope"], ["y", "-o", "y.json"]):
        assert sessions.call("profile", "init", *arguments).returncode == 2


def test_every_commented_line_of_the_template_is_right():
    text = template("a", ["default"])
    lines = [line.removeprefix("# ") if " = " in line or "# [" in line else line
             for line in text.splitlines()]  # fmt: skip
    reading = read_profile("\n".join(lines), "a.toml")
    assert reading.faults == ()
    profile = reading.accepted().profile
    for name in ("filesystem", "network", "environment", "audit", "limits"):
        table = getattr(profile, name)
        assert f"[{name}]" in text
        assert all(f"{key} = " in text for key in table.__struct_fields__)


@pytest.mark.parametrize("name", ["list", "show", "validate", "init"])
def test_every_help_has_options_and_an_example(sessions, name):
    done = sessions.call("profile", name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert f"Example: nono-trio profile {name}" in done.stdout
