"""Real runs for the tests: the console script, an origin on the host's loopback, the cage's Python.

Every run has a bound: a run that hangs fails its test after RUN_SECONDS.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import run_server
from checkout import ROOT

from nono_trio.core.log.notices import BINDING_TARGETS
from nono_trio.sandbox.broker.seccomp_notify import refused_by
from nono_trio.sandbox.build_plan import FIRST_NETWORK_ABI, FIRST_SCOPING_ABI, abi_number
from nono_trio.sandbox.launcher.nono_py import library_path, load_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NONO_TRIO = str(Path(sys.executable).parent / "nono-trio")
RUN_SECONDS = 60.0

# Grants which make the interpreter of the test run usable in the cage, wherever it is installed.
PYTHON_GRANTS = [
    word
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix))
    if not prefix.startswith("/usr")
    for word in ("--read", prefix)
]
PROBES = Path(__file__).parent / "probes"
SYSTEM_PYTHON = "/usr/bin/python3"
# Commands that only read, write and print. Hundreds of tests ask them; to start a process for each
# took longer than the rest of some tests. How a command is started has tests of its own.
IN_PROCESS = {"audit", "keys", "profile", "why"}
DRY_RUN = ("run", "--dry-run")  # it starts nothing; behind other flags it is a process


def _landlock_abi() -> int:
    """The ABI of the kernel's Landlock; 0 without Landlock."""
    with contextlib.suppress(RuntimeError):
        return abi_number(load_library(library_path()).detect_abi().version)
    return 0


_ABI = _landlock_abi()
LANDLOCK_SCOPES = _ABI >= FIRST_SCOPING_ABI
LANDLOCK_NETWORK = _ABI >= FIRST_NETWORK_ABI
_NO_TCP_RULES = None if LANDLOCK_NETWORK else f"Landlock ABI {_ABI} has no TCP rules"
landlock_isolation = pytest.mark.skipif(
    _NO_TCP_RULES is not None, reason=f"no landlock isolation here: {_NO_TCP_RULES}"
)
_UNGUARDED = _NO_TCP_RULES or refused_by(Path("/proc"))
guarded = pytest.mark.skipif(
    _UNGUARDED is not None, reason=f"connections can't be guarded here: {_UNGUARDED}"
)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

