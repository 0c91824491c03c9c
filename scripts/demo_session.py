"""The main job, end to end, with every expectation checked. `scripts/demo` runs this.

An agent runs in the cage against an origin on loopback. Then its log is shown and verified. Then a
second run is killed with `kill -9`, and its log is verified too. Rules: the demo contacts only
loopback. It writes below one temporary directory, which it removes at the end. A shown command is
the command that ran. The exit code is 0 only if every expectation was met.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopback_origin import Origin
from processes import all_end_within, handles_of, tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCRIPTS = Path(__file__).resolve().parent
NONO_TRIO = Path(sys.executable).with_name("nono-trio")

API, REGISTRY = "api.example.com", "registry.example.com"
STREAM_BYTES = 8 * 1024 * 1024

COMMAND_SECONDS = 60.0  # none needs more than two; a slow CI machine that swaps gets this
STEADY_REQUESTS = 20  # answered before the kill, so that the run is in the middle of its work
SHOWN_REQUESTS = 3
WRAP_COLUMN = 92
OPTIONS_WITH_VALUE = ("--name", "--read", "--resolve", "--allow-domain")
CRASHED = 6  # audit verify's exit code for a log without a seal

# The agent must report these lines in this order: the word, the attempt, a part of the result.
# An empty part fits every text: there the kernel or the C library chooses the text.
AGENT_LINES = (
    ("ok", f"GET https://{API}", "200 hello"),
    ("ok", f"GET http://{REGISTRY}", "200 hello"),
    ("ok", f"GET http://{REGISTRY}", f"200 {STREAM_BYTES:,} bytes, digest fits"),
    ("ok", f"GET http://{REGISTRY}", "200 hello"),
    ("blocked", "GET https://evil.example.net/", "403"),
    ("blocked", "GET http://evil.example.net/", "403"),
    ("blocked", "GET http://169.254.169.254/", "403"),
    ("blocked", "connect to 127.0.0.1", ""),
    ("blocked", "connect to 192.0.2.1", ""),
    ("blocked", "send UDP", ""),
    ("blocked", "read ~/.ssh/id_ed25519", ""),
    ("blocked", "read /etc/shadow", ""),
)


class Checks:
    """Counts the expectations that were met, and prints each failed one at once."""

    def __init__(self) -> None:
        self.met = 0
        self.failed: list[str] = []

    def expect(self, what: str, met: bool, got: object) -> bool:
        """Count one expectation and return `met`; print `got` if it was not met."""
        if met:
            self.met += 1
        else:
            self.failed.append(what)
            say(f"FAILED: expected {what}; got {got!s}")
        return met

    def equal(self, what: str, expected: object, got: object) -> bool:
        """Expect two values to be the same."""
        return self.expect(f"{what}: {expected}", expected == got, got)


def say(text: str) -> None:
    print(f"# {text}", flush=True)


class Place:
    """The temporary directory: the agent's files, files outside the cage, and the audit state."""

    def __init__(self, root: Path) -> None:
        self.work, self.home, self.state = (root / name for name in ("work", "home", "state"))
        for directory in (self.work, self.home, self.state):
            directory.mkdir(mode=0o700)
        # The key exists and the user can read it. If the agent does not find it, the cage hides it.
        secret = self.home / ".ssh" / "id_ed25519"
        secret.parent.mkdir(mode=0o700)
        secret.write_text("not really a key\n")
        shutil.copy(SCRIPTS / "demo_agent.py", self.work / "agent.py")

    def environment(self) -> dict[str, str]:
        """This home and state without the user's settings, because tests compare the output."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return kept | {
            "HOME": str(self.home),
            "NONO_TRIO_STATE_DIR": str(self.state),
            "NO_COLOR": "1",
        }

    def newest_log(self) -> list[dict[str, Any]]:
        """The records of the newest session without a torn last line; [] without a session."""
        logs = list(self.state.glob("audit/*/audit-events.ndjson"))
        if not logs:
            return []
        text = max(logs, key=lambda path: path.parent.stat().st_mtime_ns).read_text()
        return [json.loads(line) for line in text.split("\n")[:-1]]


class Demo:
    """The three acts."""

    def __init__(self, place: Place, origin: Origin) -> None:
        self.checks = Checks()
        self._place = place
        self._origin = origin
        self._api = f"{API}:{origin.https_port}"
        self._registry = f"{REGISTRY}:{origin.http_port}"
        python, grants = find_python()
        self._cage = ["--allow-cwd", *grants, *self._network()]
        self._agent = [python, "agent.py"]

    def _network(self) -> list[str]:
        hosts = (self._api, self._registry)
        pins = [word for host in hosts for word in ("--resolve", f"{host}:127.0.0.1")]
        return pins + [word for host in hosts for word in ("--allow-domain", host)]

    def run_agent(self) -> None:
        """Act 1: an agent in the cage; every decision is shown when it is recorded."""
        say("1. An agent in a cage. It may reach two hosts; every decision is shown live.")
        command = ["run", "--name", "demo", "--follow", *self._cage, "--", *self._agent]
        code, lines = self._execute([*command, f"http://{self._registry}", f"https://{self._api}"])
        self.checks.equal("exit code of the run, which is the agent's own", 0, code)
        self._check_agent([line for line in lines if line.startswith(("agent: ok", "agent: blo"))])
        seen = [(request.scheme, request.host) for request in self._origin.seen]
        allowed = [("https", self._api), *[("http", self._registry)] * 3]
        self.checks.equal("connections that reached the origin", 4, self._origin.connections)
        if self.checks.equal("requests that reached it", allowed, seen):
            say(f"The origin saw {len(seen)} requests: the allowed ones.")
        print(flush=True)

    def _check_agent(self, lines: Sequence[str]) -> None:
        self.checks.equal("number of the agent's attempts", len(AGENT_LINES), len(lines))
        for (word, what, outcome), line in zip(AGENT_LINES, lines, strict=False):
            met = line.startswith(f"agent: {word:<7} {what}") and outcome in line
            self.checks.expect(f"{word}: {what} ... {outcome}", met, line)

    def show_and_verify(self) -> None:
        """Act 2: the log of that run, for a person and as a proof."""
        say("2. The log of that run, and the proof that it is whole.")
        code, lines = self._execute(["audit", "show", "latest"])
        self.checks.equal("exit code of audit show", 0, code)
        denied = "evil.example.net"
        self.checks.expect(f"{denied} in it", any(denied in line for line in lines), lines)
        code, lines = self._execute(["audit", "verify", "latest"], code_shown=True)
        self.checks.equal("exit code of audit verify", 0, code)
        self.checks.expect("the word verified", any("verified" in line for line in lines), lines)
        self._check_log()

    def _check_log(self) -> None:
        port, tls_port = self._origin.http_port, self._origin.https_port
        expected = [
            ("connect", "allow", API, tls_port),
            ("reverse", "allow", REGISTRY, port),
            ("reverse", "allow", REGISTRY, port),
            ("connect", "allow", REGISTRY, port),
            ("connect", "deny", "evil.example.net", 443),
            ("reverse", "deny", "evil.example.net", 80),
            ("reverse", "deny", "169.254.169.254", 80),
            ("connect", "deny", "192.0.2.1", 5432),
        ]
        # The kernel refuses these at once, and their records follow when they can.
        refused = [("connect", "deny", "127.0.0.1", port), ("connect", "deny", "192.0.2.53", 443)]
        found = decisions(self._place.newest_log())
        decided = [one for one in found if one not in refused]
        self.checks.equal("decisions in the log", expected, decided)
        self.checks.equal("refusals in the log", refused, sorted(set(found) & set(refused)))

    def kill_and_verify(self) -> None:
        """Act 3: the supervisor is killed. The child's tree ends, and the log loses no record."""
        say("3. kill -9 the supervisor in the middle of a second run.")
        before = len(self._origin.seen)
        command = ["run", "--name", "crash", *self._cage, "--", *self._agent]
        with self._started([*command, "--steady", f"http://{self._registry}"], " &") as process:
            self._watch_steady(process)
            with handles_of(tree(process.pid)[1:]) as children:
                self.checks.expect("processes in the cage", bool(children), "none")
                print(f"$ kill -9 {process.pid}", flush=True)
                process.kill()
                process.wait(COMMAND_SECONDS)
                gone = all_end_within(children, COMMAND_SECONDS)
        if self.checks.expect("the child's tree gone", gone, "a survivor"):
            say("The agent and its cage are gone with it.")
        code, lines = self._execute(["audit", "verify", "latest"], code_shown=True)
        self.checks.equal("exit code of audit verify after a crash", CRASHED, code)
        self.checks.expect("the word crashed", any("crashed" in line for line in lines), lines)
        self._compare_with_origin(len(self._origin.seen) - before)

    def _watch_steady(self, process: subprocess.Popen[str]) -> None:
        """Read the agent's lines until it is in the middle of its work."""
        if process.stdout is None:
            raise AssertionError("started with a pipe")
        answered = 0
        while answered < STEADY_REQUESTS and (line := process.stdout.readline()):
            if answered < SHOWN_REQUESTS:
                print(line, end="", flush=True)
            if not line.startswith("agent: ok"):
                break
            answered += 1
        print("[...]", flush=True)
        self.checks.equal("answers before the kill", STEADY_REQUESTS, answered)

    def _compare_with_origin(self, requests: int) -> None:
        log = decisions(self._place.newest_log())
        allowed = sum(decision == "allow" for _, decision, _, _ in log)
        what = f"a record for each of the origin's {requests} requests"
        if self.checks.expect(what, allowed >= requests > 0, allowed):
            say("Every request that the origin saw is in the log, which is written first.")

    def _execute(
        self, arguments: Sequence[str], *, code_shown: bool = False
    ) -> tuple[int, list[str]]:
        """Run nono-trio to its end and show its output; return exit code and lines."""
        lines = []
        with self._started(arguments) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line.rstrip("\n"))
            code = process.wait(COMMAND_SECONDS)
        if code_shown:
            say(f"exit code {code}")
        print(flush=True)
        return code, lines

    @contextmanager
    def _started(
        self, arguments: Sequence[str], suffix: str = ""
    ) -> Iterator[subprocess.Popen[str]]:
        print(f"$ {wrapped(['nono-trio', *arguments])}{suffix}", flush=True)
        process = subprocess.Popen(
            [NONO_TRIO, *arguments],
            cwd=self._place.work,
            env=self._place.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        watchdog = threading.Timer(COMMAND_SECONDS, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()  # harmless if it has ended; the end of a supervisor ends its cage
            process.wait(COMMAND_SECONDS)
            if process.stdout is not None:
                process.stdout.close()


def find_python() -> tuple[str, list[str]]:
    """Return an interpreter for the agent, and the grant that makes it visible in the cage."""
    system = "/usr/bin/python3"
    needed = "import sys, ssl; sys.exit(sys.version_info < (3, 8))"
    if os.access(system, os.X_OK) and not subprocess.run([system, "-c", needed]).returncode:
        return system, []
    # The installed interpreter that runs this; a virtual environment has only a link to it.
    real = Path(sys.executable).resolve()
    return str(real), ["--read", sys.base_prefix]


def decisions(records: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Mode, decision, target and port of each network record, without records about the log."""
    payloads = [record["event"] for record in records]
    events = [payload["event"] for payload in payloads if payload["type"] == "network"]
    events = [event for event in events if not event["target"].startswith("nono-trio:")]
    return [(e["mode"], e["decision"], e["target"], e["port"]) for e in events]


def wrapped(words: Sequence[str]) -> str:
    """Return a command line for a shell, with long lines broken between options."""
    lines = [""]
    for part in _parts(words):
        if lines[-1] and len(lines[-1]) + len(part) > WRAP_COLUMN:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)


def _parts(words: Sequence[str]) -> Iterator[str]:
    """Yield each option with its value, the caged command as a whole, and each other word alone."""
    rest = [shlex.quote(word) for word in words]
    while rest:
        if rest[0] == "--":
            taken = len(rest)
        elif rest[0] in OPTIONS_WITH_VALUE:
            taken = 2
        else:
            taken = 1
        yield " ".join(rest[:taken])
        rest = rest[taken:]


def run_demo(root: Path) -> Checks:
    """Run all three acts below `root`."""
    place = Place(root)
    with Origin(root, [API]) as origin:
        # The agent trusts the throw-away authority; it does not need the server's key.
        shutil.copy(origin.ca_file, place.work)
        demo = Demo(place, origin)
        demo.run_agent()
        demo.show_and_verify()
        demo.kill_and_verify()
    return demo.checks


def main() -> int:
    if not NONO_TRIO.exists():
        sys.exit(f"expected {NONO_TRIO}, got nothing there\nhint: run scripts/setup")
    # A ^C or a CI job's end must still remove the directory and end the cage.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nono-trio-demo-") as root:
        checks = run_demo(Path(root))
    print()
    if checks.failed:
        say(f"{len(checks.failed)} expectations FAILED, {checks.met} were met:")
        for what in checks.failed:
            say(f"  expected {what}")
        return 1
    seconds = time.monotonic() - began
    say(f"All {checks.met} expectations were met, in {seconds:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
