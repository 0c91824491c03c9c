"""`run` as a user meets it: real clients, exit codes, signals, two at once, a terminal."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import (
    NONO_TRIO,
    PYTHON_GRANTS,
    RUN_SECONDS,
    Sessions,
    allow,
    processes_with,
    send,
    serving,
    sleep_marker,
    wait_until,
)
from terminals import Terminal

if TYPE_CHECKING:
    from harness import Origin

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_curl
def test_curl_reaches_what_is_allowed_and_is_told_what_is_not(
    sessions: Sessions, origin: Origin
) -> None:
    url = f"http://api.example.com:{origin.port}"
    script = f"""
    curl -sS {url}/plain
    curl -sS --proxytunnel {url}/tunnel
    curl -sS http://evil.example.net/
    curl -sS https://evil.example.net/ ; echo "curl $?"
    """
    done = sessions.run(*allow(origin), "--", "sh", "-c", script)
    assert origin.seen == ["/plain", "/tunnel"]
    assert done.stdout.startswith("ok\nok\n")
    assert "--allow-domain evil.example.net" in done.stdout  # what would allow it, in the answer
    assert done.stdout.endswith("curl 56\n")
    decisions = [
        (event["mode"], event["decision"], event["target"], event["port"])
        for event in sessions.decisions()
    ]
    assert decisions == [
        ("reverse", "allow", "api.example.com", origin.port),
        ("connect", "allow", "api.example.com", origin.port),
        ("reverse", "deny", "evil.example.net", 80),
        ("connect", "deny", "evil.example.net", 443),
    ]
    code, verdict = sessions.verdict()
    count = len(sessions.records())  # look-ups of files, where they are seen, among them
    assert (code, verdict["verdict"], verdict["event_count"]) == (0, "verified", count)
    assert "2 denied, 0 failed, 2 allowed" in done.stderr
    flows = [json.loads(line) for line in (sessions.only / "flows.ndjson").read_text().splitlines()]
    assert [flow["address"] for flow in flows] == ["127.0.0.1", "127.0.0.1"]


@needs_git
def test_git_clones_over_http(sessions: Sessions, tmp_path: Path) -> None:
    """A dumb-HTTP clone through the proxy, and a clear failure for a denied host."""
    work = tmp_path / "work"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(work)]
    work.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    (work / "file").write_text("content\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(tmp_path / "r.git")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "r.git"), "update-server-info"], check=True)
    handler = functools.partial(_QuietFiles, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    project = sessions.home / "project"
    project.mkdir()
    with serving(server):
        port = server.server_address[1]
        done = sessions.run(
            "--allow-cwd", "--allow-domain", f"git.example.com:{port}",
            "--resolve", f"git.example.com:{port}:127.0.0.1", "--", "sh", "-c",
            f"git clone -q http://git.example.com:{port}/r.git && cat r/file;"
            "git clone -q http://evil.example.net/other.git 2>&1",
            cwd=project,
        )  # fmt: skip
    assert done.stdout.startswith("content\n"), done.stderr
    assert "403" in done.stdout
    assert {event["decision"] for event in sessions.decisions()} == {"allow", "deny"}


def test_pip_style_client(sessions: Sessions, origin: Origin) -> None:
    """As pip, npm and urllib do it: proxy from the environment, keep-alive, a large body."""
    url = f"http://registry.example.com:{origin.port}"
    program = f"""
import urllib.request as r
body = r.urlopen("{url}/bytes/5000000").read()
print(len(body))
try:
    r.urlopen("http://evil.example.net/simple/")
except OSError as error:
    print(error)
