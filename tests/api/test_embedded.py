"""Sessions inside a trio program: whatever ends the body, the log is whole and one error comes."""

from __future__ import annotations

import asyncio
import base64
import errno
import functools
import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trio
from signed_session import key_store_generate

from nono_trio.api import audit
from nono_trio.api.proxy import open_proxy
from nono_trio.audit.keys.signer import SignerFailed
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.write import disk_room
from nono_trio.audit.write.chained_log import ChainedLog
from nono_trio.errors import AuditLost, LogRewritten, SessionSealed, UsageError
from nono_trio.proxy.access.authorizer import RequestAuthorizer
from nono_trio.session import signing

REAL_SECONDS = 60.0  # a bound on real waits


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def ended(log):
    """The exit code of the last record of a session, which must be sealed and whole."""
    answer = audit.verify(log.directory)
    assert (answer.verdict, answer.notes) == ("verified", [])
    [*_, last] = audit.records(log.directory)
    assert isinstance(last.event, audit.SessionEnded)
    return last.event.exit_code


def told(log):
    return [(one.event.decision, one.event.target) for one in audit.decisions(log.directory)]


async def answering(stream):
    async with stream:
        await stream.receive_some(4096)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        )


@pytest.fixture
async def port(nursery):
    serve = functools.partial(trio.serve_tcp, answering, 0, host="127.0.0.1")
    [listener] = await nursery.start(serve)
    return listener.socket.getsockname()[1]


async def fetched(proxy, url):
    async with httpx.AsyncClient(proxy=proxy.proxy_url, timeout=REAL_SECONDS) as client:
        return (await client.get(url)).status_code


async def tunnelled(proxy, port):
    """A connection that is open through the proxy."""
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    head = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic "
    token = base64.b64encode(f"nono:{proxy.token}".encode()).decode()
    await stream.send_all(f"{head}{token}\r\n\r\n".encode())
    assert b" 200 " in await stream.receive_some(4096)
    return stream


async def test_a_record_of_ones_own(state):
    async with audit.record(["agent", "--token=secret1"], name="mine") as log:
        assert audit.find_session("mine").status == "running"
        assert await log.record("allow", "tool:search", path="/a?q=1") == 2
        assert await log.record("deny", "shop.example.com", port=443, reason="no") == 3
        assert audit.verify("mine").verdict == "open"
    assert ended(log) == 0
    assert told(log) == [("allow", "tool:search"), ("deny", "shop.example.com")]
    [session] = audit.sessions()
    assert (session.name, session.status, session.exit_code) == ("mine", "sealed", 0)
    assert session.command is not None
    assert "secret1" not in " ".join(session.command)
    with pytest.raises(SessionSealed):
        await log.record("allow", "late.example.com")
    assert ended(log) == 0


async def test_a_proxy_allows_and_denies(state, port):
    async with open_proxy(allow=[f"127.0.0.1:{port}"]) as proxy:
        assert await fetched(proxy, f"http://127.0.0.1:{port}/") == 200
        assert await fetched(proxy, "http://denied.example.com/") == 403
        await proxy.record("allow", "tool:search")
        proxy.proxy_url = proxy.proxy_url.replace(proxy.token, "0" * 64)
        assert await fetched(proxy, f"http://127.0.0.1:{port}/") == 407
    assert ended(proxy) == 0
    policy = json.loads((proxy.directory / "policy.json").read_bytes())
    assert policy["network"]["allow"] == [{"entry": f"127.0.0.1:{port}", "source": "allow="}]
    assert told(proxy)[:3] == [
        ("allow", "127.0.0.1"), ("deny", "denied.example.com"), ("allow", "tool:search"),
    ]  # fmt: skip
    with pytest.raises(OSError):  # noqa: PT011  (refused or reset: the listener is closed)
        await trio.open_tcp_stream("127.0.0.1", proxy.port)


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("x"), 1), (SystemExit(3), 3), (KeyboardInterrupt(), 130)]
)
async def test_what_the_body_raises_comes_out_as_it_is(state, error, code):
    raised = None
    try:
        async with open_proxy() as proxy:
            await proxy.record("allow", "tool:search")
            raise error  # noqa: TRY301
    except BaseException as other:
        raised = other
    assert raised is error
    assert (ended(proxy), told(proxy)) == (code, [("allow", "tool:search")])


async def test_a_group_of_the_body_is_not_wrapped(state):
    with pytest.RaisesGroup(ValueError):
        async with open_proxy(), trio.open_nursery():
            raise ValueError


