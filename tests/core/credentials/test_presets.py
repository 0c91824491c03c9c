"""Presets: all their settings are valid, and what the user writes takes their place."""

from __future__ import annotations

import re
import runpy

import pytest
from checkout import ROOT

from nono_trio.config.credentials import parse_given
from nono_trio.core.credentials.credential import DEFAULT_PLACES, Place, parse_bound_host
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.presets import PRESETS
from nono_trio.core.policy.endpoint_path import canonical_target
from nono_trio.core.policy.endpoint_rule import parse_endpoint
from nono_trio.core.profile.parser import read_profile
from nono_trio.errors import UsageError


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_makes_a_valid_credential(name):
    preset = PRESETS[name]
    hosts = () if preset.hosts else ("service.example.com",)
    credential = make_credential(name, {}, hosts=hosts)
    assert credential.hosts
    assert not any(one.wildcard or one.scheme == "http" for one in credential.hosts)
    assert credential.variables == preset.variables
    assert credential.places == preset.places
    assert Place.BODY not in credential.places
    for one in credential.endpoints:
        parse_endpoint("--allow-endpoint", one, "allow")
    if preset.source is None:
        assert credential.source == f"env://{preset.variables[0]}"


def _is_allowed(name: str, method: str, host: str, target: str) -> bool:
    rules = [parse_endpoint("-", one, "allow") for one in make_credential(name, {}).endpoints]
    canonical = canonical_target(target)
    return any(
        one.host.name == host and one.covers("https", 443, method, canonical) for one in rules
    )


@pytest.mark.parametrize(
    ("method", "host", "target", "allowed"),
    [
        ("GET", "api.github.com", "/repos/a/b/issues", True),
        ("POST", "api.github.com", "/repos/a/b/issues", False),
        ("DELETE", "api.github.com", "/repos/a/b", False),
        ("POST", "api.github.com", "/graphql", False),
        ("POST", "uploads.github.com", "/repos/a/b/releases/1/assets", False),
        ("GET", "github.com", "/a/b/info/refs?service=git-upload-pack", True),
        ("POST", "github.com", "/a/b/git-upload-pack", True),
        ("GET", "github.com", "/a/b/info/refs?service=git-receive-pack", False),
        ("POST", "github.com", "/a/b/git-receive-pack", False),
    ],
)
def test_github_is_read_only(method, host, target, allowed):
    assert _is_allowed("github", method, host, target) == allowed


@pytest.mark.parametrize("name", ["npm", "pypi", "azure-openai", "github-enterprise"])
def test_a_service_whose_host_differs_needs_one(name):
    with pytest.raises(UsageError, match="expected a host") as caught:
        make_credential(name, {})
    assert f"--credential {name}@HOST" in (caught.value.hint or "")


def test_the_source_is_the_first_variable_that_is_set():
    environment = {"GH_TOKEN": "", "GITHUB_TOKEN": "x"}
    assert make_credential("github", environment).source == "env://GITHUB_TOKEN"
    given = make_credential("github", environment, source="file:///run/key")
    assert given.source == "file:///run/key"


def test_what_the_user_writes_takes_the_place_of_the_preset():
    credential = make_credential(
        "github", {}, hosts=["http://127.0.0.1:8080"], places=["query"], variables=["MY_KEY"]
    )
    assert [one.origin for one in credential.hosts] == ["http://127.0.0.1:8080"]
    assert credential.places == {Place.QUERY}
    assert credential.variables == ("MY_KEY",)
    assert credential.endpoints == ("read-only http://127.0.0.1:8080/**",)
    own = make_credential("github", {}, endpoints=["* https://github.com/a/b/**"])
    assert own.endpoints == ("* https://github.com/a/b/**",)


def test_a_credential_without_preset_needs_a_source_and_a_host():
    with pytest.raises(UsageError, match="expected a source"):
        make_credential("mine", {}, hosts=["api.example.com"])
    with pytest.raises(UsageError, match="expected a host"):
        make_credential("mine", {}, source="env://MINE")
    credential = make_credential("mine", {}, source="env://MINE", hosts=["api.example.com"])
    assert credential.hosts == (parse_bound_host("mine", "api.example.com"),)
    assert credential.places == DEFAULT_PLACES
    assert credential.endpoints == ()


def test_headers_and_parameters_are_the_presets_or_the_users():
    assert make_credential("gemini", {}).parameters == {"key"}
    own = make_credential("openai", {}, headers=["X-Mine"], parameters=["sig"])
    assert (own.headers, own.parameters) == ({"x-mine"}, {"sig"})
    for wrong in ("a b", "", "Host", "a:"):
        with pytest.raises(UsageError, match="header"):
            make_credential("openai", {}, headers=[wrong])


def test_bad_settings_name_the_credential():
    with pytest.raises(UsageError, match=r"^credential github: 'FETCH'"):
        make_credential("github", {}, endpoints=["FETCH"])
    with pytest.raises(UsageError, match=r"^credential github: expected at most"):
        make_credential("github", {}, hosts=[f"a{n}.example.com" for n in range(65)])


def test_the_docs_have_every_service_and_their_examples_are_valid() -> None:
    text = (ROOT / "docs" / "credentials.md").read_text()
    table = runpy.run_path(str(ROOT / "scripts" / "services_table.py"))["table"]
    assert table() in text, "paste what scripts/services_table.py prints"
    for example in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        assert read_profile(example, "docs.toml").faults == ()
    flags = re.findall(r"--credential (?:'([^'\n]*)'|(\S+)='([^'\n]*)'|([^\s`'|]+))", text)
    given = [whole or (f"{name}={source}" if name else bare) for whole, name, source, bare in flags]
    made = [parse_given(one) for one in given if one[0].islower()]
    assert {one.name for one in made} >= {"anthropic", "github", "my-api", "npm"}
    for one in made:
        make_credential(one.name, {}, source=one.source, hosts=one.hosts)
