"""Credentials over HTTP/1.1: a bound host sees exactly the secret, any other one no stand-in."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote_from_bytes

import pytest
import trio
from held_credentials import (
    OTHER_SECRET,
    OTHER_STAND_IN,
    SECRET,
    STAND_IN,
    Held,
    credentials,
    foreign,
    held,
)
from hellos import hello
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looked_into import (
    HOST,
    LookedInto,
    looking_into,
    looking_into_cage,
    origin_context,
    under_tls,
)
from origin import serving
from proxy_server import Upstream, upstream_proxy
from running_proxy import QUICK, TOKEN, Wire, connect, running, until
from transparent_cage import ACCESS_DENIED, LITERAL, alert
from websocket_peer import FIELDS, agreeing, head_of

from nono_trio.core.credentials.credential import Place
from nono_trio.core.http.websocket_frames import unmasked
from nono_trio.core.policy.allow_entry import denial_text
from nono_trio.proxy.credentials.interfaces import SecretUnavailable
from nono_trio.testing import FakeResolver, LoopbackDialler

JSON = "Content-Type: application/json"
EVERYWHERE = [*Place]


def request(*fields: str | bytes, method: str = "GET", target: str = "/small") -> bytes:
    lines = [f"{method} {target} HTTP/1.1".encode(), f"Host: {HOST}".encode()]
    lines += [one if isinstance(one, bytes) else one.encode() for one in fields]
    return b"".join(line + b"\r\n" for line in (*lines, b""))


def post(body: bytes, *fields: str, target: str = "/sink") -> bytes:
    length = f"Content-Length: {len(body)}"
    return request(length, *fields, method="POST", target=target) + body


def chunked(pieces: list[bytes], *fields: str, trailer: bytes = b"") -> bytes:
    head = request("Transfer-Encoding: chunked", *fields, method="POST", target="/sink")
    body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces if one)
    return head + body + b"0\r\n" + trailer + b"\r\n"


def bearer(value: bytes = STAND_IN) -> bytes:
    return b"Authorization: Bearer " + value


def field_of(at: LookedInto, name: str, number: int = -1) -> bytes:
    return dict(at.origin.requests[number].headers)[name.encode()]


def decided(at: LookedInto) -> list[tuple[str, str | None]]:
    return [(one.decision, one.reason) for one in at.proxy.recorder.events if one.path is not None]


def last(at: LookedInto):
    return at.proxy.recorder.events[-1]


def assert_nothing_shown(at: LookedInto) -> None:
    shown = repr(at.proxy.recorder.events) + repr(at.proxy.recorder.flows)
    for one in (STAND_IN, SECRET, OTHER_STAND_IN, OTHER_SECRET):
        assert one.decode() not in shown


async def test_a_stand_in_in_a_header_is_swapped_and_recorded_and_the_client_keeps_its_connection():
    one = held()
    async with looking_into(credentials=credentials(one)) as at, at.tunnel() as wire:
        for _ in range(2):
            answer = await wire.exchange(request(bearer(), "X-Other: a"))
            assert answer is not None
            assert answer.status == 200
            assert field_of(at, "authorization") == b"Bearer " + SECRET
        assert one.asked == 2
        event = last(at)
        assert (event.route_id, event.managed_credential_active) == ("model", True)
        assert event.injection_mode == "header"
        assert STAND_IN not in at.origin.seen
        assert await wire.exchange(request()) is not None
        assert one.asked == 2
        assert last(at).route_id is not None
        assert_nothing_shown(at)


@pytest.mark.parametrize(
    ("place", "asks", "mode"),
    [
        (
            Place.BASIC,
            request(b"Authorization: Basic " + b64encode(b"x:" + STAND_IN)),
            "basic_auth",
        ),
        (Place.QUERY, request(target=f"/small?a=1&key={STAND_IN.decode()}"), "query_param"),
        (Place.PATH, request(target=f"/bot{STAND_IN.decode()}/small"), "url_path"),
    ],
)
async def test_each_place_of_a_head_is_swapped_and_named_in_the_record(place, asks, mode):
    async with (
        looking_into(credentials=credentials(held(places=[place]))) as at,
        at.tunnel() as wire,
    ):
        assert await wire.exchange(asks) is not None
        seen = bytes(at.origin.seen)
        assert SECRET in seen or b64encode(b"x:" + SECRET) in seen
        assert STAND_IN not in seen
        assert (last(at).route_id, last(at).injection_mode) == ("model", mode)
        assert_nothing_shown(at)


async def test_a_body_is_swapped_whole_and_its_length_mended():
    body = b'{"key": "%b", "other": "%b"}' % (STAND_IN, b"x" * 9000)
    longer = SECRET + b'"\\'
    one = held(places=[Place.BODY], secret=longer)
    async with looking_into(credentials=credentials(one)) as at, at.tunnel() as wire:
        escaped = longer.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        wanted = body.replace(STAND_IN, escaped)
        for asks in (
            post(body, JSON, target="/echo"),
            chunked([body[:20], body[20:]], JSON).replace(b"/sink", b"/echo"),
        ):
            await wire.send(asks[:-3000])
            await wire.send(asks[-3000:])
            answer = await wire.answer("POST")
            assert answer is not None
            assert answer.body == wanted
        assert last(at).reason == "swapped in the body: model"
        assert last(at).route_id == "model"
        assert at.origin.bodies == [len(wanted)] * 2
        asks = post(body, JSON, "Expect: 100-continue", target="/echo")
        at_body = asks.index(b"\r\n\r\n") + 4
        await wire.send(asks[:at_body])
        assert b"100 Continue" in await wire.receive()
        assert len(at.origin.requests) == 2
        answer = await wire.exchange(asks[at_body:], "POST")
        assert answer is not None
        assert answer.body == wanted


async def test_a_body_that_can_not_be_swapped_goes_on_with_the_stand_in():
    one = held(places=[Place.BODY])
    found = credentials(one)
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        body = b'{"key": "%b"}' % STAND_IN
        long = b'{"key": "%b", "x": "%b"}' % (STAND_IN, b"x" * 300_000)
        for asks in (
            post(body, JSON, "Content-Encoding: gzip", target="/echo"),
            post(body, "Content-Type: text/plain", target="/echo"),
            post(long, JSON, target="/echo"),
            chunked([long[:100_000], long[100_000:]], JSON).replace(b"/sink", b"/echo"),
        ):
            found.left.clear()
            answer = await wire.exchange(asks, "POST")
            assert answer is not None
            assert answer.body in (body, long)
            assert [(spot.name, spot.place) for spot in found.left] == [("model", Place.BODY)]
        assert one.asked == 0


async def test_a_stand_in_in_another_place_of_its_host_stays_and_is_noted():
    one = held()
    found = credentials(one)
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        asks = post(b'{"k": "%b"}' % STAND_IN, JSON, b"X-Odd: ".decode() + STAND_IN.decode())
        answer = await wire.exchange(asks, "POST")
        assert answer is not None
        assert answer.status == 200
        assert STAND_IN in at.origin.seen
        assert one.asked == 0
        assert {(spot.name, spot.place) for spot in found.left} == {
            ("model", Place.HEADER), ("model", Place.BODY),
        }  # fmt: skip


async def test_a_note_names_a_key_of_the_profile_only_if_that_helps():
    found = credentials(held(places=[Place.HEADER, Place.BODY]))
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        for asks in (
            request("X-Odd: " + STAND_IN.decode()),
            request("Authorization: part-of" + STAND_IN.decode()),
            post(b"--x\r\n\r\n" + STAND_IN, "Content-Type: multipart/form-data; boundary=x"),
        ):
            assert (await wire.exchange(asks)).status == 200
    helps = [note.partition(" (")[2] for note in found.notes()]
    assert helps == [
        "to swap it: headers of credentials.model in a profile)",
        "only a whole token is)",
        "only strings of JSON and values of forms are, without an encoding, in a body of at most"
        " 256 KiB)",
    ]


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize(
    "asks",
    [
        request(bearer(OTHER_STAND_IN)),
        request(b"X-Any: " + b64encode(b"ab" + OTHER_STAND_IN)),
        request(target=f"/a/{OTHER_STAND_IN.decode()}"),
        request(target="/?q=" + "".join(f"%{one:02x}" for one in OTHER_STAND_IN)),
        request(b"Cookie: " + quote_from_bytes(b64encode(OTHER_STAND_IN)).encode()),
        post(b"text " + OTHER_STAND_IN),
        post(OTHER_STAND_IN.hex().encode()),
        chunked([OTHER_STAND_IN[:9], OTHER_STAND_IN[9:]]),
        chunked([b"x"], trailer=b"X-End: " + OTHER_STAND_IN + b"\r\n"),
    ],
)
async def test_a_stand_in_to_another_host_is_refused_and_recorded_once(asks, observe):
    found = credentials(held(), foreign())
    async with (
        looking_into(credentials=found, observe=observe) as at,
        at.tunnel() as wire,
    ):
        answer = await wire.exchange(asks, asks.split(b" ")[0].decode())
        assert answer is not None
        assert answer.status == 403
        assert b"exfiltration detected" in answer.body
        ((decision, reason),) = decided(at)
        assert decision == "deny"
        assert (reason or "").endswith("has the stand-in of credential git")
        assert at.origin.requests == []
        assert_nothing_shown(at)


async def test_a_credential_that_passes_elsewhere_is_noted_before_it_goes():
    found = credentials(held(), foreign(elsewhere="audit"))
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        note = "stand-in passed on: git"
        answer = await wire.exchange(request(bearer(OTHER_STAND_IN)))
        assert answer is not None
        assert answer.status == 200
        assert decided(at) == [("allow", note)]
        assert OTHER_STAND_IN in at.origin.seen
        asks = post(b"x" * 70_000 + OTHER_STAND_IN + b"y" * 70_000 + OTHER_STAND_IN)
        answer = await wire.exchange(asks, "POST")
        assert answer is not None
        assert answer.body == str(140_000 + 2 * len(OTHER_STAND_IN)).encode()
        assert decided(at)[1:] == [("allow", None), ("allow", note)]


async def test_a_body_is_cut_before_its_end_reaches_the_other_host():
    found = credentials(foreign())
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        body = b"x" * 200_000 + OTHER_STAND_IN + b"y" * 200_000
        asks = post(body)
        await wire.send(asks[:150_000])
        await until(lambda: len(at.origin.seen) > 100_000)
        await wire.send(asks[150_000:])
        answer = await wire.answer("POST")
        assert answer is not None
        assert answer.status == 403
        assert OTHER_STAND_IN[-20:] not in at.origin.seen
        assert [one for one, _ in decided(at)] == ["allow", "deny"]
        assert "on the way" in (decided(at)[1][1] or "")
        await at.origin.closed.wait()
        assert at.origin.bodies == []


async def test_after_an_answer_has_begun_the_client_is_cut_too():
    found = credentials(foreign())
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        head = request("Transfer-Encoding: chunked", method="POST", target="/echo")
        await wire.send(head + b"3\r\nabc\r\n")
        got = b""
        while b"abc" not in got:
            got += await wire.receive()
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(OTHER_STAND_IN), OTHER_STAND_IN))
        assert await wire.ends()
        assert decided(at)[-1][0] == "deny"
        assert OTHER_STAND_IN not in at.origin.seen


async def test_a_byte_that_may_begin_a_stand_in_is_not_kept_from_a_server_that_waits_for_it():
    async with (
        looking_into(credentials=credentials(foreign(), held(ELSE))) as at,
        at.tunnel() as wire,
    ):
        await wire.send(request("Transfer-Encoding: chunked", method="POST", target="/echo"))
        for end in (b" " + OTHER_STAND_IN[-32:-25], b" " + STAND_IN[-32:-26], b" %", b" \\u0"):
            await wire.send(b"%x\r\n%b\r\n" % (len(end), end))
            got = b""
            while not got.endswith(end + b"\r\n"):
                got += await wire.receive()


ELSE = "third.test"


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cases=st.lists(
        st.tuples(st.booleans(), st.integers(0, 40), st.lists(st.integers(1, 60), max_size=12)),
        min_size=8,
        max_size=12,
    )
)
async def test_no_split_lets_a_stand_in_through_or_spoils_a_swap(cases):
    one = held(places=EVERYWHERE)
    async with looking_into(credentials=credentials(one, foreign())) as at:
        for is_chunked, before, sizes in cases:
            for stand_in in (STAND_IN, OTHER_STAND_IN):
                text = b'{"a": "%b", "b": "%b"}' % (b"z" * before, stand_in)
                cuts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
                pieces = [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
                asks = chunked(pieces, JSON) if is_chunked else post(text, JSON)
                asks = asks.replace(b"/sink", b"/echo")
                seen = len(at.origin.seen)
                async with at.tunnel() as wire:
                    ends = [min(cut * 7, len(asks)) for cut in cuts]
                    for a, b in zip(ends, [*ends[1:], len(asks)], strict=True):
                        await wire.send(asks[a:b])
                        await trio.lowlevel.checkpoint()
                    answer = await wire.answer("POST")
                assert answer is not None
                if stand_in is STAND_IN:
                    assert answer.body == text.replace(STAND_IN, SECRET)
                else:
                    assert answer.status == 403
                assert stand_in not in at.origin.seen[seen:]
        assert_nothing_shown(at)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (SecretUnavailable("the command ended with 1"), "the command ended with 1"),
        (b"two\r\nlines", "it has a line break"),
    ],
)
async def test_without_a_usable_secret_nothing_is_sent(value, text):
    one = held()
    one.value = value
    async with looking_into(credentials=credentials(one)) as at, at.tunnel() as wire:
        answer = await wire.exchange(request(bearer()))
        assert answer is not None
        assert answer.status == 503
        assert text in (last(at).reason or "")
        assert last(at).denial_category == "managed_credential_unavailable"
        assert last(at).route_id == "model"
        assert at.origin.requests == []
        assert b"two" not in answer.body


async def test_the_secret_is_asked_for_after_the_record_and_may_rotate():
    one = held()
    one.opened = trio.Event()
    async with looking_into(credentials=credentials(one)) as at, at.tunnel() as wire:
        await wire.send(request(bearer()) * 2)
        await until(lambda: one.asked == 1)
        assert decided(at) == [("allow", None)]
        assert at.origin.requests == []
        one.opened.set()
        assert await wire.answer() is not None
        one.value = OTHER_SECRET
        assert await wire.answer() is not None
        await wire.exchange(request(bearer()))
        assert field_of(at, "authorization", 0) == b"Bearer " + SECRET
        assert field_of(at, "authorization") == b"Bearer " + OTHER_SECRET


async def test_a_request_that_goes_out_again_has_the_secret_again():
    one = held()

    async def once(stream) -> None:
        await at.origin.serve(_Once(stream))

    async with (
        looking_into(behaviour=_under_tls(once), credentials=credentials(one)) as at,
        at.tunnel() as wire,
    ):
        for _ in range(3):
            answer = await wire.exchange(request(bearer()))
            assert answer is not None
            assert answer.status == 200
        assert [dict(one.headers)[b"authorization"] for one in at.origin.requests] == [
            b"Bearer " + SECRET
        ] * 3


class _Once:
    """A connection that ends silently when its second request has begun."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._answered = False

    async def receive_some(self, most: int) -> bytes:
        data = await self._stream.receive_some(most)
        return b"" if self._answered else data

    async def send_all(self, data: bytes) -> None:
        self._answered = True
        await self._stream.send_all(data)


