"""Ways around the rules of a host whose requests are seen.

Its rules open `/ok/**` for GET and POST. A tag is only where it must not go, mostly in a path
below `/no/`: the server takes all that looks like a request for one, so a tag that arrives there is
a way around. Before each attempt a name that is not allowed is asked for: in the log its record
divides the attempts, and each of them must have a refusal of its own.

The program trusts every certificate. Python's TLS makes no renegotiation and no early data. They
are in tests/proxy/transport/test_tls.py and tests/proxy/intercept/test_early_data.py.
"""

import re
import socket
import ssl
from functools import partial

from escape_base import WAIT_SECONDS, Stopped, attempt
from escape_proxy import authorization, client_hello, talk

# What comes later than this on a busy machine is not waited for, and a refusal may be missed.
QUIET_SECONDS = 0.3
NAME = "seen.example.com"
PREFIX = "an intercepted host: "


def divide(host):
    """Leave the record that divides the attempts."""
    mark = f"mark-{host.tag[4:]}.example.com"
    talk(host, f"GET http://{mark}/ HTTP/1.1\r\nHost: {mark}\r\n{authorization(host)}\r\n"
         "Connection: close\r\n\r\n")  # fmt: skip


def probe(name):
    """Register an attempt that is divided from the one before."""

    def register(action):
        def run(host):
            divide(host)
            return action(host)

        attempt(PREFIX + name)(run)
        return action

    return register


def judged(host, answer):
    """Open if the server says that it saw the tag."""
    if re.search(rb"saw \S*" + host.tag.encode(), answer):
        return "went through"
    shown = answer if answer.startswith(b"HTTP") else answer[-70:]
    raise Stopped(shown[:70].decode("latin-1") or "closed without an answer")


