"""The records about the log itself: old logs contain their texts, so they never change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nono_trio.core.log.events import SessionEnded
from nono_trio.core.log.notices import (
    NOT_RECORDED,
    POLICY_TARGET,
    QUEUE_FULL,
    SUMMARY_TARGET,
    binding_record,
    bound_digest,
    early_end_record,
    gap_record,
    is_about_log,
    lost_events,
    recovery_record,
    says_policy_was_taken,
)

TORN = "audit-events.ndjson.torn"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

TEXTS = {
    "3 events lost: queue full": gap_record(3, QUEUE_FULL, 0),
    "3 events lost: the supervisor was lost before it recorded that": gap_record(
        3, NOT_RECORDED, 0
    ),
    "ended: the disk is full": early_end_record("the disk is full", 0),
    "recovered: 0 bytes of a torn record cut": recovery_record(
        0, TORN, 0, start_taken=False, policy_taken=False
    ),
    "recovered: 7 bytes of a torn record cut, kept in audit-events.ndjson.torn;"
    " session_started is taken from session.json; the policy is taken from policy.json": (
        recovery_record(7, TORN, 0, start_taken=True, policy_taken=True)
    ),
    f"sha256:{EMPTY}": binding_record(POLICY_TARGET, b"", 0),
}


@pytest.mark.parametrize("text", TEXTS)
def test_each_text_is_as_it_always_was(text: str) -> None:
    event = TEXTS[text].event
    assert event.reason == text
    assert is_about_log(event)
    assert event.decision == ("allow" if text.startswith("sha256") else "deny")


@given(st.integers(0, 10**18 - 1), st.text())
def test_a_count_of_lost_events_is_read_back(count: int, why: str) -> None:
    assert lost_events(gap_record(count, why, 0).event) == count


@given(st.integers(0, 2**40), st.booleans(), st.booleans())
def test_a_recovery_tells_whether_the_policy_was_taken(
    torn: int, start: bool, policy: bool
) -> None:
    record = recovery_record(torn, TORN, 0, start_taken=start, policy_taken=policy)
    assert says_policy_was_taken(record) == policy
    assert lost_events(record.event) == 0


@given(st.binary())
def test_a_digest_is_read_back_for_its_own_target_only(data: bytes) -> None:
    record = binding_record(SUMMARY_TARGET, data, 0)
    assert bound_digest(record, SUMMARY_TARGET) in (record.event.reason or "")
    assert bound_digest(record, POLICY_TARGET) is None


def test_other_records_say_none_of_it() -> None:
    ended = SessionEnded(ended="t", exit_code=0)
    assert bound_digest(ended, POLICY_TARGET) is None
    assert not says_policy_was_taken(ended)
    event = gap_record(3, QUEUE_FULL, 0).event
    assert lost_events(event) == 3
    assert lost_events(replace(event, target="host.test")) == 0  # what a request could have made
