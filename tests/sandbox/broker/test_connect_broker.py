"""Landlock isolation: the supervisor makes the child's connections, and records the refused ones.

tests/support/probes/escape_connect_broker.py has the hostile programs. Here: ordinary programs
work, refusals are recorded, and a machine without the broker still runs commands.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
import trio
from checkout import ROOT
from harness import (
    LISTENED,
    NONO_TRIO,
    PYTHON_GRANTS,
    RUN_SECONDS,
    SYSTEM_PYTHON,
    Origin,
    Sessions,
    free_port,
    guarded,
)
from rates import most_records

from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import DIRECT_TARGET
from nono_trio.core.net.sockaddr import InternetAddress
from nono_trio.errors import AuditBusy, AuditLost
from nono_trio.sandbox.broker import seccomp_notify
from nono_trio.sandbox.broker.connect_broker import ConnectBroker, Openings
from nono_trio.sandbox.broker.metadata_broker import MetadataBroker
from nono_trio.sandbox.broker.seccomp_notify import refused_by
from nono_trio.session.direct_connections import DirectConnections
from nono_trio.session.source_ports import MOST_EXPECTED, SourcePorts
from nono_trio.testing import MemoryRecorder
from nono_trio.threads import in_thread

GUARDED = ("--isolation", "landlock")
NOTE = "landlock isolation has no transparent network"

pytestmark = guarded


def python(sessions: Sessions, program: str, *options: str):
    return sessions.run(
        *GUARDED, "--allow-cwd", *options, *PYTHON_GRANTS, "--", sys.executable, "-c", program,
        cwd=work(sessions),
    )  # fmt: skip


def work(sessions: Sessions) -> Path:
    """A directory to be granted; a home is refused."""
    directory = sessions.home / "work"
    directory.mkdir(exist_ok=True)
    return directory


PROXY = """
import os, socket, threading
port = int(os.environ["HTTP_PROXY"].rpartition(":")[2].strip("/"))
def ask(sock):
    sock.sendall(b"GET http://a.example.com/ HTTP/1.1\\r\\nHost: a.example.com\\r\\n\\r\\n")
    return sock.recv(12)
"""


# -- what ordinary programs do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["curl -sS {url}", "wget -qO- {url}", "git ls-remote {url} || echo ok"]
)
def test_programs_reach_what_is_allowed_through_the_proxy(
    sessions: Sessions, origin: Origin, command: str
) -> None:
    program = command.split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    url = f"http://api.example.com:{origin.port}/hello"
    done = sessions.run(
        "-s", *GUARDED, "--allow-domain", f"api.example.com:{origin.port}",
        "--resolve", f"api.example.com:{origin.port}:127.0.0.1",
        "--", "sh", "-c", command.format(url=url) + " 2>/dev/null",
    )  # fmt: skip
    assert done.stdout == "ok\n", done.stderr
    assert origin.seen
    reasons = [event["reason"] or "" for event in sessions.decisions()]
    assert not any("direct" in reason for reason in reasons)  # git asks without the token first


def test_a_socket_stays_as_blocking_as_it_was(sessions: Sessions) -> None:
    program = (
        PROXY
        + """
import select
for blocking in (True, False):
    with socket.socket() as sock:
        sock.setblocking(blocking)
        failed = sock.connect_ex(("127.0.0.1", port))
        assert failed in ((0,) if blocking else (0, 115)), failed
        select.select([], [sock], [], 5)
        assert os.get_blocking(sock.fileno()) is blocking
        sock.setblocking(True)
        print(ask(sock))
"""
    )
    done = python(sessions, program, "-s")
    assert done.stdout == "b'HTTP/1.1 407'\n" * 2, done.stderr


def test_every_thread_is_served(sessions: Sessions) -> None:
    program = (
        PROXY
        + """
answers = []
def run():
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            answers.append(ask(sock))
threads = [threading.Thread(target=run) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(answers), {*answers})
"""
    )
    done = python(sessions, program, "-s")
    assert done.stdout == "320 {b'HTTP/1.1 407'}\n", done.stderr


def test_signals_do_not_repeat_a_connection(sessions: Sessions) -> None:
    """Go's runtime interrupts its own threads all the time."""
    program = (
        PROXY
        + """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(300):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        pass
print("served")
"""
    )
    done = python(sessions, program, "-s")
    assert done.stdout == "served\n", done.stderr


