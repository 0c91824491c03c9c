"""Files that are not granted: each look-up is in the record before its answer, and nothing of the
cage waits for the record for long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from harness import (
    NONO_TRIO,
    PYTHON_GRANTS,
    SYSTEM_PYTHON,
    Sessions,
    as_user,
    processes_with,
    sleep_marker,
    wait_until,
)
from seen_files import below, children, denied, events, holds_device, needs_view, server_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_view

DEAD_MOUNT = Path(__file__).parent.parent / "support" / "dead_mount.py"
LIMIT_SECONDS = 30  # for one look-up, on a machine that is busy; it waits for three at most


@pytest.fixture
def seen(open_place: Path) -> Sessions:
    """Sessions whose home is not in /tmp, which is the cage's own and is not asked about."""
    for name in ("home", "one", "two", "three", "four", "five"):
        (open_place / name).mkdir()
    home = open_place / "home"
    for name in (".ssh", "project", "project/kept"):
        (home / name).mkdir()
    for name in (".ssh/id_test", ".npmrc", ".config", "project/file"):
        (home / name).write_text("content\n")
    (open_place / "one" / "file").write_text("content\n")
    return Sessions(open_place / "state", home)


def in_cage(sessions: Sessions, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    project = str(sessions.home / "project")
    return sessions.run("--allow", project, *options, "--", "sh", "-c", script, cwd=project)


# Commands in the project below the home, and their records.
DENIED = {
    "cat ../.ssh/id_test": {("home/.ssh", "Read")},
    "cat ../../one/file": {("one", "Read")},
    "cat ../.npmrc ../.npmrc; stat ../.npmrc": {("home/.npmrc", "Read")},
    "ls ../.config": {("home/.config", "Read")},
    "echo >../../two/new": {("two", "Write")},
    "mkdir ../../three/new": {("three", "Write")},
    "touch ../../four/new": {("four", "Write")},
    'python3 -c \'open("../../five/new", "w")\'': {("five", "Write")},
    "echo >../../new1": {("new1", "Write")},  # where nothing is on the host
    "mkdir -p ../../new2/deep": {("new2", "Write")},
    "ln -s file ../../new3": {("new3", "Write")},
    "python3 -c 'import socket as s; s.socket(s.AF_UNIX).bind(\"../../new4\")'": {
        ("new4", "Write")
    },
}
INNOCENT = (
    "cat ../../missing ../missing /missing/deep",
    "cat file kept ../project/file; echo >file; mkdir -p kept/new ../project/kept",
    "echo >../.profile; cat ../.profile",  # the cage's own home, in which it may
    "mkdir -p ../.local/share; ls -R ../.local; mv ../.local ../.other; rm -r ../.other",
    "cat /proc/1/environ /tmp/missing; ls /dev/shm",
)


def test_what_is_denied_is_recorded_once(seen: Sessions) -> None:
    done = in_cage(seen, "\n".join(DENIED))
    found = denied(seen)
    expected = set().union(*DENIED.values())
    # `mkdir -p` and `touch` may look before they make something; `ln` has to.
    looked = below(seen.home.parent, found) - expected
    assert {access for _, access in looked} <= {"Read"}
    assert {path for path, _ in looked} <= {path for path, access in expected if access == "Write"}
    assert below(seen.home.parent, found) >= expected, done.stderr
    entries = [event["entry"] for event in events(seen)]
    assert len(entries) == len(found)
    for entry in entries:
        assert entry["decision"] == {"Denied": {"reason": "not granted"}}
        assert entry["backend"] == "view"
        assert entry["request"]["session_id"] == seen.only.name
    code, verdict = seen.verdict()
    assert (code, verdict["verdict"]) == (0, "verified")


def test_what_is_not_there_or_allowed_is_no_event(seen: Sessions) -> None:
    (seen.home / ".profile").touch()
    (seen.home / ".local").mkdir()
    done = in_cage(seen, "\n".join(INNOCENT))
    # The cage's own home was asked whether it has them before it made them.
    looked = {("home/.profile", "Read"), ("home/.local", "Read")}
    assert below(seen.home.parent, denied(seen)) <= looked, done.stderr


def test_the_record_stands_before_the_answer_and_names_the_process(seen: Sessions) -> None:
    """The log is granted for reading, so the program itself finds the record."""
    look = (
        "import os, sys\n"
        "try: os.stat(sys.argv[1])\n"
        "except FileNotFoundError: print(os.getpid(), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    script = ["-c", look, str(seen.home / ".npmrc")]
    command = ["run", *PYTHON_GRANTS, "--", sys.executable, *script]
    with seen.started(*command, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        entry = denied(seen)[str(seen.home / ".npmrc"), "Read"]  # while it goes on
        (caged,) = processes_with(str(seen.home / ".npmrc"), sys.executable + "\0-c\0import os")
        assert entry["request"]["child_pid"] == caged
        process.communicate("\n", timeout=60)


def test_the_rest_is_counted(seen: Sessions) -> None:
    for number in range(1100):
        (seen.home / f"file{number}").touch()
    done = in_cage(seen, "i=0; while [ $i -lt 1100 ]; do [ -e ../file$i ]; i=$((i+1)); done")
    assert done.returncode == 0, done.stderr
    found = denied(seen)
    (counted,) = [entry for (path, _), entry in found.items() if path == "nono-trio:view"]
    assert len(found) == 1001
    recorded = len(below(seen.home, found))
    assert int(counted["decision"]["Denied"]["reason"].split()[0]) >= 1100 - recorded


# -- nothing waits for the record ------------------------------------------------------------------

WAITS = """
import json, os, sys, time
ready, *looked_up = sys.argv[1:]
for path in looked_up[1:]:
    os.path.exists(path)
open(ready, "w").close()
for line in sys.stdin:
    began = time.monotonic()
    os.path.exists(looked_up[0] + line.strip())
    with open(ready + ".new", "w") as file:
        json.dump(time.monotonic() - began, file)
    os.rename(ready + ".new", ready + ".done" + line.strip())
time.sleep(600)
"""


@contextlib.contextmanager
def waiting(
    sessions: Sessions, dead: DeadMount | None = None
) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A cage that looks up `~/.npm` and the rest for each line of input; yields it, its file, and
    its server. `dead`: the place of its first look-up."""
    before = [] if dead is None else [f"{dead.point}/other"]
    project = sessions.home / "project"
    ready = project / f"ready{sleep_marker()}"
    script = [sys.executable, "-c", WAITS, str(ready), str(sessions.home / ".npm"), *before]
    options = [*PYTHON_GRANTS, "--allow", str(project)]
    options += [] if dead is None else ["--read", f"{dead.point}/granted"]
    command = [*([] if dead is None else dead.wrapper), NONO_TRIO, "run", *options, "--", *script]
    with subprocess.Popen(
        command, env=sessions.environment, cwd=sessions.home, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        pass_fds=[] if dead is None else [dead.life.fileno()],
    ) as process:  # fmt: skip
        try:
            wait_until(ready.exists, "the command runs")
            yield process, ready, server_of(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            if dead is not None:  # no signal ends a thread that waits for it
                dead.end.close()
            wait_until(lambda: not processes_with(str(ready), sys.executable), "all has ended")


def commands_with(ready: Path) -> list[int]:
    """The caged command itself: the run that started it has more in front of it."""
    return processes_with(str(ready), f"{sys.executable}\0-c\0\nimport json")


def ask(process: subprocess.Popen[str], name: str = "rc") -> None:
    """Have it look up `.npmNAME`."""
    assert process.stdin is not None
    process.stdin.write(f"{name}\n")
    process.stdin.flush()


def ask_and_wait(process: subprocess.Popen[str], ready: Path) -> None:
    """Have it look up, and wait until it is in the middle of that (or has been)."""
    (command,) = commands_with(ready)
    ask(process)
    done = Path(f"{ready}.donerc")
    where = Path(f"/proc/{command}/wchan")
    wait_until(lambda: "request_wait" in where.read_text() or done.exists(), "a look-up")


def answered(ready: Path, name: str = "rc") -> None:
    """Wait until it has had the answer to a look-up."""
    done = Path(f"{ready}.done{name}")
    wait_until(done.exists, "an answer")
    assert json.loads(done.read_text()) < LIMIT_SECONDS


def test_a_stopped_supervisor_holds_up_nothing(seen: Sessions) -> None:
    with waiting(seen) as (process, ready, _):
        process.send_signal(signal.SIGSTOP)
        ask(process)
        answered(ready)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: below(seen.home, denied(seen)) == {(".npmrc", "Read")}, "the record")


def test_a_process_killed_in_its_look_up_ends(seen: Sessions) -> None:
    with waiting(seen) as (process, ready, _):
        process.send_signal(signal.SIGSTOP)
        ask_and_wait(process, ready)
        caged = commands_with(ready)
        assert caged
        for command in caged:
            os.kill(command, signal.SIGKILL)
        wait_until(lambda: not commands_with(ready), "the killed process is gone", LIMIT_SECONDS)


def leaves_nothing(ready: Path, server: int) -> None:
    wait_until(
        lambda: not commands_with(ready) and not Path(f"/proc/{server}").exists(),
        "cage and server are gone", LIMIT_SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["killed", "killed inside a request"])
def test_a_killed_supervisor_leaves_nothing(seen: Sessions, inside: bool) -> None:
    with waiting(seen) as (process, ready, server):
        if inside:
            process.send_signal(signal.SIGSTOP)
            ask_and_wait(process, ready)
        process.kill()
        leaves_nothing(ready, server)


def test_a_server_killed_inside_a_request_takes_the_cage_along(seen: Sessions) -> None:
    with waiting(seen) as (process, ready, server):
        process.send_signal(signal.SIGSTOP)
        ask_and_wait(process, ready)
        os.kill(server, signal.SIGKILL)
        leaves_nothing(ready, server)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 128 + signal.SIGKILL
    code, verdict = seen.verdict()
    assert (code, verdict["verdict"]) == (0, "verified")


# -- file systems of the host that do not respond --------------------------------------------------


class DeadMount(NamedTuple):
    """A dead file system at `point`, as dead_mount.py has it: it ends when `end` is closed.

    `wrapper`: the words before a command that has it; the command inherits `life`."""

    point: Path
    wrapper: list[str]
    life: socket.socket
    end: socket.socket


@pytest.fixture
def dead(request: pytest.FixtureRequest, seen: Sessions) -> Iterator[DeadMount]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that other programs see")
    point = seen.home / "dead"
    point.mkdir()
    life, end = socket.socketpair()
    with life, end:
        words = [str(DEAD_MOUNT), str(point), str(life.fileno()), request.param]
        yield DeadMount(point, [sys.executable, *words], life, end)


@pytest.mark.parametrize("dead", ["mount"], indirect=True)
def test_a_dead_mount_is_recorded_and_holds_up_nobody(seen: Sessions, dead: DeadMount) -> None:
    """Before: the end of the run looked at it too, and waited for its server for ever."""
    project = seen.home / "project"
    done = subprocess.run(
        [*dead.wrapper, NONO_TRIO, "run", "--allow", str(project), "--", "ls", f"{dead.point}/x"],
        env=seen.environment, cwd=project, pass_fds=[dead.life.fileno()], timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 file not granted: ~/dead (read)" in done.stderr
    assert below(seen.home, denied(seen)) == {("dead", "Read")}


@pytest.mark.parametrize("dead", ["directory"], indirect=True)
def test_a_helper_that_is_stuck_on_a_dead_mount_holds_up_nobody(
    seen: Sessions, dead: DeadMount
) -> None:
    """One thread of the supervisor is lost; stopped and killed, it still leaves nothing stuck."""
    with waiting(seen, dead) as (process, ready, server):
        (stuck,) = threads_in(process.pid, "request_wait")
        assert stuck != process.pid
        ask(process)
        answered(ready)
        assert (".npmrc", "Read") in below(seen.home, denied(seen))
        process.send_signal(signal.SIGSTOP)
        ask(process, "ignore")
        answered(ready, "ignore")
        process.kill()
        leaves_nothing(ready, server)


def threads_in(process: int, where: str) -> list[int]:
    """The threads that the kernel has waiting in a function with this name."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(task.name) for task in tasks if where in (task / "wchan").read_text()]


# It stays after the last answer, so that the view's server is still there.
STARTS = """
import subprocess, sys
while sys.stdin.readline():
    for _ in range(20):
        subprocess.run(["/bin/true"], check=True)
        open("file").close()
    print("done", flush=True)
"""


def test_starts_of_programs_and_granted_files_do_not_reach_the_server(seen: Sessions) -> None:
    """So a granted tree is as fast as without: the kernel knows the links and the missing names."""
    project = seen.home / "project"
    options = [*PYTHON_GRANTS, "--allow", str(project), "--", sys.executable, "-c", STARTS]
    settings = {"stdin": subprocess.PIPE, "cwd": project}
    with seen.started("run", *options, **settings) as process:
        assert process.stdout is not None
        reads = []
        for _ in range(3):
            ask(process)
            assert process.stdout.readline() == "done\n"
            reads.append(requests_of(server_of(process.pid)))
        assert reads[2] - reads[1] < 20  # one for each program would be more


def requests_of(server: int) -> int:
    """The number of read calls that it has made."""
    lines = Path(f"/proc/{server}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


def test_the_server_is_not_of_the_cage(seen: Sessions) -> None:
    """No other process has its descriptor, and it is in no namespace and no process group of the
    cage or the supervisor."""
    with waiting(seen) as (process, _, server):
        assert os.getpgid(server) == server
        assert os.readlink(f"/proc/{server}/ns/pid") == os.readlink("/proc/self/ns/pid")
        assert os.readlink(f"/proc/{server}/ns/user") == os.readlink("/proc/self/ns/user")
        (server_again,) = [pid for pid in children(children(process.pid)[0]) if holds_device(pid)]
        assert server_again == server


def test_without_the_device_the_view_is_as_before(open_place: Path) -> None:
    """As a user who can't open it, or where the kernel has no such file system."""
    if os.geteuid() != 0:
        pytest.skip("only root can put another file over /dev/fuse")
    sessions = Sessions(open_place / "state", open_place / "home")
    sessions.home.mkdir()
    (sessions.home / ".npmrc").write_text("content\n")
    hidden = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /dev/fuse && exec "$@"']
    for instead in ("/dev/null", "/dev/full"):
        done = subprocess.run(
            [*hidden, instead, sys.executable, "-m", "nono_trio", "run", "--", "sh", "-c",
             "cat ~/.npmrc || echo none"],
            env=sessions.environment, cwd=sessions.home, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr
    for directory in sessions.directories:
        assert "capability_decision" not in (directory / "audit-events.ndjson").read_text()


def test_an_ordinary_user_has_it_too(open_place: Path) -> None:
    """With a device of mode 0666, as most machines have it."""
    prefix, variables = as_user("nobody", Path(__file__))
    sessions = Sessions(open_place / "state", open_place / "home")
    for directory in (sessions.state, sessions.home, open_place / "device"):
        directory.mkdir()
        directory.chmod(0o777)
    (sessions.home / ".npmrc").write_text("content\n")
    opened = (
        'mount -t tmpfs none "$0" && mknod -m 666 "$0/fuse" c 10 229'
        ' && mount --bind "$0/fuse" /dev/fuse && exec "$@"'
    )
    wrapped = [] if os.geteuid() != 0 else ["unshare", "-m", "sh", "-c", opened]
    wrapped += [] if os.geteuid() != 0 else [str(open_place / "device")]
    hidden = "import ctypes; ctypes.CDLL(None).prctl(4, 0); open('/new-hidden', 'w')"
    script = (
        "cat ~/.npmrc /opt/x; mkdir g && chmod g+s $PWD/g;"
        f' {SYSTEM_PYTHON} -c "{hidden}"; cp /bin/sh p && chmod 111 p;'
        " ./p -c 'echo >/new-unreadable'; echo >/srv/new"
    )
    run = [*wrapped, *prefix, "-m", "nono_trio", "run"]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
    settings |= {"env": {**sessions.environment, **variables}, "cwd": "/"}
    seen = set()
    for home in ("private", "kept=x"):
        command = [*run, "--home", home, "--", "sh", "-c", f"cd; {script}"]
        done = subprocess.run(command, check=False, **settings)
        (directory,) = set(sessions.directories) - seen
        seen.add(directory)
        found = {path for path, _ in denied(sessions, directory)}
        assert str(sessions.home / ".npmrc") in found, done.stderr
        created = {path for path, access in denied(sessions, directory) if access == "Write"}
        assert created == {"/new-hidden", "/new-unreadable", "/srv"}, done.stderr
        assert done.returncode in (1, 2)


# -- what a person reads ---------------------------------------------------------------------------


def test_the_end_of_a_run_and_the_audit_name_the_files(seen: Sessions) -> None:
    (seen.home / ".toolrc").write_text("content\n")
    script = "cat ../.toolrc ../.npmrc ../.config/x; echo >../../two/new"
    done = in_cage(seen, script, "--follow")
    place = seen.home.parent
    followed = [line.partition(" deny  file     ")[2] for line in done.stderr.splitlines()]
    assert [line for line in followed if line] == [
        f"{place}/home/.toolrc (read)  not granted", f"{place}/home/.npmrc (read)  not granted",
        f"{place}/home/.config (read)  not granted", f"{place}/two (create)  not granted",
    ]  # fmt: skip
    assert f"4 files not granted: {place}/two (create), ~/.config (read), ~/.npmrc (read)," in (
        done.stderr
    )
    # Not the protected one; each works when pasted.
    (line,) = [line for line in done.stderr.splitlines() if "to allow: --" in line]
    allowed = line.partition("to allow: ")[2]
    assert allowed == f"--write {place}/two --read-file ~/.config --read-file ~/.toolrc"
    flags = [word.replace("~", str(seen.home)) for word in allowed.split()]
    again = in_cage(seen, "cat ../.toolrc ../.config; echo >../../two/new", *flags)
    assert (again.returncode, again.stdout) == (0, "content\ncontent\n"), again.stderr
    (session,) = [path.name for path in seen.directories if events_of(seen, path)]
    shown = seen.call("audit", "show", session).stdout
    assert f"{place}/two (create)" in shown
    fields = json.loads(seen.call("audit", "show", "--json", session).stdout)
    shown_files = {(one["path"], one["access"]) for one in fields["denied_files"]}
    assert (f"{place}/two", "Write") in shown_files
    learned = seen.call("audit", "learn", session).stdout
    assert f'# write = ["{place}/two"]' in learned
    assert f"{seen.home}/.npmrc" in learned.partition("# read_file = ")[2].splitlines()[0]


def events_of(sessions: Sessions, directory: Path) -> bool:
    return any(record["event"]["type"] == "capability_decision"
               and record["event"]["entry"]["request"]["path"].endswith(".toolrc")
               for record in sessions.records(directory))  # fmt: skip


def test_doctor_and_why_say_what_is_seen(seen: Sessions) -> None:
    why = seen.call("why", "--path", str(seen.home / ".config"), "--json").stdout
    assert "a look-up of it is recorded" in why
    found = json.loads(seen.call("doctor", "--json").stdout)
    (check,) = [one for one in found["checks"] if one["name"] == "denied files"]
    assert check["state"] == "ok"
