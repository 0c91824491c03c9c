"""A loopback MCP server (streamable HTTP under TLS) that remembers the calls that reached it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tls_origin import signed_origin

if TYPE_CHECKING:
    from pathlib import Path

    from tls_origin import TlsOrigin

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("search", "delete_repo")]


class _Handler(BaseHTTPRequestHandler):
    server: TlsOrigin
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, tool = message["method"], message.get("params", {}).get("name", "")
        self.server.seen.append(f"{method} {tool}".strip())
        if "id" not in message:
            self._answer(202, b"")
            return
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": self._result(method)}
        self._answer(200, json.dumps(answer).encode())

    def do_DELETE(self) -> None:
        self.server.seen.append("DELETE")
        self._answer(200, b"")

    def do_GET(self) -> None:
        self.server.seen.append("GET")
        self._answer(405, b"")

    def _result(self, method: str) -> dict[str, Any]:
        if method == "initialize":
            about = {"name": "test", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": about}
        if method == "tools/list":
            return {"tools": TOOLS}
        return {"content": [{"type": "text", "text": "done"}]}

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def mcp_origin(certificate: Path, key: Path, host: str) -> TlsOrigin:
    """An MCP server for `host`, at every path."""
    origin = signed_origin(certificate, key, host)
    origin.RequestHandlerClass = _Handler
    return origin
