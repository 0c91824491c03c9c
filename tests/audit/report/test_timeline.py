from __future__ import annotations

import pytest

from nono_trio.audit.report.timeline import END_OF_TIME, LANES, MOST, Timeline

NOON = 1_782_993_784_123


def drawn(timeline: Timeline) -> int:
    return sum(sum(timeline.drawn(lane, 7)) for lane in LANES)


@pytest.mark.parametrize("length", [1, 100, MOST, MOST + 1, 10**6, 10**9, 10**14])
def test_every_record_is_in_one_column_however_long_the_session_is(length: int) -> None:
    timeline = Timeline(NOON)
    for part in range(1000):
        timeline.add("allowed", NOON + length * part // 1000)
    timeline.add("denied", NOON + length)
    assert (timeline.total("allowed"), timeline.total("denied")) == (1000, 1)
    assert drawn(timeline) == 1001
    assert timeline.count <= MOST
    assert timeline.width == 1 or timeline.count >= MOST // 2
    assert timeline.end > NOON + length or timeline.end == END_OF_TIME
    assert timeline.columns["denied"][timeline.count - 1] == 1
    assert timeline.moved == 0


def test_records_that_come_late_fall_where_the_early_ones_fell() -> None:
    late = Timeline(NOON)
    times = [NOON, NOON + 5000, NOON + 9_000_000, NOON + 5001, NOON + 12]
    for time in times:
        late.add("denied", time)
    wide = Timeline(NOON, NOON + 9_000_000)
    for time in times:
        wide.add("denied", time)
    assert late.columns == wide.columns
    assert (late.width, late.count) == (wide.width, wide.count)


@pytest.mark.parametrize("time", [0, NOON - 1, NOON + 5001, 2**64 - 1])
def test_a_time_outside_of_the_session_does_not_stretch_the_picture(time: int) -> None:
    timeline = Timeline(NOON, NOON + 5000)
    timeline.add("denied", time)
    assert timeline.moved == 1
    assert timeline.total("denied") == 1
    assert timeline.width == 2


def test_without_a_start_the_first_record_is_the_start() -> None:
    timeline = Timeline()
    assert (timeline.begin, timeline.end, timeline.drawn("denied", 160)) == (0, 0, [])
    timeline.add("files", 2**64 - 1)
    timeline.add("files", NOON)
    assert timeline.begin == END_OF_TIME
    assert timeline.total("files") == 2
