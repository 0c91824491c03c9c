"""`why`: each answer against what enforcement decides, and every flag it suggests tried."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest
from harness import NONO_TRIO

from nono_trio.cli import main as command_line

HOSTS = ["--allow-domain", "*.example.com", "--deny-domain", "bad.example.com"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with secrets, a project, and a state directory beside it; away from /tmp's rules."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_text("key")
    (home / "project" / "src").mkdir(parents=True)
    (home / "project" / "a.txt").write_text("a")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(home / "project")
    return home


@pytest.fixture
def ask(home, capsys):
    """Ask `why`; return its JSON, with the exit code that every answer has."""

    def ask(*arguments):
        code = command_line.exit_code(["why", "--json", *map(str, arguments)])
        out, _ = capsys.readouterr()
        assert code == 0
        return json.loads(out)

    return ask


# -- hosts ----------------------------------------------------------------------------------------


def test_an_allowed_name_with_its_entry(ask):
    answer = ask("--host", "API.example.com.", *HOSTS)
    assert (answer["schema"], answer["status"]) == (1, "allowed")
    assert answer["subject"] == "api.example.com:443"
    assert answer["rule"] == "--allow-domain *.example.com"
    assert answer["notes"][0].startswith("names are not resolved here")


@pytest.mark.parametrize(
    ("entry", "port", "words"),
    [
        ("a.test", 80, "HTTP with this host in its Host field"),
        ("a.test", 443, "TLS with this host's name"),
        ("a.test:22", 22, "whatever is spoken"),
        ("tls://a.test", 443, "may hide the name"),
        ("tls://*.test:8443", 8443, "may hide the name"),
        ("tcp://a.test:443", 443, "whatever is spoken"),
        ("a.test:*", 8443, "whatever is spoken"),
        ("a.test:*", 7777, "tproxy"),
    ],
)
def test_what_an_entry_lets_through_is_told(ask, entry, port, words):
    answer = ask("--host", "a.test", "--port", port, "--allow-domain", entry)
    assert (answer["status"], answer["rule"]) == ("allowed", f"--allow-domain {entry}")
    assert words in answer["notes"][-1]


def test_a_denied_name_with_the_flag_that_would_do(ask):
    answer = ask("--host", "other.test", "--port", "8443", *HOSTS)
    assert answer["status"] == "denied"
    assert answer["hint"] == "allow it with --allow-domain other.test:8443"
    assert ask("--host", "other.test", "--port", "8443", "--allow-domain", "other.test:8443")[
        "status"
    ] == ("allowed")


@pytest.mark.parametrize(
    ("host", "options", "status", "text"),
    [
        ("bad.example.com", HOSTS, "denied", "drop --deny-domain bad.example.com"),
        ("a.example.com", [*HOSTS, "--block-net"], "denied", "drop --block-net"),
        ("169.254.169.254", HOSTS, "denied", "cloud metadata"),
        ("::ffff:169.254.169.254", HOSTS, "denied", "cloud metadata"),
        ("metadata.google.internal", HOSTS, "denied", "cloud metadata"),
        ("127.1", ["--allow-domain", "127.0.0.1"], "denied", "malformed"),
        ("0x7f000001", ["--allow-domain", "127.0.0.1"], "denied", "malformed"),
        ("127.0.0.1", ["--allow-domain", "127.0.0.1"], "allowed", "--allow-domain 127.0.0.1"),
        ("10.0.0.1", ["--allow-domain", "10.0.0.1"], "allowed", "--allow-domain 10.0.0.1"),
        ("BÜCHER.example", ["--allow-domain", "bücher.example"], "allowed", "xn--bcher-kva"),
        ("x.test", ["--isolation", "none"], "denied", "any network past the proxy"),
    ],
)
def test_host_answers(ask, host, options, status, text):
    answer = ask("--host", host, *options)
    assert answer["status"] == status
    assert text in json.dumps(answer)


def test_a_pin_is_checked_address_by_address(ask):
    allow = ["--allow-domain", "a.example.com", "--deny-domain", "10.0.0.1"]
    pinned = ask("--host", "a.example.com", *allow, "--resolve", "a.example.com:443:127.0.0.1")
    assert (pinned["status"], pinned["notes"][0]) == ("allowed", "pinned to 127.0.0.1")
    denied = ask("--host", "a.example.com", *allow, "--resolve", "a.example.com:443:10.0.0.1")
    assert denied["status"] == "denied"
    assert "on the deny list" in denied["reason"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_an_open_port(ask, host):
    answer = ask("--host", host, "--port", "5432", "--open-port", "5432")
    assert (answer["status"], answer["rule"]) == ("allowed", "--open-port 5432")
    assert ask("--host", host, "--port", "5433", "--open-port", "5432")["status"] == "denied"
    assert ask("--host", "db.test", "--port", "5432", "--open-port", "5432")["status"] == "denied"


def test_what_a_profile_gave_is_named(ask, home):
    profile = home / "p.toml"
    profile.write_text(
        "[network]\nallow_domain = ['a.test']\ngroups = ['gitlab']\ndeny_domain = ['bad.test']\n"
    )
    assert ask("--host", "a.test", "-p", profile)["rule"] == (
        f"a.test ({profile}:2: network.allow_domain)"
    )
    assert ask("--host", "gitlab.com", "-p", profile)["rule"] == (
        f"gitlab.com ({profile}:3: network.groups gitlab)"
    )
    denied = ask("--host", "bad.test", "-p", profile)
    assert denied["hint"] == f"take it out of {profile}:4: network.deny_domain"
    by_group = ask("--host", "gitlab.com", "--deny-domain", "gitlab")
    assert by_group["hint"] == "drop --deny-domain gitlab"
    profile.write_text("network.block = true")
    blocked = ask("--host", "a.test", "-p", profile)
    assert blocked["hint"] == f"take it out of {profile}:1: network.block"


# -- paths ----------------------------------------------------------------------------------------


def flags_of(answer):
    return shlex.split(answer["hint"])


@pytest.mark.parametrize("operation", ["read", "write"])
@pytest.mark.parametrize("path", ["project", "project/a.txt", "project/new", ".ssh/id", ".ssh"])
def test_the_suggested_flags_do_what_they_say(ask, home, path, operation):
    question = ["--path", home / path, "--op", operation]
    answer = ask(*question)
    assert answer["status"] == "denied" or path == "project/new"
    if answer["status"] == "denied":
        assert ask(*question, *flags_of(answer))["status"] == "allowed"


def test_a_grant_with_its_source(ask, home):
    answer = ask("--path", "a.txt", "--op", "write", "--allow-cwd")
    assert (answer["status"], answer["rule"]) == ("allowed", f"--allow-cwd {home}/project")
    read_only = ask("--path", "a.txt", "--op", "write", "--read", home / "project")
    assert read_only["status"] == "denied"
    assert ask("--path", "/usr/bin/env")["rule"].startswith("group:")


def test_what_is_protected_stays_closed_inside_a_grant(ask, home):
    answer = ask("--path", home / ".ssh" / "id", "--read", home)
    assert answer["status"] == "denied"
    assert answer["reason"] == f"{home}/.ssh is protected (secrets or start-up files)"
    assert flags_of(answer)[:2] == ["--bypass-protection", f"{home}/.ssh"]


def test_no_flag_opens_the_state_directory(ask, tmp_path):
    (tmp_path / "state").mkdir()
    answer = ask("--path", tmp_path / "state")
    assert answer["status"] == "denied"
    assert any("covers the audit state directory" in note for note in answer["notes"])
    assert answer["hint"] == "grant a smaller directory, or move the state with --audit-dir"


def test_a_symlink_is_judged_by_where_it_leads(ask, home):
    (home / "project" / "link").symlink_to("/etc/shadow")
    answer = ask("--path", "link", "--allow-cwd")
    assert answer["status"] == "denied"
    assert "a symlink leads on to /etc/shadow, which is what counts" in answer["notes"]


def test_a_private_directory_is_not_the_hosts(ask, tmp_path):
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("the test's own directory is not below /tmp")
    hidden = ask("--path", tmp_path)
    assert hidden["status"] == "denied"
    assert hidden["reason"] == "the cage has a /tmp of its own, in which the host's files are not"
    assert ask("--path", "/tmp/not-there-yet", "--op", "write")["status"] == "allowed"
    assert ask("--path", "/tmp/not-there-yet", "--isolation", "landlock")["status"] == "denied"


def test_without_the_sandbox_everything_is_open(ask):
    answer = ask("--path", "/etc/shadow", "--no-sandbox")
    assert (answer["status"], answer["rule"]) == ("allowed", "--no-sandbox")


def test_a_skipped_grant_is_told(ask, home, capsys):
    answer = ask("--path", home / "project" / "a.txt", "--read", home / "typo")
    assert answer["warnings"] == [f"--read {home}/typo: no such path, skipped"]


@pytest.mark.parametrize(
    ("granted", "path", "operation"),
    [
        ("--read", "a.txt", "read"), ("--read", "a.txt", "write"),
        ("--allow", "a.txt", "write"), (None, "a.txt", "read"),
    ],
)  # fmt: skip
def test_the_kernel_agrees(sessions, granted, path, operation):
    """The same flags, asked and run."""
    project = sessions.home / "project"
    project.mkdir()
    (project / path).write_text("content")
    flags = [granted, str(project)] if granted else []
    asked = sessions.call("why", "--json", "--path", str(project / path), "--op", operation, *flags)
    redirect = {"read": "<", "write": ">>"}[operation]
    done = sessions.run(*flags, "-s", "--", "sh", "-c", f": {redirect}{project / path}")
    assert (json.loads(asked.stdout)["status"] == "allowed") is (done.returncode == 0)


def test_the_answer_is_for_the_isolation_that_this_machine_gives(sessions):
    """Really without namespaces: the limit is set in a user namespace of the test's own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) here")

    def ask_without_namespaces(*arguments):
        script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
        why = [NONO_TRIO, "why", "--json", "--path", "/tmp/not-there-yet", *arguments]
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *why],
            env=sessions.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if "unshare failed" in done.stderr:
            pytest.skip("no user namespaces here")
        return json.loads(done.stdout)

    auto = ask_without_namespaces()
    assert auto["status"] == "denied"
    assert auto["notes"][0] == (
        "answered for landlock isolation: namespaces are not available on this machine"
    )
    asked = ask_without_namespaces("--isolation", "namespace")
    assert asked["status"] == "allowed"
    assert asked["notes"][0].startswith("answered for namespace isolation, which is not available")


