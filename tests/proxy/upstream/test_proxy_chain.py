"""The proxy behind our proxy: what its URL may say, and what comes of each answer it can give."""

from __future__ import annotations

import base64
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace
from origin import serving, tls_context
from proxy_server import Upstream, upstream_proxy
from running_proxy import AUTH, PATIENT, QUICK, TOKEN, connect, http, running, until

from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.upstream_proxy import UpstreamProxy, parse_upstream_proxy
from nono_trio.errors import UsageError
from nono_trio.proxy.upstream import proxy_chain
from nono_trio.testing import FakeResolver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

USER = b"Basic " + base64.b64encode(b"jo:p w")


async def allowed_and_flows(proxy, count: int = 1):
    """The allow events as (mode, target, upstream), and the addresses that were dialled."""
    events = [event for event in proxy.recorder.events if event.decision == "allow"]
    flows = await proxy.flows(count)
    return [(one.mode, one.target, one.upstream) for one in events], [one.address for one in flows]


# -- what is passed on ----------------------------------------------------------------------------


async def test_a_tunnel_goes_through_by_name_and_keeps_what_comes_early():
    async with serving() as origin:
        behaviour = Upstream(origin.port, early=b"220 ready\r\n", interim=2)
        async with serving(behaviour) as upstream:
            settings = upstream_proxy(upstream.port)
            async with (
                running(["db.test:5432"], upstream_proxy=settings) as proxy,
                proxy.client() as wire,
            ):
                answer = await wire.exchange(connect("db.test:5432"), "CONNECT")
                assert answer is not None
                assert answer.status == 200
                assert await wire.receive_exactly(11) == b"220 ready\r\n"
                got = await wire.exchange(b"GET /small HTTP/1.1\r\nHost: db.test\r\n\r\n")
                assert got is not None
                assert got.status == 200
            events, addresses = await allowed_and_flows(proxy)
    assert behaviour.asked[0].target == b"db.test:5432"
    assert events == [("external", "db.test", f"127.0.0.1:{upstream.port}")]
    assert addresses == ["127.0.0.1"]
    assert proxy.resolver.asked == []  # what the name leads to is the upstream proxy's to say
    assert TOKEN.encode() not in behaviour.seen
    assert AUTH.encode() not in behaviour.seen


async def test_a_plain_request_goes_in_absolute_form_with_the_proxys_own_credentials():
    async with serving() as origin:
        behaviour = Upstream(origin.port, credentials=USER)
        async with serving(behaviour) as upstream:
            settings = upstream_proxy(upstream.port, user=USER)
            async with running(["web.test"], upstream_proxy=settings) as proxy:
                answer = await proxy.ask(http("GET", "http://web.test/a?b"))
                events, _ = await allowed_and_flows(proxy)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"ok")
    assert behaviour.asked[0].target == b"http://web.test/a?b"
    assert events[0][0] == "external"
    assert b"p w" not in repr(settings).encode()
    assert AUTH.encode() not in behaviour.seen


@pytest.mark.parametrize("bypass", ["web.test", "*.test"])
async def test_a_bypassed_host_and_loopback_and_a_pin_are_dialled(bypass):
    async with serving() as origin:
        settings = upstream_proxy(1, bypass)  # no server answers there
        port = origin.port
        async with running(
            [f"web.test:{port}", f"127.0.0.1:{port}", f"localhost:{port}", f"pin.example:{port}"],
            resolve=[f"web.test:{port}:127.0.0.1", f"pin.example:{port}:127.0.0.1"],
            resolver=FakeResolver({"localhost": [["127.0.0.1"]]}),
            upstream_proxy=settings,
        ) as proxy:
            for host in ("web.test", "127.0.0.1", "localhost", "pin.example"):
                answer = await proxy.ask(http("GET", f"http://{host}:{port}/small"))
                assert answer is not None
                assert answer.status == 200
            assert {event.mode for event in proxy.recorder.events} == {"reverse"}


async def test_rules_for_names_and_literals_hold():
    async with serving(Upstream(1)) as upstream:
        settings = upstream_proxy(upstream.port)
        async with running(["10.0.0.1:443"], upstream_proxy=settings) as proxy:
            for target in ("169.254.169.254:443", "other.test:443", "10.0.0.2:443"):
                answer = await proxy.ask(connect(target), "CONNECT")
                assert answer is not None
                assert answer.status == 403
    assert upstream.connections == 0


