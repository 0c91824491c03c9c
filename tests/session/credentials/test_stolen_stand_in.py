"""A stand-in in every place of a request to a host that it is not bound to: refused, recorded, and
judged by --fail-on-deny. The host sees nothing of it."""

from __future__ import annotations

import json
import re
import socketserver
from typing import TYPE_CHECKING

import pytest
from harness import PROBES, SYSTEM_PYTHON, Origin, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import signed_origin
from websocket_peer import proof

if TYPE_CHECKING:
    from pathlib import Path

SEEN, OTHER, PLAIN = "seen.example", "bound.example", "plain.example"
SECRET = "sk-0123456789abcdefghijABCDEFGHIJ456789xy"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
LOOKED_UP = "a name that is looked up"


def keeping(origin: Origin) -> list[bytes]:
    """Have the origin keep what comes over each connection; it agrees to a WebSocket."""
    kept: list[bytes] = []

    class Keeps(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data = b""
            while b"\r\n\r\n" not in data and (more := self.request.recv(65536)):
                data += more
            number = len(kept)
            kept.append(data)
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", data)
            if key:
                self.request.sendall(
                    b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: %s\r\n\r\n" % proof(key[1].decode()).encode()
                )
            while more := self.request.recv(65536):
                kept[number] += more

    origin.RequestHandlerClass = Keeps
    return kept


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_every_place_is_refused_and_recorded(isolation: str, sessions, tmp_path: Path) -> None:
    own = write_authority(tmp_path)
    seen, other, plain = signed_origin(*own, SEEN), signed_origin(*own, OTHER), Origin()
    kept = [keeping(origin) for origin in (seen, other, plain)]
    where = [
        f"{name}:{one.port}" for name, one in ((SEEN, seen), (PLAIN, plain), (OTHER, other))
    ]  # fmt: skip
    resolved = [word for one in where for word in ("--resolve", f"{one}:127.0.0.1")]
    sessions.variables = {"MY_KEY": SECRET, "OTHER_KEY": SECRET[::-1]}
    with serving(seen), serving(other), serving(plain):
        done = sessions.run(
            "--isolation", isolation, "--upstream-ca", str(own[0]), *resolved,
            "--allow-domain", where[0], "--intercept", SEEN, "--allow-domain", where[1],
            "--credential", "mine=env://MY_KEY@api.example",
            "--credential", f"other=env://OTHER_KEY@{where[2]}",
            "--fail-on-deny", "--read", str(PROBES),
            "--", SYSTEM_PYTHON, str(PROBES / "send_stand_in.py"), *where,
        )  # fmt: skip
    assert done.stdout, done.stderr
    told, stand_in, denials = json.loads(done.stdout)
    assert stand_in != SECRET
    assert {name: got for name, got in told.items() if got not in (403, "cut")} == {}
    if isolation == "landlock":
        del told[LOOKED_UP]  # there is no name service, so the name goes nowhere
    reasons = [one["reason"] for one in sessions.decisions() if one["decision"] == "deny"]
    found = [one for one in reasons if one.startswith("exfiltration detected")]
    assert len(found) == len(told), found
    assert all(one.endswith("the stand-in of credential mine") for one in found)
    # Of the requests that were cut on their way a host has the beginning, and of others nothing.
    heads = [data.partition(b"\r\n")[0] for one in kept for data in one]
    assert heads == [b"POST / HTTP/1.1", b"GET /ws HTTP/1.1"]
    told_to = b"".join(data for one in kept for data in one)
    assert SECRET.encode() not in told_to
    assert stand_in.encode()[8:] not in told_to
    # The run, the session and the program's own file agree.
    count = f"{len(told)} denied"
    assert done.returncode == 3
    assert f"exit code 3: --fail-on-deny, and {count}" in done.stderr
    shown = sessions.call("audit", "show", "latest")
    assert f"{count}, 0 failed" in shown.stdout
    assert any(
        one.startswith(f"{where[0]}: exfiltration detected") and "to allow" not in one
        for one in denials
    )
    texts = (done.stderr, shown.stdout, *denials, json.dumps(sessions.records()))
    for text in texts:
        for hidden in (stand_in, SECRET, SECRET[::-1]):
            assert hidden not in text
    assert sessions.verdict()[0] == 0


# Asks the proxy as a program that is named after a stand-in, and as a script of that name.
NAMED = r"""
import base64, os, shutil, subprocess, tempfile
from urllib.parse import urlsplit
value, proxy = os.environ["MY_KEY"], urlsplit(os.environ["http_proxy"])
token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
ask = rf"exec 3<>/dev/tcp/127.0.0.1/{proxy.port}; printf 'CONNECT no.example:443 HTTP/1.1\r\n"
ask += rf"Host: no.example:443\r\nProxy-Authorization: Basic {token}\r\n\r\n' >&3; read line <&3"
os.chdir(tempfile.mkdtemp())
shutil.copy("/bin/bash", value)
subprocess.run(["./" + value, "-c", ask], stderr=subprocess.DEVNULL)
os.remove(value)
open(value, "w").write(ask)
subprocess.run(["/bin/bash", value], stderr=subprocess.DEVNULL)
print(value)
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_no_program_shows_a_stand_in(isolation: str, sessions) -> None:
    sessions.variables = {"MY_KEY": SECRET}
    done = sessions.run(
        "--isolation", isolation, "--credential", f"mine=env://MY_KEY@{SEEN}",
        "--", SYSTEM_PYTHON, "-c", NAMED,
    )  # fmt: skip
    value = done.stdout.strip()
    assert value.startswith("sk-"), done.stderr
    lines = (sessions.only / "processes.ndjson").read_text()
    assert "[REDACTED]" in lines
    shown = sessions.call("audit", "show", sessions.only.name)
    for text in (lines, done.stderr, shown.stdout):
        assert value not in text
    assert "[REDACTED]" in shown.stdout
