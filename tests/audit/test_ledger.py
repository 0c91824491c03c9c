from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import stat

import pytest

from nono_trio.audit import ledger
from nono_trio.audit.recovery.ledger_repair import repair
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.ledger_record import decode_ledger_record
from nono_trio.errors import AuditLost, LogUnreadable

DIGEST = "ab" * 32
TIME = "2026-07-02T11:48:52Z"


def append(root, session_id="s"):
    return ledger_append.append(root, session_id, DIGEST, TIME)


def filled(root, count):
    for number in range(count):
        append(root, f"s{number}")
    return root / ledger.LEDGER


def test_lines_are_chained(tmp_path):
    path = filled(tmp_path, 3)
    records = list(ledger.read(tmp_path))
    assert [r.sequence for r in records] == [0, 1, 2]
    assert [r.prev_chain for r in records] == [None, *(r.chain_hash for r in records[:2])]
    report = ledger.verify(tmp_path)
    assert (report.count, report.chain_head) == (3, records[-1].chain_hash)
    assert report.first_bad is None
    assert not report.torn_tail
    assert report.digests == {"s0": DIGEST, "s1": DIGEST, "s2": DIGEST}
    assert ledger.verify(tmp_path, "s1").digests == {"s1": DIGEST}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_line_is_upstreams(tmp_path):
    record = ledger_append.append(
        tmp_path,
        "20260421-200000-11111",
        "3a1ed53d426d6ea2544cec6cf6b95ccdc31fda4570d86931239ee0f7d7d39012",
        "2026-04-21T20:00:01Z",
    )
    assert record.chain_hash == "8b6dbc155d44df05e6b5e9948fb8fff142222b4b41fb37284fb0d1217000e9bb"


def test_nothing_hides_behind_a_record_that_is_as_long_as_a_reading(tmp_path, monkeypatch):
    path = filled(tmp_path, 2)
    last = path.read_bytes().splitlines()[-1]
    longest = 600
    append(tmp_path, "x" * (longest - len(last) + 2))
    records = path.read_bytes()
    assert len(records.splitlines()[-1]) == longest
    monkeypatch.setattr(ledger, "LONGEST_READ", longest)
    path.write_bytes(records[:-1] + b"anything\n")
    report = ledger.verify(tmp_path)
    assert (report.count, report.first_bad.failure) == (2, "parse error")


def test_no_ledger_is_an_empty_one(tmp_path):
    assert list(ledger.read(tmp_path)) == []
    report = ledger.verify(tmp_path)
    assert not report.present
    assert (report.count, report.first_bad, report.torn_tail) == (0, None, False)


def test_a_tail_torn_at_any_byte_is_set_aside_and_the_chain_goes_on(tmp_path):
    path = filled(tmp_path, 2)
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert ledger.verify(tmp_path).torn_tail
        assert [r.session_id for r in ledger.read(tmp_path)] == ["s0"]
        (tmp_path / ledger_append.TORN).unlink(missing_ok=True)
        assert append(tmp_path, "next").sequence == 1
        assert (tmp_path / ledger_append.TORN).read_bytes() == whole[second:cut] + b"\n"
        report = ledger.verify(tmp_path)
        assert (report.count, report.first_bad, report.torn_tail) == (2, None, False)


def test_a_whole_record_without_its_newline_is_not_dropped(tmp_path):
    """Removing the last newline must not make the next session drop the record."""
    for mend in (append, repair):
        path = filled(tmp_path, 2)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        mend(tmp_path)
        assert path.read_bytes().startswith(whole)
        assert not (tmp_path / ledger_append.TORN).exists()
        assert ledger.verify(tmp_path).first_bad is None
        path.unlink()


def test_a_torn_first_line_begins_a_new_chain(tmp_path):
    (tmp_path / ledger.LEDGER).write_bytes(b'{"sequ')
    assert append(tmp_path).sequence == 0
    assert ledger.verify(tmp_path).count == 1


def test_a_whole_but_unreadable_last_line_stops_the_append(tmp_path):
    path = filled(tmp_path, 2)
    with path.open("ab") as file:
        file.write(b"garbage\n")
    before = path.read_bytes()
    with pytest.raises(AuditLost, match="no valid ledger record"):
        append(tmp_path)
    assert path.read_bytes() == before
    with pytest.raises(LogUnreadable, match="line 3"):
        list(ledger.read(tmp_path))


