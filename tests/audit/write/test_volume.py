"""Volume: floods of denials, tens of thousands of requests, memory that stays flat."""

from __future__ import annotations

import base64
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from harness import RUN_SECONDS, Sessions, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Origin

MEMORY_LIMIT_KB = 80 * 1024
# The most that 18,000 requests may add to the peak; 4,000 add 1 to 2 MB.
GROWTH_LIMIT_KB = 6 * 1024


def client(ready: dict[str, Any]) -> Callable[[str, bytes], bytes]:
    """A function that sends one request of METHOD AUTHORITY and returns the first answer bytes."""
    secret = base64.b64encode(b"nono:" + ready["token"].encode()).decode()

    def ask(target: str, then: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", ready["port"]), timeout=RUN_SECONDS) as sock:
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
            sock.sendall(f"{head}Proxy-Authorization: Basic {secret}\r\n\r\n".encode())
            answer = sock.recv(4096)
            if then and b" 200 " in answer:
                sock.sendall(then)
                answer += sock.recv(4096)
            return answer

    return ask


def peak_memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def in_threads(count: int, total: int, work: Callable[[int], None]) -> None:
    numbers = iter(range(total))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for number in numbers:
                work(number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_flood_of_denials_does_not_blind_the_log(sessions: Sessions, origin: Origin) -> None:
    with sessions.proxy("--allow-domain", f"127.0.0.1:{origin.port}") as (process, ready):
        ask = client(ready)
        in_threads(8, 5000, lambda number: _is(ask(f"evil-{number}.example.net:443", b""), b"403"))
        _is(ask(f"127.0.0.1:{origin.port}", b""), b"200")
        process.terminate()
        assert process.wait(RUN_SECONDS) == 0
    decisions = [event["decision"] for event in sessions.decisions()]
    assert (decisions.count("deny"), decisions.count("allow"), decisions[-1]) == (5000, 1, "allow")
    assert sessions.verdict()[0] == 0


def _is(answer: bytes, status: bytes) -> None:
    assert answer.split(b" ", 2)[1] == status, answer


@pytest.mark.parametrize("sync", ["interval", "always"])
def test_twenty_thousand_requests_from_64_clients(
    sessions: Sessions, origin: Origin, sync: str
) -> None:
    total = 20_000 if sync == "interval" else 2_000
    with sessions.proxy("--allow-domain", f"127.0.0.1:{origin.port}", "--audit-sync", sync) as (
        process,
        ready,
    ):
        ask = client(ready)
        # Half of them allowed, without a request through the tunnel: the origin is Python too.
        targets = [f"127.0.0.1:{origin.port}", "evil.example.net:443"]
        in_threads(64, 2_000, lambda number: _answered(ask(targets[number % 2], b"")))
        before = peak_memory_kb(process.pid)
        in_threads(64, total - 2_000, lambda number: _answered(ask(targets[number % 2], b"")))
        peak = peak_memory_kb(process.pid)
        process.terminate()
        assert process.wait(RUN_SECONDS) == 0
    code, verdict = sessions.verdict()
    assert (code, verdict["verdict"]) == (0, "verified")
    assert verdict["event_count"] == total + 4  # start, policy, summary, end
    assert peak < MEMORY_LIMIT_KB
    assert peak - before < GROWTH_LIMIT_KB


def _answered(answer: bytes) -> None:
    assert answer.startswith(b"HTTP/1.1 ")


def test_idle_and_half_open_clients_do_not_stop_the_next(
    sessions: Sessions, origin: Origin
) -> None:
    """300 sockets that say nothing, one that never finishes its head, one that vanishes."""
    with sessions.proxy("--allow-domain", f"127.0.0.1:{origin.port}") as (process, ready):
        address = ("127.0.0.1", ready["port"])
        held = [socket.create_connection(address) for _ in range(300)]
        half = socket.create_connection(address)
        half.sendall(b"CONNECT 127.0.0.1")
        gone = socket.create_connection(address)
        gone.sendall(b"POST http://127.0.0.1/ HTTP/1.1\r\nContent-Length: 100\r\n")
        gone.close()
        answer = client(ready)(f"127.0.0.1:{origin.port}", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        wait_until(lambda: origin.seen == ["/x"], "the request after them")
        for sock in (*held, half):
            sock.close()
        process.terminate()
        assert process.wait(RUN_SECONDS) == 0
    assert sessions.verdict()[0] == 0


def test_proxy_says_where_it_is_and_ends_with_zero(sessions: Sessions) -> None:
    with sessions.proxy() as (process, ready):
        assert ready.keys() == {"schema", "port", "token", "proxy_url", "session_id", "session_dir"}
        assert ready["session_dir"] == str(sessions.only)
        process.terminate()
        assert process.wait(RUN_SECONDS) == 0
    assert [record["event"]["type"] for record in sessions.records()] == [
        "session_started", "network", "network", "session_ended",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"), ("127.0.0.2:0", "127.0.0.2"), ("0.0.0.0:0", "127.0.0.1"),
        ("[::1]:0", "[::1]"), ("[::]:0", "[::1]"), ("[0:0::0]:0", "[::1]"),
    ],
)  # fmt: skip
def test_the_proxys_url_leads_to_it(sessions: Sessions, listen: str, host: str) -> None:
    with sessions.proxy("--listen", listen) as (_, ready):
        url = urlsplit(ready["proxy_url"])
        assert url.netloc.rpartition("@")[2] == f"{host}:{ready['port']}"
        with socket.create_connection((url.hostname, url.port), timeout=RUN_SECONDS):
            pass


def test_proxy_refuses_a_port_that_is_taken(sessions: Sessions, origin: Origin) -> None:
    done = sessions.call("proxy", "--listen", f"127.0.0.1:{origin.port}")
    assert done.returncode == 2
    assert "can't listen" in done.stderr
    for nonsense in ("localhost:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"):
        assert sessions.call("proxy", "--listen", nonsense).returncode == 2