async def test_an_answer_that_refuses_the_secret_is_told_to_its_source():
    one, other = held(), foreign()
    async with (
        looking_into(credentials=credentials(one, other)) as at,
        at.tunnel() as wire,
    ):
        await wire.exchange(request(target="/status/401"))
        await wire.exchange(request(bearer(), target="/status/403"))
        assert one.refusals == 0
        await wire.exchange(request(bearer(), target="/status/401"))
        assert (one.refusals, other.refusals) == (1, 0)


async def test_a_request_that_rules_refuse_gets_no_secret():
    one = held()
    async with (
        looking_into(f"allow GET https://{HOST}/small", credentials=credentials(one)) as at,
        at.tunnel() as wire,
    ):
        answer = await wire.exchange(request(bearer(), target="/other"))
        assert answer is not None
        assert answer.status == 403
        assert one.asked == 0
        path = f"/{STAND_IN.decode()}"
        await wire.exchange(request(target=path))
        assert_nothing_shown(at)
        assert await wire.exchange(request(bearer())) is not None
        assert field_of(at, "authorization") == b"Bearer " + SECRET


async def test_a_hundred_requests_at_once_each_get_their_secret():
    one, other = held(), foreign()
    async with looking_into(credentials=credentials(one, other)) as at:
        answers: list[int] = []

        async def ask(number: int) -> None:
            async with at.tunnel() as wire:
                stand_in = STAND_IN if number % 2 else OTHER_STAND_IN
                answer = await wire.exchange(request(bearer(stand_in)))
                assert answer is not None
                answers.append(answer.status)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert sorted(answers) == [200] * 50 + [403] * 50
        assert {dict(one.headers)[b"authorization"] for one in at.origin.requests} == {
            b"Bearer " + SECRET
        }


