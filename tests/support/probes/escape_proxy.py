"""Ways out through the proxy: without its token, and by requests that two readers read apart.

In the templates {good} is the one host and port that is allowed, an origin that answers with what
it saw; {bad} is a listener of the host's that answers with the secret; {tag} is the attempt's own
mark, which only a request that went through leaves with the origin.
"""

import base64
import os
import secrets
import socket
import ssl
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from escape_base import WAIT_SECONDS, Stopped, attempt

END = "\r\n\r\n"
QUIET_SECONDS = 0.05  # a connection that is kept open says no more after that


def proxy_token():
    return urlsplit(os.environ.get("HTTP_PROXY", "")).password or ""


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def authorization(host):
    return f"Proxy-Authorization: {basic('nono', proxy_token())}"


def talk(host, *pieces):
    """Send to the proxy; return all that came back within the time, or before the close."""
    with socket.create_connection(("127.0.0.1", host.proxy_port), timeout=WAIT_SECONDS) as sock:
        answer = b""
        try:
            for piece in pieces:
                sock.sendall(piece.encode("latin-1") if isinstance(piece, str) else piece)
            while part := sock.recv(65_536):
                answer += part
                sock.settimeout(QUIET_SECONDS)
        except OSError:
            pass
        return answer


def judged(host, answer):
    """Open if the secret came, or the origin's word that it saw the attempt's mark."""
    text = answer.decode("latin-1")
    if host.secret in text or ("saw " in text and host.tag in text):
        return "went through"
    raise Stopped(text.partition("\r\n")[0][:70] or "closed without an answer")


def filled(host, template):
    return template.format(
        good=f"allowed.example.com:{host.origin}",
        bad=f"localhost:{host.tcp}",
        port=host.tcp,
        tag=host.tag,
        auth=authorization(host),
    )


def request(host, template):
    return judged(host, talk(host, filled(host, template)))


def tunnel(host, target, second="GET /{tag} HTTP/1.1\r\nHost: {bad}\r\n\r\n"):
    """CONNECT, then speak inside."""
    head = filled(host, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{{auth}}\r\n\r\n")
    return judged(host, talk(host, head, filled(host, second)))


attempt("a host that is not allowed, by CONNECT")(partial(tunnel, target="{bad}"))
attempt("another port of the allowed host, by CONNECT")(
    partial(tunnel, target="allowed.example.com:{port}")
)

for _name, _template in {
    "a host that is not allowed, in the request's target":
        "GET http://{bad}/{tag} HTTP/1.1\r\nHost: {bad}\r\n{auth}\r\n\r\n",
    "a host that is not allowed, in the Host field":
        "GET /{tag} HTTP/1.1\r\nHost: {bad}\r\n{auth}\r\n\r\n",
    "an allowed target with another Host field":
        "GET http://{good}/ HTTP/1.1\r\nHost: {tag}.example.com\r\n{auth}\r\n\r\n",
    "two Host fields":
        "GET http://{good}/{tag} HTTP/1.1\r\nHost: {good}\r\nHost: {bad}\r\n{auth}\r\n\r\n",
    "another port of the allowed host":
        "GET http://allowed.example.com:{port}/{tag} HTTP/1.1\r\n"
        "Host: allowed.example.com:{port}\r\n{auth}\r\n\r\n",
    "the allowed host as a user name":
        "GET http://{good}@{bad}/{tag} HTTP/1.1\r\nHost: {bad}\r\n{auth}\r\n\r\n",
    "the allowed host behind a backslash":
        "GET http://{bad}\\@{good}/{tag} HTTP/1.1\r\nHost: {good}\r\n{auth}\r\n\r\n",
    "the allowed host behind a #":
        "GET http://{bad}#@{good}/{tag} HTTP/1.1\r\nHost: {good}\r\n{auth}\r\n\r\n",
    "a NUL in the target's host":
        "GET http://localhost\0.allowed.example.com:{port}/{tag} HTTP/1.1\r\n"
        "Host: {good}\r\n{auth}\r\n\r\n",
    "a target in percent-encoding":
        "GET http://%6c%6f%63%61%6c%68%6f%73%74:{port}/{tag} HTTP/1.1\r\n"
        "Host: {bad}\r\n{auth}\r\n\r\n",
    "a request smuggled by Content-Length and chunked":
        "POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nContent-Length: 4\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /{tag} HTTP/1.1\r\nHost: {good}\r\n\r\n",
    "a request smuggled by two Content-Lengths":
        "POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nContent-Length: 0\r\n"
        "Content-Length: 60\r\n\r\nGET /{tag} HTTP/1.1\r\nHost: {good}\r\n\r\n",
    "a request smuggled by an obscure Transfer-Encoding":
        "POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nContent-Length: 60\r\n"
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nGET /{tag} HTTP/1.1\r\nHost: a\r\n\r\n",
    "a request smuggled by a chunk size with a sign":
        "POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nTransfer-Encoding: chunked\r\n"
        "\r\n+0\r\n\r\nGET /{tag} HTTP/1.1\r\nHost: {good}\r\n\r\n",
    "a request smuggled by a bare line feed":
        "GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nX: a\n\nGET /{tag} HTTP/1.1\r\n"
        "Host: {good}\r\n\r\n",
    "a request smuggled by a folded field":
        "GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nX: a\r\n\r GET /{tag} HTTP/1.1"
        "\r\nHost: {good}\r\n\r\n",
    "a request smuggled by a space before the colon":
        "POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\nContent-Length : 60\r\n\r\n"
        "GET /{tag} HTTP/1.1\r\nHost: {good}\r\n\r\n",
    "a second request on the connection, to another host":
        "GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\n\r\n"
        "GET http://{bad}/{tag} HTTP/1.1\r\nHost: {bad}\r\n{auth}\r\n\r\n",
    "a tunnel by Upgrade":
        "GET http://{bad}/{tag} HTTP/1.1\r\nHost: {bad}\r\n{auth}\r\nConnection: Upgrade\r\n"
        "Upgrade: anything\r\n\r\n",
    "HTTP/2 without an agreement":
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{tag} {bad} {auth}",
    "HTTP/0.9":
        "GET http://{bad}/{tag}\r\n\r\n",
}.items():  # fmt: skip
    attempt(_name)(partial(request, template=_template))


@attempt("a request smuggled by a body that the server does not read")
def unread_body(host):
    hidden = filled(host, "GET /{tag} HTTP/1.1\r\nHost: {good}\r\n\r\n")
    head = filled(host, "DELETE http://{good}/ HTTP/1.1\r\nHost: {good}\r\n{auth}\r\n")
    return judged(host, talk(host, f"{head}Content-Length: {len(hidden)}\r\n\r\n", hidden))


# --- in a tunnel that is allowed for TLS to its own host ---


def client_hello(name):
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing := ssl.MemoryBIO(), server_hostname=name
    )
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def tls_tunnel(host, *pieces):
    target = f"allowed.example.com:{host.tls}"
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization(host)}\r\n\r\n"
    return judged(host, talk(host, head, *pieces))


