"""`--open-port` and `--listen-port`: relayed, recorded, and nothing beside them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from harness import NONO_TRIO, PYTHON_GRANTS, RUN_SECONDS, Sessions, free_port, wait_until

from nono_trio.errors import AuditBusy
from nono_trio.proxy.listeners.port_forward import PortRelay, dial_host
from nono_trio.testing import MemoryRecorder

if TYPE_CHECKING:
    from harness import Origin

    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin

CLIENT = """
import socket, sys
for port in map(int, sys.argv[1:]):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET /through HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            print(port, answer.split(b"\\r\\n")[0].decode() or "closed without an answer")
    except OSError as error:
        print(port, type(error).__name__)
"""

SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    sock, _ = server.accept()
    with sock:
        data = b""
        while piece := sock.recv(65536):
            data += piece
        sock.sendall(b"got %d" % len(data))
"""


def test_an_open_port_reaches_the_hosts_service_and_no_other(
    sessions: Sessions, origin: Origin
) -> None:
    other = free_port()
    done = sessions.run(
        "-s", *PYTHON_GRANTS, "--open-port", str(origin.port),
        "--", sys.executable, "-c", CLIENT, str(origin.port), str(other),
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"{origin.port} HTTP/1.1 200 OK", f"{other} ConnectionRefusedError",
    ]  # fmt: skip
    assert origin.seen == ["/through"]
    (event,) = sessions.decisions()
    assert (event["decision"], event["target"], event["port"], event["reason"]) == (
        "allow", "127.0.0.1", origin.port, "--open-port",
    )  # fmt: skip
    (flow,) = [
        json.loads(line) for line in (sessions.only / "flows.ndjson").read_text().splitlines()
    ]
    assert flow["bytes_up"] > 0
    assert flow["bytes_down"] > 0
    assert sessions.verdict()[0] == 0


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
@pytest.mark.parametrize("near", ["127.0.0.1", "::1"])
def test_an_open_port_of_a_service_on_ipv6_alone(sessions: Sessions, near: str) -> None:
    """Node's `listen(port, "localhost")` is such a service."""
    program = f"import socket\nwith socket.create_connection(({near!r}, %d)) as s: print(s.recv(9))"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with sessions.started(
            "run", "-s", *PYTHON_GRANTS, "--open-port", str(port),
            "--", sys.executable, "-c", program % port,
        ) as run:  # fmt: skip
            server.settimeout(RUN_SECONDS)
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"hello")
            assert run.communicate(timeout=RUN_SECONDS)[0] == "b'hello'\n"
    flows = (sessions.only / "flows.ndjson").read_text().splitlines()
    assert [json.loads(line)["address"] for line in flows] == ["::1"]
    assert [event["decision"] for event in sessions.decisions()] == ["allow"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_a_listen_port_of_a_child_on_ipv6_alone(sessions: Sessions) -> None:
    port = free_port()
    program = SERVER.replace(
        '("127.0.0.1", int(sys.argv[1]))', '("::1", int(sys.argv[1])), family=10'
    )
    with sessions.started(
        "run", "-s", *PYTHON_GRANTS, "--listen-port", str(port),
        "--", sys.executable, "-c", program, str(port),
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "listening\n"
        with socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS) as sock:
            sock.sendall(b"1234")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(64) == b"got 4"
        assert run.wait(RUN_SECONDS) == 0


def test_an_open_port_that_nobody_answers_is_recorded(sessions: Sessions) -> None:
    port = free_port()
    done = sessions.run(
        "-s", *PYTHON_GRANTS, "--open-port", str(port),
        "--", sys.executable, "-c", CLIENT, str(port),
    )  # fmt: skip
    assert done.returncode == 0
    assert [event["decision"] for event in sessions.decisions()] == ["allow", "deny"]
    assert "nothing answers" in sessions.decisions()[1]["reason"]


def test_a_listen_port_reaches_the_child(sessions: Sessions) -> None:
    port = free_port()
    with sessions.started(
        "run", "-s", *PYTHON_GRANTS, "--listen-port", str(port),
        "--", sys.executable, "-c", SERVER, str(port),
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "listening\n"
        with socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS) as sock:
            sock.sendall(bytes(1_000_000))
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        assert answer == b"got 1000000"
        assert run.wait(RUN_SECONDS) == 0
    (event,) = sessions.decisions()
    assert (event["decision"], event["port"], event["reason"]) == ("allow", port, "--listen-port")


def test_a_listen_port_before_the_child_listens_is_refused(sessions: Sessions) -> None:
    port = free_port()
    with sessions.started(
        "run", "--fail-on-deny", "--listen-port", str(port), "--", "cat", stdin=subprocess.PIPE
    ) as run:

        def refused() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS) as sock:
                    return sock.recv(1) == b""
            except ConnectionResetError:
                return True
            except ConnectionRefusedError:
                return False

        wait_until(refused, "the relay answers and closes")
        _, told = run.communicate("", timeout=RUN_SECONDS)
    assert run.returncode == 0, "the client there is not the command"
    assert f"to --listen-port {port}; the command did not" in told
    assert {event["decision"] for event in sessions.decisions()} == {"allow"}
    flows = [json.loads(line) for line in (sessions.only / "flows.ndjson").read_text().splitlines()]
    assert {flow["closed_by"] for flow in flows} == {"error"}


