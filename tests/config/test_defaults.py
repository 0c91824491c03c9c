"""config.toml, the user's own defaults, and --deny."""

from __future__ import annotations

import json
import os

import pytest
from harness import landlock_isolation

both_isolations = pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
DEFAULTS = ".config/nono-trio/config.toml"


@pytest.fixture
def defaults(sessions):
    """Write config.toml of the user, and return its path."""

    def write(text):
        path = sessions.home / DEFAULTS
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cage(sessions):
    """Return the cage of `run --dry-run` with some arguments, as data."""

    def cage(*arguments, **settings):
        done = sessions.run("--dry-run", "--json", *arguments, "--", "true", **settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return cage


def test_a_flag_beats_environment_beats_profile_beats_defaults(sessions, own, defaults, cage):
    path = defaults("network.allow_domain = ['d.example.com']\nlimits.max_open_files = 101")
    found = cage()
    assert found["network"]["allow"] == ["d.example.com"]
    assert found["limits"]["NOFILE"] == 101
    own("p.toml", "network.allow_domain = ['p.example.com']\nlimits.max_open_files = 102")
    found = cage("-p", "p")
    assert found["network"]["allow"] == ["d.example.com", "p.example.com"]
    assert found["limits"]["NOFILE"] == 102
    sessions.variables = {"NONO_TRIO_MAX_OPEN_FILES": "103"}
    assert cage("-p", "p")["limits"]["NOFILE"] == 103
    assert cage("-p", "p", "--max-open-files", "104")["limits"]["NOFILE"] == 104
    answer = sessions.call("why", "--json", "--host", "d.example.com")
    assert f"{path}:1: network.allow_domain" in answer.stdout


def test_a_record_names_the_defaults_that_a_session_had(sessions, defaults):
    path = defaults("network.deny_domain = ['d.example.com']")
    assert sessions.run("--", "true").returncode == 0
    policy = json.loads((sessions.only / "policy.json").read_text())
    assert [one["source"] for one in policy["origin"]["profiles"]] == [str(path)]
    with sessions.proxy():
        pass
    for directory in sessions.directories:
        policy = json.loads((directory / "policy.json").read_text())
        assert [one["entry"] for one in policy["network"]["deny"]] == ["d.example.com"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nallow_domian = []", f"{DEFAULTS}:2: network.allow_domian: unknown key"),
        ("extends = 'missing'", f"{DEFAULTS}:1: extends: there is no profile 'missing'"),
    ],
)
def test_a_fault_in_the_defaults_stops_each_run(sessions, defaults, text, message):
    """A misspelt deny would deny nothing."""
    defaults(text)
    done = sessions.run("--", "true")
    assert done.returncode == 2
    assert message in done.stderr
    assert sessions.directories == []


def test_a_link_that_leads_nowhere_is_no_missing_file(sessions, defaults):
    path = defaults("")
    path.unlink()
    path.symlink_to(sessions.home / "nowhere")
    done = sessions.run("--", "true")
    assert done.returncode == 2
    assert f"there is no profile file {path}" in done.stderr


@both_isolations
@pytest.mark.parametrize("there", [True, False])
def test_the_command_can_not_write_the_defaults(sessions, defaults, isolation, there):
    """A command that can is the one who decides on the next cage."""
    path = defaults("# mine\n")
    if not there:
        path.unlink()
        path.parent.rmdir()
    script = 'mkdir -p "${1%/*}"; echo "network.allow_domain = []" >"$1"; mv "$1" "$1.old"'
    options = ["--allow", str(sessions.home / ".config"), "--isolation", isolation]
    sessions.run(*options, "--", "sh", "-c", script, "sh", str(path))
    assert (path.read_text() if there else None) == ("# mine\n" if there else None)
    assert os.path.lexists(path) is there


def test_defaults_behind_a_link_into_a_grant_are_warned_of(sessions, defaults, cage):
    work = sessions.home / "work"
    work.mkdir()
    (work / "dotfile.toml").write_text("")
    path = defaults("")
    path.unlink()
    path.symlink_to(work / "dotfile.toml")
    warnings = cage("--allow", str(work))["warnings"]
    assert any(f"may write the profile {path}" in warning for warning in warnings)


# -- --deny ---------------------------------------------------------------------------------------


@pytest.fixture
def work(sessions):
    directory = sessions.home / "project"
    (directory / "private").mkdir(parents=True)
    (directory / "private/key").write_text("sesame")
    (directory / "open").write_text("open\n")
    return directory


@pytest.mark.parametrize("given", ["private", "~/project/private", "{work}/private"])
def test_deny_closes_a_path_inside_a_grant(sessions, work, given):
    options = ["--allow-cwd", "--deny", given.format(work=work), "--isolation", "namespace"]
    script = "cat open private/key; echo new >private/new; rm -r private"
    done = sessions.run(*options, "--", "sh", "-c", script, cwd=work)
    assert done.stdout == "open\n"
    assert os.listdir(work / "private") == ["key"]
    answer = sessions.call("why", "--json", "--path", "private/key", *options, cwd=work)
    assert json.loads(answer.stdout)["status"] == "denied"


@landlock_isolation
def test_deny_is_refused_where_it_can_not_be_held(sessions, work):
    options = ["--allow-cwd", "--deny", "private", "--isolation", "landlock"]
    done = sessions.run(*options, "--", "true", cwd=work)
    assert done.returncode == 2
    assert f"would open {work}/private, which is protected" in done.stderr


def test_deny_adds_up_with_the_environment_and_a_profile(sessions, work, own):
    for name in ("one", "two", "three"):
        (work / name).write_text(name)
    own("p.toml", "filesystem.deny = ['$WORKDIR/three']")
    sessions.variables = {"NONO_TRIO_DENY": str(work / "two")}
    options = ["-p", "p", "--allow-cwd", "--deny", "one", "--isolation", "namespace"]
    done = sessions.run(*options, "--", "cat", "one", "two", "three", "open", cwd=work)
    assert done.stdout == "open\n"
