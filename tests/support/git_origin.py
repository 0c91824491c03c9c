"""A loopback git server over HTTPS, by git's own http-backend (CGI)."""

from __future__ import annotations

import os
import subprocess
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tls_origin import TlsOrigin

if TYPE_CHECKING:
    import ssl
    from pathlib import Path


def git(*words: str, cwd: Path) -> None:
    """Run git on the host, without its user's settings."""
    environment = {
        **os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(cwd), "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
    }  # fmt: skip
    subprocess.run(["git", *words], cwd=cwd, env=environment, check=True, capture_output=True)


def make_repository(root: Path) -> None:
    """Make ROOT/project.git with one commit, open for pushes."""
    work = root / "work"
    work.mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=work)
    (work / "file").write_text("one\n")
    git("add", "file", cwd=work)
    git("commit", "-q", "-m", "one", cwd=work)
    git("clone", "-q", "--bare", str(work), str(root / "project.git"), cwd=root)
    git("config", "http.receivepack", "true", cwd=root / "project.git")


class GitOrigin(TlsOrigin):
    """Serves the repositories below `root`; `seen` has method and path of every request."""

    def __init__(self, context: ssl.SSLContext, root: Path) -> None:
        super().__init__(context)
        self.root = root
        self.RequestHandlerClass = _GitAnswer


class _GitAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GitOrigin

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.seen.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        variables = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command, "PATH_INFO": path,
            "QUERY_STRING": query, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)), "REMOTE_USER": "a", "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        command = ["git", "http-backend"]
        done = subprocess.run(command, input=body, env=variables, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
