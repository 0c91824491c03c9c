"""Groups of hosts, and what package_registries stands for on a machine."""

from __future__ import annotations

import pytest

from nono_trio.config.registries import read_registries
from nono_trio.core.policy.host_groups import GROUP_NAMES, GROUPS, PACKAGE_REGISTRIES, expand_groups
from nono_trio.core.policy.rule import parse_allow, parse_deny
from nono_trio.errors import UsageError

NAMES = {
    "llm_apis", "github", "gitlab", "sigstore", "documentation", "google_cloud", "azure",
    "aws_bedrock", "package_registries",
}  # fmt: skip


def test_the_groups_are_those_of_the_contract():
    assert set(GROUP_NAMES) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {PACKAGE_REGISTRIES}))
def test_every_entry_of_a_group_is_a_rule(name):
    assert GROUPS[name]
    assert len(set(GROUPS[name])) == len(GROUPS[name])
    for host in GROUPS[name]:
        assert parse_allow(host).ports == (80, 443)
        parse_deny(host)


def test_no_registry_is_written_down():
    assert GROUPS[PACKAGE_REGISTRIES] == ()


def test_names_of_groups_are_replaced_and_hosts_stay():
    entries = ["a.example.com", "gitlab", PACKAGE_REGISTRIES, "gitlab", "a.example.com"]
    expanded = expand_groups(entries, ["r.example.com:443"])
    assert expanded == ["a.example.com", *GROUPS["gitlab"], "r.example.com:443"]
    assert expand_groups([], ["r.example.com:443"]) == []


def test_an_unknown_word_is_refused_with_the_groups_there_are():
    with pytest.raises(UsageError, match="got a single word") as caught:
        parse_allow("githbu")
    assert all(name in (caught.value.hint or "") for name in NAMES)


# -- this machine's registries --------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def read(home, writable=(), **variables):
    """With an empty PATH, and so without a tool that could be unconfigured."""
    return read_registries({"PATH": str(home / "bin"), **variables}, str(home), writable)


def ours(found):
    """Without what the machine that runs the tests has in /etc."""
    return {entry for entry in found.entries if ".example." in entry or "127.0.0.1" in entry}


@pytest.mark.parametrize(
    ("path", "text", "entries"),
    [
        (
            ".config/pip/pip.conf",
            "[global]\nindex-url = https://user:p%40ss@pip.example.com/simple\n"
            "extra-index-url =\n    http://two.example.com:8080/simple\n  # http://no.example.com\n"
            "trusted-host = not.example.com\nproxy = http://proxy.example.com\n",
            {"pip.example.com:443", "two.example.com:8080"},
        ),
        (
            ".pip/pip.conf",
            "[install]\nindex_url: https://old.example.com\n",
            {"old.example.com:443"},
        ),
        (
            ".config/uv/uv.toml",
            '[[index]]\nurl = "https://uv.example.com/simple"\n',
            {"uv.example.com:443"},
        ),
        (
            ".npmrc",
            "registry=https://npm.example.com/\n@scope:registry = http://127.0.0.1:4873\n"
            "; registry=https://no.example.com\n//npm.example.com/:_authToken=sesame\n"
            "proxy=http://proxy.example.com\n",
            {"npm.example.com:443", "127.0.0.1:4873"},
        ),
        (
            ".cargo/config.toml",
            '[source.crates-io]\nreplace-with = "m"\n[source.m]\n'
            'registry = "sparse+https://cargo.example.com/index/"\n'
            '[registries.x]\nindex = "https://x.example.com/git"\n'
            '[http]\nproxy = "http://proxy.example.com"\n',
            {"cargo.example.com:443", "x.example.com:443"},
        ),
        (
            ".config/go/env",
            "GOPROXY=https://go.example.com|https://go2.example.com,direct\nGOFLAGS=x\n"
            "GOSUMDB=sum.example.com https://sum.example.com\n",
            {"go.example.com:443", "go2.example.com:443", "sum.example.com:443"},
        ),
    ],
)
def test_the_files_of_each_tool(home, path, text, entries):
    write(home / path, text)
    found = read(home)
    assert ours(found) == entries
    assert not any("sesame" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIP_INDEX_URL", "https://v.example.com/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://v.example.com/simple"),
        ("UV_INDEX", "internal=https://v.example.com/simple"),
        ("npm_config_registry", "https://v.example.com"),
        ("NPM_CONFIG_REGISTRY", "https://v.example.com"),
        ("CARGO_REGISTRIES_MINE_INDEX", "sparse+https://v.example.com/"),
        ("GOPROXY", "https://v.example.com,off"),
    ],
)
def test_the_variables_of_each_tool(home, name, value):
    assert ours(read(home, **{name: value})) == {"v.example.com:443"}


