"""Which variables of the caller reach the command."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.policy.variables import (
    SOCKETS,
    VariableRules,
    check_allow,
    check_pattern,
    check_set,
    inherit,
    is_dangerous,
    is_secret,
    socket_path,
)
from nono_trio.errors import UsageError


def passed(environment, allow=(), deny=()):
    return set(inherit(environment, VariableRules(allow, deny)).passed)


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN", "GH_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY",
        "HUGGINGFACE_API_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "AWS_PROFILE", "DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "CLIENT_SECRET", "MySecretValue",
        "GOOGLE_APPLICATION_CREDENTIALS", "GITLAB_PAT", "CI_JOB_JWT", "npm_config__auth",
        "SSH_KEY_PATH", "TOKEN",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_held_back(name):
    found = inherit({name: "x", "CI": "1"}, VariableRules())
    assert found.passed == {"CI": "1"}
    assert found.held_back == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "USER", "SHELL", "LANG", "LC_ALL", "TERM", "COLORTERM", "TZ", "PWD",
        "OLDPWD", "TMPDIR", "CI", "EDITOR", "VIRTUAL_ENV", "TOKENIZERS_PARALLELISM", "KEYBOARD",
        "AWS_REGION", "XDG_CONFIG_HOME", "GITHUB_REPOSITORY", "PASSENGER", "COMPASS",
    ],
)  # fmt: skip
def test_ordinary_names_pass(name):
    assert passed({name: "x"}) == {name}


def test_a_url_with_a_password_is_a_secret_whatever_its_name():
    assert is_secret("DATABASE_URL", "postgres://user:secret@db.example.com/x")
    assert not is_secret("DATABASE_URL", "postgres://user@db.example.com/x:y@z")
    assert not is_secret("URL", "https://example.com:443/a@b")
    assert is_secret("RSYNC_PROXY", "user:secret@proxy.example.com:873")
    assert is_secret("npm_config_proxy", "user:secret@proxy.example.com:3128")
    assert not is_secret("RSYNC_PROXY", "user@proxy.example.com:873")
    assert not is_secret("FEED_PROXY", "http://proxy.example.com:3128/a@b")
    assert not is_secret("RECIPIENT", "mailto:a@example.com")


def test_no_rule_lets_a_dangerous_name_or_one_of_ours_pass():
    names = ("LD_PRELOAD", "PYTHONPATH", "NONO_TRIO_PROFILE", "GIT_CONFIG_COUNT", "https_proxy")
    assert passed(dict.fromkeys(names, "x"), allow=["*", *names]) == set()


@pytest.mark.parametrize(
    ("allow", "deny", "expected"),
    [
        (["A_TOKEN"], [], {"A_TOKEN", "A_OTHER", "PATH"}),
        (["A_*"], [], {"A_TOKEN", "A_OTHER", "PATH"}),
        (["*"], [], {"A_TOKEN", "A_OTHER", "PATH"}),
        ([], ["A_*"], {"PATH"}),
        ([], ["*"], {"PATH"}),
        ([], ["PA*"], {"A_OTHER", "PATH"}),
        ([], ["PATH"], {"A_OTHER"}),
        (["A_TOKEN"], ["*"], {"A_TOKEN", "PATH"}),
        (["A_TOKEN"], ["A_TOKEN"], {"A_OTHER", "PATH"}),
        (["A_*"], ["A_TOKEN"], {"A_OTHER", "PATH"}),
        (["A_TOKEN"], ["A_*"], {"A_TOKEN", "PATH"}),
        (["A_*"], ["A_*"], {"PATH"}),
    ],
)
def test_the_longest_pattern_decides_and_deny_on_a_tie(allow, deny, expected):
    assert passed({"A_TOKEN": "1", "A_OTHER": "2", "PATH": "3"}, allow, deny) == expected


@given(
    st.dictionaries(st.text("ABP_*", min_size=1, max_size=6), st.text(max_size=4), max_size=6),
    st.lists(st.text("ABP_*", min_size=1, max_size=3), max_size=3),
)
def test_what_is_passed_is_the_callers_own(environment, patterns):
    found = inherit(environment, VariableRules(patterns, patterns))
    assert found.passed.items() <= environment.items()
    assert set(found.held_back).isdisjoint(found.passed)


@pytest.mark.parametrize("pattern", ["", "A*B", "*A", "**", "A-B", "1A", "A=B", "A *"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(UsageError, match="name of a variable"):
        check_pattern(pattern)


def test_what_can_be_named():
    check_pattern("*")
    check_allow("MY_*")
    with pytest.raises(UsageError, match="never passed on"):
        check_allow("PYTHONPATH")
    for name in SOCKETS:
        with pytest.raises(UsageError, match="it leads to") as refused:
            check_allow(name)
        assert "--allow-unix-socket" in (refused.value.hint or "")
    check_set("PYTHONPATH")
    for name in ("PATH", "NONO_X", "HTTPS_PROXY", "no_proxy", "A B", ""):
        with pytest.raises(UsageError):
            check_set(name)
    assert is_dangerous("GIT_CONFIG_KEY_0")


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("SSH_AUTH_SOCK", "/run/a", "/run/a"),
        ("SSH_AUTH_SOCK", "a", None),
        ("GPG_AGENT_INFO", "/run/S.gpg:123:1", "/run/S.gpg"),
        ("DOCKER_HOST", "unix:///var/run/docker.sock", "/var/run/docker.sock"),
        ("DOCKER_HOST", "tcp://192.0.2.1:2375", None),
        ("DISPLAY", ":0", "/tmp/.X11-unix/X0"),
        ("DISPLAY", "unix:10.0", "/tmp/.X11-unix/X10"),
        ("DISPLAY", "host.example.com:0", None),
        ("DISPLAY", ":0/../../x", None),
        ("WAYLAND_DISPLAY", "wayland-0", "/run/user/7/wayland-0"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/bus,guid=1", "/run/bus"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=/x", None),
        ("PYTHONPATH", "/x", None),
    ],
)
def test_the_socket_that_a_variable_leads_to(name, value, path):
    assert socket_path(name, {"XDG_RUNTIME_DIR": "/run/user/7", name: value}) == path


def test_a_run_passes_on_what_is_asked_for_and_names_the_rest(sessions):
    sessions.variables = {
        "MY_TOKEN": "t",
        "OTHER_TOKEN": "sesame",
        "LD_LIBRARY_PATH": "/x",
        "CI": "1",
    }
    done = sessions.run("--env-allow", "MY_TOKEN", "--env-deny", "CI", "--", "env")
    assert "MY_TOKEN=t\n" in done.stdout
    assert "OTHER_TOKEN" not in done.stdout
    assert "LD_LIBRARY_PATH" not in done.stdout
    assert "CI=" not in done.stdout
    assert f"PATH={os.environ['PATH']}\n" in done.stdout
    assert "held back" in done.stderr
    assert "OTHER_TOKEN (pass one on with --env-allow NAME)" in done.stderr
    assert "sesame" not in done.stderr
    assert sessions.run("--silent", "--", "true").stderr == ""


def test_a_flag_that_can_have_no_effect_is_refused(sessions):
    done = sessions.run("--env-allow", "LD_PRELOAD", "--", "true")
    assert done.returncode == 2
    assert "--env-allow: LD_PRELOAD is never passed on" in done.stderr
