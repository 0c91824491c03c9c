"""The cage for real: nothing in it reaches past the proxy, the grants and its own processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import (
    LANDLOCK_SCOPES,
    PROBES,
    PYTHON_GRANTS,
    Sessions,
    guarded,
    processes_with,
    sleep_marker,
    wait_until,
)

if TYPE_CHECKING:
    from harness import Origin

REFUSED = {
    "tcp host loopback": {"ECONNREFUSED"},
    "tcp other address": {"ENETUNREACH"},
    "tcp6 other address": {"ENETUNREACH"},
    "udp host loopback": {"ok sent", "ECONNREFUSED"},  # the child's own loopback, without a server
    "udp other address": {"ENETUNREACH"},
    "raw socket": {"EPERM"},
    "packet socket": {"EAFNOSUPPORT"},
    "dns": {"gaierror"},
    "pathname socket": {"ENOENT"},
    "abstract socket": {"ECONNREFUSED"},
    "read ssh key": {"ENOENT", "EACCES"},
    "read shadow": {"ENOENT", "EACCES"},
    "read outside": {"ENOENT", "EACCES"},
    "write state": {"ENOENT", "EACCES"},
    "list state": {"ENOENT", "EACCES"},
    "signal supervisor": {"ESRCH"},
    "signal init": {"EPERM"},
    "trace init": {"EPERM"},
    "read init memory": {"EACCES"},
    "read init environment": {"EACCES"},
    "write sysctl": {"EACCES"},
    "mount": {"EPERM"},
}


# With the transparent network every address answers: it is ours, and refuses on the record.
TRANSPARENT = {
    "tcp other address": {"ok sent"},
    "tcp6 other address": {"ok sent"},
    "udp other address": {"ok sent"},
    "dns": {"ok synthetic"},
}

# Differences in landlock isolation; the rest is as above.
LANDLOCK = {
    "tcp host loopback": {"EACCES"},
    "tcp other address": {"EACCES"},
    "tcp6 other address": {"EACCES"},
    "udp host loopback": {"EPERM"},
    "udp other address": {"EPERM"},
    "pathname socket": {"EACCES"},
    "abstract socket": {"EPERM"},
    "signal supervisor": {"EPERM"},
    "signal init": {"EPERM"},
    "read shadow": {"EACCES"},
    "dns": {"gaierror"},
}


OTHERS = {"192.0.2.1", "2001:db8::1"}
OWN = {"127.0.0.1"}  # where a program of this machine listens


@pytest.mark.parametrize(
    ("options", "differences", "recorded"),
    [
        (["--isolation", "namespace", "--transparent", "off"], {}, OWN),
        (["--isolation", "namespace"], TRANSPARENT, {*OTHERS, *OWN, "example.com"}),
        pytest.param(["--isolation", "landlock"], LANDLOCK, {*OTHERS, *OWN}, marks=guarded),
    ],
    ids=["namespace", "transparent", "landlock"],
)
def test_every_way_out_is_refused(
    sessions: Sessions,
    origin: Origin,
    tmp_path: Path,
    options: list[str],
    differences: dict[str, set[str]],
    recorded: set[str],
) -> None:
    expected = REFUSED | differences
    if not LANDLOCK_SCOPES and "landlock" not in options:
        # Sent, not received: PID 1 of a namespace gets no signal that it has no handler for.
        expected |= {"signal init": {"ok None"}}
    (sessions.home / ".ssh").mkdir()
    (sessions.home / ".ssh" / "id_test").write_text("secret")
    (tmp_path / "outside").write_text("secret")
    project = sessions.home / "project"
    project.mkdir()
    abstract = f"nono-trio-test-{os.getpid()}"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as pathname,
        socket.socket(socket.AF_UNIX) as abstract_socket,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        pathname.bind(str(tmp_path / "agent.sock"))
        pathname.listen()
        abstract_socket.bind("\0" + abstract)
        abstract_socket.listen()
        targets = {
            "tcp": origin.port,
            "udp": udp.getsockname()[1],
            "unix": str(tmp_path / "agent.sock"),
            "abstract": abstract,
            "outside": str(tmp_path / "outside"),
            "state": str(sessions.state),
            "supervisor": os.getpid(),
        }
        done = sessions.python([*options, "--allow", str(project)], "reach.py", json.dumps(targets))
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            udp.recv(16)
    results = json.loads(done.stdout)
    wrong = {name: got for name, got in results.items() if got not in expected[name]}
    assert not wrong
    assert results.keys() == expected.keys()
    assert not origin.seen
    decided = {(event["decision"], event["target"]) for event in sessions.decisions()}
    assert decided == {("deny", name) for name in recorded}


def test_grants_are_what_they_say(sessions: Sessions, tmp_path: Path) -> None:
    for name in ("rw", "ro", "wo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    script = """
    cd /
    for d in rw ro wo; do
      cat "$1/$d/old" >/dev/null 2>&1 && echo "$d readable"
      echo new >"$1/$d/new" 2>/dev/null && echo "$d writable"
    done
    cat "$2" && echo x 2>/dev/null >"$2" || echo "file read-only"
    """
    (tmp_path / "single").write_text("one\n")
    done = sessions.run(
        "--allow", str(tmp_path / "rw"), "--read", str(tmp_path / "ro"),
        "--write", str(tmp_path / "wo"), "--read-file", str(tmp_path / "single"),
        "--", "sh", "-c", script, "sh", str(tmp_path), str(tmp_path / "single"),
    )  # fmt: skip
    # Landlock's rules are inherited: below the private /tmp, what can be written can be read.
    below_tmp = ["wo readable"] if str(tmp_path).startswith("/tmp/") else []
    assert done.stdout.splitlines() == [
        "rw readable", "rw writable", "ro readable", *below_tmp, "wo writable",
        "one", "file read-only",
    ]  # fmt: skip
    assert (tmp_path / "rw" / "new").read_text() == "new\n"


def test_tmp_is_private_and_gone_afterwards(sessions: Sessions, tmp_path: Path) -> None:
    marker = f"nono-trio-{os.getpid()}"
    Path("/tmp", marker + "-host").write_text("host")
    try:
        done = sessions.run(
            "--", "sh", "-c", f"ls /tmp | grep {marker}; touch /tmp/{marker} && echo made"
        )
        assert done.stdout == "made\n"
        assert not Path("/tmp", marker).exists()
    finally:
        Path("/tmp", marker + "-host").unlink()


def test_a_symlink_out_of_a_grant_leads_nowhere(sessions: Sessions, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "secret").write_text("secret")
    (project / "link").symlink_to(tmp_path / "secret")
    done = sessions.run("--allow", str(project), "--", "cat", str(project / "link"))
    assert done.returncode == 1
    assert "secret" not in done.stdout


def test_the_working_directory_and_how_it_is_granted(sessions: Sessions) -> None:
    done = sessions.run("--", "pwd")
    assert done.stdout == "/\n"
    assert "--allow-cwd" in done.stderr
    project = sessions.home / "project"
    project.mkdir()
    done = sessions.run("--allow-cwd", "--", "sh", "-c", "pwd; touch made", cwd=project)
    assert done.stdout == f"{project}\n"
    assert (project / "made").exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--read", "{state}"], 2, "covers the audit state directory"),
        (["--allow", "{state}/.."], 2, "covers the audit state directory"),
        (["--read", "{home}/.ssh"], 2, "is protected"),
        (["--allow", "{home}"], 2, "start-up files in your home"),
        (["--isolation", "landlock", "--read", "{home}"], 2, "would open"),
        (["--bypass-protection", "{home}/dir"], 2, "nothing protects that path"),
        (["--read", "{home}/file"], 2, "expected a directory, got a file"),
        (["--read-file", "{home}/dir"], 2, "expected a file, got a directory"),
        (["--read", "{home}/missing"], 0, "no such path, skipped"),
        (["--workdir", "{home}/missing"], 2, "expected a directory"),
    ],
)
def test_grants_that_make_no_sense(
    sessions: Sessions, options: list[str], code: int, text: str
) -> None:
    (sessions.home / ".ssh").mkdir()
    (sessions.home / "dir").mkdir()
    (sessions.home / "file").touch()
    sessions.state.mkdir()
    given = [word.format(state=sessions.state, home=sessions.home) for word in options]
    done = sessions.run("--dry-run", *given, "--", "true")
    assert done.returncode == code, done.stderr
    assert text in done.stderr


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_other_sessions_logs_stay_closed(sessions: Sessions, isolation: str) -> None:
    """This one's log goes elsewhere (--audit-dir): those in the usual place are no less logs."""
    usual = sessions.home / ".local" / "state" / "nono-trio" / "audit"
    usual.mkdir(parents=True)
    (usual / "ledger.ndjson").write_text("a line\n")
    script = f"cat {usual}/ledger.ndjson; echo more >>{usual}/ledger.ndjson"
    for grant in (["--allow", str(sessions.home / ".local")], []):
        done = sessions.run("--isolation", isolation, *grant, "--", "sh", "-c", script)
        assert done.stdout == ""
        assert done.returncode != 0
        assert (usual / "ledger.ndjson").read_text() == "a line\n"
    inside = sessions.run("--read", str(usual), "--", "true")
    assert (inside.returncode, "is protected" in inside.stderr) == (2, True)