# A process that already handles seccomp notifications, like the manager of a container.
LISTENED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from nono_trio.sandbox.launcher.linux import seccomp, syscalls
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
os.set_inheritable(seccomp.notify_calls([], connections=False), True)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Sessions:
    """A state directory for one test, and the command line that uses it."""

    state: Path
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **_kept_variables(),
            "HOME": str(self.home),
            "NONO_TRIO_STATE_DIR": str(self.state),
            **self.variables,
        }

    def call(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run `nono-trio ARGUMENTS` to its end, as a process or (IN_PROCESS) in this one. A run
        without variables of its own forks: see forked_runs.py."""
        if arguments[0] in IN_PROCESS and not settings:
            return self._called_here(arguments)
        if arguments[:2] == DRY_RUN and settings.keys() <= {"cwd"}:
            return self._called_here(arguments, **settings)
        if self._forks(arguments) and settings.keys() <= {"cwd"}:
            where = settings.get("cwd", self.home)
            return _server().run(arguments, self.environment, where, RUN_SECONDS)
        settings.setdefault("cwd", self.home)
        settings.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [NONO_TRIO, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
            **settings,
        )

    def _forks(self, arguments: Sequence[str]) -> bool:
        return arguments[0] in run_server.FORKED and not self.variables

    def _called_here(
        self, arguments: tuple[str, ...], cwd: str | Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        from nono_trio.cli import main

        written = io.BytesIO()
        said, told = io.TextIOWrapper(written, "utf-8", write_through=True), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.chdir(cwd or self.home),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(told),
        ):
            for name in os.environ.keys() - self.environment.keys():
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            code = main.exit_code([*arguments])
        said.flush()
        shown = written.getvalue().decode()
        return subprocess.CompletedProcess(arguments, code, shown, told.getvalue())

    def run(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run `nono-trio run ARGUMENTS`."""
        return self.call("run", *arguments, **settings)

    def python(self, options: Sequence[str], script: str, *arguments: str) -> Any:
        """Run a probe of tests/support/probes in the cage."""
        return self.run(
            *PYTHON_GRANTS, "--read", str(PROBES), *options,
            "--", sys.executable, str(PROBES / script), *arguments,
        )  # fmt: skip

    @contextlib.contextmanager
    def started(
        self, *arguments: str, program: Sequence[str] = (), **settings: Any
    ) -> Iterator[subprocess.Popen[str] | run_server.ForkedRun]:
        """Start `nono-trio ARGUMENTS`; kill it at the end if it still lives."""
        settings = {"cwd": self.home, "stdin": subprocess.DEVNULL, **settings}
        if not program and self._forks(arguments) and settings.keys() == {"cwd", "stdin"}:
            process = _server().start(arguments, self.environment, **settings)
        else:
            outputs = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
            process = subprocess.Popen(
                [*(program or (NONO_TRIO,)), *arguments],
                env=self.environment, text=True, **(outputs | settings),
            )  # fmt: skip
        failed: BaseException | None = None
        try:
            yield process
        except BaseException as failure:
            failed = failure
            raise
        finally:
            if process.poll() is None:
                process.kill()
            rest = process.communicate()
            if failed is not None:  # the reason of a process that ended too early
                failed.add_note(f"left of {arguments[0]}'s stdout and stderr: {rest}")
            failed = None

    @contextlib.contextmanager
    def proxy(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """Start `nono-trio proxy`; yield it with its JSON line."""
        with self.started("proxy", *arguments) as process:
            if process.stdout is None:
                raise AssertionError("no stdout")
            yield process, json.loads(process.stdout.readline())

    @property
    def directories(self) -> list[Path]:
        """The sessions; a hidden directory is a session that starts or that is being removed."""
        audit = self.state / "audit"
        return sorted(path for path in audit.glob("[!.]*") if path.is_dir())

    @property
    def only(self) -> Path:
        (directory,) = self.directories
        return directory

    def records(self, directory: Path | None = None) -> list[dict[str, Any]]:
        """The complete records of a session's log, in order; empty before there is a log."""
        log = (directory or self.only) / "audit-events.ndjson"
        data = log.read_bytes() if log.exists() else b""
        return [json.loads(line) for line in data.split(b"\n")[:-1]]

    def decisions(self, directory: Path | None = None) -> list[dict[str, Any]]:
        """The network events of a session's log, without the two that bind files."""
        events = [record["event"] for record in self.records(directory)]
        network = [event["event"] for event in events if event["type"] == "network"]
        return [event for event in network if event["target"] not in BINDING_TARGETS]

    def verdict(self, directory: Path | None = None) -> tuple[int, dict[str, Any]]:
        """The exit code and the answer of `audit verify --json`."""
        done = self.call("audit", "verify", "--json", str(directory or self.only))
        return done.returncode, json.loads(done.stdout)


@functools.cache
def _server() -> run_server.RunServer:
    """The process that the runs of this test process fork from."""
    return run_server.start(NONO_TRIO, _kept_variables())


def _kept_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}


def allow(origin: Origin, name: str = "api.example.com") -> list[str]:
    """Allow `name` at the origin's port, pinned to the host's loopback."""
    return [
        "--allow-domain", f"{name}:{origin.port}", "--resolve", f"{name}:{origin.port}:127.0.0.1",
    ]  # fmt: skip


# The kernel counts processes for each uid of the machine. Only this test process uses this uid.
# It needs no account, and every container maps at least 65,536 uids.
OWN_UID = 20_000 + os.getpid() % 40_000


def as_user(user: str, needed: Path, *, counted: bool = False) -> tuple[list[str], dict[str, str]]:
    """The words before Python's arguments, and the environment, to run as root or as an ordinary
    user, who must be able to read `needed`. Skips the test if there is no such user.

    `counted`: the test counts the user's processes, so the user has no other ones."""
    if user == "root" or os.geteuid() != 0:
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return [sys.executable], kept
    site_packages = next(path for path in sys.path if path.endswith("site-packages"))
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("an ordinary user: there is no setpriv to become one")
    nobody = pwd.getpwnam("nobody")
    uid, gid = (OWN_UID, OWN_UID) if counted else (nobody.pw_uid, nobody.pw_gid)
    prefix = [
        setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups",
        SYSTEM_PYTHON,
    ]  # fmt: skip
    variables = {"PYTHONPATH": f"{site_packages}:{ROOT}"}
    said = _fault_of(tuple(prefix), tuple(variables.items()), str(needed))
    if said is not None:
        pytest.skip(f"an ordinary user can't run {SYSTEM_PYTHON} with these packages: {said}")
    return prefix, variables


@functools.cache
def _fault_of(
    prefix: tuple[str, ...], variables: tuple[tuple[str, str], ...], needed: str
) -> str | None:
    """Why that user can't import the packages or read `needed`; None for one who can."""
    works = subprocess.run(
        [*prefix, "-B", "-c", f"import trio, nono_trio; open({needed!r})"],
        env={"PATH": os.environ["PATH"], **dict(variables)},
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    if works.returncode == 0:
        return None
    return (works.stderr.strip().splitlines() or ["it did not start"])[-1]


class Origin(ThreadingHTTPServer):
    """A loopback HTTP origin; `seen` has the path of every request, `hosts` their Host fields."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.seen: list[str] = []
        self.hosts: set[str] = set()
        self.port = self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: clients that vanish are part of the tests."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.server.hosts.add(self.headers["Host"])
        size = int(self.path.rpartition("/bytes/")[2]) if "/bytes/" in self.path else 3
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(b"ok\n" if size == 3 else bytes(size))

    def do_POST(self) -> None:
        self.server.seen.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Run a server in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> float:
    """Wait until `condition`; return how long it took, fail after `seconds`."""
    began = time.monotonic()
    pause = 0.005
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)  # to look through all processes costs milliseconds
    return time.monotonic() - began


def has_ended(pid: int) -> bool:
    """Whether a process is gone or a zombie: who reaps it may be another program of the machine."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# Below 32768, because the kernel gives other programs ports from there upwards. The ports are taken
# in turn from a start that depends on the pid, because tests run in parallel.
_ports = itertools.cycle(range(11_000, 31_000))
for _ in range(os.getpid() * 7 % 20_000):
    next(_ports)


def free_port() -> int:
    """A port without a listener on any address of this machine."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("", port))
            return port
    raise AssertionError("the ports never end")


_markers = itertools.count()


def sleep_marker() -> str:
    """An argument of ten minutes for `sleep` that no other process' command line contains, because
    tests run in parallel."""
    return f"600.{os.getpid():07}{next(_markers):05}"


def processes_with(marker: str, program: str = "") -> list[int]:
    """The pids whose command line begins with `program` and contains `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            words = b""
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
            if words.startswith(program.encode()) and marker.encode() in words:
                found.append(int(entry.name))
    return found


def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal a process, which may just have ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