# -- WebSocket ------------------------------------------------------------------------------------


def frame(
    payload: bytes, opcode: int = 1, *, fin: bool = True, mask: bytes = b"\x9c\x01z/"
) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 * fin | opcode]) + length + mask + unmasked(payload, mask)


async def upgraded(wire: Wire, *fields: str) -> bytes:
    await wire.send(request(*FIELDS, *fields, target="/ws"))
    return await head_of(wire)


async def test_websocket_messages_pass_byte_for_byte_without_extensions():
    server = agreeing()
    async with (
        looking_into(behaviour=_under_tls(server), credentials=credentials(foreign())) as at,
        at.tunnel() as wire,
    ):
        offer = "Sec-WebSocket-Extensions: permessage-deflate"
        assert b"101" in await upgraded(wire, offer)
        assert b"extensions" not in server.seen.lower()
        sent = b"".join([
            frame(b"hello"), frame(b"x" * 60_000, 2), frame(b"one ", fin=False),
            frame(b"ping", 9), frame(OTHER_STAND_IN[:-1], 0), frame(b"", 8),
        ])  # fmt: skip
        for at_byte in range(0, len(sent), 777):
            await wire.send(sent[at_byte : at_byte + 777])
        assert await wire.receive_exactly(len(sent)) == sent
        assert decided(at) == [("allow", None)]


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([frame(b"my " + OTHER_STAND_IN)], "a WebSocket message"),
        ([frame(b64encode(b"a" + OTHER_STAND_IN), 2)], "a WebSocket message"),
        ([frame(OTHER_STAND_IN, 9)], "a WebSocket message"),
        (
            [
                frame(OTHER_STAND_IN[:20], fin=False), frame(b"", 9),
                frame(OTHER_STAND_IN[20:30], 0, fin=False), frame(OTHER_STAND_IN[30:], 0),
            ],
            "a WebSocket message",
        ),
        ([b"\xc1" + frame(b"compressed")[1:]], "bits of an extension"),
        ([b"\x81\x03abc"], "is not masked"),
    ],
)  # fmt: skip
async def test_a_websocket_with_a_stand_in_is_cut_at_every_split(frames, text):
    sent = frame(b"first") + b"".join(frames)
    for step in (1, 3, len(sent)):
        server = agreeing()
        async with (
            looking_into(behaviour=_under_tls(server), credentials=credentials(foreign())) as at,
            at.tunnel() as wire,
        ):
            await upgraded(wire)
            try:
                for at_byte in range(0, len(sent), step):
                    await wire.send(sent[at_byte : at_byte + step])
                    await trio.lowlevel.checkpoint()
            except trio.BrokenResourceError:
                pass
            await until(lambda: len(decided(at)) == 2)
            decision, reason = decided(at)[-1]
            assert decision == "deny"
            assert text in (reason or "")
            _, _, got = server.seen.partition(b"\r\n\r\n")
            assert sent.startswith(got)
            assert len(got) <= len(sent) - 5
            assert_nothing_shown(at)