async def test_a_cancelled_body_leaves_a_sealed_log(state, port):
    """Also one whose connection is open: it gets no grace."""
    with trio.CancelScope() as scope:
        async with open_proxy(allow=[f"127.0.0.1:{port}"], grace_seconds=3600) as proxy:
            stream = await tunnelled(proxy, port)
            await proxy.record("allow", "tool:search")
            scope.cancel()
            await trio.sleep_forever()
    await stream.aclose()
    assert scope.cancelled_caught
    assert ended(proxy) == 130


@pytest.mark.parametrize("how", ["cancelled", "Ctrl-C"])
async def test_the_grace_of_connections_ends_with_the_program(state, port, nursery, how):
    """It is asked to end after the block's body, which has left a connection open."""
    raised = None
    with trio.fail_after(REAL_SECONDS), trio.CancelScope() as scope:
        try:
            async with open_proxy(allow=[f"127.0.0.1:{port}"], grace_seconds=3600) as proxy:
                stream = await tunnelled(proxy, port)
                if how == "cancelled":
                    nursery.start_soon(cancel_once_refused, proxy.port, scope.cancel)
                else:
                    here = trio.lowlevel.current_task()
                    nursery.start_soon(cancel_once_refused, proxy.port, lambda: interrupt(here))
        except KeyboardInterrupt as error:
            raised = error
    await stream.aclose()
    assert (scope.cancelled_caught, raised is not None) == (how == "cancelled", how == "Ctrl-C")
    assert ended(proxy) == 0


async def cancel_once_refused(port, ask):
    """Call `ask` once the listener is closed: the body has ended."""
    with suppress(OSError):
        while True:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    ask()


def interrupt(task):
    """As Ctrl-C does while the task of the program waits."""

    def fail():
        raise KeyboardInterrupt

    task._attempt_abort(fail)


