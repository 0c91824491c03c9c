"""Calls that wait for a full backlog: which is tried when, on a clock of the test's."""

from __future__ import annotations

from nono_trio.sandbox.broker.retries import FIRST_PAUSE, LONGEST_PAUSE, MAX_WAITING, Retries


def tries_within(retries: Retries[int], seconds: float) -> list[int]:
    """The calls that are tried meanwhile, none of which succeeds."""
    tried: list[int] = []
    now = 0.0
    while (due := retries.next_due()) is not None and due < seconds:
        now = max(now, due)
        taken = retries.take(now)
        assert taken is not None
        key, call = taken
        tried.append(call)
        retries.postpone(key, call, now)
    return tried


def test_three_hundred_at_one_listener_are_tried_as_often_as_one() -> None:
    retries: Retries[int] = Retries()
    assert all(retries.add("socket", call, 0.0) for call in range(300))
    tried = tries_within(retries, 10.0)
    assert set(tried) == {0}
    assert 50 < len(tried) <= 10.0 / LONGEST_PAUSE + 10


def test_many_listeners_cost_no_more_and_each_has_its_turn() -> None:
    retries: Retries[int] = Retries()
    assert all(retries.add(call, call, 0.0) for call in range(300))
    tried = tries_within(retries, 10.0)
    assert set(tried) == {*range(300)}
    assert len(tried) <= 10 * 200 + 2 * 300


def test_a_served_one_makes_room_for_the_next_at_once() -> None:
    retries: Retries[int] = Retries()
    for call in range(3):
        retries.add("socket", call, 0.0)
    for call in range(3):
        assert retries.take(FIRST_PAUSE) == ("socket", call)
        assert retries.take(FIRST_PAUSE) is None  # one at a time
        retries.finish("socket", FIRST_PAUSE)
    assert retries.next_due() is None


def test_the_number_that_waits_is_bounded() -> None:
    retries: Retries[int] = Retries()
    assert all(retries.add(call % 7, call, 0.0) for call in range(MAX_WAITING))
    assert not retries.add("one more", 0, 0.0)
    taken = retries.take(1.0)
    assert taken is not None
    retries.finish(taken[0], 1.0)
    assert retries.add("one more", 0, 0.0)
