"""Texts that a child made long: bounded in every record, and still known by their hash."""

from __future__ import annotations

import hashlib
from typing import get_args

import msgspec
import pytest
from harness import PYTHON_GRANTS

from nono_trio.audit.read.records import MAX_LINE
from nono_trio.core.log.events import (
    Network,
    NetworkEvent,
    SandboxRuntime,
    SandboxRuntimeEvent,
    SessionStarted,
    SpiffeContext,
    encode_payload,
)
from nono_trio.core.log.record import encode_record
from nono_trio.core.log.text_limits import (
    MAX_ARGUMENT,
    MAX_COMMAND,
    MAX_TEXT,
    SHORT_RECORD,
    bounded_command,
    bounded_payload,
    bounded_text,
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def test_a_short_text_stays() -> None:
    for text in ("", "/a", "x" * MAX_TEXT, "ä" * MAX_TEXT):
        assert bounded_text(text) == text


def test_a_long_text_keeps_its_beginning_and_the_hash_of_the_rest() -> None:
    text = "/" + "ä" * 5000
    rest = text[MAX_TEXT:]
    size = len(rest.encode())
    assert bounded_text(text) == f"{text[:MAX_TEXT]}... ({size} more bytes, sha256:{sha256(rest)})"
    assert len(bounded_text("x" * 10**6)) < MAX_TEXT + 120


def test_every_text_of_an_event_is_bounded() -> None:
    long = "x" * 100_000
    fields = {}
    for name, kind in NetworkEvent.__annotations__.items():
        if list[str] in (kind, *get_args(kind)):
            fields[name] = [long]
        elif str in (kind, *get_args(kind)):
            fields[name] = long
    assert {"target", "path", "reason", "method", "upstream"} <= fields.keys()
    context = SpiffeContext(workload_spiffe_id=long, trust_domain=long, svid_type=long, source=long)
    event = NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision="deny", spiffe_context=context, **fields
    )
    bounded = encode_payload(bounded_payload(Network(event=event)))
    assert len(bounded) < len(fields) * 1000 + 8000
    runtime = SandboxRuntime(
        event=SandboxRuntimeEvent(timestamp="", platform=long, tool_sandbox_active=False)
    )
    assert len(encode_payload(bounded_payload(runtime))) < 1000


def test_an_ordinary_record_is_no_long_one() -> None:
    event = NetworkEvent(
        timestamp_unix_ms=1, mode="reverse", decision="allow", target="x" * 253, path="/" * 700
    )
    assert len(encode_payload(Network(event=event))) < SHORT_RECORD


@pytest.mark.parametrize(
    "command", [["\x01" * 3_000_000], ["\x01"] * 1_000_000, ["a", *["\x01" * 131_071] * 20]]
)
def test_no_command_makes_a_line_that_no_reader_takes(command: list[str]) -> None:
    bounded = bounded_command(command)
    assert sum(map(len, bounded)) < MAX_COMMAND + MAX_ARGUMENT
    started = encode_payload(SessionStarted(started="", command=bounded))
    assert len(encode_record(0, None, started)[0]) < MAX_LINE // 4


def test_a_prompt_stays_whole() -> None:
    command = ["agent", "-p", "fix it " * 4000]
    assert bounded_command(command) == command


FLOOD = """
import os, socket, sys
from urllib.parse import urlsplit
import base64
proxy = urlsplit(os.environ["HTTP_PROXY"])
token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
path = "/" + "p" * 8000
for number in range(20):
    with socket.create_connection((proxy.hostname, proxy.port)) as sock:
        sock.sendall(f"GET http://evil.example{path}{number} HTTP/1.1\\r\\nHost: evil.example\\r\\n"
                     f"Proxy-Authorization: Basic {token}\\r\\n\\r\\n".encode())
        assert b" 403 " in sock.recv(4096)
        sock.sendall(b"")
"""


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_long_paths_do_not_fill_the_disk(sessions, isolation: str) -> None:
    import sys

    done = sessions.run("--isolation", isolation, *PYTHON_GRANTS, "--", sys.executable, "-c", FLOOD)
    assert done.returncode == 0, done.stderr
    denials = [event for event in sessions.decisions() if event["target"] == "evil.example"]
    assert len(denials) == 20
    for number, event in enumerate(denials):
        path = f"/{'p' * 8000}{number}"
        assert event["path"] == bounded_text(path)
        assert sha256(path[MAX_TEXT:]) in event["path"]
    assert (sessions.only / "audit-events.ndjson").stat().st_size < 20 * 3000 + 2000
    session = msgspec.json.decode((sessions.only / "session.json").read_bytes())
    repeated = [event for event in session["network_events"] if event["target"] == "evil.example"]
    assert repeated == denials
    assert sessions.verdict()[1]["verdict"] == "verified"
