from __future__ import annotations

import os

import pytest
import sealed_session as made
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.audit.read import records
from nono_trio.errors import LogUnreadable


def whole_lines(data):
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def backwards(path, size=None):
    return list(records.lines_backwards(path, path.stat().st_size if size is None else size))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_lines_are_the_same_from_either_end(path, monkeypatch, block):
    monkeypatch.setattr(records, "BLOCK", block)
    for data in (
        b"",
        b"\n",
        b"a",
        b"a\n",
        b"a\nbc\n",
        b"\n\nab\n\n",
        b"a\nb",
        b"a\rb\x0b\n\x85c\nd",
    ):
        path.write_bytes(data)
        found = backwards(path)
        assert [line for _, line in found][::-1] == whole_lines(data)
        for end, line in found:
            assert data[:end].endswith(line)
        assert b"".join(records.lines(path, len(data))) == data


@given(st.lists(st.sampled_from([b"a", b"\n", b"bb"]), max_size=40), st.integers(1, 9))
def test_any_file_from_its_end(tmp_path_factory, pieces, block):
    path = tmp_path_factory.mktemp("log") / "log"
    data = b"".join(pieces)
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK", block)
        assert [line for _, line in backwards(path)][::-1] == whole_lines(data)


def test_only_the_asked_for_size_is_read(path):
    path.write_bytes(b"one\ntwo\n")
    assert list(records.lines(path, 5)) == [b"one\n", b"t"]
    assert backwards(path, 5) == [(4, b"one\n")]


def test_a_file_without_newlines_is_not_read_to_its_end(path, monkeypatch):
    monkeypatch.setattr(records, "BLOCK", 10)
    monkeypatch.setattr(records, "MAX_LINE", 50)
    path.write_bytes(b"a\n" + b"x" * 1000)
    assert backwards(path) == []


def test_what_is_not_there_is_empty(path):
    assert records.size_of(path) == 0
    assert list(records.records(path)) == []
    assert list(records.flows(path)) == []
    assert records.Follower(path).poll() == []


def test_what_can_not_be_read_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    for reader in (records.records, records.flows):
        with pytest.raises(LogUnreadable, match="can't be read"):
            list(reader(tmp_path / "file" / "log"))


def test_lines_that_are_no_records_are_passed_over(path):
    lines, _, _ = made.encode_log(made.SMALL)
    path.write_bytes(
        b"garbage\n" + lines[0] + b"[" * 100_000 + b"\n\xff\n" + lines[1] + lines[2][:9]
    )
    assert [record.sequence for record in records.records(path)] == [0, 1]


def test_a_follower_hands_out_whole_lines_once(path):
    follower = records.Follower(path)
    assert follower.poll() == []
    with path.open("ab", buffering=0) as file:
        file.write(b"on")
        assert follower.poll() == []
        file.write(b"e\ntwo\nthr")
        assert follower.poll() == [b"one\n", b"two\n"]
        assert follower.poll() == []
        file.truncate(8)  # the writer cuts half a record back after a failed write
        file.write(b"3\n")
        assert follower.poll() == [b"3\n"]


def test_a_log_that_gets_shorter_is_not_followed_silently(path):
    path.write_bytes(b"one\ntwo\n")
    follower = records.Follower(path)
    follower.poll()
    path.write_bytes(b"one\n")
    with pytest.raises(LogUnreadable, match="was cut from 8 to 4 bytes"):
        follower.poll()


@pytest.mark.parametrize(
    "read",
    [lambda path: records.is_zeros(path, 0), lambda path: records.Follower(path).poll()],
)
def test_a_log_that_is_replaced_by_a_pipe_keeps_nobody(path, monkeypatch, read):
    os.mkfifo(path)
    monkeypatch.setattr(records, "size_of", lambda _path: 5)  # it was a file then
    with pytest.raises(OSError, match="got a pipe"):
        read(path)


def test_a_follower_that_fell_behind_catches_up_in_parts(path, monkeypatch):
    monkeypatch.setattr(records, "READ_AT_ONCE", 10)
    path.write_bytes(b"aaaa\nbbbb\ncccc\n")
    follower = records.Follower(path, 5)
    assert [follower.poll(), follower.poll()] == [[b"bbbb\n", b"cccc\n"], []]
