"""Each request without the right token is in one record, or in the count of one."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nono_trio.core.log.events import Network
from nono_trio.errors import AuditBusy
from nono_trio.proxy.access import token_failures
from nono_trio.proxy.access.authorizer import WRONG_TOKEN
from nono_trio.proxy.access.decision import Decision
from nono_trio.proxy.access.token_failures import BETWEEN_RECORDS, TokenFailures
from nono_trio.testing import FailingRecorder, MemoryRecorder

ASKED = Decision("connect", "a.test", 443, presented="failed", refusal=WRONG_TOKEN)


class Counted:
    """Failures, and the log behind them."""

    def __init__(self, recorder: MemoryRecorder | None = None) -> None:
        self.recorder = recorder or MemoryRecorder()
        self.failures = TokenFailures(self.recorder, lambda: 1)

    @property
    def said(self) -> list[tuple[str, str | None, object]]:
        return [(one.target, one.reason, one.denial_category) for one in self.recorder.events]


def about(target: str) -> Decision:
    return Decision("connect", target, 443, refusal=WRONG_TOKEN)


async def test_one_record_a_second_and_the_next_one_counts_the_others(autojump_clock):
    at = Counted()
    for _ in range(3):
        await at.failures.record(ASKED)
    assert at.failures.suppressed == 2
    await trio.sleep(BETWEEN_RECORDS)
    await at.failures.record(ASKED)
    assert at.failures.suppressed == 0
    first, second = at.said
    assert first == ("a.test", WRONG_TOKEN.reason, "authentication_failed")
    assert second == ("a.test", f"{WRONG_TOKEN.reason}; 2 more since the last record", first[2])


async def test_what_is_only_counted_has_a_record_when_one_is_due(autojump_clock):
    at = Counted()
    for _ in range(3):
        await at.failures.record(ASKED)
    await at.failures.record_suppressed()
    assert len(at.said) == 1
    await trio.sleep(BETWEEN_RECORDS)
    await at.failures.record_suppressed()
    await at.failures.record_suppressed()
    assert at.said[1:] == [
        (
            "",
            "2 more requests without the right token since the last record",
            "authentication_failed",
        )
    ]
    await at.failures.record(ASKED)
    await at.failures.record_last()
    assert len(at.said) == 3


async def test_a_count_that_could_not_be_recorded_stays(autojump_clock):
    recorder = FailingRecorder(1, AuditBusy("full"))
    at = Counted(recorder)
    for _ in range(3):
        await at.failures.record(ASKED)
    for _ in range(2):
        await at.failures.record_last()
    assert at.failures.suppressed == 2
    await trio.sleep(BETWEEN_RECORDS)
    with pytest.raises(AuditBusy):
        await at.failures.record(ASKED)
    assert at.failures.suppressed == 3


async def test_hosts_that_the_token_never_came_for_have_a_record_each(monkeypatch):
    monkeypatch.setattr(token_failures, "MOST_CHALLENGED", 2)
    at = Counted()
    for target in ("a.test", "b.test", "a.test", "c.test", "d.test"):
        at.failures.challenge(about(target))
    at.failures.answered(about("b.test"))
    await at.failures.record_unanswered()
    assert [(one[0], one[2]) for one in at.said] == [("a.test", "host_denied")]
    [left] = at.recorder.left
    assert isinstance(left, Network)
    assert " 2 " in f" {left.event.reason} "


async def test_nothing_is_left_for_the_end_when_every_host_has_its_record():
    at = Counted()
    at.failures.challenge(about("a.test"))
    await at.failures.record_unanswered()
    assert (len(at.said), at.recorder.left) == (1, [])


async def test_what_is_only_counted_waits_for_no_other_record(autojump_clock):
    at = Counted()
    at.failures.suppressed = 1
    release = trio.Event()

    async def wait(_event):
        await release.wait()

    at.recorder.before_commit = wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at.failures.record, ASKED)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await at.failures.record_suppressed()
        release.set()
    assert len(at.said) == 1
