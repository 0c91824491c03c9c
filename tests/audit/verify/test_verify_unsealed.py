"""An unsealed session: what a crash leaves behind, and what a hand does."""

from __future__ import annotations

import json
import threading

import msgspec
import pytest
import sealed_session as made
from sealed_session import alive_facts, log_of, overwrite

from nono_trio.audit import store
from nono_trio.audit.verify.session import verify
from nono_trio.core.log.session_json import decode_checkpoint, encode_checkpoint


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


def test_a_crashed_session_is_good_up_to_its_last_record(root):
    answer = verify(made.unsealed(root))
    assert (answer.verdict, answer.exit_code, answer.event_count) == ("crashed", 6, 5)
    assert any("good up to sequence 4" in note for note in answer.notes)
    assert not answer.sealed


def test_a_running_session_is_open(root):
    answer = verify(made.running(root))
    assert (answer.verdict, answer.exit_code) == ("open", 5)


def test_a_session_from_an_earlier_boot_is_crashed(root):
    facts = alive_facts() | {"boot_id": "an-earlier-boot"}
    assert verify(made.unsealed(root, **facts)).verdict == "crashed"


@pytest.mark.parametrize("alive", [False, True])
def test_an_unsealed_log_cut_at_every_byte(root, alive):
    """Below a checkpoint's offset, durable bytes are gone; above it, it is a crash."""
    directory = (made.running if alive else made.unsealed)(root)
    whole = log_of(directory).read_bytes()
    covered = sum(map(len, whole.splitlines(keepends=True)[:3]))
    for size in range(len(whole) + 1):
        overwrite(log_of(directory), whole[:size])
        answer = verify(directory)
        if size < covered:
            assert answer.verdict == "tampered"
            assert answer.first_bad.failure == "truncated below a checkpoint"
        else:
            assert answer.verdict == ("open" if alive else "crashed")
            assert answer.event_count == whole.count(b"\n", 0, size)
            torn = not whole[:size].endswith(b"\n")
            assert any("torn tail" in note for note in answer.notes) == (torn and not alive)


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_flipped_bytes_of_an_unsealed_log(root, pattern):
    """Only the last line, and only if it is no record any more, can be a crash.

    A changed newline before it makes one last line of two.
    """
    directory = made.unsealed(root)
    whole = log_of(directory).read_bytes()
    last_line = whole.rindex(b"\n", 0, -1)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        overwrite(log_of(directory), changed)
        answer = verify(directory)
        if position < last_line:
            assert answer.verdict == "tampered", position
        else:
            assert answer.verdict in ("tampered", "crashed")
            assert answer.event_count == (3 if position == last_line else 4)
            assert answer.verdict == "crashed" or answer.first_bad.failure != "parse error"


@pytest.mark.parametrize("tail", [b"\x00" * 4096, b"\xff", b"{", b"garbage\n"])
def test_what_a_crash_may_leave_behind_the_last_record(root, tail):
    directory = made.unsealed(root)
    with log_of(directory).open("ab") as file:
        file.write(tail)
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 5)
    assert f"the last {len(tail)} bytes are no whole record: a torn tail" in answer.notes


def test_a_bad_line_followed_by_a_line_is_tampering(root):
    directory = made.unsealed(root, counts=())
    lines = log_of(directory).read_bytes().splitlines(keepends=True)
    log_of(directory).write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[2:]]))
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.line) == ("tampered", 3)


def test_a_torn_checkpoint_line_is_a_crash(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    whole = path.read_bytes()
    for size in range(len(whole)):
        overwrite(path, whole[:size])
        assert verify(directory).verdict == "crashed", size


def test_a_bad_checkpoint_line_before_a_good_one_is_tampering(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:40] + b"\n" + second)
    assert verify(directory).first_bad.failure == "checkpoint parse error"


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"event_count": 3}, "count mismatch"),
        ({"chain_head": "0" * 64}, "chain head mismatch"),
        ({"merkle_root": "0" * 64}, "Merkle root mismatch"),
        ({"segment_xxh3": "0" * 16}, "segment checksum mismatch"),
        ({"offset": 5}, "checkpoint mismatch"),
        ({"offset": -1}, "checkpoint mismatch"),
        ({"offset": 10**9}, "truncated below a checkpoint"),
        ({"offset": 2**70}, "truncated below a checkpoint"),
        ({"offset": 1.5}, "checkpoint parse error"),
        ({"v": 2}, "checkpoint parse error"),
    ],
)
def test_a_checkpoint_that_says_something_else(root, changes, failure):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    fields = json.loads(first) | changes
    path.write_bytes(json.dumps(fields, separators=(",", ":")).encode() + b"\n" + second)
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", failure)


def test_fewer_lost_events_than_before_is_tampering(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    more = msgspec.structs.replace(decode_checkpoint(first), lost_total=2)
    path.write_bytes(encode_checkpoint(more) + second)
    assert verify(directory).first_bad.failure == "checkpoint mismatch"


def test_a_checkpoint_after_the_final_one_is_tampering(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    final = msgspec.structs.replace(decode_checkpoint(first), final=True)
    path.write_bytes(encode_checkpoint(final) + second)
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "checkpoint mismatch")
    assert "nothing after the final one" in answer.first_bad.expected


def test_idle_checkpoints_and_one_before_the_first_record_are_fine(root):
    assert verify(made.build(root, counts=(0, 2, 2, 2, 4, 5))).verdict == "verified"


def test_a_directory_without_session_json_is_an_unsealed_prefix(root):
    directory = made.unsealed(root)
    (directory / store.SESSION).unlink()
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 5)
    assert answer.session_id == directory.name


def test_an_empty_log_of_a_crashed_session(root):
    directory = made.unsealed(root, counts=())
    log_of(directory).write_bytes(b"")
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 0)
    assert any("no record in it" in note for note in answer.notes)


def test_a_log_is_judged_while_it_is_written(root):
    """Whatever instant the verifier comes at, a running session is never called tampered."""
    payloads = [made.started(), *(made.network(n) for n in range(400)), made.ended()]
    directory = made.running(root, payloads=payloads[:-1], counts=())
    payloads = [*made.payloads_of(directory), made.ended()]
    lines, leaves, heads = made.encode_log(payloads)
    counts = range(1, len(lines), 3)
    marks = made.checkpoint_lines(lines, leaves, heads, counts, final=False)
    checkpoints = directory / store.CHECKPOINTS
    log_of(directory).write_bytes(b"")

    def write():
        with log_of(directory).open("ab", 0) as log, checkpoints.open("ab", 0) as marked:
            for before, count, mark in zip([0, *counts], counts, marks, strict=False):
                data = b"".join(lines[before:count])
                log.write(data[:100])  # a short write, continued
                log.write(data[100:])
                marked.write(mark[:50])
                marked.write(mark[50:])

    writer = threading.Thread(target=write)
    writer.start()
    verdicts, seen = set(), set()
    while writer.is_alive() or not verdicts:
        answer = verify(directory)
        verdicts.add(answer.verdict)
        seen.add(answer.event_count)
        assert answer.first_bad is None
    writer.join()
    assert verdicts == {"open"}
    assert verify(directory).event_count == counts[-1]
