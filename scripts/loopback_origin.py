"""A web server for the demo: HTTP and HTTPS on 127.0.0.1, with a throw-away certificate authority.

Rules: it listens on loopback only. It keeps every connection and request that reached it, so that
a log can be compared with them. Keys and certificates are in the given directory and are valid for
one day.

    GET /hello      a line of text
    GET /stream/N   N bytes, chunked, with their SHA-256 in Repr-Digest (RFC 9530)

`python scripts/loopback_origin.py DIRECTORY` runs it alone: it prints its URLs and serves until ^C.
"""

from __future__ import annotations

import base64
import datetime
import errno
import hashlib
import ipaddress
import ssl
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

# Tried first, so that a demo prints the same URLs every time; any free port is the second choice.
HTTP_PORT = 8080
HTTPS_PORT = 8443
ADDRESS = "127.0.0.1"

CHUNK = 64 * 1024
PATTERN = bytes(range(256)) * (CHUNK // 256)
MAX_STREAM = 1 << 30  # a typing error in a URL must not send for hours
IDLE_SECONDS = 10.0  # a client that sends nothing for this long is disconnected
CERTIFICATE_DAYS = 1
CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    scheme: str
    host: str
    path: str


class Origin:
    """Both servers; use as a context manager. `ca_file` is what clients must trust."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        """Make a certificate for `names` in `directory` and bind both ports; raises OSError."""
        self.ca_file, certificate = issue_certificate(directory, names)
        self.seen: list[Seen] = []
        self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._servers = [
            _Server(self, HTTP_PORT, scheme="http", context=None),
            _Server(self, HTTPS_PORT, scheme="https", context=context),
        ]
        self.http_port, self.https_port = (server.server_port for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, origin: Origin, port: int, *, scheme: str, context: ssl.SSLContext | None
    ) -> None:
        self.origin = origin
        self.scheme = scheme
        self._context = context
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            super().__init__((ADDRESS, 0), _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; the connection's own thread makes the TLS handshake."""
        connection, address = super().get_request()
        self.origin.connections += 1
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback: the demo kills clients on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = IDLE_SECONDS

    def do_GET(self) -> None:
        if isinstance(self.server, _Server):
            seen = Seen(self.server.scheme, self.headers.get("Host", ""), self.path)
            self.server.origin.seen.append(seen)
        if self.path == "/hello":
            self._send_text("hello\n")
        elif self.path.startswith("/stream/") and self.path[8:].isdigit():
            self._stream(min(int(self.path[8:]), MAX_STREAM))
        else:
            self.send_error(404)

    def _send_text(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Repr-Digest", f"sha-256=:{_digest(size)}:")
        self.end_headers()
        for piece in _pieces(size):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Log nothing: `seen` has the requests, and the terminal belongs to the demo."""


def _pieces(size: int) -> list[bytes]:
    """The body of /stream/`size`, as references to one and the same pattern."""
    whole, rest = divmod(size, CHUNK)
    return [PATTERN] * whole + ([PATTERN[:rest]] if rest else [])


def _digest(size: int) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(size):
        digest.update(piece)
    return base64.b64encode(digest.digest()).decode()


def issue_certificate(directory: Path, names: list[str]) -> tuple[Path, Path]:
    """Write a new authority's certificate and a server's chain with key; return both paths.

    `names` are names or addresses.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    server = _server_certificate(server_key, names, authority, authority_key)
    encoding = serialization.Encoding.PEM
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(authority.public_bytes(encoding))
    server_file.touch(mode=0o600)
    server_file.write_bytes(
        server.public_bytes(encoding)
        + server_key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca_file, server_file


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(_name("nono-trio demo authority"), _name("nono-trio demo authority"))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    names: list[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # Python 3.13's default context refuses a chain without these two identifiers (RFC 5280).
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(_name(names[0]), authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name_or_address(n) for n in names]), False)
        .add_extension(issued_by, critical=False)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
    )


def _name_or_address(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _serve(directory: Path) -> None:
    with Origin(directory, ["localhost", "api.example.com"]) as origin:
        print(f"http://{ADDRESS}:{origin.http_port}/hello")
        print(f"https://localhost:{origin.https_port}/hello (trust {origin.ca_file})", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: loopback_origin.py DIRECTORY (for the certificates)")
    _serve(Path(sys.argv[1]))