def test_closed_paths_inside_a_grant_stay_closed(sessions: Sessions) -> None:
    """Covering mounts: read and written through neither, while the rest is open."""
    config = sessions.home / ".config"
    for path in (".ssh/id_test", ".config/gcloud/token", ".config/tool/settings", ".bashrc"):
        (sessions.home / path).parent.mkdir(parents=True, exist_ok=True)
        (sessions.home / path).write_text("content\n")
    for name in ("nono-trio", "python_keyring"):
        (config / name).mkdir()
    script = """
    cat ~/.config/tool/settings
    cat ~/.config/gcloud/token ~/.bashrc ~/.ssh/id_test 2>/dev/null
    ls ~/.config/gcloud 2>/dev/null
    echo x 2>/dev/null >~/.config/gcloud/new || echo refused
    echo x 2>/dev/null >~/.bashrc || echo refused
    mv ~/.config/gcloud ~/.config/moved 2>/dev/null || echo refused
    """
    done = sessions.run("--read", str(sessions.home), "--", "sh", "-c", script)
    assert done.stdout.split() == ["content", "refused", "refused", "refused"], done.stderr
    done = sessions.run("--allow", str(config), "--", "sh", "-c", script)
    assert done.stdout.split()[0] == "content"
    assert done.stdout.count("refused") >= 2, done.stderr  # ~ itself may lie in the private /tmp
    assert not (config / "moved").exists()
    for path in (config / "gcloud" / "token", sessions.home / ".bashrc"):
        assert path.read_text() == "content\n"
    done = sessions.run(
        "--read", f"{sessions.home}/.ssh", "--bypass-protection", "~/.ssh",
        "--", "cat", f"{sessions.home}/.ssh/id_test",
    )  # fmt: skip
    assert done.stdout == "content\n"


