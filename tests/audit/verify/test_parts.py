"""Parts of a log, checked alone and joined: the answer is always that of one pass."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
from contextlib import ExitStack

import msgspec
import pytest
import sealed_session as made
from hypothesis import given, settings
from hypothesis import strategies as st

from nono_trio.audit import store
from nono_trio.audit.verify import joiner, part_worker
from nono_trio.audit.verify.log_check import LogCheck
from nono_trio.audit.verify.parts import Part, check_part
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.worker_process import LEAST_FOR_JOBS, early_workers
from nono_trio.core.log import events
from nono_trio.core.log.merkle import MerkleAccumulator, merkle_root, node_hash
from nono_trio.core.log.record import encode_record
from nono_trio.core.proof import tree
from nono_trio.core.proof.accumulator import subtrees

RECORDS = 4700  # session.json repeats the first 4,096 events
SMALL_PART = 64 * 1024
PLACE = 4400  # a record that is checked in a part, and that session.json does not repeat
COUNTS = (1000, 4250, 4300, 4301, 4302, 4600)


def payloads():
    targets = ("allow", "a.test"), ("deny", "b.test"), ("allow", "c.test\u2028x")
    middle = [made.network(number, *targets[number % 3]) for number in range(RECORDS)]
    return [made.started(), made.sandbox_runtime(), *middle, made.ended()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    made.build(root / "sealed", payloads=payloads(), counts=COUNTS)
    made.unsealed(root / "unsealed", payloads=payloads()[:-1], counts=COUNTS)
    return root


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(joiner, "PART_BYTES", SMALL_PART)


@pytest.fixture(autouse=True)
def ready_workers(monkeypatch):
    """Workers get parts from the beginning; these logs are read before a process has started."""
    enter = part_worker.Workers.__enter__

    def enter_and_wait(workers):
        enter(workers)
        while not all(worker.is_ready for worker in workers.all):
            workers.receive(wait=True)
        return workers

    monkeypatch.setattr(part_worker.Workers, "__enter__", enter_and_wait)
    return enter


def copy(built, tmp_path, kind):
    root = tmp_path / "audit"
    shutil.copytree(built / kind, root)
    return root / "0123456789abcdef"


def judged(directory, jobs):
    return msgspec.to_builtins(verify(directory, jobs=jobs))


def in_one_pass(directory, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("nono_trio.audit.verify.session.LEAST_BYTES", 2**60)
        return judged(directory, 1)


def lines_of(directory):
    return (directory / store.LOG).read_bytes().splitlines(keepends=True)


def rechained(lines, begin, change=lambda payload: payload, *, head=None):
    """Lines whose records from `begin` on are changed, and hashed again."""
    prev = head or bytes.fromhex(msgspec.json.decode(lines[begin - 1])["chain_hash"])
    kept = lines[:begin]
    for sequence in range(begin, len(lines)):
        text = msgspec.json.decode(lines[sequence])["event_json"]
        payload = change(events.decode_payload(text.encode()))
        line, _, prev = encode_record(sequence, prev, events.encode_payload(payload))
        kept.append(line)
    return kept


def rewritten(lines, begin, change):
    """Lines whose record `begin` has other bytes as its payload, and that are hashed again."""
    prev, kept = bytes.fromhex(msgspec.json.decode(lines[begin - 1])["chain_hash"]), lines[:begin]
    for sequence in range(begin, len(lines)):
        text = msgspec.json.decode(lines[sequence])["event_json"].encode()
        text = change(text) if sequence == begin else text
        line, _, prev = encode_record(sequence, prev, text)
        kept.append(line)
    return kept


def with_time(time):
    """A change of a network event's time, whose rest is known from other records."""
    return lambda text: re.sub(rb'(?<="timestamp_unix_ms":)[0-9]+', time, text)


def to_another_host(payload):
    return made.network(0, "allow", "forged.test") if type(payload) is events.Network else payload


def edit(lines, place, change):
    return [*lines[:place], change(lines[place]), *lines[place + 1 :]]