# -- the command ----------------------------------------------------------------------------------


def test_for_people(home, capsys):
    code = command_line.exit_code(["why", "--host", "a.example.com", *HOSTS])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:3] == [
        "allowed  a.example.com:443",
        "  why    an entry allows it",
        "  rule   --allow-domain *.example.com",
    ]
    assert lines[3].startswith("  note   names are not resolved here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of --host, --url and --path"),
        (("--host", "a.test", "--path", "/"), "expected one of --host, --url and --path"),
        (
            ("--host", "a.test", "--op", "read"),
            "--port belongs to --host, --method and --mcp-tool to --url",
        ),
        (
            ("--path", "/", "--port", "80"),
            "--port belongs to --host, --method and --mcp-tool to --url",
        ),
    ],
)
def test_one_question_at_a_time(home, capsys, arguments, message):
    assert command_line.exit_code(["why", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_rule_that_run_would_refuse_is_refused(home, capsys):
    arguments = ["why", "--host", "a.test", "--allow-domain", "169.254.169.254"]
    assert command_line.exit_code(arguments) == 2
    assert "cloud metadata address" in capsys.readouterr().err


def test_it_takes_every_flag_of_run():
    from nono_trio.cli.run import run
    from nono_trio.cli.why import why

    of_why = {option.name for option in why.params}
    assert {option.name for option in run.params} - of_why == {"command", "dry_run"}


def test_it_needs_no_loop():
    code = (
        "import sys, nono_trio.explain.why, nono_trio.explain.why_url;"
        " assert not {'trio', 'rich'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "closing"),
    [
        (["--block-net"], "--block-net"),
        (["--deny-domain", "127.0.0.1"], "--deny-domain 127.0.0.1"),
        (["--deny-domain", "localhost:5432"], "--deny-domain localhost:5432"),
        (["--deny-domain", "[::ffff:127.0.0.1]:5432"], "--deny-domain [::ffff:127.0.0.1]:5432"),
    ],
)
@pytest.mark.parametrize("command", [["run", "--dry-run"], ["why", "--host", "localhost"]])
def test_a_port_that_is_opened_and_closed_is_refused(home, capsys, command, options, closing):
    end = ["--", "true"] if command[0] == "run" else []
    code = command_line.exit_code([*command, *options, "--open-port", "5432", *end])
    assert code == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"nono-trio: error: --open-port 5432 contradicts {closing}"
    assert command_line.exit_code([*command, "--open-port", "5432", *end]) == 0


def test_another_port_may_stay_closed(home):
    options = ["--deny-domain", "localhost:5433", "--open-port", "5432"]
    assert command_line.exit_code(["why", "--host", "localhost", *options]) == 0


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("http://a.example.com:8080/path", "a URL", "--host a.example.com --port 8080"),
        ("ssh://me@a.example.com/x", "a URL", "--host a.example.com --port 22"),
        ("a.example.com:8443", "a host and a port", "--host a.example.com --port 8443"),
        ("[2001:db8::1]:8443", "a host and a port", "--host [2001:db8::1] --port 8443"),
        ("me@a.example.com:repository", "a user and a host", "--host a.example.com --port 22"),
        ("10.0.0.0/8", "a range", "--host 10.0.0.0"),
        ("*.example.com", "a wildcard", "--host www.example.com"),
    ],
)
def test_what_is_no_host_is_told_with_the_host_in_it(sessions, text, what, hint):
    done = sessions.call("why", "--host", text)
    assert done.returncode == 2
    assert f"expected a host, got {what}" in done.stderr
    assert done.stderr.splitlines()[-1] == f"hint: {hint}"
    assert sessions.call("why", *hint.split()).returncode == 0


def test_loopback_is_the_cages_own(sessions):
    question = ("why", "--isolation", "namespace", "--host", "127.0.0.1", "--port", "5432")
    denied = sessions.call(*question).stdout
    assert "a loopback of its own" in denied
    assert "--open-port 5432" in denied
    allowed = sessions.call(*question, "--allow-domain", "127.0.0.1:5432").stdout
    assert "through the proxy only" in allowed