def _under_tls(server):
    async def behave(stream) -> None:
        await server(trio.SSLStream(stream, await origin_context(), server_side=True))

    return behave


# -- plain HTTP, and names ------------------------------------------------------------------------


async def test_plain_http_is_swapped_for_a_private_service_only():
    one = held("http://127.0.0.1:8080", f"http://{HOST}")
    async with (
        serving() as origin,
        running(
            ["127.0.0.1:8080", HOST],
            resolver=FakeResolver({HOST: [["192.0.2.1"]]}),
            dialler=LoopbackDialler(origin.port),
            credentials=credentials(one, foreign()),
        ) as proxy,
        proxy.client() as wire,
    ):
        auth = "Proxy-Authorization: Basic " + b64encode(f"nono:{TOKEN}".encode()).decode()

        def asks(where: str, value: bytes) -> bytes:
            lines = [f"GET http://{where}/small HTTP/1.1", f"Host: {where}", auth]
            return "".join(f"{one}\r\n" for one in lines).encode() + bearer(value) + b"\r\n\r\n"

        answer = await wire.exchange(asks("127.0.0.1:8080", STAND_IN))
        assert answer is not None
        assert answer.status == 200
        assert b"Bearer " + SECRET in origin.seen
        answer = await wire.exchange(asks("127.0.0.1:8080", OTHER_STAND_IN))
        assert answer is not None
        assert answer.status == 403
        before = len(origin.seen)
        answer = await wire.exchange(asks(HOST, STAND_IN))
        assert answer is not None
        assert (answer.status, len(origin.seen)) == (503, before)
        assert "in clear" in (proxy.recorder.events[-1].reason or "")


