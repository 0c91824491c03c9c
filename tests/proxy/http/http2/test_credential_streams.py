"""Credentials over HTTP/2: each stream is swapped and searched as a request of HTTP/1.1 is."""

from __future__ import annotations

from base64 import b64encode
from functools import partial

import pytest
import trio
from held_credentials import (
    OTHER_SECRET,
    OTHER_STAND_IN,
    SECRET,
    STAND_IN,
    credentials,
    foreign,
    held,
)
from http2_peers import Http2Client, Multiplexing, head, multiplexing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_proxy import QUICK, until

from nono_trio.core.credentials.credential import Place
from nono_trio.proxy.credentials.interfaces import SecretUnavailable

JSON = (b"content-type", b"application/json")
BEARER = (b"authorization", b"Bearer " + STAND_IN)
OTHER = (b"x-any", b64encode(b"a" + OTHER_STAND_IN))


def decided(at: Multiplexing) -> list[tuple[str, str | None]]:
    events = at.at.proxy.recorder.events
    return [(one.decision, one.reason) for one in events if one.path is not None]


def assert_nothing_shown(at: Multiplexing) -> None:
    shown = repr(at.at.proxy.recorder.events) + repr(at.at.proxy.recorder.flows)
    for one in (STAND_IN, SECRET, OTHER_STAND_IN, OTHER_SECRET):
        assert one.decode() not in shown


def has_come(at: Multiplexing, body: bytes) -> bool:
    return bool(at.origin.requests) and bytes(at.origin.requests[0].body) == body


def opened(client: Http2Client, *fields: tuple[bytes, bytes], path: str = "/echo") -> int:
    return client.open([*head(path, "POST"), *fields], ended=False)


async def test_a_head_is_swapped_and_recorded():
    one = held(places=[Place.HEADER, Place.PATH])
    async with multiplexing(credentials=credentials(one)) as at, at.client() as client:
        answer = await client.ask(f"/bot{STAND_IN.decode()}/x", fields=[BEARER, (b"x-o", b"1")])
        assert answer.status == 200
        seen = at.origin.requests[-1]
        assert seen["authorization"] == f"Bearer {SECRET.decode()}"
        assert seen[":path"] == f"/bot{SECRET.decode()}/x"
        assert seen["x-o"] == "1"
        event = at.at.proxy.recorder.events[-1]
        assert (event.route_id, event.managed_credential_active) == ("model", True)
        assert_nothing_shown(at)


@pytest.mark.parametrize("observe", [False, True])
async def test_a_stand_in_of_another_host_is_refused_in_each_part_of_a_request(observe):
    found = credentials(held(), foreign())
    async with (
        multiplexing(credentials=found, observe=observe) as at,
        at.client() as client,
    ):
        text = OTHER_STAND_IN.decode()
        assert (await client.ask("/", fields=[OTHER])).status == 403
        assert (await client.ask(f"/a/{text}")).status == 403
        assert (await client.ask(f"/?q={OTHER_STAND_IN.hex()}")).status == 403
        assert len(decided(at)) == 3
        assert at.origin.requests == []
        assert (await client.ask("/echo", b"a" + OTHER_STAND_IN, "POST")).status == 403
        trailers = [(b"x-end", OTHER_STAND_IN)]
        assert (await client.ask("/echo", b"a", "POST", trailers)).status == 403
        assert {one for one, _ in decided(at)[-1:]} == {"deny"}
        assert not any(seen.ended for seen in at.origin.requests)
        assert (await client.ask("/echo", b"a", "POST")).body == b"a"
        assert_nothing_shown(at)


async def test_a_body_is_cut_before_its_end_and_the_stream_at_the_server_is_reset():
    async with (
        multiplexing(credentials=credentials(foreign())) as at,
        at.client() as client,
    ):
        number = opened(client, path="/sink")
        await client.send_body(number, b"x" * 40_000 + OTHER_STAND_IN[:20], ended=False)
        await until(lambda: at.origin.requests and len(at.origin.requests[0].body) >= 40_000)
        await client.send_body(number, OTHER_STAND_IN[20:])
        assert (await client.answer(number)).status == 403
        await until(lambda: at.origin.requests[0].reset is not None)
        assert not at.origin.requests[0].ended
        assert OTHER_STAND_IN[20:] not in at.origin.requests[0].body
        assert [one for one, _ in decided(at)] == ["allow", "deny"]
        assert "on the way" in (decided(at)[1][1] or "")
        big = await client.ask("/sink", b"y" * 300_000, "POST")
        assert big.body == b"300000"


async def test_a_message_of_a_stream_is_not_kept_while_the_server_is_to_answer_it():
    async with (
        multiplexing(credentials=credentials(foreign())) as at,
        at.client() as client,
    ):
        number = opened(client)
        sent = b""
        for end in (OTHER_STAND_IN[-32:-25], b"%", b" \\u0"):
            sent += b" " + end
            client.h2.send_data(number, b" " + end)
            await client.flush()
            await until(partial(has_come, at, sent))