async def test_ctrl_c_in_a_task_of_the_proxy(state, port, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(RequestAuthorizer, "authorize", interrupted)
    opened = []

    async def fetch():
        async with open_proxy() as proxy:
            opened.append(proxy)
            await fetched(proxy, f"http://127.0.0.1:{port}/")
            await trio.sleep_forever()

    with trio.fail_after(REAL_SECONDS), pytest.raises(KeyboardInterrupt):
        await fetch()
    assert ended(opened[0]) == 130


@pytest.mark.parametrize("checkpoints", range(6))
async def test_cancelled_at_any_moment_of_the_start(state, checkpoints):
    """There is no session, or a sealed one."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_soon():
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel_soon)
            async with open_proxy():
                await trio.sleep_forever()
    assert {answer.verdict for answer in audit.verify_all()} <= {"verified"}


async def test_a_full_disk_cancels_the_body(state, monkeypatch):
    """The end has its room: the log is sealed, and says why it ended."""
    opened, cancelled = [], []

    def refuse(_descriptor):
        raise disk_room.NoRoom(errno.ENOSPC, "less than 64 MiB left on its disk")

    async def write_for_ever():
        async with open_proxy() as proxy:
            opened.append(proxy)
            monkeypatch.setattr(disk_room, "require_floor", refuse)
            with suppress(AuditLost):
                for number in range(2000):  # the chunk that is held has room for some
                    await proxy.record("allow", f"tool:{number}", reason="r" * 1000)
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append(True)

    with trio.fail_after(REAL_SECONDS), pytest.raises(AuditLost, match="less than 64") as lost:
        await write_for_ever()
    assert cancelled
    assert lost.value.hint is not None
    assert audit.verify(opened[0].directory).verdict == "verified"
    assert told(opened[0])[-1][1].startswith("tool:")


async def test_a_log_that_fails_cancels_the_body(state):
    async def lose():
        async with audit.record() as log:
            (log.directory / "audit-events.ndjson").unlink()
            await trio.sleep_forever()

    with trio.fail_after(REAL_SECONDS), pytest.raises(AuditLost, match="can't be written"):
        await lose()
    [session] = audit.sessions()
    assert session.status != "sealed"


async def test_a_log_that_failed_can_be_recovered_while_the_program_goes_on(state, monkeypatch):
    """It kept its lock until the program ended."""

    def fail(*_records, last):
        raise OSError(errno.EIO, "the disk failed")

    opened = []

    async def lose():
        async with audit.record() as log:
            opened.append(log)
            await log.record("deny", "a.example.com")
            with monkeypatch.context() as patched:
                patched.setattr(ChainedLog, "append", fail)
                await log.record("deny", "b.example.com")

    with trio.fail_after(REAL_SECONDS), pytest.raises(AuditLost, match="the disk failed"):
        await lose()
    [log] = opened
    assert audit.find_session(log.session_id).status == "crashed"
    assert recover(log.directory).outcome == "recovered"
    assert audit.verify(log.directory).verdict == "verified"


async def test_a_log_that_fails_stops_a_signature(state, monkeypatch):
    """The thread of a checkpoint is abandoned then: the signer's command would outlive us."""
    signer = key_store_generate(state.parent)
    is_asked, is_stopped = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(_data):
        token.run_sync_soon(is_asked.set)
        assert is_stopped.wait(REAL_SECONDS)
        raise SignerFailed("it was stopped")

    def fail(*_records, last):
        raise OSError(errno.EIO, "the disk failed")

    async def lose():
        async with audit.record(sign_key="default") as log:
            monkeypatch.setattr(signer, "sign_note", hang)
            await log.record("deny", "a.example.com")
            await is_asked.wait()
            monkeypatch.setattr(ChainedLog, "append", fail)
            await log.record("deny", "b.example.com")

    monkeypatch.setattr(signer, "stop", is_stopped.set)
    monkeypatch.setattr(signing, "proxy_signer", lambda _options: signer)
    with trio.fail_after(REAL_SECONDS), pytest.raises(AuditLost, match="the disk failed"):
        await lose()
    assert is_stopped.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are named in /proc")
def test_a_session_leaves_nothing_open(state):
    """Each left 18 descriptors behind, so a program could have some fifty of them."""

    async def main():
        async with open_proxy() as proxy:
            await proxy.record("allow", "tool:search")

    trio.run(main)
    opened = [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]
    assert [path for path in opened if path.is_relative_to(state)] == []


async def test_two_at_once(state, port):
    async with (
        open_proxy(allow=[f"127.0.0.1:{port}"]) as first,
        open_proxy() as second,
        audit.record() as third,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(fetched, first, f"http://127.0.0.1:{port}/")
        nursery.start_soon(fetched, second, f"http://127.0.0.1:{port}/")
        nursery.start_soon(third.record, "allow", "tool:search")
    assert [ended(one) for one in (first, second, third)] == [0, 0, 0]
    assert told(first) == [("allow", "127.0.0.1")]
    assert told(second) == [("deny", "127.0.0.1")]
    assert [answer.verdict for answer in audit.verify_all()] == ["verified"] * 3


async def test_a_loop_in_another_thread(state):
    async def main():
        async with open_proxy() as proxy:
            await proxy.record("allow", "tool:search")
        return proxy

    assert ended(await trio.to_thread.run_sync(trio.run, main)) == 0


@pytest.mark.parametrize("make", [open_proxy, audit.record])
def test_outside_of_trio(state, make):
    async def main():
        async with make():
            pass

    with pytest.raises(UsageError, match="task of trio") as refused:
        asyncio.run(main())
    assert refused.value.hint == "call it inside of trio.run(main)"
    assert not state.exists()


@pytest.mark.parametrize(
    "rules",
    [
        {"allow": ["https://a.example.com/path"]}, {"allow": ["a b"]}, {"deny": [""]},
        {"name": "a b"}, {"name": "latest"}, {"allow": "a.example.com"}, {"deny": [5]},
        {"command": "agent"}, {"mode": "lax"}, {"sync": ""}, {"port": 70_000}, {"port": -1},
        {"audit_dir": "s3://archive"},
        {"grace_seconds": -1}, {"grace_seconds": float("nan")}, {"max_connections": 0},
        # A generator was read by the check alone, so nothing was denied.
        {"deny": (host for host in ["a.example.com"])}, {"deny": 5}, {"allow": None},
        {"port": "80"}, {"port": 1.5}, {"grace_seconds": None}, {"max_connections": 2.5},
        {"name": b"x"}, {"audit_dir": b"state"}, {"sign_key": 5}, {"command": 5},
    ],
)  # fmt: skip
async def test_what_can_not_be_meant_makes_nothing(state, rules):
    with pytest.raises(UsageError):
        async with open_proxy(**rules):
            pass
    assert not state.exists()


async def test_a_state_directory_that_can_not_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AuditLost, match="can't be created"):
        async with open_proxy(audit_dir=tmp_path / "file"):
            pass


async def test_a_port_that_is_taken(state, port):
    with pytest.raises(UsageError, match=f"can't listen on 127.0.0.1:{port}"):
        async with open_proxy(port=port):
            pass
    assert not state.exists()


@pytest.mark.parametrize(
    "values",
    [
        {"target": "\ud800"}, {"target": "nono-trio:summary"}, {"target": 5},
        {"decision": "maybe"}, {"port": 70_000}, {"port": "80"}, {"mode": "x"},
        {"reason": b"1"}, {"target": b"x"}, {"port": float("nan")}, {"reason": float("inf")},
        {"path": datetime.now(UTC)}, {"decision": ["deny"]},
    ],
)  # fmt: skip
async def test_an_event_that_no_record_can_have_ends_nothing(state, values):
    async with audit.record() as log:
        with pytest.raises(UsageError, match="expected"):
            await log.record(**({"decision": "deny", "target": "a.example.com"} | values))
        await log.record("deny", "a.example.com")
    assert (ended(log), told(log)) == (0, [("deny", "a.example.com")])


@pytest.mark.parametrize("new_only", [False, True])
async def test_following_a_live_log_to_its_end(state, new_only, nursery):
    async with audit.record() as log:
        await log.record("allow", "first.example.com")
        live = audit.follow(log.session_id, new_only=new_only)
        assert live.end is None
        if not new_only:
            assert [(await anext(live)).sequence for _ in range(3)] == [0, 1, 2]
        with trio.move_on_after(0):
            await anext(live)
        with trio.fail_after(REAL_SECONDS):
            nursery.start_soon(log.record, "deny", "second.example.com")
            while True:
                found = (await anext(live)).event
                if isinstance(found, audit.Network) and found.event.decision == "deny":
                    break
    rest = [one.event async for one in live]
    assert isinstance(rest[-1], audit.SessionEnded)
    assert live.end == "ended"


async def test_records_of_a_step_that_was_cancelled_are_not_lost_at_the_end(state, monkeypatch):
    """The thread of the step goes on: it adds the last record while the end is asked for."""
    async with audit.record() as log:
        pass

    class Ending:
        def __init__(self, _tail, take):
            self.take = take

        @property
        def end(self):
            self.take(last)
            return "ended"

    [*_, last] = audit.records(log.directory)
    monkeypatch.setattr("nono_trio.api.following.Following", Ending)
    live = audit.follow(log.directory, new_only=True)
    assert await anext(live) is last
    assert live.end is None
    assert await anext(live) is last


async def test_following_a_log_whose_past_is_changed(state):
    async with audit.record() as log:
        await log.record("deny", "a.example.com")
    path = log.directory / "audit-events.ndjson"
    [first, _second, *rest] = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *rest]))
    live = audit.follow(log.directory)
    assert (await anext(live)).sequence == 0
    for _ in range(2):  # it stays so
        with pytest.raises(LogRewritten, match="TAMPERED"):
            await anext(live)


