"""Other proxies than upstream's: CONNECT at 32 clients, CPU and latency.

Each runs with its defaults but for what keeps it on loopback, and writes no log. What is not
installed here is skipped with a word. docs/benchmarks.md says what the differences are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from bench_load import STOP_SECONDS, Proxy, measure, origin, our_proxy, separate_cpus
from bench_report import Row
from bench_tls import ADDRESS, find_mitmdump, free_port, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench_load import Sample

CLIENTS: Final = 32
COUNT, QUICK, WARM_UP = 6000, 400, 200
SANDBOX_RUNTIME: Final = "SANDBOX_RUNTIME"  # the variable that names its package's directory
CPU: Final = "CONNECT, CPU s per 1,000"
P50, P99 = "CONNECT, p50 in ms", "CONNECT, p99 in ms"
_TINYPROXY: Final = (
    "Port {port}\nListen {address}\nMaxClients 600\nLogLevel Critical\nTimeout 600\n"
)
_SQUID: Final = """http_port {address}:{port}
http_access allow all
cache deny all
access_log none
cache_log /dev/null
pid_filename none
shutdown_lifetime 1 second
"""
# Another squid of this machine, or one that was killed, has its shared memory by the default name.
_APART: Final = ("-n", f"bench{os.getpid()}")
_NODE: Final = """
const { createHttpProxyServer } = await import(process.argv[1]);
createHttpProxyServer({ filter: () => true }).listen({port: +process.argv[2], host: "127.0.0.1"});
"""


def measure_others(
    tools: Path, state: Path, rounds: int, tell: Callable[[str], None], *, quick: bool
) -> list[Row]:
    """Return three rows for each proxy that is installed: CPU, and the latency of a CONNECT."""
    with ExitStack() as stack:
        ours = stack.enter_context(our_proxy(state, name="others"))
        peers = [stack.enter_context(one) for one in _installed(tools, tell)]
        port = stack.enter_context(origin(tools))
        stack.enter_context(separate_cpus([ours, *peers]))
        rows = {
            (peer.name, unit): Row(peer.name, unit) for unit in (CPU, P50, P99) for peer in peers
        }
        for number in range(-1, rounds):
            if number >= 0:
                tell(f"other proxies, round {number + 1} of {rounds}")
            order = [ours, *peers] if number % 2 == 0 else [*peers[::-1], ours]
            count = WARM_UP if number < 0 else QUICK if quick else COUNT
            found = {
                one.name: measure(
                    tools, one, port, mode="connect", clients=CLIENTS, count=count, size=0
                )
                for one in order
            }
            for peer in peers if number >= 0 else ():
                for unit in (CPU, P50, P99):
                    figures = (_figure(found[one.name], unit) for one in (ours, peer))
                    rows[peer.name, unit].add(*figures)
    return [*rows.values()]


def _figure(sample: Sample, unit: str) -> float:
    if unit == CPU:
        return sample.cpu_seconds / sample.amount * 1000
    return (sample.p50 if unit == P50 else sample.p99) / 1000


def _installed(directory: Path, tell: Callable[[str], None]) -> list[AbstractContextManager[Proxy]]:
    found = []
    for name, command in _commands(directory).items():
        if command is None:
            tell(f"{name}: skipped, it is not installed")
        else:
            found.append(_running(name, *command))
    return found


def _commands(directory: Path) -> dict[str, tuple[list[str], int] | None]:
    """The command and port of each proxy; None if it is not installed."""
    mitmdump, proxy_py = find_mitmdump(), shutil.which(os.environ.get("PROXY_PY", "proxy"))
    runtime, node = os.environ.get(SANDBOX_RUNTIME), shutil.which("node")
    ports = [str(free_port()) for _ in range(5)]
    built: list[tuple[str, list[str] | None]] = [
        ("tinyproxy", _configured(directory, "tinyproxy", _TINYPROXY, ports[0], "-d", "-c")),
        ("squid", _configured(directory, "squid", _SQUID, ports[1], *_APART, "-N", "-f")),
        ("mitmproxy", None if mitmdump is None else [
            mitmdump, "-q", "--listen-host", ADDRESS, "--listen-port", ports[2],
            "--set", f"confdir={directory}", "--ignore-hosts", ".*",
        ]),
        ("proxy.py", None if proxy_py is None else [
            proxy_py, "--hostname", ADDRESS, "--port", ports[3], "--num-workers", "1",
            "--num-acceptors", "1", "--log-level", "CRITICAL",
        ]),
        ("sandbox-runtime", None if runtime is None or node is None else [
            node, "--input-type=module", "-e", _NODE,
            f"{runtime}/dist/sandbox/http-proxy.js", ports[4],
        ]),
    ]  # fmt: skip
    numbers = zip(built, ports, strict=True)
    return {
        name: None if command is None else (command, int(port)) for (name, command), port in numbers
    }


def _configured(directory: Path, name: str, text: str, port: str, *flags: str) -> list[str] | None:
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return None
    file = directory / f"{name}.conf"
    file.write_text(text.format(port=port, address=ADDRESS))
    return [program, *flags, str(file)]


@contextmanager
def _running(name: str, command: list[str], port: int) -> Iterator[Proxy]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        wait_for_port(port, process, name)
        yield Proxy(name, port, "", process.pid)
    finally:
        process.terminate()  # squid leaves shared memory behind if it is killed
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
