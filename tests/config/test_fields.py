"""Each field of a profile is declared once, and all that shows or takes it has it from there."""

from __future__ import annotations

import json
import runpy
import tomllib
from typing import TYPE_CHECKING

import click
import pytest
from checkout import ROOT

from nono_trio.cli.flags import given_options
from nono_trio.cli.profile_render import template
from nono_trio.cli.run import run
from nono_trio.cli.shared_flags import environment_twin
from nono_trio.config.options import Limits
from nono_trio.config.resolve import Chosen, choose
from nono_trio.config.settle import settle_run
from nono_trio.core.profile.fields import BY_KEY, FIELDS, QUEUE_RECORDS, SECTIONS, Field
from nono_trio.core.profile.parser import read_profile
from nono_trio.core.profile.schema import TABLES, Profile
from nono_trio.core.profile.values import CHECKS

if TYPE_CHECKING:
    from pathlib import Path

EACH_FIELD = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.key)
# Fields that no flag gives: config/resolve.py takes these by their keys.
PROFILE_ONLY = {
    "filesystem.home_seed", "network.groups", "network.endpoint", "network.mcp", "environment.set",
    "network.tls_ca", "network.client_cert", "network.client_key",
}  # fmt: skip
# For each kind what a profile says and what a flag or a variable says.
ENTRIES = {
    "path": ("/usr/share", "/usr/lib"),
    "home": ("closed", "private"),
    "size": ("64M", "65M"),
    "text": ("env://A", "env://B"),
    "switch": (False, True),
    "seconds": (1.5, 2.5),
    "whole_number": (20, 30),
    "allowed_host": ("a.example.com", "b.example.com"),
    "denied_host": ("a.example.com", "b.example.com"),
    "intercepted_host": ("a.example.com", "*.b.example.com"),
    "excepted_host": ("a.example.com", "*.b.example.com"),
    "allowed_endpoint": ("GET https://a.example.com/x", "PUT https://b.example.com/**"),
    "denied_endpoint": ("GET https://a.example.com/x", "PUT https://b.example.com/**"),
    "allowed_mcp": ("get https://a.example.com/x", "a*,method:ping https://b.example.com"),
    "denied_mcp": ("get https://a.example.com/x", "a*,method:ping https://b.example.com"),
    "pin": ("a.example.com:443:127.0.0.1", "b.example.com:443:127.0.0.1"),
    "bypass": ("a.example.com", "b.example.com"),
    "upstream_proxy": ("http://a.example.com:3128", "http://b.example.com:3128"),
    "allowed_variable": ("A_TOKEN", "B_TOKEN"),
    "denied_variable": ("A_TOKEN", "B_TOKEN"),
}


def commented(field: Field) -> str:
    return f"{'' if field.begins else '# '}{field.name} = {field.example}"


@EACH_FIELD
def test_a_declaration_is_whole(field: Field) -> None:
    assert field.section in SECTIONS
    assert field.help
    assert not field.help.endswith(" ")
    assert (field.key in PROFILE_ONLY) is not bool(field.flags)
    assert all(flag.startswith("-") for flag in field.flags)
    assert not field.flags or field.flags[0].startswith("--")
    takes_word = field.kind in ("switch", "choice")
    assert bool(field.metavar) is (bool(field.flags) and not takes_word)
    assert bool(field.choices) is (field.kind == "choice")
    numbers = field.kind in ("whole_number", "seconds")
    assert numbers is (field.least is not None)
    assert numbers or takes_word or field.kind in {*CHECKS, "text"}
    assert field.grant is None or field.kind == "path"


def test_no_key_and_no_flag_is_declared_twice() -> None:
    assert len(BY_KEY) == len(FIELDS)
    flags = [flag for field in FIELDS for flag in field.flags]
    assert len(flags) == len({*flags})
    assert (
        {*TABLES}
        == {"meta", *SECTIONS}
        == {*Profile.__struct_fields__} - {"extends", "credentials"}
    )


