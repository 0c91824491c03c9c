"""The supervisor's own connection to a token endpoint, on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest
from harness import serving
from oauth_server import CLIENT, SECRET, OAuthServer
from own_ca import write_authority

from nono_trio.core.credentials.oauth2 import parse_oauth2, token_request
from nono_trio.core.credentials.token_answer import MAX_ANSWER, read_token_answer
from nono_trio.core.policy.upstream_proxy import parse_upstream_proxy
from nono_trio.session.tokens import token_endpoint
from nono_trio.session.tokens.token_endpoint import EndpointFailed, Route, TokenEndpoint

HOST = "auth.example"
LOOPBACK = ("127.0.0.1",)


def asked(url: str, route: Route, secret: str = SECRET, **settings: str):
    found = parse_oauth2(
        "api", token_url=url, client_id=CLIENT, client_secret="env://X", **settings
    )
    return TokenEndpoint(found.token_url, route).post(token_request(found, secret.encode()))


def near(*roots: bytes, **settings) -> Route:
    return Route(roots, lambda _name: LOOPBACK, **settings)


@pytest.fixture
def tls(tmp_path):
    """A server under TLS, its URL, and the root that signed it."""
    certificate, key = write_authority(tmp_path)
    server = OAuthServer(HOST, certificate, key)
    root = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    with serving(server):
        yield server, f"https://{HOST}:{server.port}/oauth/token", root


@pytest.fixture
def plain():
    """A server without TLS, and its URL."""
    server = OAuthServer()
    with serving(server):
        yield server, f"http://{HOST}:{server.port}/oauth/token"


@contextmanager
def saying(*pieces: bytes, closes: bool = True):
    """A port that reads a request, says some bytes and closes, or goes on waiting."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            sock.recv(65536)
            for piece in pieces:
                sock.sendall(piece)
            if not closes:
                ended.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://{HOST}:{listener.getsockname()[1]}/oauth/token"
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("auth", ["basic", "post"])
def test_a_token_comes_over_verified_tls(tls, auth):
    server, url, root = tls
    answer = asked(url, near(root), auth=auth)
    assert answer.status == 200
    found = read_token_answer(answer.content_type, answer.body)
    assert found.tokens["access_token"].decode() in server.valid
    assert found.lifetime == 3600
    assert "gho_" not in repr(answer) + repr(found)


@pytest.mark.parametrize(
    ("roots", "host", "words"),
    [
        (False, HOST, "self-signed certificate in the chain"),
        (True, "other.example", "name does not match"),
    ],
)
def test_a_certificate_that_is_not_valid_ends_it_before_the_secret_goes(tls, roots, host, words):
    server, url, root = tls
    with pytest.raises(EndpointFailed, match=words):
        asked(url.replace(HOST, host), near(*[root] * roots))
    assert server.requests == []


def test_plain_http_does_not_leave_the_machine():
    dialled = Route((), lambda _name: ("127.0.0.1", "192.0.2.1"))
    with pytest.raises(EndpointFailed, match="no address that tokens may go to"):
        asked("http://auth.example:9/oauth/token", dialled)


def test_the_upstream_proxy_is_used_unless_it_is_not_for_the_host(tls, plain):
    server, url, root = tls
    seen = []

    def far(name: str) -> tuple[str, ...]:
        seen.append(name)
        return LOOPBACK

    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def relay() -> None:
        with listener, listener.accept()[0] as near_end:
            heads.append(near_end.recv(65536))
            near_end.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", server.port)) as far_end:
                back = threading.Thread(target=_copy, args=(far_end, near_end))
                back.start()
                _copy(near_end, far_end)
                back.join()

    thread = threading.Thread(target=relay)
    thread.start()
    proxy = parse_upstream_proxy(
        f"http://me@proxy.example:{listener.getsockname()[1]}", [], b"pass", {}
    )
    assert asked(url, Route((root,), far, proxy=proxy)).status == 200
    thread.join()
    assert seen == ["proxy.example"]
    assert heads[0].startswith(f"CONNECT {HOST}:{server.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in heads[0]
    direct = parse_upstream_proxy("http://proxy.example:9", [HOST], None, {})
    assert asked(url, Route((root,), far, proxy=direct)).status == 200
    for through in ("https://proxy.example:9", "http://proxy.example:9"):
        other = parse_upstream_proxy(through, [], None, {})
        with pytest.raises(EndpointFailed) as refused:
            asked(plain[1], near(proxy=other))
        assert refused.value.hint == f"connect directly: --upstream-bypass {HOST}"


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-x\r\n\r\n", "malformed"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", "more than one framing"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed"),
        (HEAD + b"\r\n" + b"x" * (MAX_ANSWER + 1), "longer than"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "interim"),
    ],
)
def test_an_answer_that_is_no_http_is_an_error_without_its_text(said, words):
    with saying(said) as url, pytest.raises(EndpointFailed, match=words) as failed:
        asked(url, near())
    assert "SSH" not in failed.value.reason


def test_a_silent_endpoint_has_a_deadline(monkeypatch):
    monkeypatch.setattr(token_endpoint, "SECONDS", 0.2)
    with (
        saying(HEAD, closes=False) as url,
        pytest.raises(EndpointFailed, match="did not answer within"),
    ):
        asked(url, near())


def test_a_question_ends_when_the_session_does():
    failures: list[EndpointFailed] = []

    def ask() -> None:
        try:
            endpoint.post(token_request(settings, b"secret"))
        except EndpointFailed as failed:
            failures.append(failed)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}/oauth/token"
        settings = parse_oauth2("api", token_url=url, client_id=CLIENT, client_secret="env://X")
        endpoint = TokenEndpoint(settings.token_url, near())
        thread = threading.Thread(target=ask)
        thread.start()
        with listener.accept()[0] as sock:
            sock.recv(65536)
            endpoint.stop()
            thread.join(60)
    assert not thread.is_alive()
    assert len(failures) == 1
    with pytest.raises(EndpointFailed, match="the session has ended"):
        endpoint.post(token_request(settings, b"secret"))


def test_a_port_without_a_listener_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(EndpointFailed, match="can't be reached"):
        asked(f"http://{HOST}:{port}/oauth/token", near())