async def test_a_stand_in_that_passes_is_noted_before_it_goes():
    found = credentials(foreign(elsewhere="audit"))
    async with multiplexing(credentials=found) as at, at.client() as client:
        note = "stand-in passed on: git"
        assert (await client.ask("/", fields=[OTHER])).status == 200
        assert decided(at) == [("allow", note)]
        body = b"x" * 20_000 + OTHER_STAND_IN
        assert (await client.ask("/echo", body, "POST")).body == body
        assert decided(at)[1:] == [("allow", None), ("allow", note)]


async def test_a_body_is_swapped_whole_with_its_length():
    one = held(places=[Place.BODY], secret=SECRET + b"longer")
    async with multiplexing(credentials=credentials(one)) as at, at.client() as client:
        body = b'{"k": "%b", "x": "%b"}' % (STAND_IN, b"z" * 90_000)
        wanted = body.replace(STAND_IN, SECRET + b"longer")
        length = (b"content-length", b"%d" % len(body))
        for fields in ([JSON], [JSON, length]):
            assert (await client.ask("/echo", body, "POST", fields=fields)).body == wanted
        assert at.origin.requests[-1]["content-length"] == str(len(wanted))
        assert decided(at) == [("allow", "swapped in the body: model")] * 2
        long = body + b" " * 300_000
        answer = await client.ask("/sink", long, "POST", fields=[JSON])
        assert answer.body == b"%d" % len(long)
        assert STAND_IN in at.origin.requests[-1].body


async def test_a_body_that_waits_is_refused_with_one_record():
    found = credentials(held(places=[Place.BODY]), foreign())
    async with (
        multiplexing(credentials=found, limits=QUICK) as at,
        at.client() as client,
    ):
        body = b'{"k": "%b", "o": "%b"}' % (STAND_IN, OTHER_STAND_IN)
        assert (await client.ask("/echo", body, "POST", fields=[JSON])).status == 403
        assert [one for one, _ in decided(at)] == ["deny"]
        assert "on the way" not in (decided(at)[0][1] or "")
        number = opened(client, JSON)
        client.h2.send_data(number, b"{")
        await client.flush()
        assert (await client.answer(number)).status == 408
        assert at.origin.requests == []


async def test_without_a_secret_a_stream_is_refused_and_others_go_on():
    one, other = held(), foreign()
    one.value = SecretUnavailable("the file is gone")
    async with (
        multiplexing(credentials=credentials(one, other)) as at,
        at.client() as client,
    ):
        answer = await client.ask("/", fields=[BEARER])
        assert answer.status == 503
        assert b"the file is gone" in answer.body
        event = at.at.proxy.recorder.events[-1]
        assert event.denial_category == "managed_credential_unavailable"
        one.value, one.opened = SECRET, trio.Event()
        number = client.open([*head("/"), BEARER])
        await client.flush()
        assert (await client.ask("/")).status == 200
        assert len(at.origin.requests) == 1
        one.opened.set()
        assert (await client.answer(number)).status == 200
        assert at.origin.requests[-1]["authorization"].endswith(SECRET.decode())


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cases=st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 40), min_size=1, max_size=12)),
        min_size=8,
        max_size=12,
    )
)
async def test_no_frames_let_a_stand_in_through_or_spoil_a_swap(cases):
    found = credentials(held(places=[*Place]), foreign())
    async with multiplexing(credentials=found) as at, at.client() as client:
        for before, sizes in cases:
            for stand_in in (STAND_IN, OTHER_STAND_IN):
                text = b'{"a": "%b", "b": "%b"}' % (b"z" * before, stand_in)
                fields = [JSON] if stand_in is STAND_IN or before % 2 else []
                number, left = opened(client, *fields), text
                for size in sizes:
                    if client.answers[number].is_over:
                        break
                    client.h2.send_data(number, left[:size], pad_length=size % 3 or None)
                    left = left[size:]
                    await client.flush()
                await client.until(lambda: True)
                if not client.answers[number].is_over:
                    client.h2.send_data(number, left, end_stream=True)
                    await client.flush()
                answer = await client.answer(number)
                if stand_in is STAND_IN:
                    assert answer.body == text.replace(STAND_IN, SECRET)
                else:
                    assert answer.status == 403
        for seen in at.origin.requests:
            assert STAND_IN not in seen.body
            assert OTHER_STAND_IN not in seen.body
        assert_nothing_shown(at)


async def test_a_hundred_streams_each_get_their_secret():
    async with (
        multiplexing(credentials=credentials(held(), foreign())) as at,
        at.client() as client,
    ):
        numbers = [
            client.open([*head("/"), BEARER if number % 2 else OTHER]) for number in range(100)
        ]
        await client.flush()
        answers = [(await client.answer(number)).status for number in numbers]
        assert answers == [403, 200] * 50
        assert {seen["authorization"] for seen in at.origin.requests} == {
            f"Bearer {SECRET.decode()}"
        }


@pytest.mark.parametrize("in_trailers", [False, True])
async def test_a_stand_in_as_the_name_of_a_field_is_found_in_lower_case(in_trailers):
    field = (b"x-" + OTHER_STAND_IN.lower(), b"1")
    async with multiplexing(credentials=credentials(foreign())) as at, at.client() as client:
        if in_trailers:
            answer = await client.ask("/echo", b"a", "POST", [field])
        else:
            answer = await client.ask("/echo", fields=[field])
        assert answer.status == 403
        assert [decision for decision, _ in decided(at)][-1] == "deny"