@attempt("an allowed tunnel with TLS for another host")
def other_hello(host):
    return tls_tunnel(host, client_hello(f"{host.tag}.example.com"), host.tag)


@attempt("an allowed tunnel with TLS for another host, byte by byte")
def slow_hello(host):
    return tls_tunnel(host, *map(bytes, zip(client_hello(f"{host.tag}.example.com"))), host.tag)


@attempt("an allowed tunnel with SSH")
def ssh(host):
    return tls_tunnel(host, f"SSH-2.0-{host.tag}\r\n")


@attempt("an allowed tunnel with a request")
def plain(host):
    return tls_tunnel(host, f"GET /{host.tag} HTTP/1.1\r\nHost: a\r\n\r\n")


@attempt("SOCKS5 spoken to the proxy")
def socks(host):
    greeting = b"\x05\x01\x00"
    ask = b"\x05\x01\x00\x03\x09localhost" + host.tcp.to_bytes(2, "big")
    return judged(host, talk(host, greeting, ask, host.tag))


# --- the token ---


def without_token(host, line):
    """Ask for the allowed host, so that only the token can be what stops it."""
    target = f"allowed.example.com:{host.origin}"
    head = f"GET http://{target}/{host.tag} HTTP/1.1\r\nHost: {target}\r\n{line(host)}\r\n"
    return judged(host, talk(host, head))


for _name, _line in {
    "no token": lambda host: "",
    "an empty token": lambda host: f"Proxy-Authorization: {basic('nono', '')}\r\n",
    "a token of another session": lambda host: (
        "Proxy-Authorization: " + basic("nono", secrets.token_hex(32)) + "\r\n"
    ),
    "half of the token": lambda host: (
        "Proxy-Authorization: " + basic("nono", proxy_token()[:32]) + "\r\n"
    ),
    "the token with a byte more": lambda host: (
        "Proxy-Authorization: " + basic("nono", proxy_token() + "0") + "\r\n"
    ),
    "the token in the wrong field": lambda host: (
        "Authorization: " + basic("nono", proxy_token()) + "\r\n"
    ),
    "a wrong and a right token": lambda host: (
        "Proxy-Authorization: " + basic("nono", "wrong") + "\r\n" + authorization(host) + "\r\n"
    ),
}.items():
    attempt(f"the proxy with {_name}")(partial(without_token, line=_line))


@attempt("a token from another process' environment")
def stolen_token(host):
    """The victim is a process of another session: its token must not be had, nor be good here."""
    with open(f"/proc/{host.victim['pid']}/environ", "rb") as file:
        found = [line for line in file.read().split(b"\0") if line.startswith(b"NONO_PROXY_TOKEN=")]
    return f"has a token of {len(found[0]) - 17} digits"


# --- the proxy itself ---


def alive(host):
    """Tell whether the proxy still serves allowed hosts."""
    target = f"allowed.example.com:{host.origin}"
    head = f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n{authorization(host)}"
    if b" 200 " not in talk(host, head + "\r\nConnection: close\r\n\r\n")[:20]:
        return "the proxy does not serve any more"
    raise Stopped("the proxy serves on")


@attempt("a head of a megabyte")
def huge_head(host):
    talk(host, "GET http://a/ HTTP/1.1\r\nX: ", b"a" * (1 << 20), END)
    return alive(host)


@attempt("a hundred thousand fields")
def many_fields(host):
    talk(host, "GET http://a/ HTTP/1.1\r\n", b"X: a\r\n" * 100_000, END)
    return alive(host)


@attempt("binary noise at the proxy")
def noise(host):
    for _ in range(20):
        talk(host, secrets.token_bytes(4096) + b"\r\n\r\n")
    return alive(host)


@attempt("a hundred connections that say nothing")
def silent_connections(host):
    held = [socket.create_connection(("127.0.0.1", host.proxy_port)) for _ in range(100)]
    try:
        return alive(host)
    finally:
        for sock in held:
            sock.close()