def test_unix_sockets_of_its_own(sessions: Sessions) -> None:
    """In the working directory, by a relative path, by a thread elsewhere, and in TMPDIR."""
    program = """
import os, socket, threading
os.mkdir("below")
for path, by in (("a.sock", "a.sock"), ("a2.sock", "./below/../a2.sock"),
                 (os.environ["TMPDIR"] + "/b.sock",) * 2):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen(1)
        client.connect(by)
        client.send(b"over ")
        print(server.accept()[0].recv(10).decode(), end="")
os.chdir("below")
with socket.socket(socket.AF_UNIX) as client:
    print(client.connect_ex("a.sock"), client.connect_ex("../a.sock"), client.connect_ex("no/a"),
          client.connect_ex("/run/no.sock"), client.connect_ex("/no/no.sock"))
"""
    done = python(sessions, program, "-s")
    # Inside, what the kernel would say; outside, not whether something is there.
    assert done.stdout == "over over over 2 111 13 13 13\n", done.stderr


def test_a_socket_by_what_a_process_calls_itself(sessions: Sessions) -> None:
    """As programs do whose paths are too long for an address: by a descriptor's directory."""
    program = """
import os, socket
os.makedirs("x" * 60 + "/" + "y" * 60)
directory = os.open("x" * 60 + "/" + "y" * 60, os.O_PATH)
for number, prefix in enumerate(("/proc/self/fd", "/proc/thread-self/fd", "/dev/fd")):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(f"{prefix}/{directory}/{number}")
        server.listen(1)
        client.connect(f"{prefix}/{directory}/{number}")
        print("connected")
with socket.socket(socket.AF_UNIX) as client:
    print(client.connect_ex("/proc/self/root/run/no.sock"))
"""
    done = python(sessions, program, "-s")
    assert done.stdout == "connected\n" * 3 + "13\n", done.stderr


ANOTHER_THREAD = """
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static pthread_t first;
static void *rest(void *unused) {
    struct sockaddr_un name = {AF_UNIX, "another.sock"};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    pthread_join(first, 0);
    bind(server, (void *)&name, sizeof name);
    if (listen(server, 1) || connect(client, (void *)&name, sizeof name))
        return (void *)(long)printf("%s\\n", strerror(errno));
    printf("connected\\n");
    return 0;
}
int main(void) {
    pthread_t thread;
    first = pthread_self();
    pthread_create(&thread, 0, rest, 0);
    pthread_exit(0);
}
"""


def test_a_program_whose_first_thread_has_ended(sessions: Sessions) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        pytest.skip("Linux before 6.9 has no handles of threads")
    directory = work(sessions)
    (directory / "another.c").write_text(ANOTHER_THREAD)
    built = [compiler, "another.c", "-o", "another", "-pthread"]
    subprocess.run(built, cwd=directory, check=True, timeout=60)
    done = sessions.run("-s", *GUARDED, "--allow-cwd", "--", "./another", cwd=directory)
    assert done.stdout == "connected\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's command can change its user")
def test_a_socket_is_connected_to_by_who_asks_for_it(sessions: Sessions) -> None:
    """Not by the supervisor's user: the server sees the child's credentials, and modes apply."""
    program = """
import os, socket, struct
def peer(sock):
    return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:]
servers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
for server, name, mode in zip(servers, ("open", "shut", "theirs"), (0o777, 0o700, 0o777)):
    server.bind(f"/{os.getcwd()}/{name}")
    os.chmod(name, mode)
    if name != "theirs":
        server.listen(1)
os.chmod(".", 0o777)
if os.fork() == 0:
    os.setgroups([12345])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    client = socket.socket(socket.AF_UNIX)
    print("shut:", client.connect_ex("shut"), flush=True)
    print("open:", client.connect_ex("open"), "the listener is", peer(client), flush=True)
    servers[2].listen(1)
    os._exit(0)
print("the client is", peer(servers[0].accept()[0]))
os.wait()
client = socket.socket(socket.AF_UNIX)
client.connect("theirs")
print("their listener is", peer(client))
"""
    directory = work(sessions)
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o001)
    done = python(sessions, program, "-s")
    assert sorted(done.stdout.splitlines()) == [
        "open: 0 the listener is (0, 0)",
        "shut: 13",
        "the client is (65534, 65534)",
        "their listener is (65534, 65534)",
    ], done.stderr


def test_a_socket_without_a_name_is_listened_at_by_nobody() -> None:
    """An abstract name could come between the look at it and the listening."""
    broker = ConnectBroker(-1, Openings(1, frozenset(), ("/",)), refused, MetadataBroker((), ()), 1)
    with socket.socket(socket.AF_UNIX) as sock:
        assert not broker.may_listen(sock)


