"""Connections whose TLS ends in the proxy: each request is decided, recorded and forwarded."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
import trio
import trio.testing
from looked_into import (
    HOST,
    authority,
    client_context,
    looking_into,
    looking_into_cage,
    under_tls,
)
from msgspec.structs import replace
from running_proxy import BOUND, QUICK, connect, http, until
from transparent_cage import LITERAL, get

from nono_trio.core.log.events import NetworkEvent
from nono_trio.errors import AuditBusy
from nono_trio.proxy.intercept import session_authority
from nono_trio.proxy.intercept.upstream_tls import HostTls
from nono_trio.testing import MemoryRecorder

RULES = (f"allow GET,POST https://{HOST}/api/**", f"deny GET https://{HOST}/api/secret")


async def test_requests_in_a_tunnel_are_decided_one_by_one():
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        assert (await wire.exchange(get(HOST, "/api/small"))).status == 200
        denied = await wire.exchange(get(HOST, "/other?token=s3cret"))
        assert denied.status == 403
        assert b"fits no endpoint rule" in denied.body
        assert b"--allow-endpoint 'GET https://allowed.test/other'" in denied.body
        secret = await wire.exchange(get(HOST, "/api/secret"))
        assert (secret.status, b"is denied by the endpoint rule" in secret.body) == (403, True)
        assert (await wire.exchange(get(HOST, "/api/x/../small?a=b"))).status == 200
        assert at.records() == [
            ("connect", "allow", "CONNECT", None),
            ("connect_intercept", "allow", "CONNECT", None),
            ("connect_intercept", "allow", "GET", "/api/small"),
            ("connect_intercept", "deny", "GET", "/other?token=[REDACTED]"),
            ("connect_intercept", "deny", "GET", "/api/secret"),
            ("connect_intercept", "allow", "GET", "/api/small?a=[REDACTED]"),
        ]
        assert [one.target for one in at.origin.requests] == [b"/api/small", b"/api/small?a=b"]
        assert at.origin.connections == 1, "kept alive"
        allowed, no_rule, denied_rule = (at.proxy.recorder.events[i] for i in (2, 3, 4))
        assert allowed.endpoint_policy_action == "allow"
        assert allowed.endpoint_policy_rule == f"GET,POST https://{HOST}/api/**"
        assert no_rule.denial_category == denied_rule.denial_category == "endpoint_policy"
        assert (no_rule.target, no_rule.port) == (HOST, 443)
    assert [(f.status, f.first_byte_ms is not None) for f in at.proxy.recorder.flows[:2]] == [
        (200, True),
        (200, True),
    ]


async def test_requests_of_a_program_that_knows_of_no_proxy():
    async with looking_into_cage(*RULES) as (at, origin), at.connection(HOST, 443) as raw:
        async with under_tls(raw) as wire:
            assert (await wire.exchange(get(HOST, "/api/small"))).status == 200
            assert (await wire.exchange(get(HOST, "/other"))).status == 403
        assert await at.events(3) == [
            ("allow", HOST, 443, "TLS"),
            ("allow", HOST, 443, "GET"),
            ("deny", HOST, 443, "GET"),
        ]
        assert {event.mode for event in at.recorder.events} == {"connect_intercept"}
        assert origin.connections == 1


async def test_a_connection_by_address_that_is_intercepted_has_no_denial():
    """No entry allows the address; the name in the hello is allowed."""
    async with looking_into_cage(*RULES) as (at, _), at.connection(LITERAL, 443) as raw:
        async with under_tls(raw) as wire:
            assert (await wire.exchange(get(HOST, "/api/small"))).status == 200
        await until(lambda: len(at.recorder.flows) == 2)
        await trio.testing.wait_all_tasks_blocked()  # until the connection's handler has ended
        assert [event.decision for event in at.recorder.events] == ["allow", "allow"]


async def test_a_host_that_is_only_looked_into_gets_its_paths_unchanged():
    async with looking_into() as at, at.tunnel() as wire:
        for path in ("/a%2Fb", "/a/../b", "/%7euser", "//x"):
            assert (await wire.exchange(get(HOST, path))).status == 200
        assert [one.target.decode() for one in at.origin.requests] == [
            "/a%2Fb", "/a/../b", "/%7euser", "//x",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "status"), [("other.test", 421), (f"{HOST}:8443", 400), (f"{HOST}:443", 200),
                         (HOST.upper(), 200), ("192.0.2.1", 421)],
)  # fmt: skip
async def test_the_host_field_must_agree_with_the_connection(host, status):
    async with looking_into(*RULES, allow=(HOST, "other.test")) as at, at.tunnel() as wire:
        assert (await wire.exchange(get(host, "/api/x"))).status == status
        assert len(at.origin.requests) == (status == 200)
        assert at.proxy.recorder.events[-1].target == (
            "other.test"
            if status == 421 and host == "other.test"
            else at.proxy.recorder.events[-1].target
        )


async def test_a_host_with_roots_of_its_own_has_a_hint_that_names_them():
    files = HostTls(ca=authority("nobody").pem())
    for hosts, hint in (
        ({}, b"trust its issuer with --upstream-ca FILE"),
        ({HOST: files}, b"to the file that network.tls_ca names for allowed.test"),
    ):
        async with looking_into(trusts="nobody", hosts=hosts) as at, at.tunnel() as wire:
            answer = await wire.exchange(get(HOST, "/x"))
            assert (answer.status, hint in answer.body) == (502, True), answer.body


async def test_a_certificate_that_can_not_be_made_is_a_record(monkeypatch, caplog):
    def fails(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with looking_into() as at:
        monkeypatch.setattr(session_authority, "load_chain", fails)
        with pytest.raises(trio.BrokenResourceError):
            async with at.tunnel():
                pass
        event = at.proxy.recorder.events[-1]
        assert event.denial_category == "intercept_handshake_failed"
        assert "could not make the host's certificate" in (event.reason or "")
    assert not [one for one in caplog.messages if "bug" in one]


async def test_plain_http_to_the_host_obeys_the_same_rules():
    async with looking_into(*RULES) as at:
        for port in ("", ":8443"):
            answer = await at.proxy.ask(http("GET", f"http://{HOST}{port}/other"))
            assert (answer.status, b"fits no endpoint rule" in answer.body) == (403, True)
        assert at.origin.connections == 0
        async with at.proxy.client() as wire:
            assert (await wire.exchange(connect(f"{HOST}:8443"), "CONNECT")).status == 200
            answer = await wire.exchange(get(f"{HOST}:8443", "/other"))
            assert answer.status == 403
        assert at.origin.connections == 0


async def test_tls_on_another_port_is_looked_into():
    rule = f"allow GET https://{HOST}:8443/api/**"
    async with looking_into(rule) as at, at.tunnel(f"{HOST}:8443") as wire:
        assert (await wire.exchange(get(f"{HOST}:8443", "/api/x"))).status == 200
        assert (await wire.exchange(get(f"{HOST}:8443", "/x"))).status == 403
    async with looking_into_cage(f"allow GET https://{HOST}:22/api/**") as (cage, _):
        async with cage.connection(HOST, 22) as raw, under_tls(raw) as wire:
            assert (await wire.exchange(get(f"{HOST}:22", "/api/x"))).status == 200
        async with cage.connection(HOST, 22) as wire:
            assert (await wire.exchange(get(f"{HOST}:22", "/x"))).status == 403


async def test_bytes_of_another_protocol_are_refused_on_every_port():
    async with looking_into() as at:
        for port in (443, 8443):
            async with at.proxy.client() as wire:
                assert (await wire.exchange(connect(f"{HOST}:{port}"), "CONNECT")).status == 200
                await wire.send(b"SSH-2.0-x\r\n")
                assert await wire.ends()
        async with at.tunnel() as wire:
            answer = await wire.exchange(b"SSH-2.0-x\r\n\r\n")
            assert (answer.status, b"--no-intercept allowed.test" in answer.body) == (400, True)
        denied = [one for one in at.proxy.recorder.events if one.decision == "deny"]
        assert [one.reason for one in denied] == [
            "expected a TLS client hello, got something else",
            "expected TLS or an HTTP/1.1 request, got something else",
            "expected an HTTP/1.1 request under TLS, got something else",
        ]
        assert at.origin.connections == 0
    async with looking_into_cage(limits=QUICK) as (cage, origin):
        async with cage.connection(HOST, 22) as wire:
            assert await wire.ends()
        assert cage.reasons == ["nothing came, where TLS or an HTTP/1.1 request was expected"]
        assert origin.connections == 0


@pytest.mark.parametrize(("port", "count"), [(443, 0), (8443, 1)])
async def test_a_client_under_tls_that_waits_for_the_server_is_recorded(port, count):
    """As with IMAP under TLS. On port 443 it may be a connection in reserve."""
    async with looking_into(limits=replace(QUICK, head=BOUND)) as at:
        async with at.tunnel(f"{HOST}:{port}") as wire:
            assert await wire.ends()
        async with at.tunnel(f"{HOST}:{port}") as wire:  # this one has asked for something
            assert (await wire.exchange(get(f"{HOST}:{port}", "/"))).status == 200
            assert await wire.ends()
        denied = [one.reason for one in at.proxy.recorder.events if one.decision == "deny"]
        assert denied == ["nothing came, where TLS or an HTTP/1.1 request was expected"] * count
        assert at.origin.connections == 1


async def test_a_server_that_speaks_no_http1_is_a_502():
    async def refusing(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"\x15\x03\x03\x00\x02\x02\x78")  # no_application_protocol

    async with looking_into(behaviour=refusing) as at, at.tunnel() as wire:
        answer = await wire.exchange(get(HOST, "/"))
        assert answer.status == 502
        assert b"no application protocol in common" in answer.body


async def test_a_program_that_does_not_trust_the_session_is_recorded():
    def shake_hands(port: int) -> None:
        """As most programs do it: trio's own client sends no alert."""
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(connect(f"{HOST}:443"))
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            with pytest.raises(ssl.SSLCertVerificationError):
                client_context(trusts="nobody").wrap_socket(sock, server_hostname=HOST)

    async with looking_into() as at:
        await trio.to_thread.run_sync(shake_hands, at.proxy.port)
        await until(lambda: len(at.proxy.recorder.events) == 3)
        event = at.proxy.recorder.events[-1]
        assert (event.mode, event.decision) == ("connect_intercept", "deny")
        assert event.denial_category == "intercept_handshake_failed"
        assert "does not trust the session's certificate authority" in event.reason
        assert at.origin.connections == 0


