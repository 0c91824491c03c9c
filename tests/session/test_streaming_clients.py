"""Real programs that stream, in real cages: gRPC, server-sent events, WebSockets. The session looks
into their TLS, and no variable is set by hand."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import trio
from checkout import ROOT, SUPPORT
from harness import PROBES, PYTHON_GRANTS, Sessions, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import TlsOrigin

from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "seen.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@contextmanager
def grpc_origin(authority: tuple[Path, Path]) -> Iterator[tuple[int, list[str]]]:
    """A gRPC server; yields its port, and at the end fills the list with the calls that came."""
    calls: list[str] = []
    with subprocess.Popen(
        [sys.executable, SUPPORT / "grpc_origin.py", *authority, HOST],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as server:  # fmt: skip
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline()), calls
        finally:
            server.terminate()
            calls += server.stdout.read().split()


@needs("grpc")
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_grpc_calls_of_each_kind_are_seen_and_held_to_the_rules(
    isolation, sessions: Sessions, tmp_path
) -> None:
    """In namespace isolation the package for Python trusted only the roots that it brings."""
    own = write_authority(tmp_path)
    with grpc_origin(own) as (port, calls):
        where = f"{HOST}:{port}"
        done = sessions.run(
            *PYTHON_GRANTS, "--read", str(PROBES), "--isolation", isolation,
            "--upstream-ca", str(own[0]), "--resolve", f"{where}:127.0.0.1",
            "--allow-endpoint", f"POST https://{where}/ok.Echo/**",
            "--", sys.executable, str(PROBES / "clients/chat_grpc.py"), where,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "unary": ["eno1", {"x-left": "2"}],
        "chat": [["A", "B", "C"], ["END"], {"x-end": "bye"}],
        "fails": ["FAILED_PRECONDITION", "not today: \u00e4"],
        "denied": [
            "PERMISSION_DENIED",
            f"nono-trio: POST https://{where}/no.Echo/Unary fits no endpoint rule of the host\n"
            f"hint: allow it with --allow-endpoint 'POST https://{where}/no.Echo/Unary'",
        ],
    }
    assert calls == ["/ok.Echo/Unary", "/ok.Echo/Chat", "/ok.Echo/Fails"]
    seen = [one for one in sessions.decisions() if one.get("path")]
    assert [one["path"] for one in seen] == [*calls, "/no.Echo/Unary"]
    assert [one["decision"] for one in seen] == ["allow"] * 3 + ["deny"]
    assert sessions.verdict()[0] == 0


class EventOrigin(TlsOrigin):
    """Sends an event, and the second one after another request."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
        self.heard = threading.Event()
        self.RequestHandlerClass = type("Answer", (self.RequestHandlerClass,), {"do_GET": answer})


def answer(handler) -> None:
    server = handler.server
    server.seen.append(handler.path)
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    if handler.path == "/ok/heard":
        server.heard.set()
    else:
        handler.wfile.write(b"b\r\ndata: one\n\n\r\n")
        assert server.heard.wait(60)
        handler.wfile.write(b"b\r\ndata: two\n\n\r\n")
    handler.wfile.write(b"0\r\n\r\n")


@needs("httpx", "websockets")
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_events_and_websockets_are_seen_and_held_to_the_rules(
    isolation, sessions: Sessions, tmp_path
) -> None:
    from websockets.sync.server import serve

    own = write_authority(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    authority = own_authority(own[0].read_bytes(), own[1].read_bytes(), now)
    context = trio.run(SessionAuthority(authority).server_context, HOST)
    asked: list[str] = []

    def echo(connection) -> None:
        asked.append(connection.request.path)
        for message in connection:
            connection.send(message)

    with ExitStack() as stack:
        origin = EventOrigin(context)
        stack.enter_context(serving(origin))
        sockets = stack.enter_context(serve(echo, "127.0.0.1", 0, ssl=context))
        threading.Thread(target=sockets.serve_forever).start()
        ports = [origin.port, sockets.socket.getsockname()[1]]
        where = [f"{HOST}:{port}" for port in ports]
        rules = [f"--allow-endpoint=GET https://{one}/ok/**" for one in where]
        names = [f"--resolve={one}:127.0.0.1" for one in where]
        done = sessions.run(
            *PYTHON_GRANTS, "--read", str(PROBES), "--isolation", isolation,
            "--upstream-ca", str(own[0]), *rules, *names,
            "--", sys.executable, str(PROBES / "clients/streams.py"),
            f"https://{where[0]}", f"wss://{where[1]}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "events": ["data: one", "data: two"],
        "denied events": 403,
        "socket": ["hello", 80_000],
        "denied socket": 403,
    }
    assert (origin.seen, asked) == (["/ok/events", "/ok/heard"], ["/ok/socket"])
    seen = [(one["decision"], one["path"]) for one in sessions.decisions() if one.get("path")]
    assert seen == [
        *(("allow", path) for path in ("/ok/events", "/ok/heard")), ("deny", "/no/events"),
        ("allow", "/ok/socket"), ("deny", "/no/socket"),
    ]  # fmt: skip
    flows = (sessions.only / "flows.ndjson").read_text().splitlines()
    [switched] = [flow for flow in map(json.loads, flows) if flow.get("status") == 101]
    assert switched["bytes_up"] > 80_000 < switched["bytes_down"]