@EACH_FIELD
def test_the_flag_is_the_declarations(field: Field) -> None:
    options = {one.name: one for one in run.params if isinstance(one, click.Option)}
    if not field.flags:
        assert field.name not in options or field.name == "set"
        return
    option = options[field.parameter]
    assert {*option.opts} == {*field.flags}
    assert (option.help or "").startswith(field.help[:40])
    assert option.metavar == field.metavar
    assert option.multiple is (field.merge == "adds_up")
    assert option.envvar == environment_twin(field.flags[0])
    assert option.default == field.default or field.default is None


@EACH_FIELD
def test_the_template_and_the_docs_have_it(field: Field) -> None:
    assert commented(field) in template("a", ["default"])
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert f"| `{field.name}` |" in page.partition(f"## [{field.section}]")[2].partition("## [")[0]


def test_the_page_of_the_docs_is_made_from_the_declarations() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "options_page.py"))["page"]
    assert (ROOT / "docs" / "options.md").read_text("utf-8") == page(), (
        "run: .venv/bin/python scripts/options_page.py > docs/options.md"
    )


@EACH_FIELD
def test_every_example_is_accepted(field: Field) -> None:
    text = f"[{field.section}]\n{field.name} = {field.example}\n"
    assert read_profile(text, "a.toml").faults == ()
    assert field.name in tomllib.loads(text)[field.section]


def chosen(*words: str) -> Chosen:
    with run.make_context("run", [*words, "--", "true"]) as context:
        return choose(given_options(context.params))


@pytest.mark.parametrize("field", [one for one in FIELDS if one.flags], ids=lambda one: one.key)
def test_flags_variables_and_profiles_come_together_as_declared(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists add up; of single values the flag's wins, then the variable's, then the profile's."""
    of_profile, other = field.choices[:2] if field.kind == "choice" else ENTRIES[field.kind]
    is_list = field.merge == "adds_up"
    profile = tmp_path / "p.toml"
    value = json.dumps([of_profile] if is_list else of_profile)
    profile.write_text(f"[{field.section}]\n{field.name} = {value}\n")
    flag = [field.flags[0]] if field.kind == "switch" else [field.flags[0], str(other)]
    with_profile = ["--profile", str(profile)]

    def of(chosen: Chosen) -> object:
        found = chosen.given[field.parameter]
        if field.kind != "path":
            return found
        return (*found, *(one.given for one in chosen.requests), *chosen.deny, *chosen.bypass)

    if field.kind != "switch":
        assert of(chosen()) == (() if is_list else field.default)
    assert of(chosen(*with_profile)) == ((of_profile,) if is_list else of_profile)
    both = (other, of_profile) if is_list else other
    assert of(chosen(*with_profile, *flag)) == both
    monkeypatch.setenv(environment_twin(field.flags[0]), "1" if other is True else str(other))
    assert of(chosen(*with_profile)) == both


@pytest.mark.parametrize("field", [one for one in FIELDS if one.grant], ids=lambda one: one.key)
def test_a_path_of_a_profile_gives_the_access_that_is_declared(
    field: Field, tmp_path: Path
) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text(f"[{field.section}]\n{field.name} = ['/usr/share']\n")
    (request,) = chosen("--profile", str(profile)).requests
    assert (request.access, request.is_file) == (field.grant, field.single)


def test_an_option_field_of_the_name_of_a_parameter_is_filled(tmp_path: Path) -> None:
    words = ["--memory", "64M", "--max-processes", "9", "--max-open-files", "99", "--allow-cwd"]
    words += ["--isolation", "none", "--resolve", "a.example.com:443:127.0.0.1"]
    with run.make_context("run", [*words, "--audit-dir", str(tmp_path), "--", "true"]) as context:
        options = settle_run(["true"], given_options(context.params))
    assert options.limits == Limits(memory=64 << 20, max_open_files=99, max_processes=9)
    assert (options.isolation, options.files.allow_cwd) == ("none", True)
    assert options.session.network.resolve == ("a.example.com:443:127.0.0.1",)
    assert options.session.audit.queue == QUEUE_RECORDS
