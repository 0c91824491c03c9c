"""The other proxies than upstream's, as far as they are installed.

Each allows the loopback address alone, runs one worker and writes no log; for the rest it has its
defaults. What is not installed is skipped with a word. docs/benchmarks.md names the differences.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench_load import DENIED_TARGET, STOP_SECONDS, Proxy
from bench_loads import SQUID, TINYPROXY
from bench_tls import ADDRESS, MITMDUMP, find_mitmdump, free_port, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

PROXY_PY: Final = "PROXY_PY"  # the variable that names its program
SANDBOX_RUNTIME: Final = "SANDBOX_RUNTIME"  # the variable that names its package's directory
# Of a load, for proxies that take several times as long.
_SLOW, _VERY_SLOW = 0.25, 0.1
_TINYPROXY: Final = """Port {port}
Listen {address}
MaxClients 600
LogLevel Critical
Timeout 600
FilterDefaultDeny Yes
FilterExtended On
Filter "{directory}/tinyproxy.allowed"
"""
_SQUID: Final = """http_port {address}:{port}
acl allowed dst {address}
http_access allow allowed
http_access deny all
cache deny all
access_log none
cache_log /dev/null
pid_filename none
shutdown_lifetime 1 second
"""
# Another squid of this machine, or one that was killed, has its shared memory by the default name.
_APART: Final = ("-n", f"bench{os.getpid()}")
_MITMPROXY: Final = """from mitmproxy import http
def http_connect(flow):
    if flow.request.host != "{address}":
        flow.response = http.Response.make(403)
"""
_NODE: Final = """
const { createHttpProxyServer } = await import(process.argv[1]);
const filter = (port, host) => host === "127.0.0.1";
createHttpProxyServer({ filter }).listen({port: +process.argv[2], host: "127.0.0.1"});
"""


@dataclass(frozen=True)
class _Program:
    """How to start a proxy; `command` is None if it is not installed, `wanted` says what is."""

    name: str
    wanted: str
    command: list[str] | None
    port: int
    denied_status: int = 403
    lacks: frozenset[str] = frozenset()
    share: float = 1.0

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Run it until the block ends."""
        if self.command is None:
            raise AssertionError(f"{self.name} is not installed")
        process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        try:
            wait_for_port(self.port, process, self.name)
            yield Proxy(
                self.name, self.port, "", process.pid, self.denied_status, self.lacks, self.share
            )
        finally:
            process.terminate()  # squid leaves shared memory behind if it is killed
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def other_proxies(
    directory: Path, tell: Callable[[str], None]
) -> list[AbstractContextManager[Proxy]]:
    """The proxies that are installed, not started yet."""
    found = []
    for program in _programs(directory):
        if program.command is None:
            tell(f"{program.name}: skipped, there is no {program.wanted}")
        else:
            found.append(program.running())
    return found


def _programs(directory: Path) -> list[_Program]:
    return [
        _tinyproxy(directory, free_port()),
        _squid(directory, free_port()),
        _mitmproxy(directory, free_port()),
        _proxy_py(free_port()),
        _sandbox_runtime(free_port()),
    ]


def _tinyproxy(directory: Path, port: int) -> _Program:
    (directory / "tinyproxy.allowed").write_text(f"^{re.escape(ADDRESS)}$\n")
    program, file = _configured(directory, "tinyproxy", _TINYPROXY, port)
    command = None if program is None else [program, "-d", "-c", file]
    # It closes a connection after each plain request.
    return _Program(TINYPROXY, "tinyproxy in PATH", command, port, lacks=frozenset({"forwardka"}))


def _squid(directory: Path, port: int) -> _Program:
    program, file = _configured(directory, "squid", _SQUID, port)
    command = None if program is None else [program, *_APART, "-N", "-f", file]
    return _Program(SQUID, "squid in PATH", command, port)


def _mitmproxy(directory: Path, port: int) -> _Program:
    program = find_mitmdump()
    script = directory / "mitmproxy_allowed.py"
    script.write_text(_MITMPROXY.format(address=ADDRESS))
    # The content of tunnels is not ours to end TLS for, so it passes through.
    command = None if program is None else [
        program, "-q", "--listen-host", ADDRESS, "--listen-port", str(port), "-s", str(script),
        "--set", f"confdir={directory}", "--ignore-hosts", ".*",
    ]  # fmt: skip
    return _Program("mitmproxy", f"mitmdump (PATH, or {MITMDUMP})", command, port, share=_VERY_SLOW)


def _proxy_py(port: int) -> _Program:
    program = shutil.which(os.environ.get(PROXY_PY, "proxy"))
    command = None if program is None else [
        program, "--hostname", ADDRESS, "--port", str(port), "--num-workers", "1",
        "--num-acceptors", "1", "--log-level", "CRITICAL",
        "--plugins", "proxy.plugin.FilterByUpstreamHostPlugin",
        "--filtered-upstream-hosts", DENIED_TARGET,
    ]  # fmt: skip
    wanted = f"proxy (PATH, or {PROXY_PY})"
    return _Program("proxy.py", wanted, command, port, denied_status=418, share=_SLOW)


def _sandbox_runtime(port: int) -> _Program:
    runtime, node = os.environ.get(SANDBOX_RUNTIME), shutil.which("node")
    command = None if runtime is None or node is None else [
        node, "--input-type=module", "-e", _NODE,
        f"{runtime}/dist/sandbox/http-proxy.js", str(port),
    ]  # fmt: skip
    wanted = f"node in PATH, or no package's directory in {SANDBOX_RUNTIME}"
    return _Program("sandbox-runtime", wanted, command, port, share=_SLOW)


def _configured(directory: Path, name: str, text: str, port: int) -> tuple[str | None, str]:
    """The program's path, or None, and its new configuration file."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    file = directory / f"{name}.conf"
    file.write_text(text.format(port=port, address=ADDRESS, directory=directory))
    return program, str(file)
