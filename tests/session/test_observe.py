"""`--observe` lets through what no entry names, and the profile learned from it passes unedited.

The registries are stand-ins on loopback, which a pin opens.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
import shutil
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, Origin, Sessions, landlock_isolation, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX, FILES = "index.example.com", "files.example.com"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


def wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("tiny_package.py", "SAID = 'held'\n")
        info = "tiny_package-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return made.getvalue()


def tarball() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in (
            ("package/package.json", '{"name":"tiny-package","version":"1.0.0","main":"index.js"}'),
            ("package/index.js", "module.exports = 'held'\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


WHEEL, TARBALL = wheel(), tarball()


class Registry(ThreadingHTTPServer):
    """A package index at one name whose files are at another, for pip and for npm."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Packages)
        self.port = self.server_address[1]

    @property
    def pages(self) -> dict[str, tuple[str, bytes]]:
        files = f"http://{FILES}:{self.port}"
        name = "tiny_package-1.0-py3-none-any.whl"
        integrity = base64.b64encode(hashlib.sha512(TARBALL).digest()).decode()
        version = {
            "name": "tiny-package", "version": "1.0.0",
            "dist": {"tarball": f"{files}/tiny.tgz", "integrity": f"sha512-{integrity}"},
        }  # fmt: skip
        package = {
            "name": "tiny-package", "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": version},
        }  # fmt: skip
        return {
            "/simple/tiny-package/": ("text/html", f'<a href="{files}/{name}">{name}</a>'.encode()),
            f"/{name}": ("application/octet-stream", WHEEL),
            "/tiny-package": ("application/json", json.dumps(package).encode()),
            "/tiny.tgz": ("application/octet-stream", TARBALL),
        }


class _Packages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def do_GET(self) -> None:
        kind, body = self.server.pages.get(self.path, ("text/plain", b""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def registry() -> Iterator[Registry]:
    server = Registry()
    with serving(server):
        yield server


def pins(port: int) -> list[str]:
    return [word for name in (INDEX, FILES) for word in ("--resolve", f"{name}:{port}:127.0.0.1")]


INSTALLS = {
    "pip": (
        f"{shlex.quote(sys.executable)} -m pip install --disable-pip-version-check --no-cache-dir"
        " --no-deps --target out --index-url http://{index}:{port}/simple/ --trusted-host {index}"
        " --trusted-host {files} tiny-package",
        "out/tiny_package.py",
    ),
    "npm": (
        "npm install --no-audit --no-fund --no-update-notifier --registry http://{index}:{port}/"
        " tiny-package",
        "node_modules/tiny-package/index.js",
    ),
}


@pytest.mark.parametrize("tool", INSTALLS)
def test_an_install_is_observed_learned_and_repeated(sessions: Sessions, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    script, result = INSTALLS[tool]
    project = sessions.home / "project"
    project.mkdir()
    with registry() as server:
        words = shlex.split(script.format(index=INDEX, files=FILES, port=server.port))
        refused = sessions.run(
            *PYTHON_GRANTS, "--allow-cwd", *pins(server.port), "--", *words, cwd=project
        )
        assert refused.returncode
        observed = sessions.run(
            "--observe", *PYTHON_GRANTS, "--allow-cwd", *pins(server.port), "--", *words,
            cwd=project,
        )  # fmt: skip
        assert observed.returncode == 0, observed.stderr
        assert "nono-trio: OBSERVING: " in observed.stderr
        assert f"let through only by --observe: {INDEX}:{server.port}" in observed.stderr
        assert "0 denied, 0 failed, " in observed.stderr
        assert "rules        observed only" in sessions.call("audit", "show").stdout
        (project / result).unlink()
        shutil.rmtree(project / result.partition("/")[0])
        profile = sessions.home / "learned.toml"
        profile.write_text(sessions.call("audit", "learn").stdout)
        again = sessions.run("-p", str(profile), "--fail-on-deny", "--", *words, cwd=project)
        assert again.returncode == 0, again.stderr
        assert "held" in (project / result).read_text()
    for directory in sessions.directories:
        assert sessions.verdict(directory)[0] == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_stays_closed(sessions: Sessions, origin: Origin, isolation: str) -> None:
    """Each is asked of the proxy, which answers 403."""
    hosts = [
        "169.254.169.254", "metadata.google.internal", f"127.0.0.1:{origin.port}",
        f"localhost:{origin.port}", "10.0.0.7", "listed.example.com",
    ]  # fmt: skip
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    urls = [f"http://{host}/" for host in hosts]
    done = sessions.run(
        "--isolation", isolation, "--observe", "--deny-domain", "listed.example.com", "--", "curl",
        "--noproxy", "", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", *urls,
    )  # fmt: skip
    codes = [line for line in done.stdout.split() if line.isdigit() and len(line) == 3]
    assert codes == ["403"] * len(hosts), done.stdout
    assert not origin.seen
    events = sessions.decisions()
    assert {event["target"] for event in events if event["decision"] == "deny"} >= {
        "169.254.169.254", "metadata.google.internal", "127.0.0.1", "localhost", "10.0.0.7",
        "listed.example.com",
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["--block-net", "--fail-on-deny", "--fail-on=all"])
def test_what_observe_contradicts(sessions: Sessions, flag: str) -> None:
    done = sessions.run("--dry-run", "--observe", flag, "--", "true")
    assert done.returncode == 2
    assert "--observe" in done.stderr
    assert not sessions.directories
