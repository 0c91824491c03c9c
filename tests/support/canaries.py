"""The other side of tests/support/probes/escape.py: makes the targets of a hostile program.

    python3 canaries.py namespace|landlock PROBE...     in a cage, with `nono-trio run`
    python3 canaries.py bare PROBE... [-- NAME...]      without a cage: are the attempts real?

It is a program, so that a test can run it as another user. All targets belong to that user, like
the supervisor, so that ordinary permissions do not do the work of the cage. It prints one JSON
object: the attempts as the probe saw them, the tags that arrived somewhere (`arrived`), the
processes that were left (`left`), the files that changed (`changed`), and the end of the session.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canary_services import Listeners, Objects

import nono_trio

RUN_SECONDS = 50.0
# Host processes get high numbers. A process of the cage could have a low one too, and answer for
# it: the probe uses some 8,000 there. After the highest number of all come low ones again.
LEAST_PID = 16_000
LEFT_PIDS = 4_000
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
MOST_PID = Path("/proc/sys/kernel/pid_max")
POLL_SECONDS = 0.005
SETTLE_SECONDS = 2.0  # for killed processes to end; a process that lives longer has escaped
TAG = re.compile(rb"tag-[0-9a-f]{8}")
KNOCK = re.compile("knock-tag-.{8}")

VICTIM = """
import ctypes, json, os, signal, sys
secret, notes, secret_file = os.environ["CANARY"], sys.argv[1], sys.argv[2]
note = os.open(notes, os.O_WRONLY | os.O_APPEND)
kept = ctypes.create_string_buffer(secret.encode())
scratch = ctypes.create_string_buffer(b"untouched")
descriptor = os.open(secret_file, os.O_RDONLY)
signal.signal(signal.SIGURG, lambda *_: os.write(note, b"signalled\\n"))
os.chdir(os.path.dirname(secret_file))
print(json.dumps({"pid": os.getpid(), "address": ctypes.addressof(kept),
    "scratch": ctypes.addressof(scratch), "descriptor": descriptor}), flush=True)
sys.stdin.read()
if scratch.value != b"untouched":
    os.write(note, b"written to\\n")
