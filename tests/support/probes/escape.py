"""Run in the cage: a hostile program that tries every way out that it knows of.

    python3 escape.py FACTS [NAME...]

FACTS is a file with what the other side has laid out (tests/support/canaries.py), a JSON object;
with names only those are tried. One JSON line each: {"attempt", "outcome": "stopped" | "open",
"detail"}. Open means that it got something: an answer from outside, a foreign file's text, a
foreign process touched. What only the other side can see (who survived the session, what arrived)
it adds itself.
"""

import json
import os
import select
import signal
import sys
import time
from types import SimpleNamespace

import escape_code
import escape_connect_broker
import escape_covers
import escape_files
import escape_home
import escape_intercepted
import escape_intercepted_http2
import escape_kernel
import escape_lifetimes
import escape_log
import escape_metadata
import escape_modes
import escape_mounts
import escape_processes
import escape_proxy
import escape_proxy_targets
import escape_scheduling
import escape_services
import escape_sockets
import escape_terminals
from escape_base import ATTEMPTS, Stopped, reason, tag, wait_for

MODULES = (
    escape_code,
    escape_sockets, escape_services, escape_connect_broker, escape_proxy, escape_proxy_targets,
    escape_intercepted, escape_intercepted_http2, escape_files,
    escape_covers, escape_home, escape_log, escape_metadata, escape_modes, escape_mounts,
    escape_kernel, escape_processes, escape_scheduling, escape_terminals, escape_lifetimes,
)  # fmt: skip
FACTS_SECONDS = 5.0
ATTEMPT_SECONDS = 2.0  # all of an attempt; what it waits for it waits for a fraction of that


def outcome(action, host):
    """Try it, in a process of its own."""
    try:
        return "open", str(action(host) or "done")
    except Stopped as stopped:
        return "stopped", str(stopped)
    except OSError as error:
        return "stopped", reason(error)
    except Exception as error:
        return "stopped", f"the attempt itself failed: {error!r}"


def bounded(name, action, host):
    """Try it in a child that may crash, hang or vanish."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        host.tag = tag(name)
        os.write(write, json.dumps(outcome(action, host)).encode()[:60_000])
        os._exit(0)
    os.close(write)
    answer = b""
    deadline = time.monotonic() + ATTEMPT_SECONDS
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([read], [], [], left)[0]:
            break
        piece = os.read(read, 65_536)
        answer += piece
        if not piece or answer.endswith(b"]"):
            break
    os.close(read)
    return ended(pid, answer)


def ended(pid, answer):
    """How the child ended; it is gone afterwards."""
    if answer:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return json.loads(answer)
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        time.sleep(0.01)  # its end of the pipe is closed a moment before it is gone
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "stopped", f"nothing within {ATTEMPT_SECONDS} s"
    if os.WIFSIGNALED(status):
        return "stopped", f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return "stopped", "ended without a word"


def read_facts(path):
    """Return the facts about the host; they come late, with those about the supervisor."""
    wait_for(lambda: os.path.exists(path), FACTS_SECONDS)
    with open(path) as file:
        return SimpleNamespace(**json.load(file))


def in_order():
    """All attempts; what forks without end is the last, so it still forks when the session ends."""
    return sorted(ATTEMPTS, key=lambda name: name == escape_lifetimes.FORKING)


def main():
    host = read_facts(sys.argv[1])
    host.me = os.getpid()
    for name in sys.argv[2:] or in_order():
        result, detail = bounded(name, ATTEMPTS[name], host)
        detail = "".join(c if c.isprintable() else " " for c in detail)[:160]
        print(json.dumps({"attempt": name, "outcome": result, "detail": detail}), flush=True)


if __name__ == "__main__":
    main()
