"""Endpoint rules of flags, variables and profiles come together with their places."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT

from nono_trio.cli.flags import given_options
from nono_trio.cli.run import run
from nono_trio.config.settle import settle_run
from nono_trio.core.profile.endpoint import Endpoint, Mcp
from nono_trio.core.profile.parser import read_profile
from nono_trio.errors import UsageError
from nono_trio.session.policy_facts import proxy_policy
from nono_trio.session.prepare import build_policy

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.config.options import NetworkOptions, SessionOptions

PROFILE = """\
[network]
allow_domain = ["https://a.example.com/v1/**"]
intercept = ["*.seen.example.com"]
no_intercept = ["x.seen.example.com"]
allow_endpoint = ["read-only https://git.example.com/**"]

[[network.endpoint]]
host = "b.example.com"
methods = ["GET"]
query = { q = "a b" }

[[network.endpoint]]
host = "b.example.com"
path = "/admin/**"
action = "deny"
"""


def session(*words: str) -> SessionOptions:
    with run.make_context("run", [*words, "--", "true"]) as context:
        return settle_run((), given_options(context.params)).session


def network(*words: str) -> NetworkOptions:
    return session(*words).network


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "p.toml"
    path.write_text(PROFILE)
    return str(path)


def test_rules_of_flags_variables_and_profiles_add_up_with_their_places(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "NONO_TRIO_ALLOW_ENDPOINT",
        "GET https://e.example.com/@*  allow_encoded_slash\nPUT,POST https://f.example.com/x",
    )
    options = network(
        "-p", profile, "--allow-endpoint", "GET https://c.example.com/",
        "--deny-endpoint", "* https://c.example.com/x",
    )  # fmt: skip
    places = {one: options.source("endpoint", one) for one in options.endpoints}
    assert places == {
        "allow GET https://b.example.com/**?q=a%20b": f"{profile}:7: network.endpoint",
        "deny * https://b.example.com/admin/**": f"{profile}:12: network.endpoint",
        "allow GET https://c.example.com/": "--allow-endpoint",
        "allow GET https://e.example.com/@* allow_encoded_slash": "--allow-endpoint",
        "allow PUT,POST https://f.example.com/x": "--allow-endpoint",
        "allow read-only https://git.example.com/**": f"{profile}:5: network.allow_endpoint",
        "deny * https://c.example.com/x": "--deny-endpoint",
    }
    assert build_policy(options).endpoints is not None


def test_the_policy_file_has_every_rule_with_its_place(profile: str) -> None:
    found = proxy_policy(session("-p", profile)).network
    assert [one.entry for one in found.endpoints] == [
        "allow GET https://b.example.com/**?q=a%20b",
        "deny * https://b.example.com/admin/**",
        "allow read-only https://git.example.com/**",
    ]
    assert [(one.entry, one.source) for one in (*found.intercept, *found.no_intercept)] == [
        ("*.seen.example.com", f"{profile}:3: network.intercept"),
        ("x.seen.example.com", f"{profile}:4: network.no_intercept"),
    ]


def test_a_contradiction_over_two_places_is_refused(profile: str) -> None:
    with pytest.raises(UsageError, match=r"--no-intercept b\.example\.com contradicts"):
        build_policy(network("-p", profile, "--no-intercept", "b.example.com"))


def test_a_denial_names_the_line_of_a_profile(profile: str) -> None:
    policy = build_policy(network("-p", profile))
    assert policy.endpoints is not None
    host = next(one.host for one in policy.endpoints.opened if one.host.name == "b.example.com")
    verdict = policy.endpoint_verdict("https", host, 443, "GET", "/admin/?q=a+b")
    assert verdict.hint == f"take it out of {profile}:12: network.endpoint"


def test_rules_without_any_of_it_look_into_nothing() -> None:
    policy = build_policy(network("--allow-domain", "a.example.com"))
    assert policy.endpoints is None
    assert not policy.intercepts_any


def test_an_exception_alone_looks_into_nothing() -> None:
    assert not build_policy(network("--no-intercept", "a.example.com")).intercepts_any


def test_the_examples_of_the_docs_are_rules() -> None:
    page = (ROOT / "docs" / "intercept.md").read_text("utf-8").partition("\n## Which")[0]
    tables = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    reading = read_profile("\n".join(tables), "a.toml")
    assert reading.faults == ()
    (endpoint,) = reading.sourced.profile.network.endpoint
    (mcp,) = reading.sourced.profile.network.mcp
    for table, kind in zip(tables, (Endpoint, Mcp), strict=True):
        assert {*kind.__struct_fields__} == {*re.findall(r"^(\w+) = ", table, re.MULTILINE)}
    assert str(mcp).startswith("allow mcp search_*,get_issue,method:resources/read https://mcp.")
    assert str(endpoint).startswith(
        "allow GET,HEAD https://api.example.com/repos/*/issues/**?state="
    )
    commands = re.findall(r"^nono-trio run (.*) -- agent-cmd$", page, re.MULTILINE)
    flags = re.findall(r"`(--allow-endpoint '[^'`]*')`", page)
    examples = [one for one in flags if "METHODS" not in one]
    assert (len(commands), len(examples)) == (6, 2)
    for words in (*commands, *examples):
        assert build_policy(network(*shlex.split(words))).intercepts_any