def test_many_connections_at_once(sessions: Sessions, origin: Origin) -> None:
    program = f"""
import socket, threading
def one(number):
    with socket.create_connection(("127.0.0.1", {origin.port})) as sock:
        sock.sendall(b"GET /bytes/100000 HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        while sock.recv(65536):
            pass
threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    done = sessions.run(
        "-s", *PYTHON_GRANTS, "--open-port", str(origin.port), "--", sys.executable, "-c", program
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(origin.seen) == 40
    assert len(sessions.decisions()) == 40


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--isolation", "landlock", "--open-port", "5432"], "needs namespace isolation"),
        (["--open-port", "5432", "--listen-port", "5432"], "is asked for twice"),
        (["--open-port", "0"], "--open-port"),
    ],
)
def test_ports_that_make_no_sense(sessions: Sessions, options: list[str], text: str) -> None:
    done = sessions.run("--dry-run", *options, "--", "true")
    assert done.returncode == 2
    assert text in done.stderr


def test_more_ports_than_one_message_carries(sessions: Sessions, origin: Origin) -> None:
    """Two sockets each, beside the transparent network's: the kernel carries 253 at once."""
    others = [port for port in range(20_000, 20_300) if port != origin.port]
    ports = [word for port in (*others, origin.port) for word in ("--open-port", str(port))]
    client = [*PYTHON_GRANTS, "--", sys.executable, "-c", CLIENT, str(origin.port)]
    done = sessions.run("-s", *ports, *client)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{origin.port} HTTP/1.1 200 OK\n"


@pytest.mark.parametrize("flag", ["--open-port", "--listen-port"])
def test_more_ports_than_files_may_be_open_are_refused_before_anything_starts(
    sessions: Sessions, flag: str
) -> None:
    ports = [word for port in range(20_000, 20_300) for word in (flag, str(port))]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', NONO_TRIO, "run", *ports, "--", "true"],
        env=sessions.environment, cwd=sessions.home, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "300 ports of --open-port and --listen-port need" in done.stderr
    assert "the limit is 256\nhint: name fewer ports\n" in done.stderr
    assert sessions.directories == []


def test_a_taken_listen_port_is_refused_before_anything_starts(sessions: Sessions) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = sessions.run("--listen-port", str(port), "--", "true")
    assert done.returncode == 2
    assert "can't listen" in done.stderr
    assert not sessions.directories


def takes_port(server: socket.socket, port: int) -> bool:
    try:
        server.bind(("127.0.0.1", port))
        server.listen()
    except OSError:
        return False
    return True


