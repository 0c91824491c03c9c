"""The transparent network for real: programs that know of no proxy, in the cage's own network."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, Sessions, allow, landlock_isolation, needs_curl
from rates import most_records

if TYPE_CHECKING:
    from harness import Origin

WITHOUT_PROXY = "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY;"


def run(sessions: Sessions, *arguments: str, script: str) -> subprocess.CompletedProcess[str]:
    return sessions.run(
        "-s", "--transparent", "on", *arguments, "--", "bash", "-c", WITHOUT_PROXY + script
    )


def decided(sessions: Sessions) -> list[tuple[str, str, int]]:
    return [(event["decision"], event["target"], event["port"]) for event in sessions.decisions()]


@needs_curl
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
    done = run(
        sessions,
        script="(exec 3<>/dev/tcp/192.0.2.1/81) 2>&1 | grep -o 'refused';"
        "(exec 3<>/dev/udp/192.0.2.1/443; echo x >&3; cat <&3) 2>&1 | grep -o 'refused'",
    )
    assert set(done.stdout.split()) == {"refused"}
    assert done.stdout.count("refused") >= 2


@pytest.mark.parametrize("size", [0, 37, 40])
def test_a_refused_port_is_recorded_whatever_the_packet_carries(
    sessions: Sessions, size: int
) -> None:
    """IP options make the header longer, up to where it has no room for any more."""
    program = f"""
import socket
sock = socket.socket()
if {size}:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1]) * {size})
print(sock.connect_ex(("192.0.2.1", 12345)))
"""
    done = sessions.run(
        "-s", "--transparent", "on", "--fail-on-deny", *PYTHON_GRANTS,
        "--", sys.executable, "-c", program,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == (f"{errno.ECONNREFUSED}\n", 3)
    assert decided(sessions) == [("deny", "192.0.2.1", 12345)]


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
sock.settimeout(60)
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
    assert 0 < len(decisions) <= most_records(decisions)
    assert all(event["decision"] == "deny" for event in decisions)
    assert sessions.verdict()[0] == 0


def test_many_connections_to_one_host_do_not_run_out_of_ports(sessions: Sessions) -> None:
    done = run(sessions, script="cat /proc/sys/net/ipv4/tcp_tw_reuse")
    assert done.stdout == "1\n"


@needs_curl
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


@landlock_isolation
def test_it_needs_namespaces(sessions: Sessions) -> None:
    done = sessions.run("--isolation", "landlock", "--transparent", "on", "--", "true")
    assert done.returncode == 2
    assert "needs namespace isolation" in done.stderr


# A TLS client that names no host; prints the alert that it got.
NAMELESS = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
for port in map(int, sys.argv[1:]):
    try:
        context.wrap_socket(socket.create_connection(("api.example.com", port), timeout=60))
    except OSError as error:
        print(port, type(error).__name__, getattr(error, "reason", None))
"""


def nameless(sessions: Sessions, origin: Origin, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it against the origin (which speaks no TLS) and against 443 (where nothing listens)."""
    return sessions.run(
        "--transparent", "on", *PYTHON_GRANTS, *options,
        "--resolve", f"api.example.com:{origin.port}:127.0.0.1",
        "--resolve", "api.example.com:443:127.0.0.77",
        "--", sys.executable, "-c", NAMELESS, str(origin.port), "443",
    )  # fmt: skip


def test_tls_without_a_name_takes_an_entry_that_says_so(sessions: Sessions, origin: Origin) -> None:
    done = nameless(
        sessions, origin,
        "--allow-domain", f"tls://api.example.com:{origin.port}",
        "--allow-domain", "api.example.com:443",
    )  # fmt: skip
    lines = done.stdout.splitlines()
    # The first reached the origin, whose HTTP is no TLS; the second was refused with an alert.
    assert lines[0].startswith(f"{origin.port} SSLError ")
    assert "ALERT" not in lines[0]
    assert lines[1] == "443 SSLError TLSV1_UNRECOGNIZED_NAME"
    allowed, denied = sessions.decisions()
    reason = f"--allow-domain tls://api.example.com:{origin.port}"
    assert (allowed["decision"], allowed["reason"]) == ("allow", reason)
    assert (denied["decision"], denied["port"]) == ("deny", 443)
    assert "nono-trio: to allow: --allow-domain tls://api.example.com:443\n" in done.stderr
    profile = sessions.call("audit", "learn", "latest").stdout
    assert f'  "tls://api.example.com:{origin.port}",  # 1 request\n' in profile
    assert '  # "tls://api.example.com:443",  # 1x: the TLS hello names no host' in profile
    assert sessions.verdict()[0] == 0


def test_a_tunnel_on_443_is_passed_on_as_it_is(sessions: Sessions, origin: Origin) -> None:
    done = nameless(
        sessions, origin,
        "--allow-domain", f"tcp://api.example.com:{origin.port}",
        "--allow-domain", "tcp://*.example.com:443",
    )  # fmt: skip
    assert "ALERT" not in done.stdout
    assert "nono-trio: to allow" not in done.stderr
    decisions = [(one["decision"], one["port"], one["reason"]) for one in sessions.decisions()]
    assert decisions[:2] == [
        ("allow", origin.port, f"--allow-domain tcp://api.example.com:{origin.port}"),
        ("allow", 443, "--allow-domain tcp://*.example.com:443"),
    ]
    failed = sessions.decisions()[2]  # nothing listens there
    assert (failed["port"], failed["denial_category"]) == (443, "upstream_connect_failed")
    profile = sessions.call("audit", "learn", "latest").stdout
    assert '  "tcp://api.example.com:443",' in profile


@pytest.mark.parametrize("profile", [True, False])
def test_the_forms_stand_in_profiles_and_are_shown(sessions: Sessions, profile: bool) -> None:
    forms = ["tls://*.example.com", "tcp://localhost:5432", "tls://[2001:db8::1]:8443"]
    flags = [word for form in forms for word in ("--allow-domain", form)]
    if profile:
        file = sessions.home / "agent.toml"
        file.write_text(f"[network]\nallow_domain = {forms}\n")
        assert sessions.call("profile", "validate", str(file)).returncode == 0
        told = sessions.call("profile", "show", str(file)).stdout
        assert all(f'"{form}",' in told for form in forms)
        flags = ["--profile", str(file)]
    shown = sessions.run(*flags, "--dry-run", "--", "true").stdout
    assert all(f"allow {form}  (" in shown for form in forms)
    done = sessions.run("-s", *flags, "--", "sh", "-c", "echo $NO_PROXY")
    assert done.stdout.startswith("127.0.0.1,::1,"), done.stderr
    assert "localhost" not in done.stdout.strip().split(",")
