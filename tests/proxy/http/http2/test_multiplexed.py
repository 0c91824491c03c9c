"""One HTTP/2 client under intercepted TLS: many requests on one connection, and its end."""

from __future__ import annotations

import pytest
import trio
from http2_peers import head, multiplexing
from msgspec.structs import replace
from running_proxy import BOUND, QUICK, until

from nono_trio.errors import AuditBusy
from nono_trio.proxy.http.http2.peer import Http2Peer


async def test_many_requests_of_one_connection_are_all_answered():
    async with multiplexing() as at, at.client() as client:
        await client.until(lambda: client.agreed)
        for _ in range(3):
            numbers = [client.open(head(f"/x{index}")) for index in range(100)]
            await client.flush()
            for number in numbers:
                assert (await client.answer(number)).status == 200
        assert len(at.requests()) == len(at.origin.requests) == 300


async def test_a_log_that_can_not_keep_up_never_has_http1_sent_on_http2(monkeypatch):
    def busy(*_: object) -> None:
        raise AuditBusy("full")

    monkeypatch.setattr(Http2Peer, "receive", busy)
    async with multiplexing() as at, at.client(started=False) as client:
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(BOUND):
            await client.stream.receive_some()
        [flow] = await at.at.proxy.flows(1)
        assert flow.closed_by == "error"


async def test_an_idle_connection_ends_with_goaway_and_a_busy_one_is_kept():
    async with multiplexing(limits=replace(QUICK, idle=30.0)) as at, at.client() as client:
        number = client.open(head("/hold"))
        await client.flush()
        await until(lambda: len(at.origin.requests) == 1)
        await trio.sleep(QUICK.keep_alive * 2)
        at.origin.released.set()
        assert (await client.answer(number)).body == b"held"
        await client.until(lambda: False)
        assert client.going is not None
        assert client.going.error_code == 0