def test_a_taken_port_of_a_profile_of_ours_is_left_out_with_a_warning(sessions: Sessions) -> None:
    """A second session of an agent must not fail for the port of its login."""
    work = sessions.home / "work"
    work.mkdir()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Another test may have it for a while. A service that keeps it does as well.
        with suppress(AssertionError):
            wait_until(lambda: takes_port(server, 1455), "port 1455")
        words = ("-p", "codex", "--home", "private", "--isolation", "namespace")
        done = sessions.run(*words, "--", "true", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "network.listen_port: can't listen on 127.0.0.1:1455" in done.stderr


async def connected_relay(recorder: object, relay: PortRelay | None = None) -> trio.SocketStream:
    """A relay of one connection, run to its end; the client's side of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    relay = relay or PortRelay(5432, "--open-port", partial(dial_host, 1), recorder)  # type: ignore[arg-type]
    async with trio.open_nursery() as handlers:
        handlers.start_soon(relay.serve, listener, handlers)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
        with trio.fail_after(RUN_SECONDS):
            assert await stream.receive_some(1) == b""
        handlers.cancel_scope.cancel()
    return stream


@pytest.mark.parametrize("fails_at", [0, 1])
async def test_a_log_that_is_busy_costs_one_connection_only(fails_at: int) -> None:
    """At the decision, and at the record of the dial that failed."""

    class Busy(MemoryRecorder):
        async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
            if len(self.events) == fails_at:
                raise AuditBusy("full")
            return await super().record(event, origin)

    recorder = Busy()
    await (await connected_relay(recorder)).aclose()
    assert len(recorder.events) == fails_at


async def test_a_connection_past_the_limit_is_recorded_and_closed() -> None:
    recorder = MemoryRecorder()
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(RUN_SECONDS)
        port = service.getsockname()[1]
        relay = PortRelay(port, "--open-port", partial(dial_host, port), recorder, most=1)
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        async with trio.open_nursery() as handlers:
            handlers.start_soon(relay.serve, listener, handlers)
            with trio.fail_after(RUN_SECONDS):
                async with await trio.open_tcp_stream(*address) as first:
                    await first.send_all(b"x")
                    accepted, _ = await trio.to_thread.run_sync(service.accept)
                    async with await trio.open_tcp_stream(*address) as second:
                        assert await second.receive_some(1) == b""
                    accepted.close()
            handlers.cancel_scope.cancel()
    assert [(event.decision, event.reason) for event in recorder.events] == [
        ("allow", "--open-port"),
        ("deny", f"1 connections to port {port} are open"),
    ]


async def test_a_stranger_past_the_limit_is_counted_and_is_no_denial_of_the_commands() -> None:
    recorder = MemoryRecorder()
    relay = PortRelay(
        5432, "--listen-port", partial(dial_host, 1), recorder, is_commands=False, most=0
    )
    await (await connected_relay(recorder, relay)).aclose()
    assert (recorder.events, relay.unserved) == ([], 1)


async def test_a_reset_is_laid_to_the_side_that_sent_it() -> None:
    recorder = MemoryRecorder()
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(RUN_SECONDS)
        port = service.getsockname()[1]
        relay = PortRelay(port, "--open-port", partial(dial_host, port), recorder)
        listener = socket.create_server(("127.0.0.1", 0))
        async with trio.open_nursery() as handlers:
            handlers.start_soon(relay.serve, listener, handlers)
            with trio.fail_after(RUN_SECONDS):
                async with await trio.open_tcp_stream(*listener.getsockname()) as client:
                    await client.send_all(b"abc")
                    sock, _ = await trio.to_thread.run_sync(service.accept)
                    with sock:
                        assert await trio.to_thread.run_sync(sock.recv, 3) == b"abc"
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
                    assert await client.receive_some(1) == b""
            handlers.cancel_scope.cancel()
    [flow] = recorder.flows
    assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (3, 0, "upstream")
