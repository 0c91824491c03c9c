from __future__ import annotations

import os
import resource
import subprocess
import sys

import click
import pytest
import sealed_session as made
from harness import RUN_SECONDS

from nono_trio import __version__
from nono_trio.cli import main as command_line
from nono_trio.cli.audit.group import COMMANDS, audit
from nono_trio.errors import AuditLost, UsageError

# CPU of `audit verify` by that of a bare interpreter: 4 to 5 measured, 8 is the budget of 150 ms.
MOST_STARTS = 8.0
NONO_TRIO = [sys.executable, "-c", "from nono_trio.cli.main import main; main()"]
HEAVY = ("trio", "cryptography", "nono_py", "rich", "multiprocessing", "pydantic", "ssl")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))


# -- the root -------------------------------------------------------------------------------------


def test_version(run):
    assert run("--version") == (0, f"nono-trio {__version__}\n", "")


def test_the_help_of_a_command_that_is_missing_is_not_for_stdout(run, monkeypatch):
    code, out, err = run("audit")
    assert (code, out, err.startswith("Usage: ")) == (2, "", True)
    monkeypatch.setattr(sys, "stderr", None)  # as with 2>&-
    assert run("audit") == (2, "", "")


@pytest.mark.parametrize("line", ["audit list --json", "audit search", "audit export --all"])
def test_a_closed_stdout_is_no_error(root, line):
    made.build(root)
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *NONO_TRIO, *line.split()]
    done = subprocess.run(words, stderr=subprocess.PIPE, timeout=RUN_SECONDS)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_without_importing_one(flag):
    code = (
        "import sys; from nono_trio.cli.main import exit_code; code = exit_code([sys.argv[1]]);"
        "assert not [m for m in sys.modules if m.startswith(('nono_trio.cli.run', 'trio'))]"
    )
    done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in command_line.COMMANDS:
        assert f"  {name} " in done.stdout


def test_the_root_help_says_what_the_commands_say_of_themselves():
    for name, (_, line) in command_line.COMMANDS.items():
        command = command_line.cli.get_command(click.Context(command_line.cli), name)
        assert command is not None
        first = " ".join(command.help.partition("\n\n")[0].split())
        assert first == line


def test_the_help_of_audit_says_what_the_commands_say_of_themselves():
    assert [*COMMANDS] == sorted(COMMANDS)
    for name, (_, line) in COMMANDS.items():
        command = audit.get_command(click.Context(audit), name)
        assert (command.name, command.short_help) == (name, line)


