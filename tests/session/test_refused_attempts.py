"""Each attempt that the kernel refuses is in the record: connections and datagrams of any kind."""

from __future__ import annotations

import json
import re
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, Sessions, free_port
from rates import most_records

from nono_trio.core.log.notices import REFUSED_PORTS_TARGET

if TYPE_CHECKING:
    import subprocess

# Each line tries one thing and says if the kernel has refused it at once.
PREAMBLE = """
import errno, socket, struct, sys
V4, V6 = socket.AF_INET, socket.AF_INET6
IP_OPTIONS, IPV6_MTU, IPV6_MTU_DISCOVER, IPV6_RTHDR = 4, 24, 23, 57
def datagram(family, host, port, size=1, protocol=0, options=()):
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    for level, name, value in options:
        sock.setsockopt(level, name, value)
    sock.connect((host, port))
    sock.send(b"x" * size)
    sock.settimeout(60)
    try:
        sock.recv(1)
    except ConnectionRefusedError:
        print(port, "refused")
def unanswered(family, host, port, *options):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for level, name, value in options:
            sock.setsockopt(level, name, value)
        sock.sendto(b"x", (host, port))
"""


def run(sessions: Sessions, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return sessions.run(
        "--transparent", "on", *PYTHON_GRANTS, *options,
        "--", sys.executable, "-c", PREAMBLE + program,
    )  # fmt: skip


def recorded(sessions: Sessions) -> list[tuple[str, int, str | None]]:
    return [(one["target"], one["port"], one["method"]) for one in sessions.decisions()]


def counted(sessions: Sessions, sentence: str) -> int:
    """The count in the records about many attempts whose reason is such a sentence."""
    about_many = [one for one in sessions.decisions() if one["target"] == REFUSED_PORTS_TARGET]
    found = [re.fullmatch(rf"([0-9]+) {sentence}", one["reason"]) for one in about_many]
    return sum(int(match[1]) for match in found if match)


def test_each_datagram_is_recorded_and_refused_at_once(sessions: Sessions) -> None:
    program = """
datagram(V4, "192.0.2.1", 123)
datagram(V6, "2001:db8::1", 124)
datagram(V4, "192.0.2.1", 125, size=60000)
datagram(V4, "192.0.2.1", 126, options=[(socket.IPPROTO_IP, IP_OPTIONS, b"\\x01" * 40)])
fragments = [(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, 0), (socket.IPPROTO_IPV6, IPV6_MTU, 1280)]
datagram(V6, "2001:db8::1", 127, size=3000, options=fragments)
datagram(V4, "time.example.com", 128)
datagram(V4, "api.example.com", 443)
unanswered(V4, "224.0.0.251", 5353)
unanswered(V4, "255.255.255.255", 67, (socket.SOL_SOCKET, socket.SO_BROADCAST, 1))
"""
    done = run(sessions, program, "--allow-domain", "api.example.com:443", "--fail-on-deny")
    refused = [f"{port} refused" for port in (123, 124, 125, 126, 127, 128, 443)]
    assert (done.stdout.splitlines(), done.returncode) == (refused, 3), done.stderr
    assert [one for one in recorded(sessions) if one[1] != 53] == [
        ("192.0.2.1", 123, "UDP"),
        ("2001:db8::1", 124, "UDP"),
        ("192.0.2.1", 125, "UDP"),
        ("192.0.2.1", 126, "UDP"),
        ("2001:db8::1", 127, "UDP"),
        ("time.example.com", 128, "UDP"),
        ("api.example.com", 443, "UDP"),
        ("224.0.0.251", 5353, "UDP"),
        ("255.255.255.255", 67, "UDP"),
    ]
    assert "--allow-domain time.example.com:128" not in done.stderr  # it would not help
    assert {one["reason"] for one in sessions.decisions() if one["port"] == 443} == {
        "api.example.com:443 is allowed for TCP, datagrams are not let through"
    }
    assert sessions.verdict()[0] == 0


@pytest.mark.parametrize("kind", ["udp_lite", "routing_header"])
def test_less_usual_packets_are_recorded(sessions: Sessions, kind: str) -> None:
    program = f"""
try:
    if {kind == "udp_lite"}:
        datagram(V4, "192.0.2.9", 123, protocol=136)
    else:
        hop = socket.inet_pton(V6, "2001:db8::77")
        header = struct.pack("!4B2BH", 0, 2, 4, 0, 0, 0, 0) + hop
        unanswered(V6, "2001:db8::5", 123, (socket.IPPROTO_IPV6, IPV6_RTHDR, header))
except OSError as error:
    print("none:", error)
"""
    done = run(sessions, program)
    if done.stdout.startswith("none: "):
        pytest.skip(f"the kernel has no {kind}")
    expected = ("192.0.2.9", "UDP-Lite") if kind == "udp_lite" else ("2001:db8::77", "UDP")
    assert [(target, method) for target, _, method in recorded(sessions)] == [expected]


def test_an_attempt_that_sends_nothing_or_no_query_is_recorded(sessions: Sessions) -> None:
    """A scan resets its connections; data may hide in what only looks like a query."""
    program = """
import os
def connection(host, port, reset):
    sock = socket.socket(V6 if ":" in host else V4)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.connect((host, port))
    sock.close()
for port in (22, 53, 80, 443):
    connection("192.0.2.1", port, False)
    connection("192.0.2.2", port, True)
    connection("2001:db8::1", port, True)
connection("evil.example.net", 80, True)
connection("api.example.com", 443, True)
unanswered(V4, "192.0.2.53", 53)
os._exit(0)
"""
    done = run(sessions, program, "--allow-domain", "api.example.com", "--fail-on-deny")
    assert done.returncode == 3, done.stderr
    found = {(one["target"], one["port"]) for one in sessions.decisions()}
    hosts = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
    expected = {(host, port) for host in hosts for port in (22, 53, 80, 443)}
    assert found - {("evil.example.net", 53)} == expected | {
        ("evil.example.net", 80), ("192.0.2.53", 53),
    }  # fmt: skip


def test_answered_look_ups_are_no_denied_datagrams(sessions: Sessions) -> None:
    program = """
for family in (V4, V6):
    socket.getaddrinfo("api.example.com", 443, family)
"""
    assert run(sessions, program, "--allow-domain", "api.example.com:443").returncode == 0
    assert recorded(sessions) == []


def test_a_flood_of_datagrams_is_bounded_and_each_is_counted(sessions: Sessions) -> None:
    """Each packet has a record, or is in a count; the kernel's own losses are told."""
    program = """
sock = socket.socket(V4, socket.SOCK_DGRAM)
for number in range(30000):
    sock.sendto(b"x", ("192.0.2.1", 1024 + number))
print(socket.socket().connect_ex(("192.0.2.2", 12345)) == errno.ECONNREFUSED)
"""
    done = run(sessions, program)
    assert done.stdout == "True\n", done.stderr
    datagrams = [one for one in sessions.decisions() if one["method"] == "UDP"]
    assert 0 < len(datagrams) <= most_records(datagrams)
    lost = counted(sessions, "packets to refused ports came too fast to be read")
    suppressed = counted(sessions, "more refused datagrams")
    suppressed += counted(sessions, "more denied attempts without a record of their own")
    connections = [one for one in recorded(sessions) if one[:2] == ("192.0.2.2", 12345)]
    assert len(datagrams) + suppressed + len(connections) + lost == 30001
    assert (f"{lost} packets of the command to refused ports" in done.stderr) == (lost > 0)
    assert sessions.verdict()[0] == 0


# Tries each port of the command's loopback twice; prints the error of the last.
LOOPBACK_PROGRAM = """
for family, host in ((V4, "127.0.0.1"), (V6, "::1")):
    for port in map(int, sys.argv[1:]):
        for _ in range(2):
            with socket.socket(family) as sock:
                print(errno.errorcode.get(sock.connect_ex((host, port)), "connected"))
"""


@pytest.mark.parametrize("transparent", ["on", "off"])
def test_a_port_that_only_the_host_listens_at_is_recorded_once(
    sessions: Sessions, transparent: str
) -> None:
    """The note works when pasted, and a run that waits for its own ports has no record."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = [sys.executable, "-c", PREAMBLE + LOOPBACK_PROGRAM, str(port), str(free_port())]
        done = sessions.run(
            "--transparent", transparent, "--fail-on-deny", *PYTHON_GRANTS, "--", *arguments
        )
        assert (done.stdout.split(), done.returncode) == (["ECONNREFUSED"] * 8, 0), done.stderr
        assert recorded(sessions) == [("127.0.0.1", port, None)]
        lines = (sessions.only / "processes.ndjson").read_text().splitlines()
        assert [json.loads(line)["state"] for line in lines] == ["gone"]  # refused, and closed
        flag = f"--open-port {port}"
        assert f"to let it through: {flag})" in done.stderr
        assert flag not in sessions.call("audit", "learn", "latest").stdout
        shown = sessions.call("audit", "show", "latest").stdout
        assert "0 denied" in shown
        why = sessions.call("why", "--host", "127.0.0.1", "--port", str(port)).stdout
        assert "a program of this machine listens there" in why
        assert flag in why
        again = sessions.run(*flag.split(), *PYTHON_GRANTS, "--", *arguments[:-1])
    assert again.stdout.split() == ["connected"] * 4, again.stderr


def test_the_commands_own_servers_make_no_record(sessions: Sessions) -> None:
    """Neither do connections that are reset, nor a port that the host listens at as well."""
    program = """
port = int(sys.argv[1])
with socket.create_server(("127.0.0.1", port)) as server:
    for number in range(10):
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        client.send(b"x")
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        client.close()
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = sessions.run(*PYTHON_GRANTS, "--", sys.executable, "-c", PREAMBLE + program, port)
    assert (done.returncode, recorded(sessions)) == (0, []), done.stderr
    assert "loopback" not in done.stderr


def test_doctor_says_that_they_are_seen(sessions: Sessions) -> None:
    checks = json.loads(sessions.call("doctor", "--json").stdout)["checks"]
    (found,) = [one for one in checks if one["name"] == "refused attempts"]
    assert found["state"] == "ok"
    assert "packet sockets" in found["found"]
