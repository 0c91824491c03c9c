"""A line is about one process and one program. Real processes and sockets."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from harness import wait_until

from nono_trio.sandbox.attribution.cage_processes import CageProcesses
from nono_trio.sandbox.attribution.description import FileHashes, look_at
from nono_trio.sandbox.attribution.process import Process
from nono_trio.sandbox.attribution.search import Search
from nono_trio.sandbox.attribution.sweep import Sweep, link_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

# Says "ready", and executes what a line of its input says.
WILL_EXECUTE = """
import os, sys
print("ready", flush=True)
words = sys.stdin.readline().split()
os.execvp(words[0], words)
"""
# The same interpreter with the same number of characters: only its script differs.
SAME_LAYOUT = """
import ctypes, os, sys
if sys.argv[1] == "first":
    ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], "fixed", sys.argv[2]])
print(sys.argv[1], flush=True)
sys.stdin.readline()
if sys.argv[1] == "fixed":
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], "other", sys.argv[2]])
"""
# Its first thread ends; another one has the socket.
HEADLESS = """
import ctypes, socket, sys, threading, time
def work():
    main.join()
    sock = socket.socket()
    print(__import__("os").fstat(sock.fileno()).st_ino, flush=True)
    time.sleep(600)
main = threading.main_thread()
class Gone:
    def join(self):
        import os
        while open(f"/proc/self/task/{os.getpid()}/stat").read().rsplit(")")[1].split()[0] != "Z":
            time.sleep(0.01)
main = Gone()
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60 if __import__("platform").machine() == "x86_64" else 93, 0)
"""


@contextmanager
def running(code: str, *arguments: str) -> Iterator[tuple[int, IO[str], IO[str]]]:
    """A Python program; gives its pid, its input and its output."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.pid, process.stdin, process.stdout
        finally:
            process.kill()


def exe_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")


def test_path_hash_and_arguments_are_of_one_program() -> None:
    with running(WILL_EXECUTE) as (pid, told, tells):
        assert tells.readline() == "ready\n"
        before = exe_of(pid)
        process = Process(pid)
        holder, is_new = process.holder(turn=1)
        directory, image = process.copy()
        told.write("sleep 600\n")
        told.flush()
        wait_until(lambda: exe_of(pid) != before, "the other program")
        looked = look_at(directory, image, FileHashes())
        assert is_new
        assert holder.program.exe == before
        assert looked.argv is None  # what it says now is the other program's
        digest = hashlib.sha256(Path(before).read_bytes()).hexdigest()
        assert FileHashes().sha256(looked.file) == digest
        after, is_new = process.holder(turn=2)
        assert is_new
        assert after.program.exe == exe_of(pid)
        process.close()


def test_an_exec_without_random_addresses_is_another_program() -> None:
    with running(SAME_LAYOUT, "first", SAME_LAYOUT) as (pid, told, tells):
        assert tells.readline() == "fixed\n"
        process = Process(pid)
        assert process.holder(turn=1)[1]
        assert not process.holder(turn=2)[1]
        told.write("\n")
        told.flush()
        assert tells.readline() == "other\n"
        assert process.holder(turn=3)[1]
        process.close()


