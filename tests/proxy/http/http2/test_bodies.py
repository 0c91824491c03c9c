"""Bodies by HTTP/2: both ways, in turns, and held in bounds."""

from __future__ import annotations

from http2_peers import Http2Origin, head, multiplexing
from running_proxy import until


async def test_bodies_and_trailers_go_both_ways():
    async with multiplexing() as at, at.client() as client:
        body = bytes(range(256)) * 2000
        answer = await client.ask(
            "/echo", body, "POST", trailers=[(b"x-sum", b"1")],
            fields=[(b"te", b"trailers"), (b"content-type", b"application/grpc")],
        )  # fmt: skip
        assert (answer.status, bytes(answer.body)) == (200, body)
        assert answer.trailers == [(b"grpc-status", b"0"), (b"x-sum", b"1")]
        assert (b"te", b"trailers") in at.origin.requests[0].fields
        assert len((await client.ask("/bytes/3000000")).body) == 3_000_000
        assert (await client.ask("/sink", bytes(300_000), "POST")).body == b"300000"
        answer = await client.ask("/bytes/10", method="HEAD")
        assert (await client.ask("/interim")).interim == [103]
        answer = await client.ask("/unchanged")
        assert (answer.status, answer.ended) == (304, True)


async def test_a_stream_that_is_not_read_stops_no_other_one():
    async with multiplexing() as at, at.client() as client:
        client.acknowledges = False
        client.h2.increment_flow_control_window(2**30)
        stalled = [client.open(head(f"/bytes/{1 << 20}")) for _ in range(50)]
        await client.flush()
        await client.until(
            lambda: all(len(client.answers[number].body) == 65535 for number in stalled)
        )
        for _ in range(5):
            assert (await client.ask("/x")).body == b"ok"
        held = at.at.proxy.proxy.held_bytes
        assert held <= 50 * 65535 + 65536
        for number in stalled:
            client.h2.reset_stream(number)
        await client.flush()
        await until(lambda: at.at.proxy.proxy.held_bytes == 0)
        assert (await client.ask("/x")).status == 200
        flows = await at.at.proxy.flows(50)
        assert [one.closed_by for one in flows].count("client") == 50


async def test_a_server_that_does_not_read_holds_back_the_client():
    async with multiplexing(origin=Http2Origin(reads=False)) as at, at.client() as client:
        number = client.open(head("/hold", "POST"), ended=False)
        sent, before = 0, -1
        while sent != before:  # a round trip brought no window
            before = sent
            while room := min(client.h2.local_flow_control_window(number), 16384):
                client.h2.send_data(number, bytes(room))
                sent += room
            await client.flush()
            assert (await client.ask("/x")).body == b"ok"
        assert 65535 < sent <= 3 * 65535
        assert at.at.proxy.proxy.held_bytes <= 65535


async def test_long_answers_hold_up_no_short_one():
    async with multiplexing() as at, at.client() as client:
        long = [client.open(head(f"/bytes/{3_000_000}")) for _ in range(10)]
        await client.flush()
        for _ in range(10):
            assert (await client.ask("/x")).body == b"ok"
        assert not any(client.answers[number].ended for number in long)
        for number in long:
            assert len((await client.answer(number)).body) == 3_000_000
        assert at.at.proxy.proxy.held_bytes == 0