async def test_plain_http_carries_no_secret_to_an_upstream_proxy():
    """The proxy would read it, and choose where it goes."""
    async with serving() as origin, serving(behaviour := Upstream(origin.port)) as upstream:
        async with (
            running(
                [HOST],
                dialler=LoopbackDialler(upstream.port),
                upstream_proxy=upstream_proxy(upstream.port),
                credentials=credentials(held(f"http://{HOST}")),
            ) as proxy,
            proxy.client() as wire,
        ):
            auth = "Proxy-Authorization: Basic " + b64encode(f"nono:{TOKEN}".encode()).decode()
            head = f"GET http://{HOST}/small HTTP/1.1\r\nHost: {HOST}\r\n{auth}\r\n".encode()
            answer = await wire.exchange(head + bearer(STAND_IN) + b"\r\n\r\n")
            assert answer is not None
            assert answer.status == 503
            assert f"--upstream-bypass {HOST}".encode() in answer.body
            assert "in clear" in (proxy.recorder.events[-1].reason or "")
        assert SECRET not in behaviour.seen
        assert SECRET not in origin.seen


async def test_the_name_in_a_connect_is_searched_also_for_a_host_that_is_denied():
    async with running(["*.allowed.test"], credentials=credentials(foreign())) as proxy:
        text = OTHER_STAND_IN.decode().lower().replace("_", "-")
        plain = OTHER_STAND_IN.decode().lower()
        for name in (
            f"{plain}.allowed.test",
            f"a.{OTHER_STAND_IN.hex()[:60]}.{OTHER_STAND_IN.hex()[60:]}.evil.test",
        ):
            answer = await proxy.ask(connect(f"{name}:443"), "CONNECT")
            assert answer is not None
            assert answer.status == 403
            event = proxy.recorder.events[-1]
            assert "exfiltration detected: the host name" in (event.reason or "")
            assert event.target.startswith("[REDACTED].")
            assert text not in repr(event)