def unchecked(*protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def tunnel(host, target=None):
    """CONNECT; return the socket."""
    target = target or f"{NAME}:{host.seen}"
    sock = socket.create_connection(("127.0.0.1", host.proxy_port), timeout=WAIT_SECONDS)
    head = f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n{authorization(host)}\r\n\r\n"
    sock.sendall(head.encode("utf-8"))
    answer = sock.recv(4096)
    if b" 200 " not in answer[:20]:
        raise Stopped(answer.partition(b"\r\n")[0].decode("latin-1"))
    return sock


def secured(host, *protocols, name=NAME, target=None):
    return unchecked(*protocols).wrap_socket(tunnel(host, target), server_hostname=name)


def say(host, sock, *pieces):
    """Send, then return all that comes until it is quiet."""
    answer = b""
    with sock:
        try:
            for piece in pieces:
                sock.sendall(piece.encode("latin-1") if isinstance(piece, str) else piece)
                sock.settimeout(WAIT_SECONDS)
            while part := sock.recv(65_536):
                answer += part
                sock.settimeout(QUIET_SECONDS)
        except OSError:
            pass
    return judged(host, answer)


def filled(host, template):
    return template.format(tag=host.tag, name=f"{NAME}:{host.seen}", port=host.seen)


# --- by HTTP/1.1 ---

OK = "GET /ok/x HTTP/1.1\r\nHost: {name}\r\n"
POST = "POST /ok/x HTTP/1.1\r\nHost: {name}\r\n"
HIDDEN = "GET /no/{tag} HTTP/1.1\r\nHost: {name}\r\n\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


TOOL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete"}}'


def mcp(body, kind="application/json"):
    """A POST of a body to the path of an MCP rule, which allows the tool `search` alone."""
    body = body.replace("{", "{{").replace("}", "}}")
    length = len(body.replace("{{", "{").replace("}}", "}"))
    head = "POST /mcp?{tag} HTTP/1.1\r\nHost: {name}\r\n" + f"Content-Type: {kind}\r\n"
    return [head + f"Content-Length: {length}\r\n\r\n{body}"]


def request(host, *templates):
    return say(host, secured(host), *[filled(host, one) for one in templates])


for _name, _templates in {
    "a path of no rule": [HIDDEN],
    "a method of no rule": ["DELETE /ok/{tag} HTTP/1.1\r\nHost: {name}\r\n\r\n"],
    "a path in dot segments": [HIDDEN.replace("/no", "/ok/../no")],
    "a path in encoded dot segments": [HIDDEN.replace("/no", "/ok/%2e%2E/no")],
    "a path in dot segments with parameters": [HIDDEN.replace("/no", "/ok/..;x/no")],
    "a path behind an encoded slash": [HIDDEN.replace("/no", "/ok/..%2fno")],
    "a path in absolute form": [HIDDEN.replace("/no", "https://{name}/no")],
    "another host in absolute form": [HIDDEN.replace("/no", "http://other.example.com/ok")],
    "another host in the Host field": [
        "GET /ok/{tag} HTTP/1.1\r\nHost: other.example.com:{port}\r\n\r\n"
    ],
    "another port in the Host field": [f"GET /ok/{{tag}} HTTP/1.1\r\nHost: {NAME}:1\r\n\r\n"],
    "two Host fields": [OK.replace("x ", "{tag} ") + "Host: other.example.com\r\n\r\n"],
    "a CONNECT under TLS": ["CONNECT localhost:1 HTTP/1.1\r\nHost: {name}\r\nX: {tag}\r\n\r\n"],
    "a request behind Content-Length and chunked": [
        POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN
    ],
    "a request behind chunked": [POST + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN],
    "a request behind an obscure transfer coding": [
        POST + "Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN
    ],
    "a request behind two transfer codings": [
        POST + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN
    ],
    "a request behind a bare line feed": [OK + "X: y\n\n" + HIDDEN],
    "a request behind a bare carriage return": [OK + "X: y\r\r" + HIDDEN],
    "a request in a folded field": [OK + "X: y\r\n " + HIDDEN],
    "a request behind a field with a blank before its colon": [
        POST + "Content-Length : 90\r\n\r\n" + HIDDEN
    ],
    "a request in a chunk extension": [
        POST + "Transfer-Encoding: chunked\r\n\r\n1;x\n" + HIDDEN + "\r\nz\r\n0\r\n\r\n"
    ],
    "a request behind a chunk size with a blank": [
        POST + "Transfer-Encoding: chunked\r\n\r\n0 \r\n\r\n" + HIDDEN
    ],
    "a request behind a chunk size of 65 bits": [
        POST + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" + HIDDEN
    ],
    "a request behind a chunk that is too long": [
        POST + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + HIDDEN
    ],
    "a request as a trailer": [POST + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + HIDDEN],
    "a request in the body of a GET": [OK + "Content-Length: 60\r\n\r\n" + HIDDEN],
    "a request in the body of a POST": [POST + "Content-Length: 60\r\n\r\n" + HIDDEN],
    "a request in the body, in two pieces": [
        POST + "Content-Length: 60\r\n\r\nGET /no/{tag} HT", "TP/1.1\r\n\r\n"
    ],
    "a request behind an expectation": [
        POST + "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", HIDDEN
    ],
    "a request behind an Upgrade that is declined": [OK + UPGRADE + "\r\n", HIDDEN],
    "a request behind a false 101": [
        OK.replace("/ok/x", "/ok/switch") + UPGRADE + "\r\n", HIDDEN
    ],
    "an Upgrade to h2c": [
        OK + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{tag}"
    ],
    "a field that names another path": [OK + "X-Original-URL: /no/{tag}\r\n\r\n"],
    "a field that imitates another": [OK + "X_Rewrite_URL: /no/{tag}\r\n\r\n"],
    "a field that names another method": [
        POST + "X-HTTP-Method-Override: DELETE\r\nX: {tag}\r\nContent-Length: 0\r\n\r\n"
    ],
    "HTTP/0.9 under TLS": ["GET /no/{tag}\r\n\r\n"],
    "HTTP/2 that TLS has not agreed to": ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{tag}"],
    "an MCP tool of no rule": mcp(TOOL),
    "an MCP tool in a batch": mcp(f"[{TOOL.replace('delete', 'search')},{TOOL}]"),
    "an MCP tool in a member that is there twice": mcp(TOOL.replace("{\"n", '{"name":"search","n')),
    "an MCP tool in a member in capitals": mcp(TOOL.replace("{\"n", '{"name":"search","N')),
    "an MCP tool in a text form": mcp(TOOL, "text/plain"),
    "WebDAV's second path": [OK.replace("GET", "POST") + "Destination: /no/{tag}\r\n\r\n"],
}.items():  # fmt: skip
    probe(_name)(partial(lambda host, said: request(host, *said), said=_templates))


# --- by the handshake, the tunnel and other names ---

for _name, _sent in {
    "of another host": "other.example.com",
    "in capitals": NAME.upper(),
    "that is an address": "127.0.0.1",
    "that is missing": None,
    "below the host": "x." + NAME,
    "with a dot at its end": NAME + ".",
}.items():

    @probe(f"a server name {_name}")
    def named(host, sent=_sent):
        return say(host, secured(host, name=sent), filled(host, HIDDEN))


@probe("a server name with a zero byte")
def zero_byte(host):
    stand_in = "n" * (len(NAME) + 1) + host.tag
    hello = client_hello(stand_in).replace(stand_in.encode(), f"{NAME}\0{host.tag}".encode())
    return say(host, tunnel(host), hello, host.tag)


def hiding_its_name(hello):
    """The hello with an extension for an encrypted one (ECH)."""
    body = hello[9:]
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    extensions = b"\xfe\x0d\0\x08" + bytes(8) + body[at + 2 :]
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return hello[:3] + len(message).to_bytes(2, "big") + message


@probe("a hello that hides its name behind another one")
def hidden_name(host):
    hello = hiding_its_name(client_hello(f"{host.tag}.example.com"))
    return say(host, tunnel(host), hello, host.tag)


@probe("its name outside of a hidden one, in the tunnel of an entry for TLS")
def hidden_elsewhere(host):
    hello = hiding_its_name(client_hello(NAME))
    return say(host, tunnel(host, f"allowed.example.com:{host.tls}"), hello, host.tag)


@probe("a hello for another host, in records of ten bytes")
def fragmented(host):
    hello = client_hello(f"{host.tag}.example.com")
    pieces = [hello[at : at + 10] for at in range(5, len(hello), 10)]
    return say(host, tunnel(host), *(b"\x16\3\1\0" + bytes([len(one)]) + one for one in pieces))


@probe("a hello for another host, in segments of 40 bytes")
def segmented(host):
    hello = client_hello(f"{host.tag}.example.com")
    return say(host, tunnel(host), *(hello[at : at + 40] for at in range(0, len(hello), 40)))


@probe("a hello of SSL 2")
def ssl2(host):
    content = b"\1\3\1\0\3\0\0\0\x10\0\0\x2f" + host.tag.encode().ljust(16)
    return say(host, tunnel(host), (0x8000 | len(content)).to_bytes(2, "big") + content)


@probe("protocols without HTTP (ALPN)")
def no_http(host):
    return say(host, secured(host, host.tag), filled(host, HIDDEN))


@probe("TLS inside the TLS")
def nested(host):
    return say(host, secured(host), client_hello(f"{host.tag}.example.com"))


@probe("plain HTTP in its tunnel")
def plain(host):
    return say(host, tunnel(host), filled(host, HIDDEN))


@probe("plain HTTP by the proxy")
def plain_by_proxy(host):
    target = filled(host, "GET http://{name}/no/{tag} HTTP/1.1\r\nHost: {name}\r\n")
    return judged(host, talk(host, f"{target}{authorization(host)}\r\n\r\n"))


for _name, _target in {
    "in capitals with a dot at its end": NAME.upper() + ".:{port}",
    "in full-width letters": "\uff53een.example.com:{port}",
    "by its address": "127.0.0.1:{port}",
    "by its mapped address": "[::ffff:127.0.0.1]:{port}",
    "on another port": NAME + ":1",
    "below it": "x." + NAME + ":{port}",
}.items():

    @probe(f"its name {_name}")
    def spelled(host, target=_target):
        return say(host, secured(host, target=filled(host, target)), filled(host, HIDDEN))


@probe("its name in the tunnel of an entry for TLS")
def elsewhere(host):
    return say(host, tunnel(host, f"allowed.example.com:{host.tls}"), client_hello(NAME), host.tag)


# --- without the proxy, by the transparent network ---


def direct(host, *pieces):
    """Connect to the name; return what is said to plain bytes."""
    return say(host, socket.create_connection((NAME, host.seen), timeout=WAIT_SECONDS), *pieces)


@probe("without the proxy, a path of no rule")
def direct_path(host):
    sock = socket.create_connection((NAME, host.seen), timeout=WAIT_SECONDS)
    secure = unchecked().wrap_socket(sock, server_hostname=NAME)
    return say(host, secure, filled(host, HIDDEN))


@probe("without the proxy, plain HTTP")
def direct_plain(host):
    return direct(host, filled(host, HIDDEN))


@probe("without the proxy, a hello for another host")
def direct_hello(host):
    return direct(host, client_hello(f"{host.tag}.example.com"))


@probe("without the proxy, other bytes")
def direct_bytes(host):
    return direct(host, f"SSH-2.0-{host.tag}\r\n")


@attempt("a request behind the last one of an intercepted host")
def behind_the_last(host):
    return request(host, OK + "Connection: close\r\n\r\n" + HIDDEN)


# --- what the rules open: shows that the attempts above are stopped by the rules ---


@attempt("what the rules of an intercepted host open, by HTTP/1.1")
def opened(host):
    return request(host, "GET /ok/{tag} HTTP/1.1\r\nHost: {name}\r\n\r\n")


@attempt("what the rules of an intercepted host open, by an MCP tool")
def opened_tool(host):
    return request(host, *mcp(TOOL.replace("delete", "search")))