async def refused(_address: object, _port: int, _caller: object) -> None:
    raise AssertionError("nothing is refused here")


def test_a_full_backlog_is_waited_for(sessions: Sessions) -> None:
    program = """
import socket, threading, time
server = socket.socket(socket.AF_UNIX)
server.bind("full.sock")
server.listen(0)
first, second, third = (socket.socket(socket.AF_UNIX) for _ in range(3))
first.connect("full.sock")
third.setblocking(False)
print(third.connect_ex("full.sock"))
threading.Timer(0.2, server.accept).start()
began = time.monotonic()
second.connect("full.sock")
print(time.monotonic() - began > 0.1)
"""
    done = python(sessions, program, "-s")
    assert done.stdout == "11\nTrue\n", done.stderr


def test_a_socket_that_was_granted_by_name(sessions: Sessions, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        path = tmp_path / "services" / "service.sock"
        path.parent.mkdir()
        server.bind(str(path))
        server.listen()
        program = f"import socket; print(socket.socket(socket.AF_UNIX).connect_ex({str(path)!r}))"
        assert python(sessions, program, "-s").stdout == "13\n"
        by_directory = python(sessions, program, "-s", "--read", str(path.parent))
        assert by_directory.stdout == "13\n", "reading a directory is no connecting"
        assert python(sessions, program, "-s", "--read-file", str(path)).stdout == "0\n"
        assert python(sessions, program, "-s", "--allow", str(path.parent)).stdout == "0\n"


def test_listening_at_a_port_that_was_asked_for(sessions: Sessions) -> None:
    port = free_port()
    program = f"""
import socket
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", {port}))
server.listen(3)
print("listening", flush=True)
sock, _ = server.accept()
sock.send(b"hello")
"""
    with sessions.started(
        "run", "-s", *GUARDED, "--allow-cwd", "--listen-port", str(port), *PYTHON_GRANTS,
        "--", sys.executable, "-c", program, cwd=work(sessions),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        with socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS) as sock:
            assert sock.recv(5) == b"hello"
        assert process.wait(RUN_SECONDS) == 0


LISTENED_AT = {
    (socket.AF_INET, "127.0.0.1"): 0, (socket.AF_INET, "127.0.0.9"): 0,
    (socket.AF_INET, "0.0.0.0"): 13, (socket.AF_INET6, "::1"): 0, (socket.AF_INET6, "::"): 13,
    (socket.AF_INET6, "::ffff:127.0.0.1"): 0, (socket.AF_INET6, "::ffff:0.0.0.0"): 13,
}  # fmt: skip


def test_listening_is_for_this_machine_alone(sessions: Sessions) -> None:
    """A port that the network can call would be a way out, past the proxy and the log."""
    ports = [free_port() for _ in LISTENED_AT]
    asked = [
        (int(family), address, port)
        for (family, address), port in zip(LISTENED_AT, ports, strict=True)
    ]
    program = f"""
import socket
for family, address, port in {asked!r}:
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, port))
        try:
            server.listen()
            print(0)
        except OSError as error:
            print(error.errno)
"""
    done = python(sessions, program, *(f"--listen-port={port}" for port in ports))
    assert [int(line) for line in done.stdout.split()] == [*LISTENED_AT.values()], done.stderr
    assert "the command itself listens at 127.0.0.1" in done.stderr


def test_malformed_calls_get_the_kernels_answers(sessions: Sessions) -> None:
    program = """
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def connect(descriptor, name, length=None):
    length = len(name) if length is None else length
    libc.connect(descriptor, name, length)
    return ctypes.get_errno()
with socket.socket() as sock, socket.socket(socket.AF_UNIX) as unix:
    ipv4 = struct.pack("=H", socket.AF_INET) + bytes(14)
    print(connect(sock.fileno(), ipv4[:8]), connect(sock.fileno(), ipv4, -1),
          connect(sock.fileno(), ctypes.c_void_p(8), 16),
          connect(sock.fileno(), ctypes.c_void_p(2**64 - 8), 16),
          connect(1000, b"\\1\\0a.sock"), connect(0, b"\\1\\0a.sock"),
          connect(sock.fileno(), b"\\1\\0a.sock"), connect(unix.fileno(), b"\\1\\0"),
          connect(unix.fileno(), b"\\1\\0."))
"""
    done = python(sessions, program, "-s")
    # EINVAL EINVAL EFAULT EFAULT EBADF ENOTSOCK EAFNOSUPPORT EINVAL ECONNREFUSED
    assert done.stdout == "22 22 14 14 9 88 97 22 111\n", done.stderr


# -- what is refused -------------------------------------------------------------------------------


def test_a_direct_connection_is_recorded_and_told(sessions: Sessions) -> None:
    program = """
import socket
for host, family in (("192.0.2.1", 2), ("2001:db8::1", 10), ("127.0.0.1", 2)):
    print(socket.socket(family).connect_ex((host, 5432)))
"""
    done = python(sessions, program)
    assert done.stdout == "13\n" * 3
    assert f"3 direct connections were refused: {NOTE}" in done.stderr
    assert "192.0.2.1:5432 (1x)" in done.stderr
    assert "--allow-domain localhost:5432, or 127.0.0.1:5432; " in done.stderr
    assert [
        (event["decision"], event["target"], event["port"], event["reason"])
        for event in sessions.decisions()
    ] == [
        ("deny", host, 5432, "a direct connection, past the proxy")
        for host in ("192.0.2.1", "2001:db8::1", "127.0.0.1")
    ]
    assert sessions.verdict()[0] == 0


def test_it_is_recorded_before_the_program_knows(sessions: Sessions) -> None:
    """`kill -9` at the moment the program is answered: the log has it."""
    program = """
import os, socket, sys
socket.socket().connect_ex(("192.0.2.1", 443))
print("answered", flush=True)
sys.stdin.read()
"""
    with sessions.started(
        "run", "-s", *GUARDED, *PYTHON_GRANTS, "--", sys.executable, "-c", program,
        stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "answered\n"
        process.send_signal(signal.SIGKILL)
        process.wait(RUN_SECONDS)
    assert [event["target"] for event in sessions.decisions()] == ["192.0.2.1"]


def test_silent_hides_the_note(sessions: Sessions) -> None:
    program = "import socket; socket.socket().connect_ex(('192.0.2.1', 443))"
    done = python(sessions, program, "-s")
    assert done.stderr == ""
    assert len(sessions.decisions()) == 1


def test_fail_on_deny_sees_it(sessions: Sessions) -> None:
    program = "import socket; socket.socket().connect_ex(('192.0.2.1', 443))"
    assert python(sessions, program, "--fail-on-deny").returncode == 3


def test_a_flood_does_not_fill_the_log(sessions: Sessions) -> None:
    program = """
import socket
for n in range(3000):
    with socket.socket() as sock:
        assert sock.connect_ex((f"192.0.2.{n % 250}", 1 + n % 60000)) == 13
print("refused")
"""
    done = python(sessions, program)
    assert done.stdout == "refused\n", done.stderr
    assert "3000 direct connections were refused" in done.stderr
    decisions = sessions.decisions()
    assert 0 < len(decisions) <= most_records(decisions)
    assert len(decisions) < 3000
    assert decisions[-1]["target"] == DIRECT_TARGET
    told = int(decisions[-1]["reason"].split()[0])
    assert told + len(decisions) - 1 == 3000


def test_a_program_stays_readable_and_connects(sessions: Sessions) -> None:
    """An ordinary user's cage leaves PR_SET_DUMPABLE undone; root may look into everything."""
    program = (
        PROXY
        + """
import ctypes
ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
print(socket.socket().connect_ex(("127.0.0.1", port)))
"""
    )
    done = python(sessions, program)
    assert done.stdout == "0\n", done.stderr


def test_a_program_that_may_not_be_looked_into(sessions: Sessions) -> None:
    """Its file may only be executed. Only root may look into everything."""
    program = (
        PROXY
        + f"""
import os, shutil, tempfile
file = os.path.join(tempfile.gettempdir(), "program")
shutil.copy({SYSTEM_PYTHON!r}, file)
os.chmod(file, 0o111)
connect = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {{port}})))"
os.execv(file, [file, "-c", connect])
"""
    )
    done = python(sessions, program)
    if os.geteuid() == 0:
        assert done.stdout == "0\n", done.stderr
        return
    assert done.stdout == "13\n", done.stderr
    assert "1 connection was refused: the program can't be looked into" in done.stderr
    assert [(event["target"], event["reason"]) for event in sessions.decisions()] == [
        (DIRECT_TARGET, "a connection of a program that can't be looked into")
    ]


# -- without the broker ----------------------------------------------------------------------------


def test_another_process_handles_the_notifications(sessions: Sessions, tmp_path: Path) -> None:
    """The kernel has one listener for a process: the run goes on without a broker, and says so."""
    package = str(ROOT)
    done = subprocess.run(
        [
            sys.executable, "-c", LISTENED, package, NONO_TRIO, "run", *GUARDED, *PYTHON_GRANTS,
            "--", sys.executable, "-c",
            "import socket; print(socket.socket().connect_ex(('192.0.2.1', 443)))",
        ],
        env=sessions.environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stdout == "13\n", done.stderr  # by Landlock
    assert "connections can't be guarded here (" in done.stderr
    assert "other programs' sockets that have a path" in done.stderr
    assert NOTE not in done.stderr
    assert sessions.decisions() == []
    shown = json.loads((sessions.only / "session.json").read_text())
    assert not any("made by the supervisor" in held for held in shown["nono_trio"]["enforcement"])


@pytest.mark.parametrize(
    ("scope", "capabilities", "refused"),
    [
        ("0", 0, False), ("1", 0, False), ("2", 0, True), ("2", 1 << 19, False), ("3", 0, True),
        ("3", 1 << 19, True), (None, 0, False),
    ],
)  # fmt: skip
def test_yama(tmp_path: Path, scope: str | None, capabilities: int, refused: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    if scope is not None:
        (tmp_path / "sys" / "kernel" / "yama").mkdir(parents=True)
        (tmp_path / "sys" / "kernel" / "yama" / "ptrace_scope").write_text(f"{scope}\n")
    expected = f"kernel.yama.ptrace_scope is {scope}" if refused else None
    assert refused_by(tmp_path) == expected


# -- what is open ----------------------------------------------------------------------------------


def test_openings_of_a_plan(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    openings = Openings.of(
        5000, [80],
        [
            (str(tmp_path / "link"), "readwrite", False), ("/usr", "read", False),
            ("/opt/write", "write", False), ("/run/a.sock", "read", True),
        ],
    )  # fmt: skip
    inside = [f"{tmp_path}/real/x", "/opt/write/a/b", "/run/a.sock"]
    outside = ["/usr/x", f"{tmp_path}/realx", "/run/a.sockx", "/run/b", "/", "", "socket:[12]"]
    assert [openings.has_path(path) for path in inside] == [True] * len(inside)
    assert [openings.has_path(path) for path in outside] == [False] * len(outside)


def test_openings_without_a_file_sandbox() -> None:
    openings = Openings.of(5000, [], [])
    assert openings.has_path("/run/a.sock")
    assert not openings.has_path("socket:[12]")


@pytest.mark.parametrize(
    ("address", "port", "leads"),
    [
        ("127.0.0.1", 5000, True), ("::ffff:127.0.0.1", 5000, True), ("127.0.0.1", 5001, False),
        ("127.0.0.2", 5000, False), ("0.0.0.0", 5000, False), ("::1", 5000, False),
        ("::ffff:127.0.0.2", 5000, False), ("::127.0.0.1", 5000, False),
    ],
)  # fmt: skip
def test_only_the_proxys_own_address(address: str, port: int, leads: bool) -> None:
    target = InternetAddress(ip_address(address), port)
    assert Openings.of(5000, [], []).leads_to_proxy(target) is leads


# -- what is recorded, with a recorder of the test's -----------------------------------------------


async def test_repeated_ones_are_counted(autojump_clock: object) -> None:
    recorded = MemoryRecorder()
    direct = DirectConnections(recorded)
    for _ in range(5):
        await direct.refused(IPv4Address("192.0.2.1"), 443)
    await direct.refused(IPv4Address("192.0.2.1"), 444)
    await direct.refused(IPv6Address("2001:db8::1"), 443)
    assert [(event.target, event.port) for event in recorded.events] == [
        ("192.0.2.1", 443), ("192.0.2.1", 444), ("2001:db8::1", 443),
    ]  # fmt: skip
    await trio.sleep(120)
    await direct.refused(IPv4Address("192.0.2.1"), 443)
    assert recorded.events[-1].reason == (
        "a direct connection, past the proxy; 4 more since the last record"
    )
    await direct.record_suppressed()
    assert len(recorded.events) == 4
    assert direct.count == 8


async def test_what_nobody_can_see_is_recorded_too() -> None:
    recorded = MemoryRecorder()
    direct = DirectConnections(recorded)
    await direct.refused(None, 0)
    await direct.refused(None, 0)
    await direct.refused(IPv4Address("192.0.2.1"), 443)
    assert [(event.target, event.port) for event in recorded.events] == [
        (DIRECT_TARGET, None), ("192.0.2.1", 443),
    ]  # fmt: skip
    assert [note.partition(":")[0] for note in direct.notes()] == [
        "1 direct connection was refused", "2 connections were refused",
    ]  # fmt: skip
    await direct.record_suppressed()
    assert recorded.events[-1].reason == "1 more refused connections"


async def test_a_busy_log_loses_no_count() -> None:
    recorded = MemoryRecorder()
    direct = DirectConnections(recorded)

    async def full(_event: object) -> None:
        raise AuditBusy("the queue is full")

    recorded.before_commit = full
    for _ in range(3):
        await direct.refused(IPv4Address("192.0.2.1"), 443)
    recorded.before_commit = None
    await direct.record_suppressed()
    assert [event.reason for event in recorded.events] == ["2 more refused connections"]
    assert [one.event.reason for one in recorded.left if isinstance(one, Network)] == [
        "1 more denied attempts without a record of their own"
    ]


async def test_tries_of_loopback_hide_no_other_connection(autojump_clock: object) -> None:
    """Before: 20 of them a second took the place of a denied one, and the run passed."""
    recorded = MemoryRecorder()
    direct = DirectConnections(recorded)
    for port in range(1000, 1050):
        await direct.refused(IPv4Address("127.0.0.1"), port)
    await direct.refused(IPv4Address("192.0.2.1"), 9092)
    assert ("192.0.2.1", 9092) in {(one.target, one.port) for one in recorded.events}
    await direct.record_suppressed()
    assert recorded.events[-1].reason == "30 more refused connections"
    assert recorded.left == []


@pytest.mark.parametrize(
    ("error", "passes"), [(ZeroDivisionError(), False), (AuditLost("the disk is full"), True)]
)
async def test_a_bug_costs_one_call_and_a_lost_log_the_session(
    monkeypatch: pytest.MonkeyPatch, error: Exception, passes: bool
) -> None:
    name = b"\x02\x00" if sys.byteorder == "little" else b"\x00\x02"
    name += bytes([1, 187, 192, 0, 2, 1]) + bytes(8)
    monkeypatch.setattr(seccomp_notify, "read_memory", lambda *_: name)
    monkeypatch.setattr(seccomp_notify, "is_waiting", lambda *_: True)

    async def refused(_address: object, _port: int, _caller: object) -> None:
        raise error

    broker = ConnectBroker(
        -1, Openings.of(5000, [], []), refused, MetadataBroker.of([], elsewhere=False), launcher=1
    )
    call = seccomp_notify.Notification(1, 2, 42, (3, 4096, len(name), 0, 0, 0))
    if passes:
        with pytest.raises(AuditLost):
            await in_thread(broker.answer, call)
    else:
        assert await in_thread(broker.answer, call) == 13


# -- who else can reach the proxy's port -----------------------------------------------------------

ASK_ONCE_IN_A_WHILE = (
    PROXY
    + """
import sys
print(port, flush=True)
for line in sys.stdin:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        print(ask(sock), flush=True)
"""
)


def test_the_proxy_is_for_the_command_alone(sessions: Sessions) -> None:
    """Other programs of this machine are turned away unread, without a record, also in numbers."""
    with sessions.started(
        "run", *GUARDED, *PYTHON_GRANTS, "--", sys.executable, "-c", ASK_ONCE_IN_A_WHILE,
        stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(b"GET http://a.example.com/ HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
        for _ in range(3):
            process.stdin.write("ask\n")
            process.stdin.flush()
            assert process.stdout.readline() == "b'HTTP/1.1 407'\n"
        _, errors = process.communicate(timeout=60)
    assert "turned away from the proxy's port: 300 connections of other programs" in errors
    assert len(sessions.decisions()) <= 3


def test_a_source_port_is_good_for_one_connection() -> None:
    ports = SourcePorts()
    assert not ports.admits(("127.0.0.1", 40_000))
    ports.expect(40_000)
    assert not ports.admits(("127.0.0.2", 40_000))
    assert ports.admits(("127.0.0.1", 40_000))
    assert not ports.admits(("127.0.0.1", 40_000))
    for port in range(10_000, 10_000 + MOST_EXPECTED + 1):
        ports.expect(port)
    assert not ports.admits(("127.0.0.1", 10_000))
    assert ports.admits(("127.0.0.1", 10_001))
