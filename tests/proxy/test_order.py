"""Record before act: no look-up, dial or answer happens before the decision is in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from origin import serving
from running_proxy import AUTH, BOUND, QUICK, TOKEN, Wire, connect, http, running

from nono_trio.core.log.events import Network, encode_payload
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.transport.client import Client
from nono_trio.steps import stepwise
from nono_trio.testing import FailingRecorder, FakeResolver, LoopbackDialler, MemoryRecorder
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin


class HeldRecorder(MemoryRecorder):
    """Holds every event until `released`; `held` is set once one is there."""

    def __init__(self) -> None:
        super().__init__()
        self.held = trio.Event()
        self.released = trio.Event()
        self.before_commit = self._hold

    async def _hold(self, _event: object) -> None:
        self.held.set()
        await self.released.wait()


class Released:
    """As an Event that a step may wait for."""

    def __init__(self) -> None:
        self._waker = Waker()
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        self._waker.wake()

    async def wait(self) -> None:
        if not self._is_set:
            await self._waker.sleep()


class HeldInSteps(MemoryRecorder):
    """As HeldRecorder, without making the connection a task."""

    def __init__(self) -> None:
        super().__init__()
        self.held = trio.Event()
        self.released = Released()

    @stepwise
    async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
        self.held.set()
        await self.released.wait()
        return await super().record(event, origin)


REQUESTS = {
    "connect": connect("allowed.test:443"),
    "get": http("GET", "http://allowed.test/"),
    "denied": connect("evil.test:443"),
    "malformed": b"GET /\x01 HTTP/1.1\r\n\r\n",
    "unauthorised": connect("allowed.test:443")
    .replace(TOKEN.encode(), b"wrong")
    .replace(AUTH.encode(), b"Basic eDp5"),
}


@pytest.mark.parametrize("held", [HeldRecorder, HeldInSteps])
@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
async def test_nothing_happens_until_the_decision_is_recorded(request_bytes, held):
    recorder, resolver = held(), FakeResolver({"allowed.test": [["192.0.2.1"]]})
    dialler = LoopbackDialler()
    async with (
        running(["allowed.test"], recorder=recorder, resolver=resolver, dialler=dialler) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(request_bytes)
        with trio.fail_after(BOUND):
            await recorder.held.wait()
        with trio.move_on_after(0.05) as waiting:
            await wire.stream.receive_some(1)
        assert waiting.cancelled_caught, "a byte was answered before the decision was recorded"
        assert (resolver.asked, dialler.dialled) == ([], [])
        recorder.released.set()
        answer = await wire.answer()
        assert answer is not None


async def test_a_denied_name_is_never_resolved():
    async with running(["allowed.test"]) as proxy:
        for request in (connect("evil.test:443"), http("GET", "http://evil.test/a?b=c")):
            answer = await proxy.ask(request)
            assert answer is not None
            assert answer.status == 403
            assert b"hint: allow it with --allow-domain evil.test" in answer.body
        assert proxy.resolver.asked == []
        assert [event.denial_category for event in proxy.recorder.events] == ["host_denied"] * 2


async def test_one_bad_address_denies_the_name_in_a_second_event():
    resolver = FakeResolver({"allowed.test": [["192.0.2.1", "169.254.169.254"]]})
    dialler = LoopbackDialler()
    async with running(["allowed.test"], resolver=resolver, dialler=dialler) as proxy:
        answer = await proxy.ask(connect("allowed.test:443"))
        assert answer is not None
        assert answer.status == 403
        assert [event.decision for event in proxy.recorder.events] == ["allow", "deny"]
        assert proxy.recorder.events[1].denial_category == "host_denied"
        assert dialler.dialled == []


async def test_only_checked_addresses_are_dialled():
    resolver = FakeResolver({"allowed.test": [["192.0.2.1"], ["169.254.169.254"]]})
    async with serving() as origin:
        dialler = LoopbackDialler(origin.port)
        async with running(["allowed.test"], resolver=resolver, dialler=dialler) as proxy:
            answer = await proxy.ask(http("GET", "http://allowed.test/small"))
            assert answer is not None
            assert answer.status == 200
            assert resolver.asked == ["allowed.test"]
            assert dialler.dialled == [("192.0.2.1", 80)]


@pytest.mark.parametrize(
    ("table", "limits_reason"),
    [({}, b"not in the table"), ({"allowed.test": [[]]}, b"no address")],
)
async def test_a_name_without_address_is_a_502(table, limits_reason):
    async with running(["allowed.test"], resolver=FakeResolver(table)) as proxy:
        answer = await proxy.ask(connect("allowed.test:443"))
        assert answer is not None
        assert answer.status == 502
        assert limits_reason in answer.body
        assert proxy.recorder.events[1].denial_category == "upstream_connect_failed"


async def test_after_a_request_that_can_not_reach_its_host_another_may_follow():
    """Its answer does not say that the connection is closed, so it must not be."""
    requests = [http("GET", f"http://{name}/small") for name in ("gone.test", "up.test")]
    async with serving() as origin:
        resolver = FakeResolver({"up.test": [["192.0.2.1"]]})
        dialler = LoopbackDialler(origin.port)
        allow = ["gone.test", "up.test"]
        async with running(allow, resolver=resolver, dialler=dialler) as proxy:
            async with proxy.client() as wire:
                await wire.send(b"".join(requests))
                answers = [await wire.answer() for _ in requests]
                assert [answer and answer.status for answer in answers] == [502, 200]
            decisions = [event.decision for event in proxy.recorder.events]
            assert decisions == ["allow", "deny", "allow"]


async def test_a_slow_resolver_is_a_504():
    class Stuck(FakeResolver):
        async def __call__(self, name: str) -> list[str]:
            await trio.sleep_forever()
            raise AssertionError

    async with running(["allowed.test"], resolver=Stuck(), limits=QUICK) as proxy:
        answer = await proxy.ask(connect("allowed.test:443"))
        assert answer is not None
        assert answer.status == 504


async def test_a_pin_is_dialled_without_dns():
    async with (
        serving() as origin,
        running(["a.test:*"], resolve=[f"a.test:{origin.port}:127.0.0.1"]) as proxy,
    ):
        answer = await proxy.ask(http("GET", f"http://a.test:{origin.port}/small"))
        assert answer is not None
        assert answer.body == b"ok"
        assert proxy.resolver.asked == []


async def test_a_busy_log_is_a_503_and_nothing_is_done():
    recorder = FailingRecorder(error=AuditBusy("full"))
    async with running(["allowed.test"], recorder=recorder) as proxy:
        answer = await proxy.ask(connect("allowed.test:443"))
        assert answer is not None
        assert answer.status == 503
        assert proxy.resolver.asked == []


async def test_an_answer_that_fails_while_the_log_is_busy_ends_one_connection_only(monkeypatch):
    async def fail(*_: object) -> None:
        raise AssertionError("other bytes were offered")

    recorder = FailingRecorder(error=AuditBusy("full"))
    async with running(["allowed.test"], recorder=recorder) as proxy:
        with monkeypatch.context() as patched:
            patched.setattr(Client, "drain", fail)
            assert await proxy.ask(connect("allowed.test:443")) is None
        answer = await proxy.ask(connect("allowed.test:443"))
        assert answer is not None
        assert answer.status == 503


async def test_a_sealed_log_cuts_the_connection():
    async with running(
        ["allowed.test"], recorder=FailingRecorder(error=SessionSealed("over"))
    ) as proxy:
        assert await proxy.ask(connect("allowed.test:443")) is None
        assert await proxy.ask(connect("allowed.test:443")) is None, "the proxy must live on"


async def test_a_lost_log_stops_everything():
    async def use(wire: Wire, port: int) -> None:
        await wire.send(connect(f"127.0.0.1:{port}"))
        await wire.answer("CONNECT")
        assert await proxy.ask(connect("evil.test:443")) is None
        assert await wire.ends(), "the open tunnel must not outlive the log"

    async with serving() as origin:
        with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
            async with running(["127.0.0.1:*"], recorder=FailingRecorder(1)) as proxy:
                async with proxy.client() as wire:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + BOUND):
                        await use(wire, origin.port)
                await trio.sleep(BOUND)


SECRETS = [TOKEN, AUTH.split()[1], "s3cr3t"]


async def test_no_secret_reaches_the_log_or_an_answer(caplog):
    requests = [
        http("GET", "http://evil.test/a?token=s3cr3t"),
        http("GET", "http://user:s3cr3t@evil.test/"),
        http("GET", "http://127.0.0.1:1/?s3cr3t"),
        connect("user:s3cr3t@evil.test:443"),
        connect("evil.test:443").replace(b"Basic", b"Negotiate"),
        connect("evil.test:443", f"Proxy-Authorization: {AUTH}"),
        connect("evil.test:443").replace(b"Basic ", b"Basic\r\n "),
        b"GET http://evil.test/?s3cr3t" + bytes(range(256)),
    ]
    async with running(["127.0.0.1:*"]) as proxy:
        for request in requests:
            answer = await proxy.ask(request)
            shown = [
                encode_payload(Network(event=event)).decode() for event in proxy.recorder.events
            ]
            shown += [repr(answer), caplog.text]
            for secret in SECRETS:
                assert secret not in "".join(shown)
        assert len(proxy.recorder.events) == len(requests) + 1  # the dial that failed is the second


async def test_an_internal_error_cuts_one_connection_only(caplog):
    class Broken(FakeResolver):
        async def __call__(self, name: str) -> list[str]:
            raise ZeroDivisionError

    async with running(["allowed.test"], resolver=Broken()) as proxy:
        assert await proxy.ask(connect("allowed.test:443")) is None
        answer = await proxy.ask(connect("evil.test:443"))
        assert answer is not None
        assert answer.status == 403
    assert "ZeroDivisionError" in caplog.text