FORGERIES = {
    "nothing": lambda lines: lines,
    "a byte": lambda lines: edit(lines, PLACE, lambda one: one.replace(b"test", b"tesu", 1)),
    "the last byte of a part": lambda lines: edit(lines, PLACE, lambda one: one[:-1] + b" "),
    "a line removed": lambda lines: lines[:PLACE] + lines[PLACE + 1 :],
    "a line twice": lambda lines: lines[:PLACE] + lines[PLACE - 1 :],
    "two lines swapped": lambda lines: [
        *lines[:PLACE], lines[PLACE + 1], lines[PLACE], *lines[PLACE + 2 :]
    ],
    "a blank line": lambda lines: [*lines[:PLACE], b"\n", *lines[PLACE:]],
    "CRLF": lambda lines: edit(lines, PLACE, lambda one: one[:-1] + b"\r\n"),
    "a carriage return": lambda lines: edit(lines, PLACE, lambda one: b"\r" + one),
    "U+2028 between lines": lambda lines: edit(lines, PLACE, lambda one: b"\xe2\x80\xa8" + one),
    "two lines in one": lambda lines: edit(lines, PLACE, lambda one: one[:-1]),
    "half a line at the end": lambda lines: [*lines, lines[PLACE][:100]],
    "a torn last line": lambda lines: [*lines[:-1], lines[-1][:-9]],
    "no last line": lambda lines: lines[:-1],
    "no second half": lambda lines: lines[:PLACE],
    "a hole": lambda lines: edit(lines, PLACE, lambda one: bytes(len(one))),
    "hashed again": lambda lines: rechained(lines, PLACE, to_another_host),
    "hashed again after the last but one": lambda lines: rechained(lines, 4650, to_another_host),
    "a second half of another log": lambda lines: rechained(lines, PLACE, head=b"\1" * 32),
    "an end in the middle": lambda lines: rechained(
        [*lines[:PLACE], lines[-1], *lines[PLACE:]], PLACE
    ),
    **{
        f"a time written as {time.decode()}": lambda lines, time=time: rewritten(
            lines, PLACE, with_time(time)
        )
        for time in (b"0123", b"00", b"-1", b"1.0", b"1e3", b" 1", b"", b"9" * 19, b"9" * 30,
                     b'"1"', b"null", b"1,\"mode\":\"connect\"", "\u0661".encode())
    },
    "the payload of another record": lambda lines: edit(
        lines, PLACE, lambda one: one[: one.index(b',"event":')]
        + lines[PLACE + 1][lines[PLACE + 1].index(b',"event":') :]
    ),
    "a string that differs": lambda lines: edit(
        lines, PLACE, lambda one: one.replace(b'\\"target\\":\\"', b'\\"target\\":\\"x', 1)
    ),
    "another escape in the string": lambda lines: edit(
        lines, PLACE, lambda one: one.replace(b".test", b"\\u002etest", 1)
    ),
    "deeply nested": lambda lines: edit(lines, PLACE, lambda one: b"[" * 100_000 + b"\n"),
    "a line over every bound": lambda lines: edit(
        lines, PLACE, lambda one: b'{"sequence":' + b"1" * 1_100_000 + b"}\n"
    ),
    "an empty log": lambda lines: [],
    "one line": lambda lines: lines[:1],
    "two lines": lambda lines: lines[:2],
}  # fmt: skip


# In an unsealed log these may be the traces of a crash.
OF_A_CRASH = {
    "nothing", "half a line at the end", "a torn last line", "no last line", "no second half",
    "a hole", "a line over every bound", "an empty log", "one line",
}  # fmt: skip


def replaced(marks, place, old, new):
    return edit(marks, place, lambda one: one.replace(old, new, 1))


def other_root(marks, place):
    root = msgspec.json.decode(marks[place])["merkle_root"].encode()
    return replaced(marks, place, root, b"0" * 64)


def other_offset(marks, place, by):
    offset = msgspec.json.decode(marks[place])["offset"]
    return replaced(marks, place, b'"offset":%d' % offset, b'"offset":%d' % (offset + by))


CHECKPOINT_FORGERIES = {
    "a root": lambda marks: other_root(marks, 2),
    "an offset past its place": lambda marks: other_offset(marks, 2, 1),
    "an offset before its place": lambda marks: other_offset(marks, 4, -5000),
    "a count": lambda marks: replaced(marks, 1, b'"event_count":4250', b'"event_count":4251'),
    "a checksum": lambda marks: replaced(marks, 3, b'"segment_xxh3":"', b'"segment_xxh3":"0'),
    "one removed": lambda marks: marks[:2] + marks[3:],
    "one twice": lambda marks: marks[:3] + marks[2:],
    "damaged": lambda marks: edit(marks, 3, lambda one: one[:20] + b"\n"),
}


@pytest.mark.parametrize(
    ("kind", "forgery"),
    [
        *(("sealed", forgery) for forgery in FORGERIES),
        *(("unsealed", forgery) for forgery in FORGERIES if forgery in OF_A_CRASH),
    ],
)
def test_parts_give_the_answer_of_one_pass(built, tmp_path, monkeypatch, kind, forgery):
    directory = copy(built, tmp_path, kind)
    lines = FORGERIES[forgery](lines_of(directory))
    (directory / store.LOG).write_bytes(b"".join(lines))
    monkeypatch.setattr("nono_trio.audit.verify.session.LEAST_BYTES", 0)
    expected = in_one_pass(directory, monkeypatch)
    assert (expected["verdict"] == "verified") == (forgery == "nothing" and kind == "sealed")
    assert judged(directory, 1) == expected
    if kind == "sealed":
        assert judged(directory, 2) == expected