async def test_a_client_without_http1_gets_the_alert_for_it():
    async with looking_into() as at:
        async with at.proxy.client() as wire:
            assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
            with pytest.raises(trio.BrokenResourceError) as raised:
                async with under_tls(wire, context=client_context(alpn=("h2",))):
                    pass
            assert "no application protocol" in str(raised.value.__cause__)
        assert at.records()[1:] == [
            ("connect_intercept", "allow", "CONNECT", None),  # the server was asked
            ("connect_intercept", "deny", "CONNECT", None),
        ]
        assert "does not speak HTTP/2" in at.proxy.recorder.events[-1].reason
        async with at.proxy.client() as wire:
            assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
            context = client_context(alpn=("h2", "http/1.1"))
            async with under_tls(wire, context=context) as secure:
                assert secure.stream.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"trusts": "nobody"}, "self-signed certificate in the chain"),
        ({"name": "elsewhere.test"}, "name does not match"),
    ],
)
async def test_a_server_that_can_not_be_verified_is_a_502(settings, reason):
    async with looking_into(**settings) as at, at.tunnel() as wire:
        answer = await wire.exchange(get(HOST, "/"))
        assert answer.status == 502
        assert reason in answer.body.decode()
        event = at.proxy.recorder.events[-1]
        assert (event.decision, event.denial_category) == ("deny", "upstream_connect_failed")
        assert reason in event.reason
        assert not at.origin.requests


