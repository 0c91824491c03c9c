"""Profiles as a run meets them: found, extended, put together with flags and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nono_trio.config import profiles
from nono_trio.config.user_paths import path_variables, profile_directory
from nono_trio.errors import UsageError

BUILT_IN = [
    "aider", "browser", "ci", "claude-code", "codex", "default", "developer", "dotnet-dev",
    "enterprise", "gemini-cli", "go-dev", "java-dev", "minimal", "node-dev", "offline", "opencode",
    "python-dev", "ruby-dev", "rust-dev",
]  # fmt: skip


@pytest.fixture
def cage(sessions):
    """Return the cage of `run --dry-run` with some arguments, as data."""

    def cage(*arguments, **settings):
        done = sessions.run("--dry-run", "--json", *arguments, "--", "true", **settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return cage


def environ(sessions):
    return {"HOME": str(sessions.home)}


# -- finding and extending ------------------------------------------------------------------------


def test_the_built_in_profiles_are_whole(sessions):
    found = profiles.available(environ(sessions))
    assert [one.name for one in found] == BUILT_IN
    for one in found:
        loaded = profiles.load_found(one, environ(sessions))
        assert loaded.sourced.profile.meta.name == one.name
        assert loaded.sourced.profile.meta.description
        assert loaded.sourced.profile.filesystem.bypass_protection == []


def test_no_built_in_profile_lets_a_command_write_outside_its_work(sessions):
    """A program that runs later outside of any cage reads its own files in the home."""
    for found in profiles.available(environ(sessions)):
        files = profiles.load_found(found, environ(sessions)).sourced.profile.filesystem
        assert set(files.allow) <= {"$WORKDIR"}, found.name
        assert files.write == files.allow_file == files.write_file == [], found.name


@pytest.mark.parametrize("name", ["claude-code", "codex", "gemini-cli", "aider", "opencode"])
def test_an_agent_gets_its_providers_its_state_and_its_own_key_only(sessions, name):
    profile = profiles.load(name, environ(sessions)).sourced.profile
    assert "llm_apis" in profile.network.groups
    assert "$WORKDIR" in profile.filesystem.allow
    assert profile.filesystem.home == "kept"
    assert profile.environment.allow
    assert all("*" not in pattern for pattern in profile.environment.allow)


def test_a_profile_of_the_users_stands_before_ours_and_may_extend_it(sessions, own):
    own("ci.toml", 'extends = "ci"\nnetwork.groups = ["gitlab"]')
    loaded = profiles.load("ci", environ(sessions))
    assert loaded.found.source == "user"
    assert [one.source for one in loaded.chain] == ["built-in", "built-in", "user"]
    assert loaded.sourced.profile.network.groups == ["package_registries", "github", "gitlab"]


def test_extends_is_a_list_in_order_and_files_are_beside_the_profile(sessions, own):
    own("a.toml", "audit.queue = 1\nnetwork.open_port = [1]")
    own("b.json", '{"audit": {"queue": 2}, "network": {"open_port": [2, 1]}}')
    own("c.toml", 'extends = ["a", "./b.json"]\nnetwork.open_port = [3]')
    profile = profiles.load("c", environ(sessions)).sourced.profile
    assert (profile.audit.queue, profile.network.open_port) == (2, [1, 2, 3])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.toml": 'extends = "a"'}, "a.toml:1: extends: a extends itself"),
        (
            {"a.toml": 'extends = "b"', "b.toml": '\nextends = ["ci", "a"]'},
            "b.toml:2: extends: a circle: a -> b -> a",
        ),
        ({"a.toml": 'extends = "./a.toml"'}, "a.toml:1: extends: a circle"),
        ({"a.toml": 'extends = "pyhton-dev"'}, "a.toml:1: extends: there is no profile"),
        ({"a.toml": 'extends = "./none.toml"'}, "a.toml:1: extends: there is no profile file"),
        ({"a.toml": 'extends = "b"', "b.toml": "x = 1"}, "b.toml:1: x: unknown key"),
        ({"a.toml": "", "a.json": "{}"}, "two files carry the profile name 'a'"),
    ],
)  # fmt: skip
def test_what_can_not_be_put_together(sessions, own, files, message):
    for name, text in files.items():
        own(name, text)
    with pytest.raises(UsageError) as caught:
        profiles.load("a", environ(sessions))
    assert message in caught.value.message


def test_a_diamond_is_no_circle_and_a_long_chain_is_bounded(sessions, own):
    own("a.toml", 'extends = ["ci", "python-dev"]')
    assert profiles.load("a", environ(sessions)).sourced.profile.filesystem.allow[0] == "$WORKDIR"
    for number in range(20):
        own(f"p{number}.toml", f'extends = "p{number + 1}"')
    own("p20.toml", "")
    with pytest.raises(UsageError, match="more than 16 profiles deep"):
        profiles.load("p0", environ(sessions))


def test_what_is_no_file_to_read(sessions, tmp_path):
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    big = tmp_path / "big.toml"
    big.write_text("#" * (profiles.MAX_BYTES + 1))
    bytes_file = tmp_path / "bytes.toml"
    bytes_file.write_bytes(b"a = 1\n\xff")
    for path, message in (
        (pipe, "expected a file"),
        (tmp_path, "Is a directory"),
        (big, "at most 262144 bytes"),
        (bytes_file, "bytes.toml:2: not UTF-8"),
    ):
        with pytest.raises(UsageError, match=message):
            profiles.load(f"{path}/" if path is tmp_path else str(path), environ(sessions))


def test_relative_xdg_paths_count_as_not_set():
    given = {"HOME": "/h", "XDG_CONFIG_HOME": "x", "XDG_CACHE_HOME": "/c"}
    assert str(profile_directory(given)) == "/h/.config/nono-trio/profiles"
    variables = path_variables(given, "/w")
    assert (variables["XDG_CONFIG_HOME"], variables["XDG_CACHE_HOME"]) == ("/h/.config", "/c")
    assert (variables["WORKDIR"], variables["XDG_DATA_HOME"]) == ("/w", "/h/.local/share")


# -- with flags and environment -------------------------------------------------------------------


def test_a_misspelt_key_stops_the_run_before_it_starts(sessions, own):
    own("agent.toml", "[filesystem]\nraed = ['~/x']")
    done = sessions.run("-p", "agent", "--", "true")
    assert done.returncode == 2
    assert "agent.toml:2: filesystem.raed: unknown key\nhint: did you mean read?" in done.stderr
    assert sessions.directories == []


def test_a_run_gets_what_its_profile_says(sessions, origin, own):
    work = sessions.home / "work"
    work.mkdir()
    own(
        "agent.toml",
        f"""
        filesystem.allow = ["$WORKDIR"]
        network.allow_domain = ["api.example.com:{origin.port}"]
        network.resolve = ["api.example.com:{origin.port}:127.0.0.1"]
        environment.set = {{ GREETING = "from $HOME" }}
        environment.allow = ["MY_TOKEN"]
        limits.max_open_files = 99
        """,
    )
    sessions.variables = {"MY_TOKEN": "t", "YOUR_TOKEN": "u"}
    script = f"""
    curl -s http://api.example.com:{origin.port}/; curl -s http://evil.example.net/ >/dev/null
    echo "$GREETING $MY_TOKEN $YOUR_TOKEN $(ulimit -n)" > out
    """
    done = sessions.run("-p", "agent", "--", "sh", "-c", script, cwd=work)
    assert done.returncode == 0, done.stderr
    assert (work / "out").read_text() == f"from {sessions.home} t  99\n"
    assert [event["decision"] for event in sessions.decisions()] == ["allow", "deny"]
    assert "YOUR_TOKEN" in done.stderr


def test_flag_beats_environment_beats_profile_and_lists_add_up(sessions, own, cage):
    own(
        "p.toml",
        "network = { allow_domain = ['p.example.com'], deny_domain = ['no-p.example.com'] }\n"
        "limits = { max_open_files = 111, timeout = 3 }\n",
    )
    assert cage("-p", "p")["limits"]["NOFILE"] == 111
    sessions.variables = {
        "NONO_TRIO_MAX_OPEN_FILES": "222",
        "NONO_TRIO_ALLOW_DOMAIN": "e.example.com",
        "NONO_TRIO_DENY_DOMAIN": "no-e.example.com",
        "NONO_TRIO_PROFILE": "p",
    }
    assert cage()["limits"]["NOFILE"] == 222
    both = cage(
        "--max-open-files", "333", "--allow-domain", "f.example.com",
        "--deny-domain", "no-f.example.com",
    )  # fmt: skip
    assert both["limits"]["NOFILE"] == 333
    assert both["network"]["allow"] == ["f.example.com", "e.example.com", "p.example.com"]
    assert both["network"]["deny"] == ["no-f.example.com", "no-e.example.com", "no-p.example.com"]


def test_groups_are_expanded_from_flags_and_profiles(own, cage):
    own("p.toml", "network = { groups = ['gitlab'], deny_domain = ['sigstore'] }")
    network = cage("-p", "p", "--allow-domain", "azure")["network"]
    assert network["allow"] == [
        "*.openai.azure.com", "*.cognitiveservices.azure.com", "gitlab.com", "cloud.gitlab.com",
    ]  # fmt: skip
    assert "rekor.sigstore.dev" in network["deny"]


def test_the_network_alone_of_a_profile(own, cage):
    own("p.toml", "network.block = true\nlimits.max_open_files = 111")
    found = cage("--network-profile", "p")
    assert (found["network"]["block"], found["limits"]) == (True, {})
    minimal = cage("--network-profile", "minimal")["network"]["allow"]
    assert "api.anthropic.com" in minimal


def test_block_can_be_taken_back_by_whoever_extends_and_is_said(sessions, own, cage):
    own("p.toml", 'extends = "offline"\nnetwork.block = false')
    work = sessions.home / "work"
    work.mkdir()
    assert cage("-p", "p", cwd=work)["network"]["block"] is False
    found = cage("-p", "offline", "--allow-domain", "a.example.com", cwd=work)
    assert any("the network is blocked" in warning for warning in found["warnings"])


def test_paths_keep_the_line_they_come_from(sessions, own, cage):
    (sessions.home / "tools").mkdir()
    (sessions.home / ".ssh").mkdir()
    path = own("p.toml", "[filesystem]\nread = [\n'~/tools',\n'~/none']\n")
    found = cage("-p", "p")
    assert {"path": f"{sessions.home}/tools", "access": "read",
            "source": f"{path}:3: filesystem.read"} in found["grants"]  # fmt: skip
    assert (
        f"{path}:4: filesystem.read {sessions.home}/none: no such path, skipped"
        in (found["warnings"])
    )
    path = own("q.toml", "filesystem.read = ['~/.ssh']")
    done = sessions.run("-p", "q", "--", "true")
    assert done.returncode == 2
    assert f"{path}:1: filesystem.read {sessions.home}/.ssh is protected" in done.stderr
    own("r.toml", "filesystem.read_file = ['~/tools']")
    done = sessions.run("-p", "r", "--", "true")
    assert "r.toml:1: filesystem.read_file: expected a file, got a directory" in done.stderr
    assert "hint: use read\n" in done.stderr


def test_a_denied_path_stays_closed_inside_a_grant(sessions, own):
    work = sessions.home / "work"
    work.mkdir()
    (work / "secret").write_text("sesame")
    own("p.toml", "filesystem = { allow = ['$WORKDIR'], deny = ['$WORKDIR/secret'] }")
    done = sessions.run("-p", "p", "--isolation", "namespace", "--", "cat", "secret", cwd=work)
    assert (done.stdout, (work / "secret").read_text()) == ("", "sesame")


def test_the_command_can_not_write_the_users_profiles(sessions, own):
    path = own("p.toml", "")
    script = f"echo x >> {path}; echo x > {path.parent}/q.toml"
    options = ["--allow", str(sessions.home / ".config"), "--isolation", "namespace"]
    sessions.run(*options, "--", "sh", "-c", script)
    assert path.read_text() == ""
    assert list(path.parent.iterdir()) == [path]


def test_a_profile_inside_a_grant_is_warned_of(sessions, cage):
    work = sessions.home / "work"
    work.mkdir()
    (work / "agent.toml").write_text("filesystem.allow = ['$WORKDIR']")
    warnings = cage("-p", "agent.toml", cwd=work)["warnings"]
    assert any("may write the profile agent.toml" in warning for warning in warnings)
    assert not any("may write" in one for one in cage("-p", "offline", cwd=work)["warnings"])


@pytest.mark.parametrize("given", ["link.toml", "links/agent.toml"])
def test_a_profile_behind_a_link_inside_a_grant_is_warned_of(sessions, cage, given):
    """A command that can replace the link decides what the next run's profile is."""
    work, elsewhere = sessions.home / "work", sessions.home / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (elsewhere / "agent.toml").write_text("filesystem.allow = ['$WORKDIR']")
    (work / "link.toml").symlink_to(elsewhere / "agent.toml")
    (work / "links").symlink_to(elsewhere)
    warnings = cage("-p", given, cwd=work)["warnings"]
    assert any(f"may write the profile {given}" in warning for warning in warnings)