"""


class Layout:
    """A directory tree with secrets, and the part of it that the child is granted."""

    def __init__(self) -> None:
        # Not below /tmp, because the cage's private /tmp would hide all of it.
        self.base = Path(tempfile.mkdtemp(prefix="nono-trio-escape-", dir="/var/tmp"))
        self.secret = secrets.token_hex(16)
        for name in (
            "home/.ssh", "home/.config/gcloud", "project", "readonly", "outside", "state",
            "deep/b/config/nono-trio", "deep/b/config/python_keyring",
        ):  # fmt: skip
            (self.base / name).mkdir(parents=True, mode=0o700)
        self.watched = {
            self.base / "outside" / name: self.secret + "\n" for name in ("secret", "movable")
        }
        other = self.base / "home/.local/share/nono-trio/homes/other.landlock"
        (other / "home").mkdir(parents=True)
        (other / "lock").touch()
        for name in ("home/.ssh/id_test", "home/.config/gcloud/token", f"{other}/home/.login"):
            self.watched[self.base / name] = self.secret + "\n"
        self.watched[self.base / "home/.bashrc"] = "# untouched\n"
        self.watched[self.base / "readonly/file"] = "# untouched\n"
        for name in ("nono-trio/p.toml", "python_keyring/keyringrc.cfg"):
            self.watched[self.base / "deep/b/config" / name] = "# untouched\n"
        for path, text in self.watched.items():
            path.write_text(text)
        (self.base / "outside/touchable").write_text("")
        self.names: dict[Path, list[str]] = {}

    def remember(self) -> None:
        """Keep the present names; the same names must be there afterwards."""
        self.names = {path: sorted(os.listdir(path)) for path in self._closed_directories()}

    def _closed_directories(self) -> list[Path]:
        homes = "home/.local/share/nono-trio/homes"
        names = ("outside", "readonly", "home", "home/.ssh", "home/.config/gcloud", homes)
        way = ("deep/b", "deep/b/config", "deep/b/config/nono-trio", "deep/b/config/python_keyring")
        return [self.base / name for name in (*names, *way)]

    def changed(self) -> list[str]:
        """The paths that changed since they were made."""
        found = [
            str(path) for path, text in self.watched.items()
            if not path.exists() or path.read_text() != text
        ]  # fmt: skip
        return found + [
            str(path) for path, names in self.names.items()
            if not path.is_dir() or sorted(os.listdir(path)) != names
        ]  # fmt: skip


class Canaries:
    """All targets, and the tags that arrived at them."""

    def __init__(self) -> None:
        self.layout = Layout()
        self.listeners = Listeners(self.layout.base, self.layout.secret)
        self.intercepted: Any = None  # or an InterceptedOrigin
        self.objects = Objects(self.layout.secret)
        self.terminal, self.terminal_path = self._open_terminal()
        self.notes = self.layout.base / "notes"
        self.notes.touch()
        self.victim = self._start_victim()
        self.layout.remember()

    def intercept(self) -> None:
        """Have requests to one host seen; only attempts about that host need it."""
        from canary_intercepted import InterceptedOrigin  # late, because it takes a second

        self.intercepted = InterceptedOrigin(self.layout.base, self.listeners.seen)

    def _open_terminal(self) -> tuple[int, str]:
        """Open another terminal of the user, with a secret typed at it."""
        master, slave = os.openpty()
        path = os.ttyname(slave)
        modes = termios.tcgetattr(slave)
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        os.write(master, self.layout.secret.encode())
        os.set_blocking(master, False)
        self._slave = slave  # kept open, because a terminal without an open descriptor hangs up
        return master, path

    def _start_victim(self) -> subprocess.Popen[str]:
        """Start a host process like the supervisor: same user, secrets in all its parts."""
        variables = {"CANARY": self.layout.secret, "NONO_PROXY_TOKEN": self.layout.secret}
        secret_file = str(self.layout.base / "outside" / "secret")
        leave_low_numbers()
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(self.notes), secret_file, self.layout.secret],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if victim.stdout is None:
            raise AssertionError("no stdout")
        self.described = json.loads(victim.stdout.readline())
        return victim

    def targets(self, isolation: str) -> dict[str, Any]:
        """The facts that the probe gets."""
        base = self.layout.base
        directories = ("home", "project", "readonly", "outside", "state", "deep")
        return {
            "isolation": isolation, "secret": self.layout.secret, "victim": self.described,
            "terminal": self.terminal_path, "code": places_of_code(),
            "seen": None if self.intercepted is None else self.intercepted.port,
            **{name: str(base / name) for name in directories},
            **self.listeners.described, **self.objects.described,
        }  # fmt: skip

    def serve_project(self, stop: threading.Event) -> None:
        """Act on files in the granted directory: call a port, or make a file outside."""
        project = self.layout.base / "project"
        while not stop.wait(POLL_SECONDS):
            for name in os.listdir(project):
                if KNOCK.fullmatch(name):
                    port = int((project / name).read_text())
                    (project / name).unlink()
                    self.listeners.knock(port)
                elif name.startswith("touch-"):
                    (project / name).unlink()
                    made = self.layout.base / "outside" / "new"
                    made.touch()
                    made.unlink()

    def arrived(self) -> set[str]:
        """The tags that were seen anywhere on this side."""
        with contextlib.suppress(BlockingIOError):
            self.listeners.seen(os.read(self.terminal, 65_536))
        return {found.decode() for found in TAG.findall(bytes(self.listeners.data))}

    def close(self) -> None:
        """End the victim and remove all targets."""
        if self.victim.poll() is None:
            self.victim.communicate()
        self.listeners.close()
        if self.intercepted is not None:
            self.intercepted.close()
        self.objects.close()
        os.close(self.terminal)
        os.close(self._slave)
        shutil.rmtree(self.layout.base, ignore_errors=True)


def leave_low_numbers() -> None:
    """See to it that the next processes get high numbers."""
    most = int(MOST_PID.read_text()) - LEFT_PIDS
    while not LEAST_PID <= next_number() <= most:
        with contextlib.suppress(OSError):  # not root: the low numbers are used up
            LAST_PID.write_text(str(LEAST_PID))


def next_number() -> int:
    """Use the next number for a thread, which has one as a process has."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    return thread.native_id or 0