def test_files_named_by_variables(home, tmp_path):
    variables = {
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "CARGO_HOME": str(tmp_path / "cargo"),
        "NPM_CONFIG_USERCONFIG": write(tmp_path / "npmrc", "registry=https://n.example.com"),
        "GOENV": write(tmp_path / "goenv", "GOPROXY=https://g.example.com"),
        "PIP_CONFIG_FILE": write(tmp_path / "pip.ini", "index-url=https://p.example.com"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
    }
    write(tmp_path / "venv/pip.conf", "index-url=https://e.example.com")
    write(tmp_path / "cargo/config.toml", 'registries.x.index = "https://c.example.com"')
    write(tmp_path / "xdg/pip/pip.conf", "index-url=https://x.example.com")
    assert ours(read(home, **variables)) == {f"{one}.example.com:443" for one in "ngpecx"}


def test_what_the_command_may_write_is_not_believed(home, tmp_path):
    environment = tmp_path / "work/.venv"
    write(environment / "pip.conf", "index-url = https://evil.example.net/simple")
    inside = read(home, [str(tmp_path / "work")], VIRTUAL_ENV=str(environment))
    assert ours(inside) == set()
    assert any("pip.conf is not believed" in warning for warning in inside.warnings)
    outside = read(home, [str(tmp_path / "other")], VIRTUAL_ENV=str(environment))
    assert ours(outside) == {"evil.example.net:443"}


def test_a_link_does_not_hide_where_a_file_is(home, tmp_path):
    target = write(tmp_path / "work/pip.conf", "index-url = https://evil.example.net/simple")
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").symlink_to(target)
    assert ours(read(home, [str(tmp_path / "work")])) == set()


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://a.example.com:99999/", "https:///x", "http://[::/"]
)
def test_a_url_that_no_rule_opens_is_warned_of(home, url):
    found = read(home, PIP_INDEX_URL=url)
    assert not any("169.254" in entry or "99999" in entry for entry in found.entries)
    assert any("has no host to allow" in warning for warning in found.warnings)


def test_broken_files_are_warned_of_by_name(home):
    write(home / ".cargo/config.toml", "not toml [")
    (home / ".npmrc").write_bytes(b"\xff\xfe")
    warnings = " ".join(read(home).warnings)
    assert "config.toml is not what cargo reads" in warnings
    assert ".npmrc can't be read: not UTF-8 text" in warnings


def test_a_tool_without_configuration_and_without_files_is_named_and_no_host_is_guessed(home):
    for name in ("cargo", "go"):
        program = home / "bin" / name
        write(program, "#!/bin/sh\n")
        program.chmod(0o755)
    found = read(home, GOENV="off", GOPROXY="off")
    assert ours(found) == set()
    (warning,) = [one for one in found.warnings if "no registry is configured" in one]
    assert "configured for cargo (the" in warning  # Go is switched off, which is a configuration


def test_a_directory_counts_as_configuration(home):
    program = home / "bin/cargo"
    write(program, "")
    program.chmod(0o755)
    write(home / ".cargo/config.toml", '[source.v]\ndirectory = "/vendor"\n')
    assert not any("cargo" in warning for warning in read(home).warnings)
