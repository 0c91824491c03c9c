"""Credentials of flags and profiles: how they come together, and what they open."""

from __future__ import annotations

import json
import tomllib

import pytest

from nono_trio.cli.profile_render import template
from nono_trio.config.credentials import parse_given
from nono_trio.core.profile.parser import read_profile
from nono_trio.errors import UsageError

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"


def cage(sessions, *options, profile=""):
    """The resolved cage of a run with a profile."""
    path = sessions.home / "own.toml"
    path.write_text(profile)
    done = sessions.run("--dry-run", "--json", "-p", str(path), *options, "--", "true")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(sessions, *options, profile=""):
    path = sessions.home / "own.toml"
    path.write_text(profile)
    done = sessions.run("--dry-run", "-p", str(path), *options, "--", "true")
    assert done.returncode == 2
    assert SECRET not in done.stderr
    assert "hint: " in done.stderr
    return done.stderr


@pytest.fixture
def held(sessions):
    sessions.variables |= {"GH_TOKEN": SECRET, "MY_KEY": SECRET, "OPENAI_API_KEY": SECRET}
    return sessions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("github", ("github", None, ())),
        ("github@ghe.example.com", ("github", None, ("ghe.example.com",))),
        ("a@b.example:8443,http://127.0.0.1:80", ("a", None, ("b.example:8443", "http://127.0.0.1:80"))),
        ("a=env://A", ("a", "env://A", ())),
        ("a=env://A@b.example,c.example", ("a", "env://A", ("b.example", "c.example"))),
        ("a=cmd://get --to=x me@home@b.example", ("a", "cmd://get --to=x me@home", ("b.example",))),
    ],
)  # fmt: skip
def test_a_flag_is_a_name_a_source_and_hosts(text, expected) -> None:
    assert tuple(parse_given(text)) == expected


@pytest.mark.parametrize(
    "text", ["a@", "a=", "a=@b.example", "a=env://A@", "a@b,", "a@,b", "a=env://A@b,,c"]
)
def test_a_flag_with_a_missing_part_is_refused(text) -> None:
    with pytest.raises(UsageError, match="--credential 'a': expected"):
        parse_given(text)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("GitHub", "expected a name"),
        ("one", "expected a source of its secret"),
        ("one=env://MY_KEY", "expected a host to which its secret may go"),
        (f"one={SECRET}@a.example", "expected a reference to the secret, not the secret itself"),
        ("one=env://MY_KEY@*.com", "anybody may register"),
        ("one=env://MY_KEY@*.github.io", "anybody may register"),
        ("one=env://MY_KEY@a.example:*", "expected one port"),
        ("one=env://MY_KEY@http://a.example.com/x", "host 'http://a.example.com/x'"),
        ("one=env://NOT_SET@a.example", "the variable NOT_SET is not set"),
        ("one=file:///nowhere/key@a.example", "can't be read"),
        ("", "expected a credential, got an empty text"),
    ],
)
def test_a_flag_that_can_not_be_meant_is_refused(flag, message, held) -> None:
    assert message in refused(held, "--credential", flag)


def test_a_bound_host_is_opened_at_its_port_and_its_requests_are_seen(held) -> None:
    found = cage(held, "--credential", "one=env://MY_KEY@a.example.com:8443,http://127.0.0.1:9000")
    network = found["network"]
    assert network["allow"] == ["a.example.com:8443", "127.0.0.1:9000"]
    assert network["intercept"] == ["a.example.com"]
    assert network["sources"]["allow_domain"]["a.example.com:8443"] == "--credential"
    assert found["credentials"][0]["secret_from"] == "env://MY_KEY"
    assert "MY_KEY" in found["environment"]["set"]


def test_a_preset_brings_its_rules_unless_the_user_has_some_that_open(held) -> None:
    readonly = [f"allow read-only https://{host}/**" for host in
                ("api.github.com", "uploads.github.com", "github.com")]  # fmt: skip
    assert cage(held, "--credential", "github")["network"]["endpoints"] == readonly
    own = "* https://api.github.com/**"
    found = cage(held, "--credential", "github", "--allow-endpoint", own)["network"]
    assert found["endpoints"] == [f"allow {own}", *readonly[1:]]
    assert "api.github.com:443" in found["allow"]
    # What denies opens nothing, and neither does the host alone.
    denied = "DELETE https://api.github.com/**"
    found = cage(
        held, "--credential", "github", "--deny-endpoint", denied, "--allow-domain", "github.com"
    )
    assert {*readonly} <= {*found["network"]["endpoints"]}


@pytest.mark.parametrize("entry", ["api.github.com", "*.github.com"])
def test_a_bound_host_can_not_be_left_alone(entry, held) -> None:
    text = refused(held, "--credential", "github", "--no-intercept", entry)
    assert "contradicts the credential github" in text


