"""The program of each record, against a reading of every line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.audit.read.programs import GONE, OTHER_PROGRAMS, process_lines
from nono_trio.audit.search import record_programs
from nono_trio.audit.search.patterns import ProgramGlob, TextGlob
from nono_trio.audit.search.record_programs import RecordPrograms, SeenProgram


def process(sequence, exe="/usr/bin/curl", state="found", **fields):
    known = {"pid": 7, "start_time": 1, "exe": exe, "argv": None, "uid": 0} | fields
    return {"sequence": sequence, **known, "state": state}


def write(path, *found):
    path.write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in found))
    return path


lines = st.builds(
    lambda number, exe, state, argv, order, dumps: json.dumps(
        dict(order(process(number, exe, state, argv=argv).items())), **dumps
    ),
    st.integers(-1, 5),
    st.sampled_from(["/bin/a", "/bin/b", "/opt/\u00e9", None]),
    st.sampled_from(["found", "gone", "unknown"]),
    st.sampled_from([None, ["a"], ["a", "x.py"]]),
    st.sampled_from([list, lambda items: reversed([*items])]),
    st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
)
broken = st.sampled_from(
    [
        "", "{", '{"sequence":1}', "null",
        '{"sequence":1,"state":"gone","sequence":2}',
        '{"sequence":1,"state":"gone","sequ\\u0065nce":3}',
        '{"sequence":01,"state":"gone"}',
    ]
)  # fmt: skip


@given(st.lists(lines | broken, max_size=12))
def test_each_record_has_the_programs_of_its_lines(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "processes.ndjson"
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    wanted = ProgramGlob(TextGlob("*a"))
    known = RecordPrograms(path, wanted)
    naive = [*process_lines(path)]
    for sequence in range(7):
        mine = [line for line in naive if line.sequence == sequence]
        assert {one.exe for one in known.of(sequence)} == {
            line.exe if line.state == "found" else None for line in mine
        }
        assert known.has_wanted(sequence) == any(
            line.state == "found" and wanted.fits(line.exe, line.argv) for line in mine
        )
    assert known.any_wanted == any(known.has_wanted(sequence) for sequence in range(7))


def test_a_line_may_come_late(tmp_path):
    path = write(tmp_path / "p", *(process(number) for number in range(1, 500)), process(0, "/x"))
    assert RecordPrograms(path).of(0) == (SeenProgram("x", "/x"),)


def test_no_file_is_no_program(tmp_path):
    known = RecordPrograms(tmp_path / "none")
    assert known.of(0) == ()
    assert not known.any_wanted


def test_a_gone_program_has_no_name_of_its_own(tmp_path):
    path = write(tmp_path / "p", process(0, None, "gone"), process(1, None))
    known = RecordPrograms(path, ProgramGlob(TextGlob("*")))
    assert known.of(0) == (SeenProgram(GONE),)
    assert [known.has_wanted(0), known.has_wanted(1)] == [False, True]


def test_programs_beyond_the_bounds_are_found_and_have_no_name(tmp_path, monkeypatch):
    for name, bound in (("MAX_PROGRAMS", 5), ("MAX_LINES", 2), ("MAX_HOLDERS", 1)):
        monkeypatch.setattr(record_programs, name, bound)
    many = [process(number, f"/bin/p{number}", pid=number) for number in range(20)]
    holders = [process(number, f"/bin/h{number}") for number in range(20)]
    path = write(tmp_path / "p", *many, *holders, process(20, "/" + "x" * 5000))
    for wanted, sequence in (("p19", 19), ("h18", 18), ("x" * 5000, 20)):
        known = RecordPrograms(path, ProgramGlob(TextGlob(wanted)))
        assert [one for one in range(21) if known.has_wanted(one)] == [sequence]
        assert known.of(sequence)[0].name == OTHER_PROGRAMS
    assert known.of(0)[0].name == "p0"


def test_a_sequence_without_a_record_costs_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(record_programs, "MAX_RECORDS", 10)
    known = RecordPrograms(write(tmp_path / "p", process(2**40), process(9)))
    assert not known.is_whole
    assert known.of(2**40) == ()
    assert known.of(9)
    assert RecordPrograms(write(tmp_path / "p", process(9))).is_whole


@pytest.mark.parametrize("exe", ["/bin/\u202ex", "/bin/a"])
def test_the_lines_of_one_process_are_decoded_once(tmp_path, monkeypatch, exe):
    decoded = []
    real = record_programs.decode_process
    monkeypatch.setattr(
        record_programs, "decode_process", lambda line: decoded.append(1) or real(line)
    )
    path = tmp_path / "p"
    path.write_bytes(
        b"".join(
            b'{"sequence":%d,"exe":"%s","state":"found"}\n' % (number, exe.encode())
            for number in range(1000)
        )
    )
    known = RecordPrograms(path)
    assert known.of(999) == known.of(0) != ()
    assert len(decoded) == 1
