"""A loopback HTTPS origin with a repository that everybody may push to, served by git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

from tls_origin import signed_origin

if TYPE_CHECKING:
    from tls_origin import TlsOrigin

REPOSITORY = "/org/repo.git"
IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.test",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.test",
}  # fmt: skip


def backend() -> str | None:
    """The program that serves git over HTTP; None where it is not installed."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip()) / "git-http-backend"
    return str(path) if path.exists() else None


def make_repository(root: Path) -> str:
    """Make the repository with one commit below `root`; return the commit."""
    bare, work = root / REPOSITORY[1:], root / "work"
    for words in (
        ("init", "-q", "--bare", "-b", "main", bare),
        ("-C", bare, "config", "http.receivepack", "1"),
        ("init", "-q", "-b", "main", work),
        ("-C", work, "commit", "-q", "--allow-empty", "-m", "1"),
        ("-C", work, "push", "-q", bare, "main"),
    ):  # fmt: skip
        subprocess.run(["git", *map(str, words)], check=True, env=os.environ | IDENTITY)
    return head(root)


def head(root: Path) -> str:
    """The commit of the repository's main branch."""
    words = ["git", "-C", str(root / REPOSITORY[1:]), "rev-parse", "main"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def git_origin(certificate: Path, key: Path, host: str, root: Path) -> TlsOrigin:
    """An origin for `host` that serves the repository below `root`."""
    program = backend()

    class Handler(BaseHTTPRequestHandler):
        server: TlsOrigin

        def answer(self) -> None:
            self.server.seen.append(f"{self.command} {self.path}")
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(
                [str(program)], input=body, capture_output=True, check=False,
                env=os.environ | {
                    "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                    "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "a",
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                },
            )  # fmt: skip
            fields, _, content = done.stdout.partition(b"\r\n\r\n")
            pairs = [line.decode().split(": ", 1) for line in fields.split(b"\r\n")]
            status = next((value for name, value in pairs if name == "Status"), "200")
            self.send_response(int(status.split()[0]))
            for name, value in pairs:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    origin = signed_origin(certificate, key, host)
    origin.RequestHandlerClass = Handler
    return origin
