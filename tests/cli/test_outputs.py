"""The command line where outputs are full, closed or not UTF-8, and where inputs say nothing."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
from harness import NONO_TRIO, RUN_SECONDS

from nono_trio.audit import ledger, store
from nono_trio.audit.write import ledger_append
from nono_trio.errors import CageFailed, LogUnreadable
from nono_trio.session.executable import find_executable


def shell(sessions, script, **variables):
    return subprocess.run(
        ["sh", "-c", script.replace("nono-trio", NONO_TRIO)],
        env={**sessions.environment, **variables}, cwd=sessions.home,
        capture_output=True, timeout=RUN_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    ["audit list", "audit list --json", "--help", "--version", "why --host x.test", "profile list",
     "run --dry-run -- true", "ps --all --json"],
)  # fmt: skip
def test_an_output_without_room_is_one_sentence(sessions, command):
    if command.startswith(("audit", "ps")):
        sessions.run("-s", "--", "true")
    done = shell(sessions, f"nono-trio {command} >/dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == (
        "nono-trio: error: the output can't be written: No space left on device"
    )
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("profile init mine", "mine.toml can't be written"),
        ("audit ship --all --to ./x", "progress"),
    ],
)
def test_a_disk_without_room_is_named_and_nothing_half_stays(sessions, command, message):
    done = shell(sessions, f"ulimit -f 0; nono-trio {command}")
    assert done.returncode == 2
    *_, error, hint = done.stderr.decode().splitlines()
    assert message in error
    assert hint.startswith("hint: look at it")
    assert not [*sessions.home.rglob("mine.toml")]


def test_a_proxy_that_nobody_can_find_does_not_stay(sessions):
    done = shell(sessions, "nono-trio proxy >/dev/full")
    assert done.returncode == 2
    assert b"the ready line can't be written: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("output", ["2>/dev/full", "2>&-", ">&- 2>&-"])
def test_an_error_that_nobody_can_read_keeps_its_code(sessions, output):
    assert shell(sessions, f"nono-trio nosuch {output}").returncode == 2


def test_a_terminal_that_is_not_utf_8_gets_escapes(sessions):
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(sessions, "nono-trio run -s --dry-run -- echo b\u00fccher", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"b\\xfccher" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["run", "-a", "", "--", "true"], "--allow: expected a path"),
        (["run", "--read-file", "", "--", "true"], "--read-file: expected a path"),
        (["run", "--workdir", "", "--", "true"], "--workdir: expected a path"),
        (["run", "-p", "", "--", "true"], "--profile: expected a profile"),
        (["shell", "--shell", ""], "--shell: expected a path"),
        (["why", "--path", ""], "--path: expected a path"),
        (["audit", "list", "--audit-dir", ""], "--audit-dir: expected a path"),
        (["ps", "--audit-dir", ""], "--audit-dir: expected a path"),
    ],
)
def test_an_unset_variable_is_no_path(sessions, arguments, flag):
    done = sessions.call(*arguments)
    assert done.returncode == 2
    assert f"nono-trio: error: {flag}, got an empty text\nhint: " in done.stderr


@pytest.mark.parametrize("flag", ["--timeout", "--grace"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_times_that_are_none(sessions, flag, value):
    done = sessions.run("--dry-run", flag, value, "--", "true")
    assert done.returncode == 2
    assert done.stderr.startswith(f"nono-trio: error: {flag}: expected a number of seconds ")


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("", 127, "no such command on PATH: ''"),
        ("./missing", 127, "no such command: './missing'"),
        ("/etc/passwd", 126, "/etc/passwd is not executable"),
        ("/etc", 126, "expected a program, got the directory /etc"),
    ],
)
def test_commands_that_are_none(sessions, command, code, message):
    done = sessions.run("--", command)
    assert (done.returncode, done.stderr.splitlines()[0]) == (code, f"nono-trio: error: {message}")


def test_a_grant_that_is_not_utf_8_is_named(sessions):
    (sessions.home / os.fsdecode(b"d\xff")).mkdir()
    done = shell(sessions, "nono-trio run -a d$(printf '\\377') -- true")
    assert done.returncode == 2
    assert b"--allow: expected a path in UTF-8" in done.stderr


@pytest.mark.parametrize("command", ["audit show", "audit tail", "audit learn", "inspect"])
def test_any_directory_is_no_session(sessions, command):
    done = sessions.call(*command.split(), str(sessions.home))
    assert done.returncode == 2
    assert f"expected a session, got the directory {sessions.home}" in done.stderr


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / store.SESSION)
    os.mkfifo(tmp_path / ledger.LEDGER)
    assert store.read_summary(tmp_path) is None
    with pytest.raises(LogUnreadable, match="expected a file, got a pipe"):
        store.read_metadata(tmp_path)
    with pytest.raises(LogUnreadable, match="expected a file, got a pipe"):
        ledger.verify(tmp_path)
    with pytest.raises(Exception, match="expected a file, got a pipe"):
        ledger_append.append(tmp_path, "s", "ab" * 32, "2026-07-02T11:48:52Z")


def test_a_new_profile_makes_no_directories_but_its_own(sessions):
    elsewhere = sessions.home / "elsewhere" / "x.toml"
    done = sessions.call("profile", "init", "x", "-o", str(elsewhere))
    assert done.returncode == 2
    assert not elsewhere.parent.exists()
    assert sessions.call("profile", "init", "x").returncode == 0


def test_every_flag_of_run_has_its_environment_twin():
    from nono_trio.cli.run import run
    from nono_trio.cli.shared_flags import environment_twin

    own = {"--dry-run", "--json"}  # of the command line alone: they start no run
    for parameter in run.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        if flags and flags[0] not in own:
            expected = "NONO_TRIO_STATE_DIR"
            if flags[0] != "--audit-dir":
                expected = environment_twin(flags[0])
            assert parameter.envvar == expected


def test_a_program_where_nothing_may_be_executed(monkeypatch):
    """A file system mounted noexec: `chmod +x` would be no advice."""
    noexec = SimpleNamespace(f_flag=os.ST_NOEXEC)
    monkeypatch.setattr("os.statvfs", lambda _path: noexec)
    with pytest.raises(CageFailed, match="mounted noexec"):
        find_executable("sh", "/")


@pytest.mark.parametrize(
    ("given", "told", "hint"),
    [
        ("--name=a b/c", "got 'a b/c'", "--name a-b-c"),
        ("--name=latest", "stands for the newest session", "give another name"),
        ("--name=", "got ''", "--name build-7"),
        ("--max-processes=abc", "expected a whole number of 1 or more, got 'abc'", "run --help"),
        ("--open-port=99999", "expected a whole number from 1 to 65535, got '99999'", "run --help"),
        ("--isolation=vm", "expected auto, namespace, landlock, seatbelt or none", "run --help"),
        ("--deny-domain=https://a.test/x?y", "got a URL", "--deny-domain a.test:443"),
        ("--allow-domain=HTTP://a.test:8080", "got a URL", "--allow-domain a.test:8080"),
        ("--deny-domain=http://[2001:db8::1]", "got a URL", "--deny-domain [2001:db8::1]:80"),
        ("--deny-domain=10.0.0.0/8", "got a range", "--deny-domain 10.0.0.0"),
        ("--allow-domain=2001:db8::/32", "got a range", "--allow-domain [2001:db8::]"),
        ("--allow-domain=ssh://me@a.test/x", "got a URL", "--allow-domain a.test:22"),
        ("--allow-domain=other://a.test", "got a URL", "--allow-domain a.test:PORT"),
        ("--allow-domain=me@a.test:x.git", "got a user and a host", "--allow-domain a.test:22"),
        ("--allow-domain=a.test/x", "got a path", "an entry is HOST[:PORT]"),
    ],
)
def test_what_can_not_be_meant_is_told_with_what_to_write(sessions, given, told, hint):
    done = sessions.run("--dry-run", given, "--", "true")
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert told in first
    assert hint in second
    if second.startswith("hint: --"):  # a flag: it must work when it is pasted
        assert sessions.run("-s", *second.split()[1:3], "--", "true").returncode == 0


@pytest.mark.parametrize(
    ("entry", "warned"),
    [
        ("*.com", True),
        ("*.co.uk:443", True),
        ("tls://*.github.io", True),
        ("*.xn--p1ai", True),
        ("*.foo.ck", True),
        ("*.www.ck", False),
        ("*.example.com", False),
        ("*.internal", False),
        ("com:443", False),
    ],
)
def test_a_wildcard_over_a_public_suffix_is_warned_of(sessions, entry, warned):
    done = sessions.run("--allow-domain", entry, "--dry-run", "--", "true")
    assert done.returncode == 0
    assert ("covers names that anybody can register" in done.stderr) is warned
