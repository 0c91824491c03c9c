import json
import random
import shutil
import tracemalloc

import pytest
import vectors
from exported_lines import FACTS, PROGRAM
from sealed_session import SMALL, build, ended, flow, log_of, network, running, started

from nono_trio.audit import store
from nono_trio.audit.export import formats
from nono_trio.audit.export.lookup import decision_at
from nono_trio.audit.export.session_reader import PROGRAM_MS, Position, SessionReader
from nono_trio.core.export.exported import FlowLine, RecordLine
from nono_trio.core.log import events
from nono_trio.core.log.record import encode_record
from nono_trio.errors import LogRewritten

NOW = network(0).event.timestamp_unix_ms


def many(count):
    return [started(), *(network(place, "allow", f"h{place}.test") for place in range(count))]


def read_all(directory, position=None, limit=512):
    """Every line, by readers that start anew after each batch, and the last position."""
    lines, position = [], position or Position()
    while True:
        batch = SessionReader(directory, position).read(live=False, limit=limit)
        if not batch.lines:
            return lines, position
        lines += batch.lines
        position = batch.position


def process_line(sequence):
    return json.dumps({"sequence": sequence, "pid": 5, "exe": f"/p{sequence}", "state": "found"})


def write_processes(directory, sequences):
    text = "".join(f"{process_line(one)}\n" for one in sequences)
    (directory / store.PROCESSES).write_text(text)


def test_each_record_comes_once_and_each_flow_after_it_however_often_reading_starts_anew(tmp_path):
    flows = [flow(30), flow(3), flow(12)]
    directory = build(tmp_path, payloads=[*many(40), ended()], flows=flows)
    whole = [*SessionReader(directory).read(live=False).lines]
    for limit in (1, 2, 7, 512):
        lines, position = read_all(directory, limit=limit)
        assert sorted(map(repr, lines)) == sorted(map(repr, whole))
        records = [line.sequence for line in lines if isinstance(line, RecordLine)]
        assert records == [*range(44)]
        assert position.ended
        for place, line in enumerate(lines):
            if isinstance(line, FlowLine):
                before = [one.sequence for one in lines[:place] if isinstance(one, RecordLine)]
                assert line.flow.sequence in before
                assert line.decision.target == f"h{line.flow.sequence - 2}.test"


def test_programs_are_found_where_their_lines_are_out_of_order(tmp_path):
    directory = build(tmp_path, payloads=[*many(40), ended()])
    write_processes(directory, [9, 2, 30, 3, 4, 41, 20, 2, 5])
    for limit in (1, 3, 512):
        lines, _ = read_all(directory, limit=limit)
        found = {
            line.sequence: [one.exe for one in line.programs]
            for line in lines
            if isinstance(line, RecordLine) and line.programs
        }
        expected = {place: [f"/p{place}"] for place in (3, 4, 5, 9, 20, 30, 41)}
        assert found == expected | {2: ["/p2", "/p2"]}


def test_a_decision_is_found_in_the_log_at_every_place(tmp_path):
    directory = build(tmp_path, payloads=[*many(30), ended()])
    log = log_of(directory)
    size = log.stat().st_size
    for place in range(30):
        assert decision_at(log, place + 2, size).target == f"h{place}.test"
    assert decision_at(log, 10**6, size) is None
    assert decision_at(log, 0, size) is None  # it is no network event


def test_a_record_of_a_live_session_waits_for_its_program_but_not_for_ever(tmp_path):
    directory = running(tmp_path, payloads=many(2))
    write_processes(directory, [2])
    now = NOW + 5
    reader = SessionReader(directory, now_ms=lambda: now)
    assert [line.sequence for line in reader.read(live=True).lines] == [0, 1, 2]
    assert not reader.read(live=True).lines
    now += PROGRAM_MS + 1
    assert [line.sequence for line in reader.read(live=True).lines] == [3]


def test_a_live_session_goes_on_where_it_was(tmp_path):
    directory = running(tmp_path, payloads=many(1))
    reader = SessionReader(directory)
    first = reader.read(live=True)
    text = events.encode_payload(network(9, "allow", "later.test"))
    line, _, _ = encode_record(3, bytes.fromhex(first.position.chain), text)
    with log_of(directory).open("ab") as log:
        log.write(line[:-5])
        log.flush()
        assert not reader.read(live=True).lines  # half a line
        log.write(line[-5:])
    assert [one.sequence for one in reader.read(live=True).lines] == [3]


