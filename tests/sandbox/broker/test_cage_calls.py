"""Ordinary programs work under the system call filter: threads, children, priorities.

tests/support/probes has the hostile ones. Here: programs make threads and processes in every way,
and change their own settings, in both isolations.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from harness import PYTHON_GRANTS, Sessions, guarded

from nono_trio.sandbox.launcher.linux.call_numbers import NEWEST, NUMBERS

isolations = pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=guarded)]
)


def python(sessions: Sessions, isolation: str, program: str, *options: str):
    work = sessions.home / "work"
    work.mkdir(exist_ok=True)
    return sessions.run(
        "-s", "--isolation", isolation, "--allow-cwd", *options, *PYTHON_GRANTS,
        "--", sys.executable, "-c", program, cwd=work,
    )  # fmt: skip


CHILDREN = """
import multiprocessing, os, subprocess, sys, threading
def square(pipe, number): pipe.send(number * number)
context = multiprocessing.get_context("fork")  # no Pool: landlock isolation has no semaphores
ours, theirs = context.Pipe()
process = context.Process(target=square, args=(theirs, 3))
process.start()
print(ours.recv())
process.join()
print(subprocess.run(["echo", "vfork"], capture_output=True, text=True).stdout.strip())
pid = os.posix_spawn("/bin/true", ["true"], {})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done = []
threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(done))
"""


@isolations
def test_threads_and_children(sessions: Sessions, isolation: str) -> None:
    """By clone, vfork and fork: libc does without clone3."""
    done = python(sessions, isolation, CHILDREN)
    assert done.stdout == "9\nvfork\n0\n7\n[0, 1, 2, 3, 4, 5, 6, 7]\n", done.stderr


SCHEDULING = """
import ctypes, os, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.pthread_self.restype = ctypes.c_ulong
def pin():
    processors = ctypes.create_string_buffer(128)
    libc.sched_getaffinity(0, 128, processors)
    print(libc.pthread_setaffinity_np(ctypes.c_ulong(libc.pthread_self()), 128, processors))
    os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(0))
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 1)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
thread = threading.Thread(target=pin)
thread.start()
thread.join()
child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
grandchild = int(child.stdout.readline())
for pid in (os.getpid(), child.pid, grandchild):
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, pid, 5)
child.kill()  # its child becomes the init's
child.wait()  # the kernel gives them away before it tells
os.sched_setaffinity(grandchild, os.sched_getaffinity(grandchild))
os.kill(grandchild, 9)
for missing in (0x3FFFFFFF, -1):
    try:
        os.sched_setaffinity(missing, {0})
    except OSError as error:
        print(type(error).__name__)
print("set")
"""


@isolations
def test_a_program_schedules_its_own_processes(sessions: Sessions, isolation: str) -> None:
    done = python(sessions, isolation, SCHEDULING)
    said = done.stdout.split()
    assert (said[0], said[-1]) == ("0", "set"), done.stderr


WORKER = "new (require('worker_threads').Worker)('console.log(1)', {eval: true})"


@isolations
@pytest.mark.parametrize("program", ["node", "java", "go"])
def test_runtimes_start(sessions: Sessions, isolation: str, program: str) -> None:
    """Each makes its threads in its own way."""
    command = {
        "node": [
            "node",
            "-e",
            "new (require('worker_threads').Worker)('console.log(1)',{eval:true})",
        ],
        "java": ["java", "-Xmx64m", "-version"],
        "go": ["go", "version"],
    }[program]
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    home = str(Path(found).resolve().parents[1])
    grants = () if home == "/usr" or home.startswith("/usr/") else ("--read", home)
    done = sessions.run("-s", "--isolation", isolation, *grants, "--", *command)
    assert done.returncode == 0, done.stderr


# -- the table of calls that take a process' number ------------------------------------------------

DOCUMENT = ROOT / "docs" / "system-calls.md"
ROW = re.compile(r"^\| `(?P<call>\w+)`")


def test_the_tables_have_every_call() -> None:
    """Those of this machine's headers; what is newer than the tables is refused by the filter."""
    text = DOCUMENT.read_text()
    tabled = {match["call"] for line in text.splitlines() if (match := ROW.match(line))}
    listed = set(re.findall(r"\w+", text.partition("## All others")[2]))
    assert not tabled & listed
    known = tabled | listed
    assert set(NUMBERS) <= known
    assert len(known) > 300
    for header in (
        "x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h", "asm-generic/unistd.h",
        "aarch64-linux-gnu/asm/unistd_64.h",
    ):  # fmt: skip
        path = Path("/usr/include") / header
        defined = re.findall(
            r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text() if path.exists() else ""
        )
        new = {name for name, number in defined if int(number) <= NEWEST} - known
        assert not new - {"syscalls", "arch_specific_syscall"}, header
