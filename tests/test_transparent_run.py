"""The transparent network for real: programs that know of no proxy, in the cage's own network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, Sessions
from test_run import allow

if TYPE_CHECKING:
    from harness import Origin

WITHOUT_PROXY = "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY;"


def run(sessions: Sessions, *arguments: str, script: str) -> subprocess.CompletedProcess[str]:
    return sessions.run(
        "-s", "--transparent", "on", *arguments, "--", "bash", "-c", WITHOUT_PROXY + script
    )


def decided(sessions: Sessions) -> list[tuple[str, str, int]]:
    return [(event["decision"], event["target"], event["port"]) for event in sessions.decisions()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_without_a_proxy(sessions: Sessions, origin: Origin) -> None:
    url = f"http://api.example.com:{origin.port}"
    done = run(
        sessions, *allow(origin),
        script=f"curl -sS {url}/v4 -4; curl -sS {url}/v6 -6; curl -sS http://evil.example.net/;"
        "curl -sS https://evil.example.net/ 2>&1; curl -sS telnet://evil.example.net:5432 2>&1",
    )  # fmt: skip
    assert origin.seen == ["/v4", "/v6"]
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ok", "ok"]
    assert lines[2:4] == [
        "nono-trio: evil.example.net:80 is not on the allowlist",
        "hint: allow it with --allow-domain evil.example.net:80",
    ]
    assert "alert" in lines[4]
    assert "reset" in lines[5] or "connect" in lines[5]  # before or after curl saw it connected
    assert decided(sessions)[:4] == [
        ("allow", "api.example.com", origin.port),
        ("allow", "api.example.com", origin.port),
        ("deny", "evil.example.net", 53),
        ("deny", "evil.example.net", 80),
    ]
    assert ("deny", "evil.example.net", 443) in decided(sessions)
    assert ("deny", "evil.example.net", 5432) in decided(sessions)
    assert sessions.verdict()[0] == 0


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_nodes_fetch(sessions: Sessions, origin: Origin) -> None:
    program = f"fetch('http://api.example.com:{origin.port}/n').then(r => console.log(r.status))"
    done = run(sessions, *allow(origin), script=f'node -e "{program}"')
    assert (done.stdout, origin.seen) == ("200\n", ["/n"])


def test_python_and_plain_http_on_port_80(sessions: Sessions, origin: Origin) -> None:
    """Port 80 is decided request by request, by the Host that each one names."""
    program = """
import socket
for host in ("web.example.com", "evil.example.net"):
    sock = socket.create_connection(("web.example.com", 80))
    sock.sendall(f"GET /{host} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    print(sock.recv(65536).split(b"\\r\\n")[0].decode())
"""
    done = sessions.run(
        "-s", "--transparent", "on", *PYTHON_GRANTS, "--allow-domain", "web.example.com:80",
        "--resolve", "web.example.com:80:127.0.0.1", "--", sys.executable, "-c", program,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    # Nothing listens on the test machine's port 80: the first is allowed and can't be dialled.
    assert first.split(" ")[1] in ("502", "200", "404")
    assert second.startswith("HTTP/1.1 403")  # fronting: the name that was looked up is another
    assert ("allow", "web.example.com", 80) in decided(sessions)


def test_refused_at_once_where_nothing_listens(sessions: Sessions) -> None:
    began = time.monotonic()
    done = run(
        sessions,
        script="(exec 3<>/dev/tcp/192.0.2.1/81) 2>&1 | grep -o 'refused';"
        "(exec 3<>/dev/udp/192.0.2.1/443; echo x >&3; cat <&3) 2>&1 | grep -o 'refused'",
    )
    assert set(done.stdout.split()) == {"refused"}
    assert done.stdout.count("refused") >= 2
    assert time.monotonic() - began < 5


def test_the_childs_own_servers_are_its_own(sessions: Sessions) -> None:
    program = """
import http.server, threading, urllib.request
for port in (80, 443, 5432, 8080):
    server = http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(port, urllib.request.urlopen(f"http://localhost:{port}/").status)
"""
    capable = os.geteuid() == 0  # an ordinary user may not bind below 1024, in or out of a cage
    program = program if capable else program.replace("80, 443, ", "")
    done = sessions.run(
        "-s", "--transparent", "on", *PYTHON_GRANTS, "--allow-cwd",
        "--", sys.executable, "-c", program, cwd=_project(sessions),
    )  # fmt: skip
    ports = [80, 443, 5432, 8080] if capable else [5432, 8080]
    assert done.stdout.splitlines() == [f"{port} 200" for port in ports], done.stderr
    assert not sessions.decisions()


def _project(sessions: Sessions) -> Path:
    project = sessions.home / "project"
    project.mkdir()
    return project


def test_a_dns_tunnel_leaves_with_nothing(sessions: Sessions) -> None:
    """Long labels, TXT, many names: answered from the table, recorded in bounded number."""
    program = """
import socket, struct
def query(name, kind):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", kind, 1)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.connect(("203.0.113.53", 53))
for number in range(300):
    for kind in (16, 1):
        sock.send(query(f"{'x' * 60}.{number}.tunnel.example.net", kind))
        answer = sock.recv(4096)
        assert answer[3] & 15 == 0, answer
print("answers", struct.unpack("!H", answer[6:8])[0])
"""
    done = sessions.run(
        "-s", "--transparent", "on", *PYTHON_GRANTS, "--", sys.executable, "-c", program
    )
    assert done.stdout == "answers 1\n", done.stderr
    decisions = sessions.decisions()
    assert 0 < len(decisions) < 300
    assert all(event["decision"] == "deny" for event in decisions)
    assert sessions.verdict()[0] == 0


def test_ports_live_beside_it(sessions: Sessions, origin: Origin) -> None:
    done = run(
        sessions, "--open-port", str(origin.port), *allow(origin),
        script=f"curl -sS http://127.0.0.1:{origin.port}/open;"
        f"curl -sS http://api.example.com:{origin.port}/named",
    )  # fmt: skip
    assert done.stdout == "ok\nok\n", done.stderr
    assert sorted(origin.seen) == ["/named", "/open"]


def test_without_it_only_the_proxy_answers(sessions: Sessions) -> None:
    done = sessions.run(
        "-s", "--transparent", "off", "--", "bash", "-c",
        "getent hosts example.com; echo $?; (exec 3<>/dev/tcp/192.0.2.1/80) 2>&1 | grep -o unreach",
    )  # fmt: skip
    assert set(done.stdout.split()) == {"2", "unreach"}
    assert not sessions.decisions()


def test_it_needs_namespaces(sessions: Sessions) -> None:
    done = sessions.run("--isolation", "landlock", "--transparent", "on", "--", "true")
    assert done.returncode == 2
    assert "needs namespace isolation" in done.stderr
