"""A connection that finds everything at hand is served without a task of its own."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from origin import says, serving
from running_proxy import BOUND, PATIENT, connect, http, running, until
from transparent_cage import LITERAL, cage

from nono_trio.errors import AuditLost
from nono_trio.proxy.http.connection import HttpConnection
from nono_trio.proxy.transport.client import Client
from nono_trio.proxy.transport.relay import Relay
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.steps import Stepped
from nono_trio.testing import FailingRecorder, FakeResolver, LoopbackDialler, MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from running_proxy import Running


KINDS = (Client, TcpTransport, HttpConnection, Stepped)


class Tasks(trio.abc.Instrument):
    """Notes the tasks that begin to serve a client, and the names of those that go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.names: set[str] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith(("TaskPool._work", "steps.go_on", "steps._raising")):
            self.begun.append(task.name)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.add(task.name)


@contextmanager
def counted() -> Iterator[Tasks]:
    tasks = Tasks()
    trio.lowlevel.add_instrument(tasks)
    try:
        yield tasks
    finally:
        trio.lowlevel.remove_instrument(tasks)


async def tunnel(proxy: Running, port: int) -> None:
    async with proxy.client() as wire:
        answer = await wire.exchange(connect(f"127.0.0.1:{port}"), "CONNECT")
        assert answer is not None
        assert answer.status == 200
        await wire.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.receive()).startswith(b"HTTP/1.1 200")


async def denied(proxy: Running, _port: int) -> None:
    answer = await proxy.ask(connect("evil.test:443"))
    assert answer is not None
    assert answer.status == 403


async def plain(proxy: Running, port: int) -> None:
    async with proxy.client() as wire:
        for _ in range(3):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{port}/small"))
            assert answer is not None
            assert answer.body == b"ok"


async def pipelined(proxy: Running, port: int) -> None:
    async with proxy.client() as wire:
        await wire.send(2 * http("GET", f"http://127.0.0.1:{port}/small"))
        for _ in range(2):
            assert await wire.answer() is not None


async def malformed(proxy: Running, _port: int) -> None:
    assert await proxy.ask(b"GET /\x01 HTTP/1.1\r\n\r\n") is not None


@pytest.mark.parametrize("use", [tunnel, denied, plain, pipelined, malformed])
async def test_no_task_begins_for_a_connection(use):
    async with serving() as origin, running(["127.0.0.1:*"]) as proxy:
        with counted() as tasks:
            await use(proxy, origin.port)
            await until(lambda: proxy.proxy.open_connections == 0)
        assert tasks.begun == []
        assert any(name.endswith("Readiness.dispatch") for name in tasks.names)
        assert proxy.recorder.events


@contextmanager
def without_a_cycle() -> Iterator[None]:
    """Nothing of a connection is left at the end that only the garbage collector would find."""
    gc.collect()
    gc.disable()
    before = [one for one in gc.get_objects() if isinstance(one, KINDS)]  # of other tests
    try:
        yield
        left = [one for one in gc.get_objects() if isinstance(one, KINDS)]
        left = [one for one in left if not any(one is other for other in before)]
    finally:
        gc.enable()
    assert left == []


async def test_the_end_of_a_connection_leaves_no_cycle():
    """Otherwise the garbage collector would have to find each, and takes the gain."""
    async with serving() as origin, running(["127.0.0.1:*"]) as proxy:
        with without_a_cycle():
            for use in (tunnel, denied, plain, pipelined, malformed):
                await use(proxy, origin.port)
            await until(lambda: proxy.proxy.open_connections == 0)


async def test_the_end_of_a_silent_connection_leaves_no_cycle():
    limits = msgspec.structs.replace(PATIENT, head=0.1)
    async with running([], limits=limits) as proxy:
        with without_a_cycle():
            async with proxy.client() as wire:
                assert await wire.ends()
            await until(lambda: proxy.proxy.open_connections == 0)


async def test_no_task_begins_for_a_transparent_connection():
    async with cage() as at:
        with counted() as tasks:
            async with at.connection(LITERAL, 22) as refused:
                assert await refused.ends()
        assert await at.events(1) == [("deny", LITERAL, 22, "TCP")]
        assert tasks.begun == []


CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 3000 * b"1\r\na\r\n"


@pytest.mark.parametrize("sent", [bytes(1_000_000), b""])
async def test_a_body_that_moves_much_at_a_time_begins_a_task(sent):
    async with serving() as sink, serving(says(CHUNKS + b"0\r\n\r\n")) as chunks:
        port = sink.port if sent else chunks.port
        request = http(
            "POST", f"http://127.0.0.1:{port}/sink", f"Content-Length: {len(sent)}", body=sent
        )
        async with running(["127.0.0.1:*"]) as proxy:
            with counted() as tasks:
                answer = await proxy.ask(request)
            assert answer is not None
            assert answer.complete
            assert len(tasks.begun) == 1


async def test_a_look_up_begins_a_task_after_the_record():
    class Watched(FakeResolver):
        async def __call__(self, name: str) -> list[str]:
            assert [one.decision for one in recorder.events] == ["allow"]
            assert len(tasks.begun) == 1
            await trio.lowlevel.checkpoint()
            return ["192.0.2.1"]

    recorder = MemoryRecorder()
    async with serving() as origin:
        dialler = LoopbackDialler(origin.port)
        async with running(
            ["allowed.test"], recorder=recorder, resolver=Watched(), dialler=dialler
        ) as proxy:
            with counted() as tasks:
                answer = await proxy.ask(http("GET", "http://allowed.test/small"))
            assert answer is not None
            assert answer.body == b"ok"


async def test_an_error_of_one_connection_reaches_no_other(monkeypatch, caplog):
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with serving() as origin, running(["127.0.0.1:*"]) as proxy:
        async with proxy.client() as good:
            answer = await good.exchange(connect(f"127.0.0.1:{origin.port}"), "CONNECT")
            assert answer is not None
            with monkeypatch.context() as patched, counted() as tasks:
                patched.setattr(Relay, "run", broken)
                async with proxy.client() as bad:
                    await bad.exchange(connect(f"127.0.0.1:{origin.port}"), "CONNECT")
                    assert await bad.ends()
            await good.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await good.receive()).startswith(b"HTTP/1.1 200")
        assert tasks.begun == []
    assert "ZeroDivisionError" in caplog.text


async def test_a_lost_log_ends_every_tunnel_that_is_in_steps():
    """AuditLost leaves the step of one connection by a task, and cancels all."""
    async with serving() as origin:
        with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
            async with running(["127.0.0.1:*"], recorder=FailingRecorder(1)) as proxy:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + BOUND):
                    async with proxy.client() as wire:
                        await wire.exchange(connect(f"127.0.0.1:{origin.port}"), "CONNECT")
                        assert await proxy.ask(connect("evil.test:443")) is None
                        assert await wire.ends()
                await trio.sleep(BOUND)
        [flow] = proxy.recorder.flows
        assert flow.closed_by == "shutdown"