def test_a_changed_last_line_is_not_chained_to(tmp_path):
    path = filled(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"session_id":"s0"', b'"session_id":"s1"'))
    with pytest.raises(AuditLost):
        append(tmp_path)


def test_a_tail_without_any_newline_is_no_ledger(tmp_path):
    (tmp_path / ledger.LEDGER).write_bytes(b"x" * (ledger_append.MAX_LINE + 1))
    with pytest.raises(AuditLost, match="no line of a ledger"):
        append(tmp_path)


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_any_flipped_byte_is_found(tmp_path, pattern):
    path = filled(tmp_path, 2)
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        path.write_bytes(changed)
        report = ledger.verify(tmp_path)
        assert report.first_bad is not None or report.torn_tail
        if position < whole.index(b"\n"):
            assert report.first_bad is not None
            assert report.first_bad.line == 1


def test_dropped_doubled_and_swapped_lines_are_found(tmp_path):
    path = filled(tmp_path, 3)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for lines, failure in (
        ([second, third], "sequence mismatch"),
        ([first, third], "sequence mismatch"),
        ([first, first, second, third], "sequence mismatch"),
        ([second, first, third], "sequence mismatch"),
    ):
        path.write_bytes(b"".join(lines))
        bad = ledger.verify(tmp_path).first_bad
        assert bad is not None
        assert bad.failure == failure


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[" * 200_000 + b"\n", b'{"sequence":NaN}\n', b"\xff\n", b'"\\ud800"\n'],
)
def test_hostile_lines_are_a_parse_error(tmp_path, line):
    (tmp_path / ledger.LEDGER).write_bytes(line)
    bad = ledger.verify(tmp_path).first_bad
    assert bad is not None
    assert (bad.line, bad.failure) == (1, "parse error")


def test_a_prev_chain_that_is_no_hex_is_no_traceback(tmp_path):
    path = filled(tmp_path, 1)
    record = decode_ledger_record(path.read_bytes())
    line = path.read_bytes().replace(b'"prev_chain":null', b'"prev_chain":"zz"')
    path.write_bytes(line.replace(f'"sequence":{record.sequence}'.encode(), b'"sequence":0'))
    assert ledger.verify(tmp_path).first_bad.failure == "prev_chain mismatch"
    with pytest.raises(AuditLost):
        append(tmp_path)


def test_a_symlink_in_the_ledgers_place_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    (tmp_path / ledger.LEDGER).symlink_to(outside)
    with pytest.raises(AuditLost, match="can't be written"):
        append(tmp_path)
    assert not outside.exists()


def test_a_held_lock_ends_in_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_append, "LOCK_SECONDS", 0.05)
    holder = os.open(tmp_path / ledger_append.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(AuditLost, match="lock was not free"):
            append(tmp_path)
    finally:
        os.close(holder)
    assert append(tmp_path).sequence == 0


def _append_many(root, name):
    for number in range(25):
        append(root, f"{name}-{number}")


def test_two_processes_share_one_chain(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    report = ledger.verify(tmp_path)
    assert (report.count, report.first_bad) == (50, None)
    assert len(report.digests) == 50


def test_appending_reads_only_the_tail(tmp_path, monkeypatch):
    filled(tmp_path, 1)
    path = tmp_path / ledger.LEDGER
    line = path.read_bytes()
    path.write_bytes(b"#" * 1_000_000 + b"\n" + line)  # the old part is not read
    assert append(tmp_path).sequence == 1


# -- repair --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"garbage\n",
        lambda line: line.replace(b'"s1"', b'"s9"'),
        lambda line: line.replace(b"ab", b"ac", 1),
        lambda line: line + b'{"half',
        lambda line: line.replace(b'"s1"', b'"s9"') + b"\0" * 5000 + b"\n\n",
        lambda line: line[:-20],
    ],
)
def test_a_damaged_end_is_kept_aside_and_later_sessions_seal_again(tmp_path, damage):
    path = filled(tmp_path, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    damaged = damage(second)
    path.write_bytes(first + damaged)
    good = first + (second if damaged.startswith(second) else b"")
    cut = (first + damaged).removeprefix(good)
    answer = repair(tmp_path)
    assert (answer.cut_bytes, answer.first_bad) == (len(cut), None)
    assert (tmp_path / ledger_append.TORN).read_bytes() == cut.removesuffix(b"\n") + b"\n"
    assert path.read_bytes().startswith(good)
    last = list(ledger.read(tmp_path))[-1]
    if answer.cut_lines:  # the chain says what was cut from it
        digest = hashlib.sha256(cut).hexdigest()
        assert (last.session_id, last.session_digest) == (f"repaired-{digest[:16]}", digest)
    else:
        assert not last.session_id.startswith("repaired-")
    append(tmp_path, "next")
    report = ledger.verify(tmp_path)
    assert (report.first_bad, report.torn_tail) == (None, False)
    assert set(report.digests) <= {"s0", "s1", "next"}
    assert repair(tmp_path).cut_bytes == 0


def test_nothing_is_cut_before_a_good_line(tmp_path):
    path = filled(tmp_path, 3)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    damaged = first + second.replace(b"ab", b"ac", 1) + third
    path.write_bytes(damaged)
    answer = repair(tmp_path)
    assert (answer.cut_bytes, path.read_bytes()) == (0, damaged)
    assert answer.first_bad is not None
    assert answer.first_bad.line == 2


def test_no_end_of_any_size_is_read_into_memory(tmp_path):
    path = filled(tmp_path, 1)
    os.truncate(path, 1 << 40)
    with pytest.raises(AuditLost, match="no ledger's"):
        repair(tmp_path)
    assert path.stat().st_size == 1 << 40
    path.unlink()
    with pytest.raises(LogUnreadable, match="no ledger"):
        repair(tmp_path)


@pytest.mark.parametrize("torn", [b"", b'{"torn'])
def test_what_is_appended_is_in_its_file_before_each_sync(tmp_path, monkeypatch, torn):
    """In their order: the bytes that a crash tore are kept before they are cut."""
    root = tmp_path / "audit"
    root.mkdir()
    first = filled(root, 1).read_bytes()
    (root / ledger.LEDGER).write_bytes(first + torn)
    synced: list[tuple[str, bytes]] = []

    def noted(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((name, (root / name).read_bytes()))

    monkeypatch.setattr(ledger_append, "sync_data", noted)
    monkeypatch.setattr(
        ledger_append, "sync_directory", lambda path: synced.append(("", path.name))
    )
    append(root, "s1")
    both = (root / ledger.LEDGER).read_bytes()
    expected = [("ledger.ndjson", both)]
    if torn:
        expected.insert(0, (ledger_append.TORN, torn + b"\n"))
    assert synced == expected
    assert both.startswith(first)
    synced.clear()
    ledger_append.append_line_locked(root, "beside.ndjson", b"{}\n")
    assert synced == [("beside.ndjson", b"{}\n"), ("", "audit")]