def places_of_code() -> dict[str, str]:
    """The places of the session's own code."""
    trio = find_spec("trio")
    if trio is None:
        raise AssertionError("no trio")
    return {
        "package": os.path.dirname(os.path.abspath(nono_trio.__file__)),
        "library": os.path.dirname(os.__file__),
        "site": os.path.dirname(os.path.dirname(os.path.abspath(str(trio.origin)))),
        "python": os.path.realpath(sys.executable),
    }


def session_command(canaries: Canaries, isolation: str, probe: list[str]) -> list[str]:
    base = canaries.layout.base
    allowed = f"allowed.example.com:{canaries.listeners.described['origin']}"
    for_tls = f"allowed.example.com:{canaries.listeners.described['tls']}"
    granted = ["--allow", str(base / "project"), "--read", str(base / "readonly")]
    if isolation == "namespace":  # Landlock can't close ~/.config/gcloud inside it, so it refuses
        granted += ["--read", str(base / "home" / ".config"), "--allow", str(base / "deep")]
    return [
        sys.executable, "-P", "-m", "nono_trio", "run", "--isolation", isolation, "--silent",
        "--audit-dir", str(base / "state"), "--timeout", str(RUN_SECONDS),
        "--proxy-port", str(canaries.listeners.described["proxy_port"]),
        "--allow-domain", allowed, "--resolve", f"{allowed}:127.0.0.1",
        "--allow-domain", f"tls://{for_tls}", "--resolve", f"{for_tls}:127.0.0.1",
        *([] if canaries.intercepted is None else canaries.intercepted.rules()),
        "--read", str(Path(probe[-1]).parent), *grants_of_python(), *granted,
        "--", *probe,
    ]  # fmt: skip


def grants_of_python() -> list[str]:
    prefixes = dict.fromkeys((sys.base_prefix, sys.prefix))
    return [
        word for prefix in prefixes if not prefix.startswith("/usr") for word in ("--read", prefix)
    ]