@pytest.mark.parametrize("addresses", [[], ["10.0.0.1"]])
async def test_why_a_host_with_a_stand_in_in_its_name_is_not_reached_does_not_show_it(addresses):
    name = f"{OTHER_STAND_IN.decode().lower()}.allowed.test"
    async with running(
        ["*.allowed.test"],
        credentials=credentials(foreign(elsewhere="audit")),
        resolver=FakeResolver({name: [addresses]}),
    ) as proxy:
        for where in (name, f"a.{name}"):
            assert await proxy.ask(connect(f"{where}:443"), "CONNECT") is not None
        events = proxy.recorder.events
    assert [one.decision for one in events] == ["allow", "deny"] * 2
    assert [one.target for one in events] == ["[REDACTED].allowed.test"] * 4
    assert name.partition(".")[0] not in repr(events)
    assert "[REDACTED].allowed.test" in (events[1].reason or "")
    assert [denial_text(one) for one in events if "to allow" in (denial_text(one) or "")] == []


async def test_a_late_body_is_refused_in_time():
    one = held(places=[Place.BODY])
    async with (
        looking_into(credentials=credentials(one), limits=QUICK) as at,
        at.tunnel() as wire,
    ):
        await wire.send(post(b"x" * 100, JSON)[:-50])
        answer = await wire.answer("POST")
        assert answer is not None
        assert answer.status == 408
        assert decided(at)[-1][0] == "deny"