async def test_a_server_without_tls_is_a_502():
    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with looking_into(behaviour=plain) as at, at.tunnel() as wire:
        answer = await wire.exchange(get(HOST, "/"))
        assert (answer.status, b"does not speak TLS" in answer.body) == (502, True)


async def test_bodies_go_both_ways_and_long_ones_stream():
    async with looking_into() as at, at.tunnel() as wire:
        for size in (10, 3_000_000):
            answer = await wire.exchange(get(HOST, f"/bytes/{size}"))
            assert (answer.complete, len(answer.body)) == (True, size)
        answer = await wire.exchange(get(HOST, "/chunked/50"))
        assert answer.body == b"".join(b"%d," % one for one in range(50))
        body = bytes(300_000)
        head = get(HOST, "/sink", f"Content-Length: {len(body)}").replace(b"GET", b"POST")
        answer = await wire.exchange(head + body)
        assert answer.body == b"300000"
        await wire.send(get(HOST, "/events"))
        got = b""
        while b"data: one" not in got:
            got += await wire.receive()
        at.origin.released.set()
        with trio.fail_after(BOUND):
            while not got.endswith(b"0\r\n\r\n"):
                got += await wire.receive()
        assert b"data: two" in got


async def test_a_plain_connection_is_never_reused_for_a_request_under_tls():
    """Both have the same host and port."""
    seen: list[bytes] = []

    async def behaviour(stream: trio.SocketStream) -> None:
        seen.append(b"")
        place = len(seen) - 1
        async for data in stream:
            seen[place] += data
            if data.startswith(b"GET "):
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with looking_into(behaviour=behaviour) as at, at.proxy.client() as wire:
        assert (await wire.exchange(http("GET", f"http://{HOST}:443/plain"))).status == 200
        assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
        async with under_tls(wire) as secure:
            await secure.send(get(HOST, "/secret"))
            await until(lambda: len(seen) == 2 and bool(seen[1]))
        assert seen[0].count(b"GET ") == 1
        assert seen[1][:1] == b"\x16"