@pytest.mark.parametrize("jobs", [3, 7])
@pytest.mark.parametrize("forgery", ["nothing", "a byte", "hashed again", "two lines"])
def test_more_processes_give_the_same_answer(built, tmp_path, monkeypatch, forgery, jobs):
    directory = copy(built, tmp_path, "sealed")
    (directory / store.LOG).write_bytes(b"".join(FORGERIES[forgery](lines_of(directory))))
    monkeypatch.setattr("nono_trio.audit.verify.session.LEAST_BYTES", 0)
    assert judged(directory, jobs) == in_one_pass(directory, monkeypatch)


@pytest.mark.parametrize("forgery", CHECKPOINT_FORGERIES)
def test_checkpoints_are_compared_with_joined_parts(built, tmp_path, monkeypatch, forgery):
    directory = copy(built, tmp_path, "unsealed")
    path = directory / store.CHECKPOINTS
    marks = CHECKPOINT_FORGERIES[forgery](path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(marks))
    expected = in_one_pass(directory, monkeypatch)
    assert expected["verdict"] == "tampered"
    assert judged(directory, 1) == expected


@pytest.mark.parametrize("place", [0, 1000, 4093, 4095])
def test_events_of_session_json_are_compared_with_those_of_parts(
    built, tmp_path, monkeypatch, place
):
    directory = copy(built, tmp_path, "sealed")
    monkeypatch.setattr("nono_trio.audit.verify.session.LEAST_BYTES", 0)
    metadata = msgspec.json.decode((directory / store.SESSION).read_bytes())
    assert len(metadata["network_events"]) == 4096
    metadata["network_events"][place]["target"] = "forged.test"
    (directory / store.SESSION).write_bytes(msgspec.json.encode(metadata))
    answer = judged(directory, 1)
    assert answer["first_bad"]["class"] == "network_events mismatch"
    assert answer == judged(directory, 2) == in_one_pass(directory, monkeypatch)


@pytest.mark.parametrize("cut", ["another log", "a line removed", "a line twice"])
def test_parts_that_do_not_meet_are_found_without_checkpoints(tmp_path, monkeypatch, cut):
    """The cut is between two parts, each good by itself, and nothing else would show it."""
    monkeypatch.setattr(joiner, "PART_BYTES", 1)  # each line is a part
    directory = made.unsealed(tmp_path / "audit", payloads=payloads()[:-1], counts=())
    lines = lines_of(directory)
    lines = {
        "another log": lambda: rechained(lines, PLACE, head=b"\1" * 32),
        "a line removed": lambda: lines[:PLACE] + lines[PLACE + 1 :],
        "a line twice": lambda: lines[:PLACE] + lines[PLACE - 1 :],
    }[cut]()
    (directory / store.LOG).write_bytes(b"".join(lines))
    answer = verify(directory, jobs=1)
    assert answer.verdict == "tampered"
    assert (answer.first_bad.line, answer.first_bad.sequence) == (PLACE + 1, PLACE)
    assert judged(directory, 1) == in_one_pass(directory, monkeypatch)


def test_the_parts_are_joined_and_not_read_again(built, monkeypatch):
    joined = []
    join = LogCheck.join
    monkeypatch.setattr(
        LogCheck, "join", lambda self, *part: joined.append(join(self, *part)) or joined[-1]
    )
    assert verify(built / "sealed" / "0123456789abcdef", jobs=1).verdict == "verified"
    assert len(joined) > 3
    assert all(joined)


@settings(max_examples=8, deadline=None)
@given(data=st.data(), part_bytes=st.integers(1, 300_000))
def test_any_cut_gives_the_answer_of_one_pass(built, tmp_path_factory, data, part_bytes):
    directory = copy(built, tmp_path_factory.mktemp("cut"), "sealed")
    log = bytearray((directory / store.LOG).read_bytes())
    place = data.draw(st.integers(0, len(log) - 1))
    log[place] = data.draw(st.integers(0, 255))
    (directory / store.LOG).write_bytes(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joiner, "PART_BYTES", part_bytes)
        assert judged(directory, 1) == in_one_pass(directory, patch)


