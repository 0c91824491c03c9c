"""Programs that keep things in a home, in a kept one.

The first run is a fresh user's, the second finds its cache, the real home stays as it was. Each
test is skipped where its program is missing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import PYTHON_GRANTS, landlock_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


class Registry(ThreadingHTTPServer):
    """A package registry on the host's loopback, which remembers what was asked of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.seen: list[str] = []
        self.url = f"http://localhost:{self.server_address[1]}"


class _Page(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        kind, body = self.server.pages.get(self.path, ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=3600")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Caged:
    """Runs programs in one kept home, and holds that the real home is as it was."""

    def __init__(self, sessions: Sessions, isolation: str) -> None:
        self.work = sessions.home / "work"
        self.work.mkdir()
        self._sessions = sessions
        self._options = ["--isolation", isolation, "--home", "kept", "--allow-cwd"]
        (sessions.home / ".gitconfig").write_text("[user]\n\tname = The Real One\n")
        self._before = self._real_home()

    def run(self, options: list[str], *command: str) -> str:
        done = self._sessions.run(*self._options, *options, "--", *command, cwd=self.work)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        assert self._real_home() == self._before
        return done.stdout

    def _real_home(self) -> list[tuple[str, int]]:
        left_out = {self.work, self._sessions.home / ".local"}
        found = [path for path in self._sessions.home.iterdir() if path not in left_out]
        return sorted((path.name, path.stat().st_mtime_ns) for path in found)


@pytest.fixture(params=ISOLATIONS)
def caged(sessions: Sessions, request: pytest.FixtureRequest) -> Caged:
    return Caged(sessions, request.param)


def program(name: str, *directories: str) -> list[str]:
    """Return the grants of a program, and its path; skips the test if it is missing."""
    path = shutil.which(name, path=":".join([*directories, os.environ["PATH"]]))
    if path is None:
        pytest.skip(f"there is no {name} here")
    real = os.path.realpath(path)
    grants = [] if real.startswith("/usr/") else ["--read", str(Path(real).parent)]
    return [*grants, path]


def wheel() -> tuple[str, bytes]:
    """The smallest package that installers take."""
    files = {
        "tiny_package.py": "answer = 42\n",
        "tiny_package-1.0.dist-info/METADATA":
            "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        "tiny_package-1.0.dist-info/WHEEL":
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }  # fmt: skip
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(text)}")
    lines.append("tiny_package-1.0.dist-info/RECORD,,")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("tiny_package-1.0.dist-info/RECORD", "\n".join(lines) + "\n")
    return "tiny_package-1.0-py3-none-any.whl", packed.getvalue()


def serve_wheel(registry: Registry) -> str:
    name, data = wheel()
    link = f'<a href="/files/{name}">{name}</a>'
    registry.pages["/simple/tiny-package/"] = ("text/html", f"<html>{link}</html>".encode())
    registry.pages[f"/files/{name}"] = ("application/octet-stream", data)
    return f"/files/{name}"


def test_git(caged: Caged) -> None:
    program("git")
    script = (
        'git config --global user.name Me && git config --global user.email me@example.com && git'
        " init -q . && echo x >x && git add x && git commit -qm first"
    )  # fmt: skip
    caged.run([], "sh", "-c", script)
    assert caged.run([], "git", "log", "--format=%an") == "Me\n"
    assert caged.run([], "git", "config", "--global", "user.name") == "Me\n"


def test_npm(caged: Caged, registry: Registry) -> None:
    *grants, npm = program("npm")
    package = json.dumps({"name": "tiny", "version": "1.0.0"}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(package)
        archive.addfile(entry, io.BytesIO(package))
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    url = f"{registry.url}/tiny-1.0.0.tgz"
    proof = {"tarball": url, "integrity": f"sha512-{digest}"}
    release = {"name": "tiny", "version": "1.0.0", "dist": proof}
    about = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": release}}
    registry.pages["/tiny"] = ("application/json", json.dumps(about).encode())
    registry.pages["/tiny-1.0.0.tgz"] = ("application/octet-stream", packed.getvalue())
    options = [*grants, "--allow-domain", registry.url.removeprefix("http://")]
    words = ["install", "tiny", "--registry", registry.url, "--no-audit", "--no-fund"]
    caged.run(options, npm, *words)
    assert "/tiny-1.0.0.tgz" in registry.seen
    shutil.rmtree(caged.work / "node_modules")
    registry.seen.clear()
    caged.run(options, npm, *words, "--offline")
    assert (caged.work / "node_modules/tiny/package.json").exists()
    assert registry.seen == []


def test_pip(caged: Caged, registry: Registry) -> None:
    try:
        import pip
    except ImportError:
        pytest.skip("there is no pip here")
    file = serve_wheel(registry)
    python = [*PYTHON_GRANTS, "--read", str(Path(pip.__file__).parents[1])]
    place = registry.url.removeprefix("http://")
    options = [*python, "--allow-domain", place]
    words = [
        sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
        "--trusted-host", place,  # or nothing that came over plain HTTP is kept
        "--index-url", f"{registry.url}/simple", "tiny-package", "--target",
    ]  # fmt: skip
    caged.run(options, *words, "one")
    assert file in registry.seen
    registry.seen.clear()
    caged.run(options, *words, "two")
    assert (caged.work / "two/tiny_package.py").exists()
    assert file not in registry.seen


def test_uv(caged: Caged, registry: Registry) -> None:
    *grants, uv = program("uv")
    serve_wheel(registry)
    options = [*PYTHON_GRANTS, *grants, "--allow-domain", registry.url.removeprefix("http://")]
    words = [
        uv, "pip", "install", "-q", "--python", sys.executable, "--index-url",
        f"{registry.url}/simple", "tiny-package", "--target",
    ]  # fmt: skip
    caged.run(options, *words, "one")
    assert registry.seen
    registry.seen.clear()
    caged.run(options, *words, "two", "--offline")
    assert (caged.work / "two/tiny_package.py").exists()
    assert registry.seen == []


def test_cargo(caged: Caged, tmp_path: Path) -> None:
    program("git")
    rustc = shutil.which("rustc", path=f"{os.environ['PATH']}:{Path.home()}/.cargo/bin")
    found = subprocess.run(
        [rustc or "rustc", "--print", "sysroot"], capture_output=True, text=True, check=False
    ) if rustc else None  # fmt: skip
    if found is None or found.returncode != 0:
        pytest.skip("there is no rustc and cargo here")
    toolchain = Path(found.stdout.strip())
    library = caged.work / "library"
    (library / "src").mkdir(parents=True)
    (library / "Cargo.toml").write_text('[package]\nname = "tiny"\nversion = "1.0.0"\n')
    (library / "src/lib.rs").write_text("pub const ANSWER: u8 = 42;\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(library)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    application = caged.work / "application"
    (application / "src").mkdir(parents=True)
    (application / "Cargo.toml").write_text(
        '[package]\nname = "application"\nversion = "1.0.0"\n[dependencies]\n'
        f'tiny = {{ git = "file://{library}" }}\n'
    )
    (application / "src/lib.rs").write_text("pub use tiny::ANSWER;\n")
    script = (
        f"PATH={toolchain}/bin:$PATH exec cargo fetch -q --manifest-path application/Cargo.toml"
    )
    options = ["--read", str(toolchain)]
    caged.run(options, "sh", "-c", script)
    library.rename(caged.work / "moved")
    caged.run(options, "sh", "-c", f"{script} --offline")


def test_the_settings_of_an_agent(sessions: Sessions, caged: Caged) -> None:
    """A fake of an agent's command line: it keeps its login and settings below the home."""
    agent = caged.work / "agent"
    agent.write_text(
        "#!/bin/sh\nset -e\nmkdir -p ~/.agent\n"
        '[ "$1" != login ] || echo "{\\"login\\": true}" >~/.agent/credentials.json\n'
        'echo \'{"theme": "dark"}\' >>~/.agent/settings.json\n'
        "cat ~/.agent/credentials.json ~/.agent/settings.json\n"
    )
    agent.chmod(0o755)
    caged.run([], str(agent), "login")
    said = caged.run([], str(agent))
    assert said.split("\n") == ['{"login": true}', *['{"theme": "dark"}'] * 2, ""]
    assert not (sessions.home / ".agent").exists()
