"""Ways around the rules of an intercepted host by HTTP/2, as in escape_intercepted.py."""

from functools import partial

from escape_base import attempt
from escape_intercepted import HIDDEN, NAME, filled, judged, probe, say, secured, tunnel

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, GOAWAY = 1, 3, 7


def frame(kind, flags, stream, content=b""):
    start = len(content).to_bytes(3, "big") + bytes([kind, flags])
    return start + stream.to_bytes(4, "big") + content


def text(value):
    value = value.encode("latin-1")
    length = bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])
    return length + value


def block(fields):
    """HPACK's literals that no table keeps (RFC 7541 6.2.2)."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def http2(host, fields, *more, ended=True):
    """Send one head and frames behind it; return what came until its end."""
    fields = [(filled(host, name), filled(host, value)) for name, value in fields]
    sock = secured(host, "h2")
    if sock.selected_alpn_protocol() != "h2":
        raise RuntimeError("the proxy does not offer HTTP/2")
    wire = PREFACE + frame(4, 0, 0) + frame(HEADERS, 5 if ended else 4, 1, block(fields))
    answer = b""
    with sock:
        try:
            sock.sendall(wire + b"".join(more))
            while not is_answered(answer) and (part := sock.recv(65_536)):
                answer += part
        except OSError:
            pass
    return judged(host, answer)


def is_answered(data):
    """Tell whether the frames in `data` end the first stream or the connection."""
    while len(data) >= 9 + int.from_bytes(data[:3], "big"):
        kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9], "big")
        if kind in (RESET, GOAWAY) or (stream == 1 and flags & 1):
            return True
        data = data[9 + int.from_bytes(data[:3], "big") :]
    return False


def head(path="/ok/x", method="GET", authority="{name}", scheme="https"):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]


TAGGED = ("x", "{tag}")
for _name, _fields in {
    "a path of no rule": head("/no/{tag}"),
    "a path in absolute form": head("https://{name}/no/{tag}"),
    "two paths": [*head(), (":path", "/no/{tag}")],
    "two methods": [*head("/ok/{tag}"), (":method", "DELETE")],
    "a path behind the fields": [*head()[:3], TAGGED, (":path", "/ok/x")],
    "no path": [*head()[:3], TAGGED],
    "another authority": head("/ok/{tag}", authority="other.example.com:{port}"),
    "another port in the authority": head("/ok/{tag}", authority=NAME + ":1"),
    "a user in the authority": head("/ok/{tag}", authority="a@{name}"),
    "another Host field": [*head("/ok/{tag}"), ("host", "other.example.com")],
    "another scheme": head("/ok/{tag}", scheme="http"),
    "an upper-case name": [*head(), ("X-Tag", "{tag}")],
    "an unknown pseudo-header": [*head(), (":tag", "{tag}")],
    "a CONNECT": [(":method", "CONNECT"), (":authority", "{tag}:1")],
    "an extended CONNECT": [*head("/ok/{tag}", "CONNECT"), (":protocol", "websocket")],
    "a line break in a value": [*head(), ("x", "y\r\n\r\nGET /no/{tag} HTTP/1.1")],
    "a line feed in a value": [*head(), ("x", "y\n{tag}: z")],
    "a line break in a name": [*head(), ("x: y\r\n{tag}", "z")],
    "a line break in the path": head("/ok/x HTTP/1.1\r\n\r\nGET /no/{tag}"),
    "a line break in the method": head("/ok/x", "GET /no/{tag} HTTP/1.1\r\nX: "),
    "a zero byte in a value": [*head(), ("x", "{tag}\0")],
    "a transfer coding": [*head("/ok/{tag}", "POST"), ("transfer-encoding", "chunked")],
    "a field of the connection": [*head(), ("connection", "x"), TAGGED],
    "a field that names another path": [*head(), ("x-rewrite-url", "/no/{tag}")],
    "a length without a body": [*head("/ok/{tag}", "POST"), ("content-length", "5")],
}.items():
    probe(f"by HTTP/2, {_name}")(partial(http2, fields=_fields))


def body(host, fields, template, *more):
    content = filled(host, template).encode()
    return http2(host, fields, frame(0, 0 if more else 1, 1, content), *more, ended=False)


for _name, _length in {"none": [], "too short": [("content-length", "0")]}.items():
    probe(f"by HTTP/2, a request in the body, its length {_name}")(
        partial(body, fields=[*head("/ok/x", "POST"), *_length], template=HIDDEN)
    )


@probe("by HTTP/2, a path in the trailers")
def trailers(host):
    more = frame(HEADERS, 5, 1, block([(":path", f"/no/{host.tag}"), ("x-tag", host.tag)]))
    return body(host, head("/ok/x", "POST"), "body", more)


@probe("by HTTP/2, a field in the trailers that names another path")
def override_trailers(host):
    more = frame(HEADERS, 5, 1, block([("x-original-url", f"/no/{host.tag}")]))
    return body(host, head("/ok/x", "POST"), "body", more)


@probe("by HTTP/2, HTTP/1.1 after the agreement")
def http1_after_h2(host):
    return say(host, secured(host, "h2"), filled(host, HIDDEN))


@probe("HTTP/2 without TLS in its tunnel")
def prior_knowledge(host):
    fields = [(name, filled(host, value)) for name, value in head("/no/{tag}")]
    return say(host, tunnel(host), PREFACE + frame(4, 0, 0) + frame(HEADERS, 5, 1, block(fields)))


@attempt("what the rules of an intercepted host open, by HTTP/2")
def opened_by_http2(host):
    return http2(host, head("/ok/{tag}"))