async def test_nothing_happens_before_its_record():
    """No byte of a handshake, no dial, no byte of an answer."""
    recorder, handshake, request = MemoryRecorder(), trio.Event(), trio.Event()

    async def hold(event: NetworkEvent) -> None:
        if event.mode == "connect_intercept":
            await (handshake if event.path is None else request).wait()

    recorder.before_commit = hold
    async with looking_into(*RULES, recorder=recorder) as at, at.proxy.client() as wire:
        assert (await wire.exchange(connect(f"{HOST}:443"), "CONNECT")).status == 200
        async with trio.open_nursery() as nursery:
            got: list[int] = []

            async def ask() -> None:
                async with under_tls(wire) as secure:
                    got.append(0)
                    answer = await secure.exchange(get(HOST, "/api/small"))
                    got.append(answer.status)

            nursery.start_soon(ask)
            await trio.sleep(0.05)
            assert (got, len(recorder.events)) == ([], 1)
            handshake.set()
            await until(lambda: len(recorder.events) == 2 and bool(got))
            await trio.sleep(0.05)
            assert (got, len(recorder.events), at.origin.connections) == ([0], 2, 0)
            request.set()
        assert (got, at.origin.connections) == ([0, 200], 1)


@pytest.mark.parametrize("is_transparent", [False, True])
async def test_a_log_that_can_not_keep_up_is_a_503_under_tls_and_a_cut_before_it(is_transparent):
    recorder = MemoryRecorder()
    busy = {"request"}

    async def fail(event: NetworkEvent) -> None:
        kind = "handshake" if event.path is None else "request"
        if event.mode == "connect_intercept" and kind in busy:
            raise AuditBusy("the log is full")

    recorder.before_commit = fail
    if is_transparent:
        async with looking_into_cage(*RULES, recorder=recorder) as (cage, origin):
            async with cage.connection(HOST, 443) as raw, under_tls(raw) as wire:
                assert (await wire.exchange(get(HOST, "/api/small"))).status == 503
            busy.add("handshake")
            async with cage.connection(HOST, 443) as raw:
                with pytest.raises(trio.BrokenResourceError):
                    async with under_tls(raw):
                        pass
            assert origin.connections == 0
        return
    async with looking_into(*RULES, recorder=recorder) as at:
        async with at.tunnel() as wire:
            assert (await wire.exchange(get(HOST, "/api/small"))).status == 503
        busy.add("handshake")
        async with at.proxy.client() as wire:
            await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
            with pytest.raises(trio.BrokenResourceError):
                async with under_tls(wire):
                    pass
        assert at.origin.connections == 0
