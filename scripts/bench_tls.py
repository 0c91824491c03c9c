"""The running parts of the benchmark of intercepted requests: the server, both proxies, one load.

Rules: as in bench_load.py. Server and load generator are Python programs of their own, whose CPU is
not counted. Connections that stay open are made before the CPU clock is read. Both proxies verify
the server against the same authority.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench_load import (
    LOAD_SECONDS,
    NONO_TRIO,
    SCRIPTS,
    BenchmarkFailed,
    Proxy,
    cpu_at_rest,
    environment,
    running,
)
from loopback_origin import issue_certificate
from processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ADDRESS: Final = "127.0.0.1"
MITMDUMP: Final = "MITMDUMP"  # the environment variable that names the program
OPENS_SECONDS: Final = 60.0  # mitmproxy takes three to listen
LOOK_PAUSE: Final = 0.1
HOSTS: Final = 200  # their addresses are 127.0.1.1 and on


@dataclass(frozen=True)
class TlsProxy:
    """A proxy that ends TLS; clients must trust `ca_file`."""

    proxy: Proxy
    ca_file: Path | str


@dataclass(frozen=True)
class TlsSample:
    """One load against one proxy; `amount` in requests, events or bytes; latencies in
    microseconds."""

    cpu_seconds: float
    seconds: float
    amount: int
    p50: float
    p99: float


@dataclass(frozen=True)
class TlsOrigin:
    """The HTTPS server; proxies must trust `ca_file`."""

    port: int
    ca_file: Path


def find_mitmdump() -> str | None:
    """The path of mitmdump, by its environment variable or PATH; None if it is not there."""
    return shutil.which(os.environ.get(MITMDUMP, "mitmdump"))


@contextmanager
def tls_origin(directory: Path) -> Iterator[TlsOrigin]:
    """The server, with a certificate for each of its addresses."""
    directory.mkdir()
    names = [ADDRESS, *host_addresses()]
    ca_file, chain = issue_certificate(directory, names)
    with running([sys.executable, SCRIPTS / "bench_src" / "tls_origin.py", chain]) as (_, line):
        yield TlsOrigin(int(line), ca_file)


def host_addresses(count: int = HOSTS) -> list[str]:
    """The addresses of the hosts whose connections are open at once."""
    return [f"127.0.1.{number + 1}" for number in range(count)]


@contextmanager
def our_interception(
    state: Path, origin: TlsOrigin, name: str, hosts: Sequence[str] = (ADDRESS,)
) -> Iterator[TlsProxy]:
    """`nono-trio proxy` with `hosts` intercepted and its audit on: strict, synced at intervals."""
    command: list[str | Path] = [
        NONO_TRIO, "proxy", "--listen", f"{ADDRESS}:0", "--upstream-ca", origin.ca_file,
        "--grace", "0.5",  # a load leaves connections open
        "--audit-mode", "strict", "--audit-sync", "interval", "--name", name,
    ]  # fmt: skip
    for host in hosts:
        command += ["--allow-domain", f"{host}:{origin.port}", "--intercept", host]
    with running(command, env=environment(state)) as (pid, line):
        ready = json.loads(line)
        proxy = Proxy("nono-trio", ready["port"], f"nono:{ready['token']}", pid)
        yield TlsProxy(proxy, ready["ca_file"])


@contextmanager
def mitmproxy(program: str, directory: Path, origin: TlsOrigin) -> Iterator[TlsProxy]:
    """mitmdump that prints nothing and streams bodies: without that it holds each whole."""
    directory.mkdir()
    port = free_port()
    command = [
        program, "-q", "--listen-host", ADDRESS, "--listen-port", str(port),
        "--set", f"confdir={directory}", "--set", "stream_large_bodies=1",
        "--set", f"ssl_verify_upstream_trusted_ca={origin.ca_file}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port, process, "mitmdump")
        ca_file = directory / "mitmproxy-ca-cert.pem"
        yield TlsProxy(Proxy("mitmproxy", port, "", process.pid), ca_file)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that no program listens on at this moment."""
    with socket.create_server((ADDRESS, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a program listens; raises BenchmarkFailed."""
    deadline = time.monotonic() + OPENS_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((ADDRESS, port)):
            return
        time.sleep(LOOK_PAUSE)
    raise BenchmarkFailed(f"{name} does not listen")


def measure_tls(
    to: TlsProxy, origin: TlsOrigin, mode: str, *, clients: int, count: int, size: int = 0
) -> TlsSample:
    """Run one load to its end: `count` requests, events, or transfers of `size` bytes."""
    with tls_load(to, origin, mode, clients=clients, count=count, size=size) as process:
        before = cpu_seconds(to.proxy.pid)
        result = finish(process, to, mode)
        used = cpu_at_rest(to.proxy.pid) - before
    return TlsSample(used, result["seconds"], result["amount"], result["p50_us"], result["p99_us"])


@contextmanager
def tls_load(
    to: TlsProxy, origin: TlsOrigin, mode: str, *, clients: int = 1, count: int, size: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """A load generator that is ready, with its connections open."""
    numbers = {
        "proxy": to.proxy.port, "origin": origin.port, "clients": clients, "count": count,
        "size": size,
    }  # fmt: skip
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    auth = ["--auth", to.proxy.authorization] if to.proxy.user else []
    with subprocess.Popen(
        [sys.executable, SCRIPTS / "bench_src" / "tls_load.py", mode, "--ca", str(to.ca_file),
         *words, *auth],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise _failed(process, to, mode)
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], to: TlsProxy, mode: str) -> dict[str, Any]:
    """Have the load begin, and return its results."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the load has pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()  # the load ends if nothing moves for a minute
    if not line:
        raise _failed(process, to, mode)
    result: dict[str, Any] = json.loads(line)
    return result


def _failed(process: subprocess.Popen[str], to: TlsProxy, mode: str) -> BenchmarkFailed:
    process.kill()
    said = process.communicate(timeout=LOAD_SECONDS)[1].strip()[-400:]
    return BenchmarkFailed(f"{mode} by {to.proxy.name}: {said or 'nothing on stderr'}")