class OneProcess:
    """Stands in for the processes of a cage."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def newest_first(self) -> Iterator[int]:
        yield from self.pids


def search_in(*pids: int) -> Search:
    return Search(OneProcess(*pids), lambda _process, _holder: None)  # type: ignore[arg-type]


def test_a_process_whose_first_thread_has_ended() -> None:
    with running(HEADLESS) as (pid, _, tells):
        inode = int(tells.readline())
        search = search_in(pid)
        ((holder,),) = search.holders([inode]).holders.values()
        assert holder.pid == pid
        assert holder.program.exe == os.path.realpath(sys.executable)
        assert holder.start_time == int(
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        )
        process = Process(pid)
        process.holder(turn=1)
        looked = look_at(*process.copy(), FileHashes())
        assert looked.argv == [sys.executable, "-c"]
        os.close(looked.file)
        process.close()
        search.close()


REUSE = """
import os, socket, subprocess, sys
sys.path.insert(0, {tests!r})
sys.path[:0] = {path!r}
from test_process import search_in
code = (
    "import os, socket, sys; s = socket.socket()"
    "; print(os.fstat(s.fileno()).st_ino, flush=True); sys.stdin.read()"
)
def start():
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())
first, inode = start()
search = search_in(first.pid)
((before,),) = search.holders([inode]).holders.values()
kept = os.dup(os.open(f"/proc/{{first.pid}}/fd", os.O_RDONLY))
first.kill(); first.wait()
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first.pid - 1))
second, other = start()
assert second.pid == first.pid, "the pid was not used again"
assert search.holders([inode]).holders == {{}}, "the dead process' socket"
((after,),) = search.holders([other]).holders.values()
assert after is not before
assert after.program is not before.program
assert (after.pid, before.pid) == (second.pid, second.pid)
print("told apart")
second.kill(); second.wait()
"""


def test_a_pid_that_is_used_again_is_another_process() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs unshare and root, to choose the next pid of a namespace")
    tests = Path(__file__)
    path = [str(tests.parents[2] / "support"), *sys.path]
    done = subprocess.run(
        [
            unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c",
            REUSE.format(tests=str(tests.parent), path=path),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "told apart\n", done.stderr


def test_the_looks_of_one_call_are_bounded_whatever_a_process_has_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that goes on with each question for it: only the number of looks counts."""
    looks = 0
    readlink = os.readlink

    def counted(*arguments: object, **settings: object) -> str:
        nonlocal looks
        looks += 1
        return readlink(*arguments, **settings)  # type: ignore[call-overload, no-any-return]

    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 0.0005
        return now

    many = (
        "import os, socket, sys\n"
        "sock = socket.socket()\n"
        "kept = [os.dup(0) for _ in range(800)]\n"
        "last = socket.socket()\n"
        "print(os.fstat(last.fileno()).st_ino, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running(many) as (pid, _, tells):
        inode = int(tells.readline())
        monkeypatch.setattr(os, "readlink", counted)
        monkeypatch.setattr("nono_trio.sandbox.attribution.sweep.time.thread_time", tick)
        search = search_in(pid)
        result = search.holders([inode])
        assert (result.holders, result.is_complete) == ({}, False)
        assert looks < 200
        looking = Sweep(search.processes, [link_of(inode)])
        steps = 0
        while not looking.is_complete:
            looks, steps = 0, steps + 1
            looking.go_on(0.0005)
            assert looks < 100
        assert steps > 8
        ((holder,),) = search.settle([inode], looking).values()
        assert holder.pid == pid
        search.close()


def test_each_thread_is_a_step_of_its_own() -> None:
    """The children of one with hundreds of threads are not listed at once."""
    code = (
        "import subprocess, sys, threading, time\n"
        "for _ in range(200):\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running(code) as (pid, _, tells):
        child = int(tells.readline())
        # Of this test's process the children are left out, as those of a launcher are.
        listed = [*CageProcesses(os.getpid()).newest_first()]
        place = listed.index(child)
        assert pid not in listed
        assert listed[:place].count(0) > 200


def test_likely_descriptors_come_first() -> None:
    """One look each, for a client that asks one by one, in turns, or keeps its connections."""
    code = (
        "import os, socket, sys\n"
        "socks = [socket.socket() for _ in range(40)]\n"
        "print(*(os.fstat(s.fileno()).st_ino for s in socks), flush=True)\n"
        "for line in sys.stdin:\n"
        "    if line.startswith('more'): place = len(socks); socks.append(None)\n"
        "    else: place = int(line); socks[place].close()\n"
        "    socks[place] = socket.socket()\n"
        "    print(os.fstat(socks[place].fileno()).st_ino, flush=True)\n"
    )
    with running(code) as (pid, told, tells):
        process = Process(pid)

        def looks_for(word: str) -> int:
            told.write(f"{word}\n")
            told.flush()
            wanted = {link_of(int(tells.readline()))}
            found, left = process.sockets(wanted, most=64)
            if not found:
                (seen,) = [
                    one for one in os.listdir(process.files)
                    if os.readlink(one, dir_fd=process.files) in wanted
                ]  # fmt: skip
                found = [(seen, *wanted)]
            process.remember(found)
            return 64 - left

        tells.readline()
        for place in range(40):
            looks_for(str(place))
        assert [looks_for(str(place)) for place in range(40)][1:] == [1] * 39
        assert [looks_for("7") for _ in range(9)][-5:] == [1] * 5
        assert [looks_for("more") for _ in range(9)][-5:] == [1] * 5
        process.close()


def test_a_socket_of_another_family_is_nobodys() -> None:
    """A number that no descriptor has: nothing is guessed."""
    with socket.socket() as sock, running(WILL_EXECUTE) as (pid, _, tells):
        assert tells.readline() == "ready\n"
        search = search_in(pid)
        result = search.holders([os.fstat(sock.fileno()).st_ino])
        assert result.holders == {}
        assert result.is_complete
        search.close()
