"""Reverse routes of the proxy's own listener: by name to one host, with the stand-in as the key."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field

import pytest
import trio
from aws_requests import check, held_keys, signed
from held_credentials import SECRET, credentials, foreign, held
from looked_into import HOST, LookedInto, looking_into, origin_context
from origin import says, serving
from proxy_server import Upstream, upstream_proxy
from running_proxy import AUTH, running
from websocket_peer import FIELDS, agreeing, head_of

from nono_trio.core.credentials.credential import Credential, Place, parse_bound_host
from nono_trio.core.credentials.route import Route, make_route
from nono_trio.errors import UsageError
from nono_trio.testing import FakeResolver, LoopbackDialler

STAND_IN = b"sk-ant-api03-Zq8vK2mX0aLr7TyWc4NfHb1Ej9RoPd5SgUi3"
ALL = frozenset(Place)


@dataclass
class Held:
    """A `HeldRoute`."""

    route: Route
    stand_in: bytes = field(default=STAND_IN, repr=False)


def credential(*hosts: str, name: str = "model", places=ALL) -> Credential:
    bound = tuple(parse_bound_host(name, one) for one in hosts or [HOST])
    return Credential(name, "env://X", bound, places)


def routed(*hosts: str, **more) -> Held:
    return Held(make_route(credential(*hosts, **more)))


def request(target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:8080", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body


def bearer(value: bytes = STAND_IN) -> str:
    return f"Authorization: Bearer {value.decode()}"


def last(at: LookedInto):
    return at.proxy.recorder.events[-1]


async def under_tls(behaviour):
    """A behaviour of an origin with TLS."""
    tls = await origin_context()

    async def secure(stream: trio.SocketStream) -> None:
        await behaviour(trio.SSLStream(stream, tls, server_side=True))

    return secure


def shown(event) -> tuple[object, ...]:
    return (event.mode, event.decision, event.route_id, event.auth_mechanism, event.auth_outcome)


async def test_a_request_goes_to_the_host_of_the_route_under_tls_and_its_record_names_the_route():
    async with looking_into(routes=[routed()]) as at, at.proxy.client() as wire:
        for _ in range(2):  # on one connection each way
            answer = await wire.exchange(request("/model/v1?a=1", bearer()))
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"ok")
        seen = at.origin.requests[-1]
        assert (seen.method, seen.target) == (b"GET", b"/v1?a=1")
        assert dict(seen.headers)[b"host"] == HOST.encode()
        assert at.origin.connections == 1
        event = last(at)
        assert shown(event) == ("reverse", "allow", "model", "phantom_header", "succeeded")
        assert (event.target, event.port, event.method) == (HOST, 443, "GET")
        assert event.path == "/v1?a=[REDACTED]"
        assert STAND_IN.decode() not in repr(at.proxy.recorder.events)


@pytest.mark.parametrize(
    ("target", "fields", "mechanism"),
    [
        ("/model/small", [f"X-Api-Key: {STAND_IN.decode()}"], "phantom_header"),
        (
            "/model/small",
            [f"Authorization: Basic {b64encode(b'x:' + STAND_IN).decode()}"],
            "phantom_header",
        ),
        (f"/model/small?key={STAND_IN.decode()}", [], "phantom_query"),
        (f"/model/bot/{STAND_IN.decode()}/small", [], "phantom_path"),
        ("/model/small", [f"Proxy-Authorization: {AUTH}"], "proxy_authorization"),
    ],
)
async def test_the_stand_in_is_found_in_each_place_and_the_token_is_enough(
    target, fields, mechanism
):
    async with looking_into(routes=[routed()]) as at:
        answer = await at.proxy.ask(request(target, *fields))
        assert answer is not None
        assert at.origin.requests
        assert last(at).auth_mechanism == mechanism
        assert last(at).auth_outcome == "succeeded"
        assert b"proxy-authorization" not in bytes(at.origin.seen).lower()


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [bearer(STAND_IN[:-1])],
        [bearer(STAND_IN + b"x")],
        [f"X-Other: {STAND_IN.decode()}"],
        ["Authorization: Basic !"],
        ["Proxy-Authorization: Bearer wrong"],
    ],
)
async def test_a_request_without_the_stand_in_is_asked_for_it_and_goes_nowhere(fields):
    async with looking_into(routes=[routed()]) as at, at.proxy.client() as wire:
        answer = await wire.exchange(request("/model/small", *fields))
        assert answer is not None
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert at.origin.connections == 0
        event = last(at)
        assert (event.decision, event.denial_category) == ("deny", "authentication_failed")
        assert event.route_id == "model"
        answer = await wire.exchange(request("/model/small", bearer()))
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize(
    "target", ["/", "/other/small", "/modelx/small", "/MODEL/small", "/%6dodel/"]
)
async def test_a_path_that_names_no_route_is_not_found(target):
    async with looking_into(routes=[routed()]) as at:
        tunnel = request("/model/small", bearer(), method="CONNECT")
        for raw in (request(target, bearer()), tunnel):
            answer = await at.proxy.ask(raw)
            assert answer is not None
            assert answer.status == 404
        assert at.origin.connections == 0


@pytest.mark.parametrize(
    "target",
    [
        "/model/../other/x",
        "/model/..",
        "/model/%2e%2e/other/x",
        "/model/a/../../other",
        "/model/%252e%252e/x",
        "/model/..%2fx",
        "/model/..;x/y",
        "/model//evil.test/x",
        "/model/a\\b",
    ],
)
async def test_no_path_leads_out_of_a_route(target):
    async with looking_into(routes=[routed(), routed("other.test", name="other")]) as at:
        answer = await at.proxy.ask(request(target, bearer()))
        assert answer is not None
        assert answer.status in (400, 403)
        assert at.origin.connections == 0
        assert last(at).decision == "deny"


async def test_without_routes_a_request_in_origin_form_is_malformed_as_ever():
    async with looking_into() as at:
        answer = await at.proxy.ask(request("/model/small", bearer()))
        assert answer is not None
        assert answer.status == 400


async def test_endpoint_rules_judge_the_url_of_the_host():
    rule = f"allow GET https://{HOST}/small"
    async with looking_into(rule, allow=(), routes=[routed()]) as at, at.proxy.client() as wire:
        answer = await wire.exchange(request("/model/small", bearer()))
        assert answer is not None
        assert answer.status == 200
        answer = await wire.exchange(request("/model/echo", bearer(), method="POST", body=b"x"))
        assert answer is not None
        assert answer.status == 403
        assert len(at.origin.requests) == 1
        assert last(at).denial_category == "endpoint_policy"
        assert last(at).route_id == "model"


async def test_a_route_to_a_host_that_is_not_allowed_is_denied():
    async with looking_into(routes=[routed("denied.test")]) as at:
        answer = await at.proxy.ask(request("/model/small", bearer()))
        assert answer is not None
        assert answer.status == 403
        assert at.proxy.resolver.asked == []


async def test_an_event_stream_comes_as_it_is_sent():
    async with looking_into(routes=[routed()]) as at, at.proxy.client() as wire:
        await wire.send(request("/model/events", bearer()))
        text = b""
        while b"data: one" not in text:
            more = await wire.receive()
            assert more
            text += more
        assert not at.origin.released.is_set()
        at.origin.released.set()
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await wire.receive()


async def test_a_websocket_is_relayed():
    async with (
        looking_into(routes=[routed()], behaviour=await under_tls(agreeing(b"hello"))) as at,
        at.proxy.client() as wire,
    ):
        await wire.send(request("/model/chat", bearer(), *FIELDS))
        assert (await head_of(wire)).startswith(b"HTTP/1.1 101")
        assert await wire.receive_exactly(5) == b"hello"
        await wire.send(b"echo")
        assert await wire.receive_exactly(4) == b"echo"


async def test_location_and_cookies_come_as_the_host_has_sent_them():
    answer = (
        b"HTTP/1.1 302 Found\r\nLocation: https://allowed.test/x\r\n"
        b"Set-Cookie: a=b; Domain=allowed.test; Secure\r\nContent-Length: 0\r\n\r\n"
    )
    async with looking_into(routes=[routed()], behaviour=await under_tls(says(answer))) as at:
        found = await at.proxy.ask(request("/model/small", bearer()))
        assert found is not None
        assert found.headers["location"] == "https://allowed.test/x"
        assert found.headers["set-cookie"] == "a=b; Domain=allowed.test; Secure"


async def test_a_route_to_a_private_service_goes_out_in_clear():
    private = "http://private.test:8080"
    async with (
        serving() as origin,
        running(
            ["private.test:8080"],
            resolver=FakeResolver({"private.test": [["10.1.2.3"]]}),
            dialler=LoopbackDialler(origin.port),
            routes=[routed(private)],
        ) as proxy,
    ):
        answer = await proxy.ask(request("/model/small", bearer()))
        assert answer is not None
        assert answer.status == 200
        assert dict(origin.requests[0].headers)[b"host"] == b"private.test:8080"


async def test_a_request_of_a_route_never_goes_out_on_a_connection_in_clear():
    begun: list[bytes] = []

    async def behaviour(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(65536):
            begun.append(data)
            if data[:1] == b"\x16":
                return
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    plain = f"GET http://{HOST}:443/small HTTP/1.1\r\nProxy-Authorization: {AUTH}\r\n"
    plain += f"Host: {HOST}:443\r\n\r\n"
    async with looking_into(routes=[routed()]) as unused, serving(behaviour) as origin:
        async with (
            running(
                [f"{HOST}:443"],
                resolver=FakeResolver({HOST: [["192.0.2.1"]]}),
                dialler=LoopbackDialler(origin.port),
                routes=[routed()],
                interception=unused.interception,
                intercept=[HOST],
            ) as proxy,
            proxy.client() as wire,
        ):
            answer = await wire.exchange(plain.encode())
            assert answer is not None
            assert answer.status == 200
            answer = await wire.exchange(request("/model/small", bearer()))
            assert answer is not None
            assert answer.status == 502
        assert [data[:1] for data in begun] == [b"G", b"\x16"]
        assert not any(STAND_IN in data for data in begun)


@pytest.mark.parametrize("hosts", [("a.test", "b.test"), ("*.a.test",)])
def test_a_route_needs_one_host(hosts):
    with pytest.raises(UsageError, match="a route needs one host"):
        make_route(credential(*hosts))


def test_a_base_url_has_the_path_that_the_service_has_in_its_own():
    one = Credential(
        "openai", "env://X", (parse_bound_host("openai", "api.openai.com"),), base_url_path="/v1"
    )
    assert make_route(one).base_url("127.0.0.1:8080") == "http://127.0.0.1:8080/openai/v1"


async def test_the_stand_in_is_swapped_for_the_host_of_the_route():
    one = held()
    route = Held(make_route(one.credential), one.stand_in)
    async with looking_into(routes=[route], credentials=credentials(one)) as at:
        found = await at.proxy.ask(request("/model/small", bearer(one.stand_in)))
        assert found is not None
        assert found.status == 200
        assert dict(at.origin.requests[0].headers)[b"authorization"] == b"Bearer " + SECRET
        event = last(at)
        assert shown(event) == ("reverse", "allow", "model", "phantom_header", "succeeded")
        assert (event.managed_credential_active, event.injection_mode) == (True, "header")


async def test_a_route_signs_for_its_host_what_was_signed_for_the_route():
    one = held_keys()
    route = Held(make_route(one.credential), one.stand_in)
    signature = signed("PUT", "/aws/b%20c?x=1", body=b"abc", service="s3", host="127.0.0.1:8080")
    async with looking_into(routes=[route], credentials=credentials(one)) as at:
        found = await at.proxy.ask(signature, "PUT")
        assert found is not None
        assert found.status == 200, found.body
        check(at.origin.requests[0], b"abc")
        assert at.origin.requests[0].target == b"/b%20c?x=1"
        assert shown(last(at)) == ("reverse", "allow", "aws", "phantom_header", "succeeded")


async def test_the_stand_in_of_another_credential_in_a_route_is_refused():
    one, other = held(), foreign()
    route = Held(make_route(one.credential), one.stand_in)
    async with looking_into(routes=[route], credentials=credentials(one, other)) as at:
        leaked = f"X-Any: {other.stand_in.decode()}"
        found = await at.proxy.ask(request("/model/small", bearer(one.stand_in), leaked))
        assert found is not None
        assert found.status == 403
        assert at.origin.requests == []
        assert "exfiltration" in (last(at).reason or "")


async def test_through_an_upstream_proxy_a_route_goes_by_connect_and_the_proxy_sees_no_secret():
    one = held()
    route = Held(make_route(one.credential), one.stand_in)
    tls = await origin_context()
    async with serving(tls=tls) as origin, serving(behaviour := Upstream(origin.port)) as upstream:
        async with looking_into(
            routes=[route],
            credentials=credentials(one),
            upstream_proxy=upstream_proxy(upstream.port),
        ) as at:
            assert at.proxy.dialler is not None
            at.proxy.dialler.port = upstream.port
            found = await at.proxy.ask(request("/model/small", bearer(one.stand_in)))
            assert found is not None
            assert found.status == 200
            assert last(at).route_id == "model"
        assert [one.target for one in behaviour.asked] == [f"{HOST}:443".encode()]
        assert dict(origin.requests[0].headers)[b"authorization"] == b"Bearer " + SECRET
        assert SECRET not in behaviour.seen
