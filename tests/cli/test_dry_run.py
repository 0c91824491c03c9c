"""`run --dry-run`: what it shows is what a run gets, and nothing happens."""

from __future__ import annotations

import json

import pytest
from harness import processes_with, sleep_marker

FLAGS = [
    "--allow-domain", "*.example.com", "--deny-domain", "bad.example.com",
    "--resolve", "a.example.com:443:127.0.0.1", "--open-port", "5432",
]  # fmt: skip


@pytest.fixture
def project(sessions):
    """A directory to grant, in a home with a secret."""
    (sessions.home / ".ssh").mkdir()
    project = sessions.home / "project"
    project.mkdir()
    return project


def cage(sessions, *arguments, **settings):
    done = sessions.run("--dry-run", "--json", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_started_and_nothing_recorded(sessions):
    marker = sleep_marker()
    done = sessions.run("--dry-run", "--", "sleep", marker)
    assert done.returncode == 0
    assert done.stdout.endswith("nothing was started, nothing was recorded\n")
    assert not sessions.state.exists()
    assert not processes_with(marker)


def test_for_people(sessions, project):
    done = sessions.run("--dry-run", "--allow-cwd", *FLAGS, "--", "env", "--token", "abc",
                        cwd=project)  # fmt: skip
    for text in (
        "  command        env --token '[REDACTED]'\n",
        f"  starts in      {project}\n",
        "  isolation      namespace (auto: tried on this machine)\n",
        f"  granted        readwrite {project}  (--allow-cwd)\n",
        "  network        deny  bad.example.com  (--deny-domain)\n",
        "allow *.example.com  (--allow-domain)\n",
        "pin   a.example.com:443:127.0.0.1  (--resolve)\n",
        "relay port 5432 to the host's  (--open-port)\n",
        "deny  everything else",
    ):
        assert text in done.stdout


def test_the_command_is_resolved(sessions):
    shown = cage(sessions, "--", "env")
    assert shown["schema"] == 1
    assert shown["executable"].startswith("/")
    assert shown["executable"].endswith("/env")


def test_grants_with_their_source_and_what_stays_closed(sessions, project):
    state = sessions.state.parent / "elsewhere"
    shown = cage(sessions, "--read", str(sessions.home), "--audit-dir", str(state), "--", "env")
    assert shown["grants"][0] == {
        "path": str(sessions.home), "access": "read", "source": "--read",
    }  # fmt: skip
    assert any(grant["source"].startswith("group:") for grant in shown["grants"])
    assert shown["covered"] == [str(sessions.home / ".ssh")]
    assert str(sessions.home / ".aws") in shown["denied"]


def test_names_of_variables_and_no_values(sessions):
    sessions.variables = {"LD_LIBRARY_PATH": "/hidden-one", "COLOUR": "hidden-two"}
    done = sessions.run("--dry-run", "--", "env")
    shown = cage(sessions, "--", "env")["environment"]
    assert "COLOUR" in shown["passed"]
    assert "LD_LIBRARY_PATH" in shown["held_back"]
    assert "HTTPS_PROXY" in shown["set"]
    assert "hidden-" not in done.stdout + done.stderr


def test_it_names_the_variables_that_a_run_has(sessions):
    shown = cage(sessions, "--", "env")["environment"]
    done = sessions.run("-s", "--", "env")
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names - {"PWD"} == {*shown["passed"], *shown["set"]} - {"PWD"}


@pytest.mark.parametrize("isolation", ["namespace", "landlock", "none"])
def test_every_isolation(sessions, isolation):
    shown = cage(sessions, "--isolation", isolation, "--", "env")
    assert shown["isolation"] == isolation


def test_a_closed_network(sessions):
    done = sessions.run("--dry-run", "--block-net", "--", "env")
    assert "  network        blocked: --block-net\n" in done.stdout


def test_no_sandbox_is_said(sessions):
    done = sessions.run("--dry-run", "--no-sandbox", "--", "env")
    assert "  files          all that you may touch: --no-sandbox\n" in done.stdout
    assert "warning: --no-sandbox" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--dry-run", "--", "no-such-command"], 127),
        (["--dry-run", "--allow-domain", "*", "--", "env"], 2),
        (["--dry-run"], 2),
        (["--json", "--", "env"], 2),
    ],
)
def test_it_refuses_what_a_run_would(sessions, arguments, code):
    done = sessions.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize(
    "options",
    [
        ["--workdir", "/no/such/directory"],
        ["--home", "kept", "--no-sandbox"],
        ["--expect-deny", "*"],
        ["--allow-domain=a.test/x"],
        ["--allow", "{home}"],
    ],
)
def test_a_run_is_refused_in_the_words_of_its_dry_run(sessions, options):
    """Other tests ask for refusals with a dry run, which needs no process."""
    options = [word.format(home=sessions.home) for word in options]
    dry = sessions.run("--dry-run", *options, "--", "true")
    done = sessions.run(*options, "--", "true")
    assert done.returncode == 2
    assert (done.returncode, done.stdout, done.stderr) == (dry.returncode, dry.stdout, dry.stderr)
    assert not sessions.directories
    assert done.stderr.startswith("nono-trio: error: ")


def test_silent_is_without_warnings(sessions):
    assert "warning" in sessions.run("--dry-run", "--", "env").stderr
    assert sessions.run("--dry-run", "-s", "--", "env").stderr == ""


def test_an_entry_is_shown_with_what_gave_it(sessions, project):
    profile = project / "p.toml"
    profile.write_text(
        "[network]\nallow_domain = ['p.example.com', 'both.example.com']\ngroups = ['gitlab']\n"
        "deny_domain = ['no.example.com']\nopen_port = [5432]\nno_intercept = ['n.example.com']\n"
        "endpoint = [{ host = 'e.example.com', path = '/x', action = 'audit' }]\n"
    )
    flags = ["--allow-domain", "both.example.com", "--allow-domain", "azure", "-p", str(profile)]
    done = sessions.run("--dry-run", *flags, "--isolation", "namespace", "--", "env", cwd=project)
    for text in (
        f"allow p.example.com  ({profile}:2: network.allow_domain)\n",
        "allow both.example.com  (--allow-domain)\n",
        f"allow gitlab.com  ({profile}:3: network.groups gitlab)\n",
        "allow *.openai.azure.com  (--allow-domain azure)\n",
        f"deny  no.example.com  ({profile}:4: network.deny_domain)\n",
        f"rule  audit * https://e.example.com/x  ({profile}:7: network.endpoint)\n",
        f"tunnel n.example.com, whose requests are not seen  ({profile}:6: network.no_intercept)\n",
        f"relay port 5432 to the host's  ({profile}:5: network.open_port)\n",
    ):
        assert text in done.stdout
    profile.write_text("network.block = true")
    done = sessions.run("--dry-run", "-p", str(profile), "--", "env", cwd=project)
    assert f"blocked: {profile}:1: network.block\n" in done.stdout