SIGNED = """
import sys, trio
from nono_trio.api import audit

async def main():
    async with audit.record(["agent"], sign_key="default") as log:
        await log.record("deny", "a.example.com")
    print(log.session_id)

trio.run(main)
"""


def test_a_signed_session_of_ones_own(state):
    """In a process of its own: it dumps no core from then on."""
    state.mkdir()
    keys = key_store_generate(state).public.pem().encode()
    done = subprocess.run(
        [sys.executable, "-c", SIGNED], capture_output=True, text=True, check=True,
        timeout=REAL_SECONDS,
    )  # fmt: skip
    session = done.stdout.strip()
    assert audit.verify(session, public_keys=keys).verdict == "verified"
    proved = audit.check_proof(audit.prove(session, 2), keys)
    assert (proved.session_id, proved.sequence) == (session, 2)
    assert b"a.example.com" in proved.event_json


async def test_the_ledger_is_signed_however_the_body_ends(state, monkeypatch, caplog):
    """Nobody has asked twice: the body was cancelled, and its connections are cut for that."""
    monkeypatch.setattr(signing, "forbid_core_dumps", lambda: None)  # it would be for all tests
    state.mkdir()
    key_store_generate(state)
    with trio.CancelScope() as scope:
        async with audit.record(["agent"], sign_key="default") as log:
            scope.cancel()
            await trio.sleep_forever()
    assert caplog.messages == []
    [line] = (log.directory.parent / "ledger-checkpoints.ndjson").read_bytes().splitlines()
    assert json.loads(line)["event_count"] == 1


CTRL_C = """
import json, signal, trio
from nono_trio.api import audit, proxy

async def main():
    async with proxy.open_proxy() as opened:
        print(opened.directory, flush=True)
        await opened.record("allow", "tool:search")
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

trio.run(main)
"""


def test_ctrl_c_in_a_program_seals_its_log(state):
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C], capture_output=True, text=True, check=False,
        timeout=REAL_SECONDS,
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert audit.verify(Path(done.stdout.strip())).verdict == "verified"
