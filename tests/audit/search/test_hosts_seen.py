"""The hosts over all sessions: the numbers of `audit show`, and bounded memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.read.summary import read_story
from nono_trio.audit.search import hosts_seen as hosts
from nono_trio.audit.search.hosts_seen import hosts_seen
from nono_trio.audit.search.patterns import parse_host_glob
from nono_trio.audit.search.query import SearchQuery
from nono_trio.audit.search.searched_sessions import SearchReport

NOON = datetime.fromtimestamp(made.NOON_UNIX_MS / 1000, UTC)
DEAD = {"denial_category": "upstream_connect_failed", "reason": "can't connect to d.test:443: x"}
PAYLOADS = (
    made.started(),
    made.network(1, "allow", "a.test"),
    made.network(2, "allow", "a.test", port=80, method="GET", path="/", mode="reverse"),
    made.network(3, "allow", "d.test"),
    made.network(4, "deny", "d.test", **DEAD),  # the same attempt, which failed
    made.network(5, "deny", "e.test", port=53, method="DNS"),
    made.network(6, "deny", "e.test"),  # the same attempt, after its look-up
    made.network(7, "deny", "only.test", port=53, method="DNS"),
    made.network(8, "deny", "t.test", denial_category="authentication_failed", reason="no token"),
    made.network(9, "deny", "nono-trio:dns", reason="7 more queries for denied names"),
    made.ended(),
)


def seen(root, **query):
    return hosts_seen(root, SearchQuery(**query), SearchReport())


def numbers(found):
    return {
        (row.host, row.port): (row.allowed, row.denied, row.failed) for row in found.by_weight()
    }


@pytest.fixture
def session(root):
    directory = made.build(root, "one", PAYLOADS, flows=[made.flow(2, 10, 20, "a.test")])
    (directory / store.PROCESSES).write_text(
        "".join(
            json.dumps({"sequence": one, "exe": f"/bin/{name}", "state": "found"}) + "\n"
            for one, name in ((2, "curl"), (3, "agent"), (7, "agent"))
        )
    )
    return directory


def test_the_numbers_are_those_of_show(root, session):
    found = seen(root)
    assert numbers(found) == {
        ("a.test", 443): (1, 0, 0),
        ("a.test", 80): (1, 0, 0),
        ("d.test", 443): (0, 0, 1),
        ("e.test", 443): (0, 1, 0),
        ("only.test", None): (0, 1, 0),
    }
    story = read_story(session, 0).attempts
    sums = [sum(column) for column in zip(*numbers(found).values(), strict=True)]
    assert sums == [story.allowed, story.denied, story.failed]
    first = found.by_weight()[0]
    assert (first.host, first.bytes_up, first.bytes_down, first.connections) == (
        "a.test",
        10,
        20,
        1,
    )
    assert [*first.programs] == ["curl"]
    assert (first.first_ms, first.last_ms) == (made.NOON_UNIX_MS + 1,) * 2


def test_sessions_add_up(root, session):
    made.build(root, "two", PAYLOADS)
    row = next(row for row in seen(root).by_weight() if row.port == 80)
    assert (row.allowed, row.sessions) == (2, 2)
    assert numbers(seen(root, host=parse_host_glob("e.test"))) == {("e.test", 443): (0, 2, 0)}


def test_only_the_time_that_is_asked_for_counts(root, session):
    after = NOON + timedelta(milliseconds=5)
    assert {host for host, _ in numbers(seen(root, since=after))} == {"e.test", "only.test"}
    assert numbers(seen(root, until=NOON - timedelta(milliseconds=1))) == {}


@pytest.mark.parametrize(("new", "total"), [(4, 100), (100, 4)])
def test_a_hostile_log_has_a_row_for_some_hosts_and_one_for_the_rest(root, monkeypatch, new, total):
    monkeypatch.setattr(hosts, "MAX_NEW_HOSTS", new)
    monkeypatch.setattr(hosts, "MAX_HOSTS", total)
    denied = [made.network(number, "deny", f"h{number}.test") for number in range(20)]
    allowed = [made.network(number, "allow", f"a{number}.test") for number in range(5)]
    flows = [made.flow(25, 7, 0, "a1.test")]
    made.build(root, "one", [made.started(), *denied, *allowed, made.ended()], flows=flows)
    made.build(root, "two", [made.started(), *denied, made.ended()])
    found = seen(root)
    rows = [*found.rows.values(), found.others]
    assert len(found.rows) == (8 if new == 4 else 4)
    assert sum(row.denied for row in rows) == 40
    assert sum(row.allowed for row in rows) == 5
    assert (found.others.bytes_up, found.others.sessions) == (7, 2)


def test_one_session_can_not_take_the_room_of_all(root, monkeypatch):
    monkeypatch.setattr(hosts, "MAX_NEW_HOSTS", 3)
    flood = [made.network(number, "deny", f"h{number}.test") for number in range(50)]
    made.build(root, "flood", [made.started(), *flood, made.ended()])
    made.build(root, "quiet", [made.started(), made.network(1, "allow", "q.test"), made.ended()])
    assert ("q.test", 443) in numbers(seen(root))


def test_the_programs_of_a_host_are_bounded(root, monkeypatch):
    monkeypatch.setattr(hosts, "MAX_PROGRAMS", 2)
    events = [made.network(number, "allow", "a.test") for number in range(4)]
    directory = made.build(root, "one", [made.started(), *events, made.ended()])
    (directory / store.PROCESSES).write_text(
        "".join(
            json.dumps({"sequence": number + 2, "exe": f"/p{number}", "state": "found"}) + "\n"
            for number in range(4)
        )
    )
    (row,) = seen(root).by_weight()
    assert ([*row.programs], row.more_programs) == (["p0", "p1"], True)


def test_an_unreadable_session_does_not_hide_the_others(root, session):
    log = made.log_of(made.unsealed(root, "bad"))
    log.unlink()
    log.mkdir()
    report = SearchReport()
    assert numbers(hosts_seen(root, SearchQuery(), report)) == numbers(seen(root))
    assert report.unreadable.named == ["bad"]


def test_a_name_that_no_writer_of_ours_made_has_no_row(root):
    long = made.network(1, "allow", "x" * 5000)
    made.build(root, payloads=[made.started(), long, made.ended()])
    found = seen(root)
    assert (len(found.rows), found.others.allowed) == (0, 1)