def leaves(group, above=()):
    """The commands that do something, of groups in groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*above, name))
        else:
            yield " ".join((*above, name))


@pytest.mark.parametrize("name", [*leaves(audit)])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_help_has_a_sentence_options_and_an_example(run, name, flag):
    code, out, err = run("audit", *name.split(), flag)
    assert (code, err) == (0, "")
    assert f"Usage: nono-trio audit {name}" in out
    assert "--json" in out or name == "export"  # whose every format is lines of JSON
    assert f"Example: nono-trio audit {name}" in out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["nope"], "there is no command 'nope'", "see `nono-trio --help`"),
        (["rnu"], "there is no command 'rnu'", "did you mean `nono-trio run`?"),
        (["audit", "lst"], "there is no command 'lst'", "did you mean `nono-trio audit list`?"),
        (["audit", "nope"], "there is no command 'nope'", "see `nono-trio audit --help`"),
        (["run", "--alow-cwd"], "no such option '--alow-cwd'", "did you mean --allow-cwd?"),
        (["run", "--allow-domain"], "requires an argument", "see `nono-trio run --help`"),
        (["audit", "tail", "-n"], "requires an argument", "see `nono-trio audit tail --help`"),
        (["audit", "list", "--zzz"], "no such option", "see `nono-trio audit list --help`"),
        (["audit", "verify"], "expected sessions, or --all", "verify --help"),
        (["audit", "verify", "x", "--all"], "expected sessions, or --all", "verify --help"),
        (["audit", "verify", "--jobs", "0", "x"], "--jobs: expected a whole number", "--help"),
        (["audit", "list", "--since", "soon"], "--since: expected a day", "for example"),
        (["audit", "list", "--today", "--since", "2026-07-02"], "exclude each other", "list"),
        (["audit", "show", "nope"], "expected a session, got 'nope'", "audit list"),
        (["audit", "tail", "nope"], "expected a session, got 'nope'", "audit list"),
    ],
)
def test_errors_have_one_form(run, arguments, message, hint):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("nono-trio: error: ")
    assert message in first
    assert not first.endswith(".")
    assert second.startswith("hint: ")
    assert hint in second


@pytest.mark.parametrize("arguments", [[], ["audit"]])
def test_no_command_is_a_usage_error_that_shows_the_help(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Commands:" in err


def test_untrusted_text_in_an_error_is_made_harmless(run):
    code, _, err = run("audit", "show", "\x1b[2J\u202e\nx")
    assert code == 2
    assert "\x1b" not in err
    assert err.count("\n") == 2


def failing(error):
    @click.command()
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (AuditLost("it broke", hint="mend it"), 4, "nono-trio: error: it broke\nhint: mend it\n"),
        (UsageError("not so"), 2, "nono-trio: error: not so\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (SystemExit(7), 7, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_every_end_of_a_command_has_its_code(run, monkeypatch, error, code, text):
    monkeypatch.setattr(command_line.LazyGroup, "get_command", lambda *_: failing(error))
    assert run("run") == (code, "", text)


def test_a_bug_is_not_dressed_up_as_an_error(run, monkeypatch):
    monkeypatch.setattr(
        command_line.LazyGroup, "get_command", lambda *_: failing(ZeroDivisionError())
    )
    with pytest.raises(ZeroDivisionError):
        run("run")


def test_a_closed_pipe_ends_quietly(root):
    made.build(root)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*NONO_TRIO, "audit", "list"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# -- cost -----------------------------------------------------------------------------------------


def test_audit_commands_import_nothing_heavy(root):
    made.build(root)
    code = (
        "import sys; from nono_trio.cli.main import exit_code\n"
        "for line in ('verify latest', 'show latest', 'tail latest', 'list'):\n"
        "    assert exit_code(['audit', *line.split()]) == 0\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules)); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OTHERS = ("archive", "cleanup", "export", "hosts", "proofs", "report", "search", "ship", "why")


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("--help", ("msgspec", "hashlib", "dataclasses", "subprocess", "json", "pathlib")),
        ("audit --help", ("msgspec", "hashlib", "dataclasses", "subprocess", "json", "pathlib")),
        ("audit list", ("subprocess", "dataclasses", "shutil", "rich", "nono_trio.cli.programs")),
        ("audit list", ("json", "socket", "nono_trio.audit.verify.joiner")),
        ("audit list", ("nono_trio.core.policy.judging", "nono_trio.core.log.processes")),
        ("audit list", ("typing_extensions",)),
        ("run -s -- true", ("rich", "cryptography", "h2", "keyring", "nono_trio.cli.audit")),
        ("run -s -- true", ("h11", "dataclasses", "typing_extensions")),
    ],
)  # fmt: skip
def test_a_command_imports_no_module_of_others(sessions, root, line, absent):
    made.build(root)
    others = [f"nono_trio.cli.audit.{name}" for name in OTHERS]
    code = (
        "import os, sys\n"
        "def leave(code):\n"
        "    sys.stderr.write(' '.join(['loaded:', *sys.modules]))\n"
        "    sys.stderr.flush(); end(code)\n"
        "end, os._exit = os._exit, leave\n"
        "sys.argv = ['nono-trio', *sys.argv[1:]]\n"
        "from nono_trio.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line.split()], capture_output=True, text=True,
        env=sessions.environment, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.partition("loaded: ")[2].split()
    assert "click" in loaded
    assert not sorted({*absent, *others} & {*loaded})


def test_verifying_a_small_session_is_quick(root):
    """By the cost of a bare interpreter, side by side: a ratio holds on a busy machine as well.
    `scripts/bench` has the time."""
    made.build(root)
    verify = [*NONO_TRIO, "audit", "verify", "latest"]
    bare = [sys.executable, "-I", "-c", "import json, subprocess"]
    ratios = [_seconds(verify) / _seconds(bare) for _ in range(7)]
    assert min(ratios) < MOST_STARTS, ratios


def _seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