def own_terminal() -> None:
    """Make standard input the controlling terminal; runs in the new process."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def tell_facts(canaries: Canaries, isolation: str, pid: int) -> None:
    """Write the facts once there is a log: the targets, the log's path, the supervisor's pid."""
    base = canaries.layout.base
    caged = isolation != "bare"
    facts = canaries.targets(isolation)
    facts["supervisor"] = pid if caged else canaries.described["pid"]
    deadline = time.monotonic() + RUN_SECONDS
    while caged and "log" not in facts and time.monotonic() < deadline:
        for log in (base / "state").glob("audit/*/audit-events.ndjson"):
            facts["log"] = str(log)
        time.sleep(POLL_SECONDS)
    (base / "facts").write_text(json.dumps(facts))
    (base / "facts").rename(facts_of(base))


def run(isolation: str, probe: list[str], names: list[str]) -> dict[str, Any]:
    """Make the targets, run the probe, and observe."""
    canaries = Canaries()
    if any("intercepted host" in name for name in names):
        canaries.intercept()
    stop = threading.Event()
    helper = threading.Thread(target=canaries.serve_project, args=(stop,))
    helper.start()
    try:
        return observe(canaries, isolation, probe, names)
    finally:
        stop.set()
        helper.join()
        canaries.close()


def observe(
    canaries: Canaries, isolation: str, probe: list[str], names: list[str]
) -> dict[str, Any]:
    """Run the probe on its own terminal; return the effects on this side."""
    base = canaries.layout.base
    caged = isolation != "bare"
    command = session_command(canaries, isolation, probe) if caged else probe
    master, slave = os.openpty()
    process = run_on_terminal(canaries, isolation, [*command, str(facts_of(base)), *names], slave)
    canaries.listeners.seen(typed_into(slave))
    os.close(master)
    os.close(slave)
    left = survivors(base)
    victim_lives = canaries.victim.poll() is None
    canaries.victim.communicate()  # ends it; it notes writes to its memory first
    notes = canaries.notes.read_text().splitlines()
    output = (base / "output").read_bytes().splitlines()
    return {
        "attempts": [json.loads(line) for line in output if line.startswith(b"{")],
        "arrived": sorted(canaries.arrived()),
        "left": left,
        "changed": canaries.layout.changed(),
        "victim": notes if victim_lives else [*notes, "killed"],
        "code": process.returncode,
        "errors": (base / "errors").read_text(errors="replace"),
        "verdict": verdict(base) if caged else None,
        "refusals": {} if canaries.intercepted is None else canaries.intercepted.refusals(),
    }


def facts_of(base: Path) -> Path:
    return base / "project" / "facts"


def run_on_terminal(
    canaries: Canaries, isolation: str, command: list[str], terminal: int
) -> subprocess.Popen[bytes]:
    """Run to the end with the controlling `terminal` and one leaked descriptor."""
    base = canaries.layout.base
    leaked = os.open(base / "outside" / "secret", os.O_RDONLY)
    # Files, not pipes: a process that outlives the session would keep a pipe open.
    with open(base / "output", "wb") as output, open(base / "errors", "wb") as errors:
        process = subprocess.Popen(
            command, stdin=terminal, stdout=output, stderr=errors, cwd=base / "project",
            env={"PATH": "/usr/bin:/bin", "HOME": str(base / "home"),
                 "XDG_CONFIG_HOME": str(base / "deep/b/config"), **python_variables()},
            preexec_fn=own_terminal, pass_fds=[leaked],
        )  # fmt: skip
    os.close(leaked)
    tell_facts(canaries, isolation, process.pid)
    try:
        process.wait(timeout=RUN_SECONDS + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return process


def typed_into(terminal: int) -> bytes:
    """The input that the shared terminal still holds; a shell would run it."""
    modes = termios.tcgetattr(terminal)
    modes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
    os.set_blocking(terminal, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(terminal, 65_536)
    return b""


def python_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def verdict(base: Path) -> str:
    """The verdict of `audit verify` for the session, in one word."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nono_trio", "audit", "verify", "--json",
         "--audit-dir", str(base / "state"), "latest"],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
        env={"PATH": "/usr/bin:/bin", **python_variables()},
    )  # fmt: skip
    return str(json.loads(done.stdout)["verdict"]) if done.stdout else done.stderr


def survivors(base: Path) -> list[str]:
    """The tags of processes that still live after SETTLE_SECONDS; kills these processes."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := tagged_processes(base)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return sorted(set(found.values()))


def tagged_processes(base: Path) -> dict[int, str]:
    """This run's processes whose name is a tag; several runs may go on at the same time."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command line of an ended process is empty, even before it is reaped.
            ours = os.fsencode(base) in (entry / "cmdline").read_bytes()
            if ours and (tag := TAG.search((entry / "comm").read_bytes())):
                found[int(entry.name)] = tag.group().decode()
    return found


def main() -> None:
    isolation, probe, names = sys.argv[1], sys.argv[2:], []
    if "--" in probe:
        place = probe.index("--")
        probe, names = probe[:place], probe[place + 1 :]
    print(json.dumps(run(isolation, probe, names)))


if __name__ == "__main__":
    main()
