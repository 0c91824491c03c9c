"""A search over sessions: what is found, in which order, and how much is read for it."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from itertools import islice

import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.search import record_programs
from nono_trio.audit.search import search as searching
from nono_trio.audit.search.patterns import PathGlob, ProgramGlob, TextGlob, parse_host_glob
from nono_trio.audit.search.query import SearchQuery
from nono_trio.audit.search.search import search
from nono_trio.audit.search.searched_sessions import SearchReport
from nono_trio.audit.verify import bound_facts
from nono_trio.core.log.file_events import denied_file, more_denied_files

NOON = datetime.fromtimestamp(made.NOON_UNIX_MS / 1000, UTC)
EVERYTHING = SearchQuery()


def found(root, query=EVERYTHING, **options):
    report = SearchReport()
    matches = [*search(root, query, report, **options)]
    return [(one.session_id, one.record.sequence) for one in matches], report


def host(pattern, **fields):
    return SearchQuery(host=parse_host_glob(pattern), **fields)


def at(monkeypatch, moment):
    """Payloads of a session that starts and ends at a time."""
    text = moment.isoformat().replace("+00:00", "Z")
    monkeypatch.setattr(made, "STARTED", text)
    monkeypatch.setattr(made, "ENDED", text)
    monkeypatch.setattr(made, "NOON_UNIX_MS", int(moment.timestamp() * 1000))
    return (made.started(), *made.SMALL[1:2], made.network(0), made.ended())


def with_processes(directory, *found):
    lines = "".join(json.dumps({"sequence": one, "exe": exe, "state": "found"}) + "\n"
                    for one, exe in found)  # fmt: skip
    (directory / store.PROCESSES).write_text(lines)
    return directory


def test_the_newest_session_first_and_its_records_in_order(root, monkeypatch):
    for day, name in ((1, "old"), (3, "new"), (2, "middle")):
        payloads = at(monkeypatch, NOON + timedelta(days=day))
        made.build(
            root, name, payloads=[*payloads[:-1], made.network(1, target="b.test"), *payloads[-1:]]
        )
    assert found(root)[0] == [
        ("new", 3), ("new", 4), ("middle", 3), ("middle", 4), ("old", 3), ("old", 4),
    ]  # fmt: skip
    assert found(root, newest=1)[0] == [("new", 4)]
    assert found(root, newest=3)[0] == [("new", 3), ("new", 4), ("middle", 4)]
    assert found(root, newest=100)[0] == found(root)[0]


def test_a_live_and_a_crashed_session_are_searched(root):
    for make, name in ((made.running, "live"), (made.unsealed, "dead")):
        directory = make(root, name)
        with (directory / store.LOG).open("ab") as log:
            log.write(b'{"sequence":9,"half')
    assert {one for one, _ in found(root, host("evil.test"))[0]} == {"live", "dead"}
    made.let_go()


def test_records_about_the_log_are_no_results(root):
    payloads = [
        made.started(),
        made.network(1, "deny", "nono-trio:audit", reason="3 events lost: queue full"),
        more_denied_files(7, "s", 1),
        denied_file("/srv", "Read", process=3, number=1, session_id="s", unix_ns=1),
        made.ended(),
    ]
    made.build(root, payloads=payloads, lost_total=3)
    results, report = found(root)
    assert results == [("0123456789abcdef", 4)]
    assert report.lost.named == ["0123456789abcdef"]


def test_each_option_narrows(root):
    payloads = [
        made.started(),
        made.network(1, "allow", "a.test", port=80, path="/v1/a", method="GET", mode="reverse"),
        made.network(2, "deny", "a.test", port=8443),
        denied_file("/home/me/.ssh", "Read", process=3, number=1, session_id="s", unix_ns=10**18),
        made.ended(),
    ]
    directory = made.build(root, payloads=payloads, flows=[made.flow(2, target="a.test")])
    with_processes(directory, (2, "/usr/bin/curl"), (3, "/opt/agent"))
    name = directory.name

    def places(query):
        results, _ = found(root, query)
        assert {one for one, _ in results} <= {name}
        return [sequence for _, sequence in results]

    assert places(host("A.test")) == [2, 3]
    assert places(host("a.test:8443")) == [3]
    assert places(host("192.0.2.1")) == [2]  # the address that was dialled
    assert places(host("192.0.2.*:443")) == [2]
    assert places(host("192.0.2.1:80")) == []
    assert places(SearchQuery(decision="deny")) == [3, 4]
    assert places(SearchQuery(path=PathGlob(TextGlob("/home/me/.ssh/id_ed25519")))) == [4]
    assert places(SearchQuery(path=PathGlob(TextGlob("/v1/*")))) == [2]
    assert places(SearchQuery(program=ProgramGlob(TextGlob("curl")))) == [2]
    assert places(SearchQuery(program=ProgramGlob(TextGlob("*agent")), decision="deny")) == [3]
    assert places(host("a.test", program=ProgramGlob(TextGlob("nothing")))) == []
    (match,) = search(root, host("a.test:8443"), SearchReport())
    assert [program.exe for program in match.programs] == ["/opt/agent"]


def test_full_names_of_a_look_up_are_hosts(root):
    noted = made.network(
        1, "allow", "intranet", reason="looked up as intranet.corp.example, intranet"
    )
    made.build(root, payloads=[made.started(), noted, made.ended()])
    assert found(root, host("*.corp.example"))[0] == [("0123456789abcdef", 2)]


def test_a_session_of_another_time_is_not_read(root, monkeypatch):
    for days, name in ((0, "old"), (10, "mid"), (20, "new")):
        made.build(root, name, payloads=at(monkeypatch, NOON + timedelta(days=days)))
    ten = NOON + timedelta(days=10)
    hour = timedelta(hours=1)
    results, report = found(root, SearchQuery(since=ten - hour, until=ten + hour))
    assert (results, report.searched, report.skipped) == ([("mid", 3)], 1, 2)
    results, report = found(root, SearchQuery(since=ten + hour))
    assert (results, report.searched, report.skipped) == ([("new", 3)], 2, 1)  # a clock may be set
    assert found(root, SearchQuery(until=ten))[0] == [("mid", 3), ("old", 3)]


def test_a_long_session_is_read_for_its_own_records_of_the_time(root, monkeypatch):
    """It began before the time; its session.json may say anything."""
    payloads = at(monkeypatch, NOON)
    week = made.network(0)
    monkeypatch.setattr(made, "NOON_UNIX_MS", made.NOON_UNIX_MS + 7 * 86_400_000)
    directory = made.unsealed(root, payloads=[*payloads[:-1], week, made.network(1)])
    made.change_session(directory, ended="1999-01-01T00:00:00Z", started="1999-01-01T00:00:00Z")
    results, report = found(root, SearchQuery(since=NOON + timedelta(days=6)))
    assert results == [(directory.name, 5)]
    assert report.tampered.count == 1


def test_tampered_missing_and_unreadable_sessions_are_told(root):
    for name in ("good", "tampered", "gone", "unreadable"):
        made.build(root, name)
    log = made.log_of(root / "tampered")
    made.overwrite(log, log.read_bytes().replace(b'"exit_code":0', b'"exit_code":1'))
    for entry in [*(root / "gone").iterdir()]:
        entry.unlink()
    (root / "gone").rmdir()
    broken = made.log_of(root / "unreadable")
    broken.unlink()
    os.mkfifo(broken)
    results, report = found(root, host("evil.test"))
    assert {one for one, _ in results} == {"good", "tampered"}
    assert "tampered" in report.tampered.named
    assert report.missing.named == ["gone"]
    assert report.unreadable.named == ["unreadable"]


def test_one_session_alone(root):
    made.build(root, "one")
    made.build(root, "two")
    results, report = found(root, sessions=[root / "two"])
    assert {one for one, _ in results} == {"two"}
    assert report.searched == 1


def test_a_thousand_sessions_cost_little_each(memory_path, monkeypatch):
    """Counted: a record is decoded if it has the literal; programs are read for a result."""
    root = memory_path / "audit"
    monkeypatch.setattr("os.fsync", lambda _fd: None)
    monkeypatch.setattr("os.fdatasync", lambda _fd: None)
    for number in range(1000):
        payloads = made.SMALL
        if number == 500:
            payloads = [*made.SMALL[:-1], made.network(9, target="needle.test"), made.ended()]
        made.build(root, f"{number:016x}", payloads=payloads)
    decoded, read = [], []
    real = searching.parse_record
    monkeypatch.setattr(searching, "parse_record", lambda line: decoded.append(1) or real(line))
    real_programs = record_programs.RecordPrograms
    monkeypatch.setattr(
        searching, "RecordPrograms", lambda *given: read.append(1) or real_programs(*given)
    )
    results, report = found(root, host("needle.test"))
    assert results == [(f"{500:016x}", 5)]
    assert (report.searched, len(decoded), len(read)) == (1000, 1, 1)
    looked = []
    monkeypatch.setattr(bound_facts, "look", lambda *_given: looked.append(1))
    results, report = found(root, SearchQuery(since=datetime.now(UTC) + timedelta(days=400)))
    assert (results, report.skipped, looked) == ([], 1000, [])


def test_it_streams_and_stops(root, monkeypatch):
    """The first result is there before the second session is looked at."""
    for name in ("one", "two"):
        made.build(root, name)
    looked = []
    real = bound_facts.look
    monkeypatch.setattr(bound_facts, "look", lambda *given: looked.append(1) or real(*given))
    results = search(root, EVERYTHING, SearchReport())
    assert len([*islice(results, 1)]) == 1
    assert len(looked) == 1
    results.close()
    assert len([*search(root, EVERYTHING, SearchReport(), goes_on=lambda: False)]) == 0


def test_a_session_that_is_removed_meanwhile_is_not_tampered(root, monkeypatch):
    for name in ("one", "two"):
        made.build(root, name)
    real = bound_facts.look

    def look(directory, *given):
        if directory.name == "one":
            shutil.rmtree(directory)
        return real(directory, *given)

    monkeypatch.setattr(bound_facts, "look", look)
    results, report = found(root, host("evil.test"))
    assert {one for one, _ in results} == {"two"}
    assert (report.tampered.count, report.unreadable.count, report.searched) == (0, 0, 1)


def test_long_records_are_not_held_without_end(root, monkeypatch):
    monkeypatch.setattr(searching, "MAX_HELD", 5000)
    many = [made.network(number, path="x" * 200) for number in range(20)]
    made.build(root, payloads=[made.started(), *many, made.ended()])
    results, report = found(root, newest=20)
    assert (results, report.unreadable.count) == ([], 1)
    assert len(found(root, newest=3)[0]) == 3


def test_lost_records_of_a_session_without_a_seal_are_told(root):
    made.unsealed(root, "lossy", lost=2)
    made.unsealed(root, "whole")
    (made.unsealed(root, "damaged") / store.CHECKPOINTS).write_bytes(b"{\n")
    assert found(root)[1].lost.named == ["lossy"]