@pytest.mark.parametrize("what", ["cut", "replaced", "flows", "record"])
def test_a_session_that_shrinks_or_is_rewritten_is_told(tmp_path, what):
    directory = build(tmp_path, payloads=[*many(5), ended()], flows=[flow(2)])
    position = SessionReader(directory).read(live=False).position
    log = log_of(directory)
    if what == "cut":
        log.write_bytes(log.read_bytes()[:-200])
    elif what == "flows":
        (directory / store.FLOWS).write_bytes(b"")
    elif what == "replaced":
        other = build(tmp_path, "other", payloads=[*many(5), ended(3)], flows=[flow(2)])
        log.write_bytes(log_of(other).read_bytes())
    else:
        log.write_bytes(log.read_bytes() + b'{"sequence": 99}\n')
    with pytest.raises(LogRewritten, match="TAMPERED"):
        SessionReader(directory, position).read(live=False)


def test_hostile_lines_beside_the_log_are_passed_over(tmp_path):
    directory = build(tmp_path, payloads=[*many(3), ended()])
    hostile = [b"\xff\xfe", b"{", b"[" * 5000, b'{"sequence":1e999}', b'{"sequence":-1}', b""]
    huge = events.encode_flow(flow(2)).replace(b'"bytes_up":100', b'"bytes_up":' + b"9" * 400)
    text = b"\n".join([*hostile, huge, b""])
    (directory / store.PROCESSES).write_bytes(text)
    (directory / store.FLOWS).write_bytes(text + events.encode_flow(flow(2)))
    lines, _ = read_all(directory)
    assert [line.flow.bytes_up for line in lines if isinstance(line, FlowLine)] == [100]


def test_a_flow_of_no_record_comes_last(tmp_path):
    directory = build(tmp_path, payloads=SMALL, flows=[flow(10**6)])
    lines, _ = read_all(directory)
    assert lines[-1].flow.sequence == 10**6
    assert lines[-1].decision is None


def test_memory_is_that_of_a_batch(tmp_path):
    def peak(count):
        directory = build(tmp_path, f"s{count}", payloads=[*many(count), ended()])
        tracemalloc.start()
        try:
            for batch in SessionReader(directory).batches():
                assert batch.lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(600)
    assert peak(12_000) < peak(6000) * 1.2 + 100_000


def test_the_program_has_what_its_line_has(tmp_path):
    directory = build(tmp_path)
    line = json.dumps({"sequence": 3, "pid": 17, "argv": ["python3"], "state": "found"})
    (directory / store.PROCESSES).write_text(f"{line}\n")
    lines, _ = read_all(directory)
    (program,) = lines[3].programs
    assert (program.pid, program.argv) == (PROGRAM.pid, ["python3"])


@pytest.mark.parametrize("name", vectors.LOGS)
def test_logs_of_nono_are_read_whole(tmp_path, name):
    shutil.copytree(vectors.VECTORS / name, tmp_path / name)
    lines, _ = read_all(tmp_path / name, limit=2)
    assert [line.sequence for line in lines] == [*range(len(vectors.records(name)))]


@pytest.mark.parametrize("name", [path.name for path in (vectors.VECTORS / "negative").glob("*/")])
def test_of_the_negative_vectors_what_nono_refuses_is_told(tmp_path, name):
    shutil.copytree(vectors.VECTORS / "negative" / name, tmp_path / name)
    is_good = vectors.load("negative", "verdicts.json")[name]["no_stored"]["ok"]
    if name == "torn_last_line":  # nono refuses it; half a line is not there yet
        is_good = True
    if name == "event_json_null":  # nono takes it in a log without a seal
        is_good = False
    if is_good:
        assert read_all(tmp_path / name)[0]
    else:
        with pytest.raises(LogRewritten):
            read_all(tmp_path / name)


def test_no_damage_of_the_files_raises_anything_else(tmp_path):
    directory = build(tmp_path, payloads=[*many(6), ended()], flows=[flow(2), flow(4)])
    write_processes(directory, [2, 3, 4])
    chance = random.Random(7)
    names = (store.LOG, store.FLOWS, store.PROCESSES)
    whole = {name: (directory / name).read_bytes() for name in names}
    faults = 0
    for _ in range(300):
        name = chance.choice(names)
        data = bytearray(whole[name])
        place = chance.randrange(len(data))
        data[place : place + chance.choice((0, 1, 40))] = chance.randbytes(chance.choice((0, 1, 9)))
        (directory / name).write_bytes(data)
        try:
            lines, _ = read_all(directory, limit=3)
            for form in formats.LINE_FORMATS:
                assert formats.encode(lines, FACTS, form, integrity=True)
                assert formats.log_records(lines, FACTS, form)
        except LogRewritten:
            faults += 1
        (directory / name).write_bytes(whole[name])
    assert 30 < faults < 250


def test_a_hole_that_a_loss_of_power_left_is_no_fault(tmp_path):
    directory = build(tmp_path, payloads=[*many(3), ended()])
    log = log_of(directory)
    whole = log.read_bytes()
    end = whole.rindex(b"\n", 0, -1) + 1
    log.write_bytes(whole[:end] + bytes(5000) + b"\n")
    lines, _ = read_all(directory)
    assert len(lines) == 6