def test_tables_add_up_and_a_flag_goes_over_them(held) -> None:
    (held.home / "base.toml").write_text(
        '[credentials.mine]\nsource = "env://MY_KEY"\nhosts = ["a.example.com"]\nttl = 60\n'
        'places = ["query"]\n'
    )
    profile = (
        'extends = "./base.toml"\n[credentials.mine]\nhosts = ["b.example.com"]\n'
        'optional = true\nvariables = ["MINE"]\nelsewhere = "audit"\n'
    )
    (found,) = cage(held, profile=profile)["credentials"]
    assert found.pop("source").endswith("own.toml:2: credentials.mine")
    assert found == {
        "name": "mine",
        "secret_from": "env://MY_KEY",
        "hosts": ["https://a.example.com", "https://b.example.com"],
        "places": ["query"],
        "variables": ["MINE"],
        "files": [],
        "optional": True,
        "elsewhere": "audit",
        "kind": "token",
        "route": False,
    }
    (found,) = cage(
        held, "--credential", "mine=env://GH_TOKEN@c.example.com", profile=profile
    )["credentials"]  # fmt: skip
    assert found["hosts"] == ["https://c.example.com"]
    assert found["secret_from"] == "env://GH_TOKEN"
    assert found["variables"] == ["MINE"]


def test_the_same_flag_twice_is_one_and_another_is_refused(held) -> None:
    same = ("--credential", "openai", "--credential", "openai")
    assert len(cage(held, *same)["credentials"]) == 1
    assert "given twice" in refused(held, *same[:2], "--credential", "openai@b.example.com")


def test_a_variable_has_a_credential_on_each_line(held) -> None:
    held.variables["NONO_TRIO_CREDENTIAL"] = "openai\none=cmd://printf %s secret-text@a.example\n"
    found = cage(held, "--credential", "github")["credentials"]
    assert [one["name"] for one in found] == ["github", "openai", "one"]
    assert found[2]["secret_from"] == "cmd"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("credentials = 3", ":1: credentials: expected tables, got a single value"),
        ("[credentials]\ngithub = 3", ":2: credentials.github: expected a table"),
        ("[credentials.Big]", ":1: credentials: expected a name of at most 32"),
        ("[credentials.a]\nhost = 'x'", ":2: credentials.a.host: unknown key"),
        ("[credentials.a]\nhosts = 'x'", ":2: credentials.a.hosts: expected a list"),
        ("[credentials.a]\nhosts = ['a', 'https://']", ":2: credentials.a.hosts: host 'https://'"),
        (f"[credentials.a]\nsource = '{SECRET}'", ":2: credentials.a.source: expected a reference"),
        ("[credentials.a]\nsource = 'cmd://a \"b'", "a quote without its end"),
        ("[credentials.a]\nplaces = ['cookie']", "expected a place, got 'cookie'"),
        ("[credentials.a]\nheaders = ['Host']", "the header host can't carry a secret"),
        ("[credentials.a]\nvariables = ['PATH']", "PATH can't be set"),
        ("[credentials.a]\nfiles = ['$NOPE/x']", "unknown variable $NOPE"),
        ("[credentials.a]\nendpoints = ['GET']", "expected METHODS URL"),
        ("[credentials.a]\nttl = 0", "expected a ttl from 1"),
        ("[credentials.a]\nttl = 'x'", "expected a whole number"),
        ("[credentials.a]\nelsewhere = 'x'", "credentials.a.elsewhere"),
        ("[credentials.a]\noptional = 'x'", "expected true or false"),
    ],
)
def test_a_fault_of_a_table_has_its_line_and_no_secret(text, fault) -> None:
    (found,) = read_profile(text, "own.toml").faults
    assert fault in f":{found.line}: {found.key}: {found.message}"
    assert SECRET not in f"{found.text} {found.hint}"


def test_the_template_has_a_table_that_is_valid() -> None:
    text = template("a", ["default"])
    begin = text.index("# [credentials.my-api]")
    table = "\n".join(line.removeprefix("# ") for line in text[begin:].splitlines())
    assert set(tomllib.loads(table)["credentials"]["my-api"]) >= {"source", "hosts", "files"}
    assert read_profile(table, "own.toml").faults == ()


def test_a_profile_is_shown_and_read_again(held) -> None:
    (held.home / "own.toml").write_text(
        '[credentials.mine]\nsource = "env://MY_KEY"\nhosts = ["a.example.com"]\nttl = 60\n'
    )
    shown = held.call("profile", "show", "./own.toml").stdout
    assert read_profile(shown, "shown.toml").faults == ()
    assert tomllib.loads(shown)["credentials"]["mine"] == {
        "source": "env://MY_KEY", "hosts": ["a.example.com"], "ttl": 60,
    }  # fmt: skip
    assert json.loads(held.call("profile", "show", "--json", "./own.toml").stdout)["profile"]


def test_why_and_the_policy_file_tell_of_it(held) -> None:
    asked = held.call("why", "--credential", "openai", "--host", "api.openai.com")
    assert "the stand-in of the credential openai is swapped" in asked.stdout
    done = held.run("--credential", "openai", "--", "true")
    assert done.returncode == 0, done.stderr
    policy = json.loads((held.only / "policy.json").read_text())
    (one,) = policy["network"]["credentials"]
    assert (one["name"], one["secret_from"], one["is_held"]) == (
        "openai",
        "env://OPENAI_API_KEY",
        True,
    )
    shown = held.call("audit", "show").stdout
    assert "openai from env://OPENAI_API_KEY for api.openai.com" in shown
    assert held.call("audit", "verify", "latest").returncode == 0