# -- what it may answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "category", "words"),
    [
        (Upstream(1, credentials=USER), "external_proxy_rejected", "asks for a user and password"),
        (Upstream(1, answer=b"HTTP/1.1 403 No\r\n\r\n"), "external_proxy_rejected", "(403)"),
        (Upstream(1, answer=b"HTTP/1.0 502 Bad\r\n\r\n"), "external_proxy_rejected", "(502)"),
        (Upstream(1, answer=b"HTTP/1.1 302 Go\r\n\r\n"), "external_proxy_rejected", "(302)"),
        (Upstream(1, answer=b"HTTP/1.1 100 W\r\n\r\n" * 99), "upstream_connect_failed", "interim"),
        (Upstream(1, answer=b"SSH-2.0-x\r\n\r\n"), "upstream_connect_failed", "malformed"),
        (Upstream(1, answer=b"HTTP/1.1 200 \x1b[2J\r\n\r\n"), "upstream_connect_failed",
         "malformed"),
        (Upstream(1, answer=b"HTTP/1.1 200 Fine\r\n"), "upstream_connect_failed", "closed"),
        (Upstream(1, answer=b""), "upstream_connect_failed", "closed"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_tunnel_is_told_and_recorded(behaviour, category, words):
    async with serving(behaviour) as upstream:
        settings = upstream_proxy(upstream.port)
        async with running(["a.test"], upstream_proxy=settings) as proxy:
            answer = await proxy.ask(connect("a.test:443"), "CONNECT")
            assert answer is not None
            assert answer.status == 502
            assert words.encode() in answer.body
            allow, deny = proxy.recorder.events
    assert (allow.decision, deny.decision, deny.denial_category) == ("allow", "deny", category)
    assert (deny.mode, deny.upstream) == ("external", f"127.0.0.1:{upstream.port}")
    assert deny.reason.isprintable()


async def test_a_407_for_a_plain_request_never_reaches_the_child():
    async with serving(Upstream(1, credentials=USER)) as upstream:
        settings = upstream_proxy(upstream.port)
        async with running(["a.test"], upstream_proxy=settings) as proxy:
            answer = await proxy.ask(http("GET", "http://a.test/"))
            assert answer is not None
            assert answer.status == 502
            assert b"--upstream-proxy-password" in answer.body
            _, deny = proxy.recorder.events
            assert deny.denial_category == "external_proxy_rejected"


async def test_an_upstream_proxy_that_is_dead_or_silent_is_told():
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with running(["a.test"], upstream_proxy=upstream_proxy(1)) as proxy:
        answer = await proxy.ask(connect("a.test:443"), "CONNECT")
        assert answer is not None
        assert (answer.status, b"connection refused" in answer.body) == (502, True)
    async with serving(silent) as upstream:
        settings = upstream_proxy(upstream.port)
        async with running(["a.test"], upstream_proxy=settings, limits=QUICK) as proxy:
            answer = await proxy.ask(connect("a.test:443"), "CONNECT")
            assert answer is not None
            assert (answer.status, b"did not answer" in answer.body) == (504, True)


# -- TLS to the proxy -----------------------------------------------------------------------------


def under_tls(context: ssl.SSLContext, behaviour: Callable[[trio.abc.Stream], Awaitable[None]]):
    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await behaviour(tls)
            await tls.aclose()
        except trio.BrokenResourceError:
            pass

    return serve


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_proxy_that_speaks_tls(tmp_path, monkeypatch, trusted):
    context, authority = tls_context(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(proxy_chain, "LOOK_SECONDS", 0.01)
    async with serving() as origin:
        behaviour = under_tls(context, Upstream(origin.port, credentials=USER))
        async with serving(behaviour) as upstream:
            settings = upstream_proxy(upstream.port, user=USER, scheme="https")
            named = UpstreamProxy(
                "https", parse_host("localhost"), upstream.port,
                authorization=settings.authorization,
            )  # fmt: skip
            resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
            settings = {
                "upstream_proxy": named,
                "limits": replace(PATIENT, idle=2.0),  # TLS isn't half closed: the tunnel ends idle
            }
            async with (
                running(["a.test:81"], resolver=resolver, **settings) as proxy,
                proxy.client() as wire,
            ):
                answer = await wire.exchange(connect("a.test:81"), "CONNECT")
                assert answer is not None
                if not trusted:
                    assert answer.status == 502
                    assert b"certificate can't be trusted" in answer.body
                    assert b"hint: set SSL_CERT_FILE" in answer.body
                    return
                got = await wire.exchange(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
                assert got is not None
                assert got.body == b"ok"
                await wire.end()
                assert await wire.ends()
                events, _ = await allowed_and_flows(proxy)
    assert events == [("external", "a.test", f"localhost:{upstream.port}")]


async def test_a_proxy_without_tls_that_is_asked_by_tls_and_one_without_an_address():
    async with serving() as origin, serving(Upstream(origin.port)) as upstream:
        settings = upstream_proxy(upstream.port, scheme="https")
        async with running(["a.test:81"], upstream_proxy=settings) as proxy:
            answer = await proxy.ask(connect("a.test:81"), "CONNECT")
            assert answer is not None
            assert b"write http:// in --upstream-proxy" in answer.body
    nowhere = UpstreamProxy("http", parse_host("proxy.test"), 3128)
    async with running(["a.test:81"], upstream_proxy=nowhere) as proxy:
        answer = await proxy.ask(connect("a.test:81"), "CONNECT")
        assert answer is not None
        told = b"can't look up the upstream proxy proxy.test:3128: the name is not in the table"
        assert told in answer.body


@pytest.mark.parametrize("method", ["POST", "CONNECT"])
async def test_a_tls_proxy_that_takes_no_more_keeps_nothing_of_clients_that_left(
    tmp_path, monkeypatch, method
):
    context, authority = tls_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(proxy_chain, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(proxy_chain, "LAST_SECONDS", 0.05)
    ended = trio.Event()

    async def takes_no_more(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10_000)
        if method == "CONNECT":
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await ended.wait()

    request = connect("a.test:81")
    if method == "POST":
        request = http("POST", "http://a.test:81/", "Content-Length: 900000000")
    async with serving(under_tls(context, takes_no_more)) as upstream:
        named = UpstreamProxy("https", parse_host("localhost"), upstream.port)
        resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
        async with running(["a.test:81"], resolver=resolver, upstream_proxy=named) as proxy:
            async with proxy.client() as wire:
                await wire.send(request)
                if method == "CONNECT":
                    await wire.answer("CONNECT")
                with trio.move_on_after(0.5):
                    while True:
                        await wire.send(bytes(100_000))
                wire.reset()
            [flow] = await proxy.flows(1)
            assert flow.closed_by == "client"
            relays = proxy.proxy.chain.relays
            await until(lambda: not any("_relay_tls" in one.name for one in relays.child_tasks))
        ended.set()


# -- the value of the flag -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "scheme"),
    [
        ("http://proxy.corp.test:3128", "proxy.corp.test:3128", "http"),
        ("proxy.corp.test:3128", "proxy.corp.test:3128", "http"),
        ("https://proxy.corp.test", "proxy.corp.test:443", "https"),
        ("http://[2001:db8::1]:3128/", "[2001:db8::1]:3128", "http"),
        ("HTTP://jo@10.0.0.1:3128", "10.0.0.1:3128", "http"),
    ],
)
def test_urls(text, shown, scheme):
    proxy = parse_upstream_proxy(text, [], None, {})
    assert proxy is not None
    assert (proxy.shown, proxy.scheme) == (shown, scheme)


@pytest.mark.parametrize(
    "text",
    ["", "a.test", "http://a.test", "socks5://a.test:1080", "http://jo:secret@a.test:1", "http://a.test:0",
     "a.test:99999",
     "http://a.test:3128/path", "http://", "http://a b:1", "http://0x7f.1:1"],
)  # fmt: skip
def test_what_is_no_url_of_a_proxy_is_refused_without_its_password(text):
    with pytest.raises(UsageError) as refused:
        parse_upstream_proxy(text, [], None, {})
    assert refused.value.hint is not None
    assert "secret" not in refused.value.message + refused.value.hint


def test_the_environment_names_a_proxy_its_credentials_and_its_exceptions():
    environ = {
        "HTTPS_PROXY": "http://jo:p%20w@proxy.test:3128",
        "NO_PROXY": "localhost,.corp.test, 10.0.0.0/8,[2001:db8::1],bad_/,*.x.test",
    }
    proxy = parse_upstream_proxy("env", ["more.test"], None, environ)
    assert proxy is not None
    assert (proxy.shown, proxy.authorization) == ("proxy.test:3128", USER)
    assert proxy.source == "HTTPS_PROXY"
    for direct in ("corp.test", "a.corp.test", "10.1.2.3", "2001:db8::1", "more.test", "127.0.0.5",
                   "localhost", "a.localhost", "a.x.test"):  # fmt: skip
        assert proxy.bypass.covers(parse_host(direct)), direct
    for through in ("a.more.test", "notcorp.test", "11.0.0.1", "2001:db8::2"):
        assert not proxy.bypass.covers(parse_host(through)), through
    assert parse_upstream_proxy("env", [], None, {"NO_PROXY": "*"}) is None
    every = parse_upstream_proxy("env", [], None, {**environ, "no_proxy": "*"})
    assert every is not None
    assert every.bypass.covers(parse_host("a.test"))


@pytest.mark.parametrize(
    ("entry", "written"),
    [
        ("https://a.test/x", "a.test"),
        ("a.test:8080", "a.test"),
        ("10.0.0.0/8", "10.0.0.0"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
    ],
)
def test_a_bypass_that_is_no_host_is_told_with_the_host_in_it(entry, written):
    with pytest.raises(UsageError, match="expected a host, got a ") as refused:
        upstream_proxy(1, entry)
    assert refused.value.hint == f"--upstream-bypass {written}"
    upstream_proxy(1, written)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--upstream-proxy", "http://jo:swordfish@a.test:1"], "everybody can read a command line"),
        (["--upstream-bypass", "a.test"], "--upstream-bypass needs --upstream-proxy"),
        (["--upstream-proxy", "http://jo@a.test:1", "--upstream-proxy-password", "swordfish"],
         "expected env://VARIABLE or file://PATH"),
        (["--upstream-proxy", "http://jo@a.test:1", "--upstream-proxy-password", "env://NOPE"],
         "the variable 'NOPE' is not set"),
        (["--upstream-proxy", "http://a.test:1", "--upstream-proxy-password", "env://CORP"],
         "expected a user for the password"),
        (["--upstream-proxy", "http://jo@a.test:1", "--upstream-proxy-password", "file:///nope"],
         "/nope: no such file"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_one_sentence(sessions, arguments, told):
    sessions.variables["CORP"] = "swordfish"
    done = sessions.run("--dry-run", *arguments, "--", "true")
    assert done.returncode == 2
    assert told in done.stderr
    assert "swordfish" not in done.stderr


def test_an_environment_that_names_no_proxy_is_told(sessions):
    options = ["--upstream-proxy", "env", "--dry-run", "--", "true"]
    assert "connections go out directly" in sessions.run(*options).stderr
    sessions.variables["HTTPS_PROXY"] = "http://a.test:3128"
    assert "connections go out directly" not in sessions.run(*options).stderr


def test_the_password_is_not_passed_on_and_the_cage_says_where_it_goes(sessions):
    sessions.variables["CORP"] = "s3cret"
    options = ["--upstream-proxy", "http://jo@a.test:3128", "--upstream-proxy-password",
               "env://CORP", "--env-allow", "CORP"]  # fmt: skip
    done = sessions.run("-s", *options, "--", "sh", "-c", "env")
    assert done.returncode == 0
    assert "s3cret" not in done.stdout
    shown = sessions.run("-s", *options, "--dry-run", "--", "true")
    assert "through the upstream proxy a.test:3128" in shown.stdout
    assert "s3cret" not in shown.stdout
    log = subprocess.run(["grep", "-r", "s3cret", str(sessions.state)], check=False)
    assert log.returncode == 1
