"""One tortured session: a supervisor in a process of its own, its load, what must hold after it.

Rules of this file: everything of a session is below one directory, whose name is unique, so that
what is left over can be found by that name. Every wait has a deadline, and what is not over by then
is a fault of its own ("hang").
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.core.log.notices import BINDING_TARGETS
from nono_trio.errors import NonoTrioError

if TYPE_CHECKING:
    from torture_faults import Fault

SCRIPTS = Path(__file__).resolve().parent
NAME = "api.example.com"
HANG_SECONDS = 90.0  # a session takes one; the writer and the seal may take ten each
GONE_SECONDS = 30.0  # the kernel ends the cage at once; a busy machine takes its time
_numbers = itertools.count()


class Origin(ThreadingHTTPServer):
    """Answers on loopback and keeps the path of every request."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.seen: list[str] = []
        self.port = self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients vanish: no traceback."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@dataclass
class Tortured:
    """One session below `base`; `limits` are (resource, value) of its processes."""

    base: Path
    origin: Origin
    fault: Fault | None = None
    options: tuple[str, ...] = ()
    limits: tuple[tuple[int, int], ...] = ()
    requests: int = 30
    threads: int = 4
    may_break: bool = False
    """The interpreter itself may break, before the product's first statement."""
    killed: bool = False
    has_fired: bool = False
    """After `check`: the fault happened."""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.mark = f"t{os.getpid()}x{next(_numbers)}"
        self.directory = self.base / self.mark
        for name in ("state", "home", "temporary"):
            (self.directory / name).mkdir(parents=True)
        self.state = self.directory / "state"
        if self.fault is not None:
            self.fault.state, self.fault.fired = str(self.state), str(self._file("fired"))

    def start(self) -> None:
        """Start the supervisor."""
        words = [str(Path(sys.executable).with_name("nono-trio"))]
        if self.fault is not None:
            faults = str(SCRIPTS / "torture_faults.py")
            words = [sys.executable, faults, self.fault.to_json()]
        authority = f"{NAME}:{self.origin.port}"
        prefixes = {sys.base_prefix, sys.prefix}
        grants = [word for one in prefixes if not one.startswith("/usr") for word in ("-r", one)]
        words += [
            "run", *self.options, "--grace", "2", *grants, "--read", str(SCRIPTS),
            "--allow-domain", authority, "--resolve", f"{authority}:127.0.0.1",
            "--", sys.executable, str(SCRIPTS / "torture_load.py"), authority, self.mark,
            str(self.threads), str(self.requests),
        ]  # fmt: skip
        if self.limits:
            limited = "import os,resource,sys\nfor k,v in %r: resource.setrlimit(k,(v,v))\n"
            words = [
                sys.executable, "-c",
                limited % (self.limits,) + "os.execv(sys.argv[1],sys.argv[1:])", *words,
            ]  # fmt: skip
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        places = {
            "HOME": "home", "TMPDIR": "temporary", "NONO_TRIO_STATE_DIR": "state",
        }  # fmt: skip
        kept |= {name: str(self.directory / place) for name, place in places.items()}
        # Under a limit of file sizes Python would cut the bytecode of the checkout.
        kept["PYTHONDONTWRITEBYTECODE"] = "1"
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                words, env=kept, cwd=self.directory / "home", stdin=subprocess.DEVNULL,
                stdout=out, stderr=err,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill the supervisor, if it lives."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.killed = True

    def ended(self) -> list[str]:
        """Wait for the end of the supervisor and the load; return the faults of it."""
        faults = []
        try:
            self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            faults.append(f"hang: the supervisor still runs after {HANG_SECONDS:.0f} s")
            self.process.kill()
            self.process.wait()
        ends = time.monotonic() + GONE_SECONDS
        while (left := self._processes()) and time.monotonic() < ends:
            time.sleep(0.01)
        faults += [f"left over: process {pid}" for pid in left]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return faults

    def check(self) -> list[str]:
        """All that must hold once it has ended; the log is recovered on the way."""
        faults = self.ended()
        self.has_fired = self._file("fired").exists()
        said = self.said  # the load's too
        if b"Traceback" in said and b"/nono_trio/" in said and not self.may_break:
            faults.append("a traceback was printed")
        code = self.process.returncode
        if not self.killed and code < 0:
            faults.append(f"the supervisor died of signal {-code}")
        if not self.killed and (left := sorted((self.directory / "temporary").iterdir())):
            faults.append(f"left over: {left[0].name} in TMPDIR")
        if self.mark in Path("/proc/self/mountinfo").read_text():
            faults.append("left over: a mount")
        return faults + self._check_log(code)

    @property
    def said(self) -> bytes:
        """The supervisor's stderr."""
        return self._file("err").read_bytes()

    def _check_log(self, code: int) -> list[str]:
        root = self.state / "audit"
        found = [path for path in root.glob("[!.]*") if path.is_dir()] if root.is_dir() else []
        acknowledged = self._acknowledged()
        if not found:
            return ["there were answers, and there is no session"] if acknowledged else []
        (directory,) = found
        faults = [f"{one} (before recovery)" for one in self._missing(directory, acknowledged)]
        before = verify(directory)
        allowed = {"crashed", "verified"} if self.killed or code else {"verified"}
        if before.verdict not in allowed:
            faults.append(f"exit code {code}, and the log is {before.verdict}: {before.first_bad}")
        if before.verdict == "verified" and not _is_whole(directory):
            faults.append("a false `verified`: the log has no end")
        try:
            recover(directory)
        except NonoTrioError as error:
            return [*faults, f"it can't be recovered: {error.message}"]
        after = verify(directory)
        if after.verdict != "verified":
            faults.append(f"after recovery it is {after.verdict}: {after.first_bad}")
        faults += self._missing(directory, acknowledged)
        report = ledger.verify(root)
        if (report.count, report.first_bad, report.torn_tail) != (1, None, False):
            faults.append(f"the ledger has {report.count} sessions, first bad {report.first_bad}")
        return faults

    def _acknowledged(self) -> Counter[str]:
        lines = self._file("out").read_text().splitlines(keepends=True)
        told = Counter("tunnel" if one.startswith("tunnel ") else one.rstrip() for one in lines)
        for path in self.origin.seen:
            if path.startswith(f"/{self.mark}/"):
                told[f"allow {path}"] = 1
        return told

    def _missing(self, directory: Path, acknowledged: Counter[str]) -> list[str]:
        recorded = Counter(_answers(directory))
        gaps = "best-effort" in self.options
        missing = [] if gaps else sorted((acknowledged - recorded).elements())
        return [f"acknowledged and not in the log: {one}" for one in missing[:3]]

    def _processes(self) -> list[int]:
        wanted = self.mark.encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if wanted in words:
                        found.append(int(entry.name))
        return found

    def _file(self, name: str) -> Path:
        return self.directory / name


def _events(directory: Path) -> list[dict[str, object]]:
    """The events of the whole lines of a log; a torn tail is passed over."""
    log = directory / store.LOG
    data = log.read_bytes() if log.exists() else b""
    events = []
    for line in data.split(b"\n")[:-1]:
        with suppress(ValueError):
            events.append(json.loads(line)["event"])
    return events


def _is_whole(directory: Path) -> bool:
    events = _events(directory)
    return bool(events) and events[-1]["type"] == "session_ended"


def _answers(directory: Path) -> list[str]:
    """The decisions of a log, as torture_load.py prints its answers."""
    told = []
    for event in _events(directory):
        if event["type"] != "network":
            continue
        made = event["event"]
        if made["target"] in BINDING_TARGETS:
            continue
        if made["decision"] == "deny":
            told.append(f"deny {made['target']}")
        elif made.get("path"):
            told.append(f"allow {made['path']}")
        else:
            told.append("tunnel")
    return told