@given(
    leaves=st.lists(st.binary(min_size=32, max_size=32), max_size=70),
    cuts=st.lists(st.integers(0, 70), max_size=6),
)
def test_ranges_of_leaves_join_at_any_cut(leaves, cuts):
    joined, ends = MerkleAccumulator(), sorted({min(cut, len(leaves)) for cut in cuts})
    for begin, end in zip([0, *ends], [*ends, len(leaves)], strict=True):
        for level, root in subtrees(begin, leaves[begin:end], node_hash):
            joined.append_subtree(level, root)
        assert joined.root() == merkle_root(leaves[:end])
    assert len(joined) == len(leaves)


def test_the_tree_of_a_signed_log_is_joined_too(built):
    data = (built / "sealed" / "0123456789abcdef" / store.LOG).read_bytes()
    ends = [place + 1 for place in range(len(data)) if data[place : place + 1] == b"\n"]
    begin, middle, end = ends[99], ends[230], ends[399]
    good = check_part(data[begin:end], Part(begin, end, [middle], signed=True))
    texts = [
        msgspec.json.decode(line)["event_json"].encode()
        for line in data[:end].splitlines(keepends=True)
    ]
    joined, whole = tree.Frontier(), tree.Frontier()
    joined.add_data(texts[:100])
    for mark in good.marks:
        for level, root in mark.proof_subtrees:
            joined.append_subtree(level, root)
    whole.add_data(texts)
    assert (joined.root(), len(joined)) == (whole.root(), 400)


def test_a_subtree_at_another_place_is_refused():
    accumulated = MerkleAccumulator()
    accumulated.append(b"\0" * 32)
    with pytest.raises(ValueError, match="multiple"):
        accumulated.append_subtree(1, b"\1" * 32)


def test_a_part_that_begins_at_the_first_record_is_not_good(built):
    data = (built / "sealed" / "0123456789abcdef" / store.LOG).read_bytes()[:5000]
    end = data.rfind(b"\n") + 1
    assert check_part(data[:end], Part(0, end, [])) is None


@pytest.mark.parametrize("sequence", [10_000, 2**63, 2**64 - 1])
def test_a_part_that_claims_more_records_than_bytes_before_it_is_not_good(sequence):
    """A worker could not tell the joiner the count after it: it died, and there was no verdict."""
    text = events.encode_payload(made.network(1))
    line, _, _ = encode_record(sequence, b"\1" * 32, text)
    assert check_part(line, Part(10_000, 10_000 + len(line), [])) is None


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_is_an_error_and_no_verdict(built, monkeypatch, ending):
    started = []

    class Lost(part_worker.Worker):
        def send(self, part):
            monkeypatch.setattr(part_worker, "ANSWER_SECONDS", 0.2)
            os.kill(self.pid, ending)
            started.append(self.pid)
            super().send(part)

    monkeypatch.setattr(part_worker, "Worker", Lost)
    with pytest.raises(part_worker.WorkerLost) as lost:
        verify(built / "sealed" / "0123456789abcdef", jobs=2)
    assert (lost.value.exit_code, lost.value.hint) == (2, "verify with --jobs 1")
    assert started
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_has_not_started_yet_is_not_waited_for(built, monkeypatch, ready_workers):
    monkeypatch.setattr(part_worker.Workers, "__enter__", ready_workers)
    started = []

    class Stopped(part_worker.Worker):
        def __init__(self, log):
            super().__init__(log)
            os.kill(self.pid, signal.SIGSTOP)
            started.append(self.pid)

    monkeypatch.setattr(part_worker, "Worker", Stopped)
    assert verify(built / "sealed" / "0123456789abcdef", jobs=3).verdict == "verified"
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_may_be_stopped_for_longer_than_an_answer_takes(built, monkeypatch):
    """The time of a wait runs on after Ctrl-Z: at `fg` it was over, and there was no verdict."""
    waits = []

    class PollOfStopped:
        def __init__(self):
            self._poll = poll()
            self.register = self._poll.register

        def poll(self, milliseconds):
            waits.append(milliseconds)
            return [] if waits.count(milliseconds) == 1 else self._poll.poll(milliseconds)

    poll = select.poll
    monkeypatch.setattr(select, "poll", PollOfStopped)
    assert verify(built / "sealed" / "0123456789abcdef", jobs=2).verdict == "verified"
    assert max(waits) > 0


def test_without_room_for_a_process_one_does_the_work(built, monkeypatch):
    def refuse(*_arguments, **_options):
        raise BlockingIOError

    monkeypatch.setattr(os, "posix_spawn", refuse)
    assert verify(built / "sealed" / "0123456789abcdef", jobs=3).verdict == "verified"


def test_early_workers_leave_descriptors_for_the_files_that_are_read():
    """Without any no module could be imported: a good log had exit code 1."""
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 20, hard))
    try:
        with early_workers(LEAST_FOR_JOBS, 64), ExitStack() as files:
            for _ in range(10):
                files.enter_context(open(os.devnull))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