async def test_a_held_credential_shows_nothing():
    one: Held = held()
    assert STAND_IN.decode() not in repr(one) + repr(credentials(one))


async def test_programs_without_the_proxy_are_searched_and_swapped_too():
    found = credentials(held(), foreign())
    async with looking_into_cage(credentials=found) as (cage, origin):
        async with cage.connection(HOST, 443) as raw, under_tls(raw) as wire:
            answer = await wire.exchange(request(bearer()))
            assert answer is not None
            assert answer.status == 200
            assert b"Bearer " + SECRET in origin.seen
            answer = await wire.exchange(request(bearer(OTHER_STAND_IN)))
            assert answer is not None
            assert answer.status == 403
        async with cage.connection(HOST, 80) as wire:
            seen = len(origin.seen)
            answer = await wire.exchange(request(bearer()))
            assert answer is not None
            assert (answer.status, len(origin.seen)) == (403, seen)
        assert [one.decision for one in cage.recorder.events].count("deny") == 2
    name = f"{OTHER_STAND_IN.decode().lower().replace('_', '-')}.allowed.test"
    one = foreign()
    one.stand_in = OTHER_STAND_IN.replace(b"_", b"-")
    async with looking_into_cage(allow=("*.allowed.test",), credentials=credentials(one)) as (
        cage,
        origin,
    ):
        reply = await cage.answer(LITERAL, hello(name))
        assert reply == alert(ACCESS_DENIED)
        assert cage.recorder.events[-1].target == "[REDACTED].allowed.test"
        assert "the host name" in (cage.recorder.events[-1].reason or "")
        assert origin.connections == 0


async def test_through_an_upstream_proxy_with_a_password_the_secret_goes_end_to_end():
    tls = await origin_context()
    user = b"Basic " + b64encode(b"jo:p w")
    async with (
        serving(tls=tls) as origin,
        serving(behaviour := Upstream(origin.port, credentials=user)) as upstream,
    ):
        settings_of = upstream_proxy(upstream.port, user=user)
        async with looking_into(credentials=credentials(held()), upstream_proxy=settings_of) as at:
            assert at.proxy.dialler is not None
            at.proxy.dialler.port = upstream.port
            async with at.tunnel() as wire:
                assert await wire.exchange(request(bearer())) is not None
        assert b"Bearer " + SECRET in origin.seen
        assert len(behaviour.asked) == 1
        assert SECRET not in behaviour.seen
        assert user not in origin.seen
