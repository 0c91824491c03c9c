"""The life of a stream: nothing goes out before its record, and it always ends with a flow."""

from __future__ import annotations

import contextlib

import pytest
import trio
from h2.settings import SettingCodes
from http2_peers import Http2Origin, head, multiplexing
from looked_into import HOST
from running_proxy import BOUND, until

from nono_trio.core.log.events import NetworkEvent
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.testing import FailingRecorder, MemoryRecorder

RULES = (f"allow GET,POST https://{HOST}/api/**", f"deny GET https://{HOST}/api/secret")


async def test_no_stream_waits_for_the_record_of_another_one_and_none_goes_out_before_its_own():
    held, released = trio.Event(), trio.Event()

    async def before_commit(event: NetworkEvent) -> None:
        if event.path == "/slow":
            held.set()
            await released.wait()

    recorder = MemoryRecorder()
    recorder.before_commit = before_commit
    async with multiplexing(recorder=recorder) as at, at.client() as client:
        slow = client.open(head("/slow"))
        await client.flush()
        with trio.fail_after(BOUND):
            await held.wait()
        for _ in range(3):
            assert (await client.ask("/x")).body == b"ok"
        assert [one[":path"] for one in at.origin.requests] == ["/x"] * 3
        released.set()
        assert (await client.answer(slow)).body == b"ok"


@pytest.mark.parametrize("error", [AuditLost("no space left on device"), SessionSealed("sealed")])
async def test_without_a_log_nothing_goes_out(error):
    recorder, origin, asked = FailingRecorder(2, error), Http2Origin(), False
    with contextlib.suppress(BaseExceptionGroup):  # with an AuditLost: it ends the proxy
        async with multiplexing(recorder=recorder, origin=origin) as at, at.client() as client:
            client.open(head("/x"))
            await client.flush()
            asked = True
            await client.until(lambda: False)
    assert asked
    assert origin.requests == []


async def test_a_log_that_can_not_keep_up_is_a_503_for_the_stream():
    recorder = FailingRecorder(2, AuditBusy("full"))
    async with multiplexing(recorder=recorder) as at, at.client() as client:
        assert (await client.ask("/x")).status == 503
        assert not at.origin.requests


async def test_an_answer_of_ours_that_is_not_read_does_not_keep_its_place():
    async with multiplexing(*RULES) as at, at.client(started=False) as client:
        await client.start({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        held = client.open(head("/api/bytes/10"))
        numbers = [client.open(head("/other")) for _ in range(3)]
        await client.flush()
        for number in numbers:
            answer = await client.answer(number)
            assert (answer.status, answer.reset) == (403, 8)
        assert at.at.interception.http2.open_streams == 1
        assert not client.answers[held].is_over
        assert (await client.ask("/other", method="HEAD")).status == 403


async def test_when_the_proxy_is_cut_every_flow_is_logged():
    async with multiplexing() as at, at.client() as client:
        client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        at.at.proxy.connections.cancel()
        flows = await at.at.proxy.flows(2)
        assert {one.closed_by for one in flows} == {"shutdown"}
        await until(lambda: at.at.proxy.proxy.open_connections == 0)
        assert at.at.proxy.proxy.watched_sockets == 0
