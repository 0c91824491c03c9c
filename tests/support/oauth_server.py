"""An authorization server with an API on loopback, under TLS or without.

    POST /oauth/device      the device flow (RFC 8628); it is approved after one poll
    GET  /oauth/authorize   sends the browser to redirect_uri with a code
    POST /oauth/token       form or JSON; Basic or client_secret in the form
    GET  /api/me            200 for a token that is valid now, 401 for any other
    POST /api/echo          the body, for a valid token

Refresh tokens rotate, and each is good for one use. `issued` has every real token.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import trio

from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = "client-0123"
SECRET = "s/cret:+ of 0123456789 client"


class OAuthServer(ThreadingHTTPServer):
    """The server; a test changes its attributes between requests.

    `lifetime` goes into answers as expires_in. `raw`, if set, is said by the token endpoint as it
    is. `requests` has path, form and fields of each request to the token endpoint.
    """

    daemon_threads = True

    def __init__(self, host: str = "", certificate: Path | None = None, key: Path | None = None):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.port = self.server_address[1]
        if certificate is not None and key is not None:
            now = datetime.datetime.now(datetime.UTC)
            authority = own_authority(certificate.read_bytes(), key.read_bytes(), now)
            context = trio.run(SessionAuthority(authority).server_context, host)
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.lifetime: int | None = 3600
        self.answers_forms = False
        self.raw: bytes | None = None
        self.issued: set[str] = set()
        self.valid: set[str] = set()
        self.refresh: set[str] = set()
        self.codes: set[str] = set()
        self.devices: dict[str, int] = {}
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.api: list[tuple[str, str, int]] = []
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: clients that vanish are part of the tests."""

    def expire(self) -> None:
        """From now on no access token is valid."""
        self.valid.clear()

    def grant(self, *, with_refresh: bool) -> dict[str, object]:
        """Issue tokens."""
        access = f"gho_{secrets.token_urlsafe(27)}"
        found: dict[str, object] = {"access_token": access, "token_type": "Bearer"}
        with self.lock:
            self.valid.add(access)
            self.issued.add(access)
            if self.lifetime is not None:
                found["expires_in"] = self.lifetime
            if with_refresh:
                refresh, identity = f"1//{secrets.token_urlsafe(30)}", _jwt({"sub": "alice"})
                self.refresh.add(refresh)
                self.issued |= {refresh, identity}
                found |= {"refresh_token": refresh, "id_token": identity, "scope": "a b"}
        return found


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OAuthServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/oauth/authorize":
            query = dict(parse_qsl(url.query))
            code = secrets.token_hex(8)
            self.server.codes.add(code)
            where = f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            self._say(302, b"", Location=where)
        else:
            self._api(b"hello alice")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.bodies.append(body)
        path = urlsplit(self.path).path
        if path == "/oauth/device":
            device = secrets.token_hex(8)
            self.server.devices[device] = 1
            self._json(200, {"device_code": device, "user_code": "AB-CD", "interval": 0})
        elif path.startswith("/oauth/token"):
            self._token(body)
        else:
            self._api(body)

    def _api(self, said: bytes) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status = 200 if token in self.server.valid else 401
        self.server.api.append((self.path, token, status))
        self._say(status, said if status == 200 else b"no")

    def _token(self, body: bytes) -> None:
        server = self.server
        if self.headers.get("Content-Type", "").startswith("application/json"):
            form = json.loads(body)
        else:
            form = dict(parse_qsl(body.decode()))
        server.requests.append((self.path, form, dict(self.headers)))
        if server.raw is not None:
            self.wfile.write(server.raw)
            self.close_connection = True
            return
        status, answer = self._granted(form)
        if server.answers_forms and status == 200:
            pairs = urlencode(answer).encode()
            self._say(200, pairs, Content_Type="application/x-www-form-urlencoded")
        else:
            self._json(status, answer)

    def _granted(self, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        server = self.server
        kind = form.get("grant_type")
        if kind == "client_credentials":
            if self._client(form) != (CLIENT, SECRET):
                return 401, {"error": "invalid_client", "error_description": f"not {SECRET}"}
            return 200, server.grant(with_refresh=False)
        if kind == "refresh_token" and form.get("refresh_token") in server.refresh:
            server.refresh.discard(form["refresh_token"])
            return 200, server.grant(with_refresh=True)
        if kind == "authorization_code" and form.get("code") in server.codes:
            server.codes.discard(form["code"])
            return 200, server.grant(with_refresh=True)
        device = form.get("device_code", "")
        if kind == "urn:ietf:params:oauth:grant-type:device_code" and device in server.devices:
            if server.devices[device]:
                server.devices[device] -= 1
                return 400, {"error": "authorization_pending"}
            del server.devices[device]
            return 200, server.grant(with_refresh=True)
        return 400, {"error": "invalid_grant"}

    def _client(self, form: dict[str, str]) -> tuple[str, str]:
        given = self.headers.get("Authorization", "")
        if not given.startswith("Basic "):
            return form.get("client_id", ""), form.get("client_secret", "")
        name, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return unquote_plus(name), unquote_plus(password)

    def _json(self, status: int, value: object) -> None:
        self._say(status, json.dumps(value).encode(), Content_Type="application/json")

    def _say(self, status: int, body: bytes, **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _jwt(claims: object) -> str:
    parts = (json.dumps({"alg": "RS256"}).encode(), json.dumps(claims).encode())
    encoded = [base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in parts]
    return ".".join([*encoded, secrets.token_urlsafe(64)])