"""
    done = sessions.run(
        *PYTHON_GRANTS, *allow(origin, "registry.example.com"), "--", sys.executable, "-c", program
    )
    length, refusal = done.stdout.splitlines()
    assert length == "5000000"
    assert refusal.startswith("HTTP Error 403: Forbidden")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_exit_codes(sessions: Sessions, command: list[str], code: int) -> None:
    assert sessions.run("--", *command).returncode == code
    for directory in sessions.directories:
        assert sessions.verdict(directory)[0] == 0
        assert sessions.records(directory)[-1]["event"]["exit_code"] == code


def test_usage_errors_are_two_and_have_a_hint(sessions: Sessions) -> None:
    for arguments, text in (
        ([], "expected a command"),
        (["--allow-domain", "*", "--", "true"], "--allow-domain"),
        (["--allow-domain", "bad host", "--", "true"], "--allow-domain"),
        (["--allow-domain", "169.254.169.254", "--", "true"], "--allow-domain"),
        (["--resolve", "nonsense", "--", "true"], "--resolve"),
        (["--audit-mode", "loud", "--", "true"], "--audit-mode"),
        (["--no-such-flag", "--", "true"], "--no-such-flag"),
        (["--timeout", "-1", "--", "true"], "--timeout"),
    ):
        done = sessions.run(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert text in done.stderr
        assert "Traceback" not in done.stderr
    assert not sessions.directories


def test_fail_on_deny_and_timeout(sessions: Sessions) -> None:
    script = "curl -s http://evil.example.net/ >/dev/null; exit $0"
    if shutil.which("curl"):
        assert sessions.run("--fail-on-deny", "--", "sh", "-c", script, "0").returncode == 3
        assert sessions.run("--fail-on-deny", "--", "sh", "-c", script, "5").returncode == 5
    done = sessions.run("--timeout", "0.3", "--grace", "0.2", "--", "sleep", "3000")
    assert done.returncode == 124
    assert sessions.verdict(sorted(sessions.directories, key=os.path.getmtime)[-1])[0] == 0


def test_block_net_and_deny_domain(sessions: Sessions, origin: Origin) -> None:
    url = f"http://api.example.com:{origin.port}/"
    for extra in (["--block-net"], ["--deny-domain", "api.example.com"]):
        sessions.run(*allow(origin), *extra, "--", "sh", "-c", f"curl -s {url}; true")
    assert not origin.seen
    for directory in sessions.directories:
        assert [event["decision"] for event in sessions.decisions(directory)] == ["deny"]


def test_a_decision_is_in_the_log_before_the_child_ends(sessions: Sessions, origin: Origin) -> None:
    """`audit tail -f` shows it while the child still runs."""
    script = f"curl -s http://api.example.com:{origin.port}/; echo done; cat"
    with (
        sessions.started("audit", "tail", "-f", "--json") as tail,
        sessions.started(
            "run", *allow(origin), "--", "sh", "-c", script, stdin=subprocess.PIPE
        ) as run,
    ):
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(tail.stdout or ()))
        reader.start()
        assert run.stdout is not None
        while "done" not in run.stdout.readline():
            pass
        wait_until(lambda: any('"allow"' in line for line in lines), "the decision in tail -f")
        assert run.poll() is None
        run.communicate("")
        reader.join(RUN_SECONDS)
        assert not reader.is_alive()  # tail ends with the session
        assert tail.wait(RUN_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks(sessions: Sessions, number: signal.Signals) -> None:
    script = f"trap 'echo asked; exit 9' {number.name[3:]}; echo up; while :; do sleep 0.05; done"
    with sessions.started("run", "--", "sh", "-c", script) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.send_signal(number)
        out, _ = run.communicate(timeout=RUN_SECONDS)
    assert (out, run.returncode) == ("asked\n", 9)
    assert sessions.verdict()[0] == 0


def test_a_child_that_ignores_the_first_signal_is_killed_after_the_grace(
    sessions: Sessions,
) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    with sessions.started("run", "--grace", "0.3", "--", "sh", "-c", script) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.terminate()
        assert run.wait(RUN_SECONDS) == 137
    assert sessions.verdict()[0] == 0


def test_the_second_signal_hurries(sessions: Sessions) -> None:
    script = "trap '' INT; echo up; while :; do sleep 0.05; done"
    with sessions.started("run", "--grace", "60", "--", "sh", "-c", script) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(RUN_SECONDS) == 137
    assert sessions.verdict()[0] == 0


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1, 0.2])
def test_signals_at_any_moment_never_cut_the_seal(sessions: Sessions, delay: float) -> None:
    """Two SIGINTs 50 ms apart, from start-up to the drain."""
    with sessions.started("run", "--", "sh", "-c", "echo up; sleep 0.1") as run:
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(delay)
        send(run, signal.SIGINT)
        time.sleep(0.05)
        send(run, signal.SIGINT)
        run.communicate(timeout=RUN_SECONDS)
    code, verdict = sessions.verdict()
    assert (code, verdict["verdict"]) == (0, "verified")


def test_odd_surroundings_get_a_clear_answer(sessions: Sessions, tmp_path: Path) -> None:
    for home in (None, "relative"):
        environment = {**sessions.environment, "HOME": home or ""}
        if home is None:
            del environment["HOME"]
        done = subprocess.run(
            [NONO_TRIO, "run", "-s", "--", "true"], env=environment, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    gone = f"mkdir gone; cd gone; rmdir ../gone; {NONO_TRIO} run -- true"
    done = subprocess.run(["bash", "-c", gone], env=sessions.environment, cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "working directory does not exist any more" in done.stderr
    closed = f"{NONO_TRIO} run -s -- sh -c 'exit 5' <&- >&-"
    done = subprocess.run(["bash", "-c", closed], env=sessions.environment, cwd=tmp_path,
                          stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (5, "")


def test_arguments_and_variables_that_are_no_text(sessions: Sessions) -> None:
    sessions.variables["ODD"] = os.fsdecode(b"\xff")
    done = sessions.run("-s", "--", "sh", "-c", 'printf "%s%s" "$1" "$ODD" | od -An -tx1', "sh",
                        os.fsdecode(b"\xfe"))  # fmt: skip
    assert done.stdout.split() == ["fe", "ff"]
    assert sessions.verdict()[0] == 0


def test_a_signal_that_the_caller_ignores_is_ignored(sessions: Sessions) -> None:
    """nohup: neither we nor the child end with the terminal."""
    script = f"trap '' HUP; exec {NONO_TRIO} run -s -- sh -c 'echo up; read line; echo got:$line'"
    process = subprocess.Popen(
        ["sh", "-c", script], env=sessions.environment, cwd=sessions.home, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate("on\n", timeout=RUN_SECONDS)
    assert (out, process.returncode) == ("got:on\n", 0)


def test_the_child_has_the_default_signals(sessions: Sessions) -> None:
    done = sessions.run("--", "grep", "SigIgn", "/proc/self/status")
    standard = (1 << 31) - 1  # 32 and up are the C library's own, and inherited from anybody
    assert int(done.stdout.split()[1], 16) & standard == 0


def test_a_closed_stderr_ends_nothing(sessions: Sessions) -> None:
    script = f"{NONO_TRIO} run --follow -- curl -s -o /dev/null http://a.example.com/ 2>&1 | true"
    subprocess.run(["bash", "-c", script], env=sessions.environment, cwd=sessions.home,
                   timeout=RUN_SECONDS, check=True)  # fmt: skip
    wait_until(lambda: sessions.verdict()[0] == 0, "sealed all the same")


def test_a_stopped_child_can_be_ended(sessions: Sessions) -> None:
    with sessions.started("run", "--", "sh", "-c", "echo up; kill -STOP $$; sleep 60") as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.terminate()
        assert run.wait(RUN_SECONDS) == 143


def test_a_killed_cage_is_reported_and_sealed(sessions: Sessions) -> None:
    marker = sleep_marker()
    with sessions.started("run", "--", "sleep", marker) as run:
        wait_until(lambda: bool(processes_with(marker, "sleep")), "the child")
        launcher = subprocess.run(
            ["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(launcher.stdout), signal.SIGKILL)
        assert run.wait(RUN_SECONDS) == 137
    assert sessions.verdict()[0] == 0


def test_two_runs_at_once_on_one_state_directory(sessions: Sessions, origin: Origin) -> None:
    url = f"http://api.example.com:{origin.port}/"
    command = [*allow(origin), "--", "sh", "-c", f"for i in 1 2 3 4 5; do curl -s {url}; done"]
    with sessions.started("run", *command) as one, sessions.started("run", *command) as two:
        one.communicate(timeout=RUN_SECONDS)
        two.communicate(timeout=RUN_SECONDS)
    assert (one.returncode, two.returncode) == (0, 0)
    assert len(origin.seen) == 10
    answers = [sessions.verdict(directory)[1] for directory in sessions.directories]
    assert [answer["verdict"] for answer in answers] == ["verified", "verified"]
    assert all(answer["ledger"]["chain_verified"] for answer in answers)
    ledger = (sessions.state / "audit" / "ledger.ndjson").read_text().splitlines()
    assert [json.loads(line)["sequence"] for line in ledger] == [0, 1]


def test_secrets_on_the_command_line_are_redacted(sessions: Sessions) -> None:
    sessions.run("--", "true", "--api-key", "s3cr3t", "https://u:s3cr3t@example.com/?token=s3cr3t")
    everything = b"".join(path.read_bytes() for path in sessions.only.iterdir())
    assert b"s3cr3t" not in everything
    assert b"[REDACTED]" in everything


def test_the_token_is_nowhere_on_disk_or_in_argv(sessions: Sessions) -> None:
    with sessions.started("run", "--", "sh", "-c", "echo $NONO_PROXY_TOKEN; cat",
                          stdin=subprocess.PIPE) as run:  # fmt: skip
        assert run.stdout is not None
        token = run.stdout.readline().strip()
        assert len(token) == 64
        assert not processes_with(token)
        run.communicate("")
    assert all(token.encode() not in path.read_bytes() for path in sessions.only.iterdir())


def test_files_are_private_and_the_session_is_open_while_it_runs(sessions: Sessions) -> None:
    with sessions.started("run", "--", "sh", "-c", "echo up; cat", stdin=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        code, verdict = sessions.verdict()
        assert (code, verdict["verdict"]) == (5, "open")
        run.communicate("")
    assert {oct(path.stat().st_mode & 0o777) for path in sessions.only.iterdir()} == {"0o600"}
    assert oct(sessions.only.stat().st_mode & 0o777) == "0o700"
    assert sessions.verdict()[0] == 0


def test_a_state_directory_that_cant_be_written(sessions: Sessions) -> None:
    sessions.state.write_text("a file")
    done = sessions.run("--", "sh", "-c", "echo must not run")
    assert (done.returncode, done.stdout) == (4, "")
    assert "hint: choose another place with --audit-dir" in done.stderr


def test_standard_streams_are_the_childs(sessions: Sessions) -> None:
    done = sessions.run("-s", "--", "sh", "-c", "cat; echo err >&2", input="in\n", stdin=None)
    assert (done.stdout, done.stderr) == ("in\n", "err\n")


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def test_an_interactive_child_has_the_terminal(sessions: Sessions) -> None:
    """It reads, gets Ctrl-C once and keeps its own handler; we are not interrupted."""
    script = """
    echo ready; read line; echo got:$line
    trap 'echo interrupted; count=$((count + 1))' INT
    echo armed
    while [ -z "$count" ]; do sleep 0.05; done
    sleep 0.1; exit $((count + 3))
    """
    terminal = Terminal(sessions, "run", "-s", "--", "bash", "-c", script)
    terminal.wait_for("ready")
    terminal.type("hello\n")
    terminal.wait_for("armed")
    assert "got:hello" in terminal.seen
    terminal.type("\x03")
    assert terminal.exit_code() == 4
    assert terminal.seen.count("interrupted") == 1
    assert sessions.verdict()[0] == 0


def test_job_control_in_a_shell_inside_the_cage(sessions: Sessions) -> None:
    sessions.variables["PS1"] = "inner$ "
    terminal = Terminal(sessions, "run", "-s", "--", "bash", "--norc", "--noprofile", "-i")
    terminal.wait_for("$ ")
    marker = sleep_marker()
    terminal.type(f"sleep {marker}\n")
    wait_until(lambda: bool(processes_with(marker, "sleep")), "the job in the foreground")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.type("kill -9 %1; echo li'ved'\n")
    terminal.wait_for("lived")
    # bash may still count the job as stopped, and refuses the first `exit` then.
    terminal.type("exit 3\nexit 3\n")
    assert terminal.exit_code() == 3
    assert "no job control" not in terminal.seen


def test_shell_starts_the_users_shell(sessions: Sessions) -> None:
    sessions.variables |= {"SHELL": "/bin/bash", "PS1": "caged$ "}
    terminal = Terminal(sessions, "shell", "-s")
    terminal.wait_for("$ ")
    terminal.type("echo $BASH:$((1+1)); exit 6\n")
    terminal.wait_for("/bin/bash:2")
    assert terminal.exit_code() == 6
    assert sessions.records()[0]["event"]["command"] == ["/bin/bash"]


def test_ctrl_z_and_fg_from_the_shell_outside(sessions: Sessions) -> None:
    """The child is stopped, the outer shell gets its terminal back, `fg` goes on."""
    sessions.variables["PS1"] = "outer> "
    terminal = Terminal(sessions, program=["bash", "--norc", "--noprofile", "-i"])
    terminal.wait_for("outer> ")
    terminal.type(f"{NONO_TRIO} run -s -- bash -c 'echo rea\"dy\"; read x; echo got:$x'\n")
    terminal.wait_for("ready")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.type("echo shell-$((1+1))\n")
    terminal.wait_for("shell-2")
    terminal.type("fg\n")
    time.sleep(0.3)  # `fg` prints the command line; the child reads when it is continued
    terminal.type("back\n")
    terminal.wait_for("got:back")
    terminal.wait_for("outer> ")
    terminal.type("exit\n")
    assert terminal.exit_code() == 0


def test_the_terminal_is_restored_after_a_killed_child(sessions: Sessions) -> None:
    """Asked by the shell that started it: our own end would hang the terminal up."""
    child = "stty raw -echo; kill -KILL $$"
    script = f"{NONO_TRIO} run -s -- bash -c '{child}'; echo code:$?; stty -a"
    terminal = Terminal(sessions, program=["bash", "-c", script])
    assert terminal.exit_code() == 0
    assert "code:137" in terminal.seen
    assert " echo " in terminal.seen
    assert " icanon " in terminal.seen