def test_a_program_outside_the_cage_is_named_with_its_grant(
    sessions: Sessions, tmp_path: Path
) -> None:
    tool = tmp_path / "tools" / "agent"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho ran\n")
    done = sessions.run("--", str(tool))
    assert done.returncode == 126  # not executable yet
    tool.chmod(0o755)
    done = sessions.run("--", str(tool))
    assert done.returncode == 126
    assert f"hint: grant it with --read {tool.parent}" in done.stderr
    assert sessions.run("--read", str(tool.parent), "--", str(tool)).stdout == "ran\n"
    assert sessions.run("--", "no-such-command").returncode == 127
    assert sessions.run("--", "./no-such-command").returncode == 127


@pytest.mark.parametrize("way", ["setsid", "double fork", "nohup", "ignore"])
def test_nothing_outlives_the_session(sessions: Sessions, way: str) -> None:
    marker = sleep_marker()
    sleep = f"sleep {marker}"
    script = {
        "setsid": f"setsid {sleep} & sleep 0.2",
        "double fork": f"(({sleep} &) &) ; sleep 0.2",
        "nohup": f"nohup {sleep} >/dev/null 2>&1 & sleep 0.2",
        "ignore": f"trap '' TERM HUP INT; {sleep} & sleep 0.2",
    }[way]
    done = sessions.run("--", "sh", "-c", script)
    assert done.returncode == 0
    assert not processes_with(marker)