def test_a_proxy_takes_the_network_of_a_profile(sessions, own):
    own("p.toml", "network.allow_domain = ['a.example.com']\naudit.sync = 'always'")
    with sessions.proxy("-p", "p") as (_, ready):
        session = json.loads((sessions.only / "session.json").read_text())
        assert session["nono_trio"]["audit_sync"] == "always"
        assert ready["session_id"] == sessions.only.name


def test_a_run_without_a_profile_reads_none(sessions):
    """Reading one costs a parser and a schema: the start-up budget has no room for them."""
    code = (
        "import sys\nfrom nono_trio.cli.main import exit_code\n"
        "assert exit_code(['run', '--dry-run', '--silent', '--', 'true']) == 0\n"
        "heavy = {'tomllib', 'nono_trio.core.profile.schema', 'nono_trio.config.registries'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=sessions.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# -- several --------------------------------------------------------------------------------------


def test_several_profiles_add_up_and_a_later_value_wins(cage, own):
    own("one.toml", "network.allow_domain = ['a.example.com']\nfilesystem.home = 'closed'")
    own("two.toml", "network.allow_domain = ['b.example.com']\nfilesystem.home = 'private'")
    both = cage("-p", "one", "-p", "two")
    assert both["network"]["allow"] == ["a.example.com", "b.example.com"]
    assert both["home"]["kind"] == "private"
    assert cage("-p", "two", "-p", "one")["network"]["allow"] == ["b.example.com", "a.example.com"]


def test_profiles_in_the_environment_are_as_in_a_path_and_give_way_to_flags(sessions, cage, own):
    own("one.toml", "network.allow_domain = ['a.example.com']")
    own("two.toml", "network.allow_domain = ['b.example.com']")
    sessions.variables["NONO_TRIO_PROFILE"] = "one:two"
    assert cage()["network"]["allow"] == ["a.example.com", "b.example.com"]
    assert cage("-p", "two")["network"]["allow"] == ["b.example.com"]


def test_a_kept_home_goes_by_all_of_them(cage, own):
    own("one.toml", "filesystem.home = 'kept'")
    own("two.toml", "network.block = false")
    homes = [json.dumps(cage(*words)["home"]) for words in (
        ["-p", "one"], ["-p", "one", "-p", "two"], ["-p", "two", "-p", "one"],
    )]  # fmt: skip
    assert len(set(homes)) == 3