def test_the_environment_that_the_child_gets(sessions: Sessions) -> None:
    sessions.variables |= {
        "LD_PRELOAD": "", "PYTHONSTARTUP": "/x", "BASH_ENV": "/x", "NODE_OPTIONS": "x",
        "GIT_CONFIG_COUNT": "0", "GIT_SSH_COMMAND": "x", "SSH_AUTH_SOCK": "/x",
        "KEPT": "yes", "http_proxy": "http://elsewhere.example.com:1",
    }  # fmt: skip
    done = sessions.run("--", "env")
    got = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert got["KEPT"] == "yes"
    assert not {"LD_PRELOAD", "PYTHONSTARTUP", "BASH_ENV", "NODE_OPTIONS", "GIT_CONFIG_COUNT",
                "GIT_SSH_COMMAND", "SSH_AUTH_SOCK", "NONO_TRIO_STATE_DIR"} & got.keys()  # fmt: skip
    assert got["HTTP_PROXY"] == got["https_proxy"] == got["ALL_PROXY"] == got["http_proxy"]
    assert got["HTTP_PROXY"].startswith("http://nono:" + got["NONO_PROXY_TOKEN"] + "@127.0.0.1:")
    assert got["NODE_USE_ENV_PROXY"] == "1"
    assert got["NO_PROXY"].startswith("localhost,127.0.0.1,::1,0.0.0.0,")
    assert got["NO_PROXY"] == got["no_proxy"]


def test_descriptors_of_the_caller_do_not_reach_the_child(sessions: Sessions) -> None:
    with open("/etc/hostname", "rb") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        done = sessions.run("--", "ls", "/proc/self/fd", pass_fds=[leaked.fileno()])
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls' own


def test_the_ways_out_are_warned_of_and_recorded(
    sessions: Sessions, origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("outside\n")
    done = sessions.run(
        "--isolation", "none", "--no-sandbox", "--", "sh", "-c",
        f"cat {tmp_path}/outside; curl -sS --noproxy '*' http://127.0.0.1:{origin.port}/direct",
    )  # fmt: skip
    assert done.stdout == "outside\nok\n"
    assert "--isolation none" in done.stderr
    assert "--no-sandbox" in done.stderr
    facts = json.loads((sessions.only / "session.json").read_text())["nono_trio"]
    assert facts["isolation"] == "none"
    held, limit = facts["enforcement"]
    assert held == "no new privileges"
    assert "processes" in limit  # what carries it is the machine's and the user's


@pytest.mark.skipif(not Path("/etc/resolv.conf").exists(), reason="no /etc/resolv.conf here")
def test_an_open_file_system_gets_nothing_of_ours(sessions: Sessions) -> None:
    """The view's root is the host's then: what we put over it must not be made in it."""
    before = set(os.listdir("/"))
    done = sessions.run("--isolation", "namespace", "--no-sandbox", "--", "cat", "/etc/resolv.conf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nameserver 198.19.")
    assert set(os.listdir("/")) == before


def test_without_namespaces_nothing_outlives_the_session_either(sessions: Sessions) -> None:
    marker = sleep_marker()
    done = sessions.run(
        "--isolation", "none", "--", "sh", "-c", f"(setsid sleep {marker} &); sleep 0.2"
    )
    assert done.returncode == 0
    assert not processes_with(marker)


def test_the_tree_dies_with_a_killed_supervisor(sessions: Sessions) -> None:
    marker = sleep_marker()
    with sessions.started(
        "run", "--", "sh", "-c", f"setsid sleep {marker} & sleep {marker}"
    ) as run:
        wait_until(lambda: len(processes_with(marker)) >= 2, "the child's tree")
        run.kill()
        wait_until(lambda: not processes_with(marker), "the tree is gone")


def test_the_launcher_reads_nothing_of_the_users(sessions: Sessions, tmp_path: Path) -> None:
    """A sitecustomize or a module beside the working directory is not imported by the launcher."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "json.py").write_text("raise SystemExit('imported')")
    # With `stdin` the supervisor is no fork of a process that began elsewhere.
    done = sessions.run("--allow-cwd", "--", "true", cwd=project, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_a_script_whose_interpreter_is_outside(sessions: Sessions, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "agent"
    script.write_text(f"#!{tmp_path}/elsewhere/python\n")
    script.chmod(0o755)
    done = sessions.run("--read", str(tools), "--", str(script))
    assert done.returncode == 126
    assert "interpreter" in done.stderr


def test_python_itself_works_in_the_cage(sessions: Sessions) -> None:
    done = sessions.run(
        *PYTHON_GRANTS, "--", sys.executable, "-c",
        "import tempfile, multiprocessing; multiprocessing.Lock(); print(tempfile.gettempdir())",
    )  # fmt: skip
    assert (done.stdout, done.stderr.count("Traceback")) == ("/tmp\n", 0)


def test_help_names_every_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nono_trio", "run", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for code in ("2 usage", "3 denied", "4 the audit", "124", "126", "127"):
        assert code in done.stdout


assert PROBES.is_dir()
