from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import sealed_session as made
from harness import wait_until

from nono_trio.audit import store
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.search import tail
from nono_trio.audit.search.patterns import parse_host_glob
from nono_trio.audit.search.tail import Filter, Tail, wait_for_session
from nono_trio.errors import LogRewritten, LogUnreadable

BOUND_SECONDS = 60.0  # of every wait here: far over what a loaded machine needs
NONO_TRIO = [sys.executable, "-c", "from nono_trio.cli.main import main; main()"]


def sequences(records):
    return [record.sequence for record in records]


class LiveSession:
    """A running session whose log is written line by line, by this process."""

    def __init__(self, root, payloads=made.SMALL):
        self.directory = made.running(root, payloads=payloads[:1], counts=())
        begun = made.payloads_of(self.directory)
        started, policy, *rest = made.encode_log([*begun, *payloads[1:]])[0]
        self.lines = [started + policy, *rest]
        self.log = self.directory / store.LOG

    def append(self, data):
        with self.log.open("ab", buffering=0) as file:
            file.write(data)

    def die(self):
        made.let_go()


class Following:
    """`Tail.follow` in a thread; what it showed and how it ended."""

    def __init__(self, tail):
        self.shown = []
        self.end = None
        self._thread = threading.Thread(target=self._run, args=(tail,), daemon=True)
        self._thread.start()

    def _run(self, tail):
        try:
            self.end = tail.follow(self.shown.append)
        except LogUnreadable as error:
            self.end = error

    def join(self):
        self._thread.join(BOUND_SECONDS)
        assert not self._thread.is_alive()
        return self.end


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_the_last_decisions_in_order(root, count):
    directory = made.build(root, payloads=[*made.SMALL[:-1], made.network(3), made.ended()])
    tail = Tail(directory, Filter())
    assert sequences(tail.last(count)) == [3, 4, 5][max(0, 3 - count) :]
    assert tail.ended
    assert tail.follow(pytest.fail) == "ended"


def test_filters(root):
    directory = made.build(
        root,
        payloads=[
            made.started(),
            made.network(1, "allow", "Api.Example.com"),
            made.network(2, "deny", "evil.example.com"),
            made.network(3, "deny", "example.com"),
            made.ended(),
        ],
    )
    assert sequences(Tail(directory, Filter(decision="deny")).last(9)) == [3, 4]
    assert sequences(
        Tail(directory, Filter(host=parse_host_glob("*.EXAMPLE.com:443"))).last(9)
    ) == [2, 3]
    assert sequences(
        Tail(directory, Filter(decision="deny", host=parse_host_glob("*.example.com"))).last(9)
    ) == [3]
    assert sequences(Tail(directory, Filter(decision="approve_denied")).last(9)) == []


def test_a_log_file_by_itself(root):
    directory = made.build(root)
    assert sequences(Tail(directory / store.LOG, Filter()).last(9)) == [3, 4]


def test_following_from_the_last_lines_shows_each_decision_once(root):
    session = LiveSession(root)
    session.append(session.lines[1] + session.lines[2] + session.lines[3][:50])
    tail = Tail(session.directory, Filter())
    assert sequences(tail.last(1)) == [3]
    following = Following(tail)
    session.append(session.lines[3][50:])
    wait_until(lambda: sequences(following.shown) == [4], "record 4 is shown")
    session.append(session.lines[4])
    assert following.join() == "ended"
    assert sequences(following.shown) == [4]


def test_half_a_line_is_never_shown(root):
    session = LiveSession(root)
    following = Following(Tail(session.directory, Filter()))
    session.append(b"".join(session.lines[1:3]))
    for byte in session.lines[3]:
        before = len(following.shown)
        assert before <= 1
        session.append(bytes([byte]))
    session.append(session.lines[4])
    assert following.join() == "ended"
    assert sequences(following.shown) == [3, 4]


def test_a_session_that_crashes_ends_the_following(root, monkeypatch):
    monkeypatch.setattr(tail, "ALIVE_POLLS", 2)
    session = LiveSession(root)
    following = Following(Tail(session.directory, Filter()))
    session.append(b"".join(session.lines[1:4]))
    session.die()
    assert following.join() == "crashed"
    assert sequences(following.shown) == [3, 4]


def test_a_log_that_is_cut_while_followed_is_an_error(root):
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    following = Following(Tail(session.directory, Filter()))
    wait_until(lambda: bool(following.shown), "a record is shown")
    os.truncate(session.log, 100)
    assert isinstance(following.join(), LogUnreadable)


def forged(session):
    """The lines of the same session with another decision in the past, hashed again."""
    payloads = made.payloads_of(session.directory)
    payloads[-1] = made.network(2, "allow", "evil.test")
    return made.encode_log(payloads)[0]


def put_in_place(log, data):
    beside = log.with_name("other")
    beside.write_bytes(data)
    os.replace(beside, log)


def change_in_place(log):
    """Change a byte of the last line; the log's size and the file stay."""
    with log.open("r+b") as file:
        place = file.seek(-10, os.SEEK_END)
        changed = bytes([file.read(1)[0] ^ 1])
        file.seek(place)
        file.write(changed)


REWRITES = {
    "changed in place": (
        lambda session: change_in_place(session.log),
        "record 4 is not the one that was read",
    ),
    "cut": (lambda session: os.truncate(session.log, 100), "it was cut from"),
    "gone": (lambda session: session.log.unlink(), "it is gone"),
    "a copy in its place": (
        lambda session: put_in_place(session.log, session.log.read_bytes()),
        "another file has its place",
    ),
    "hashed again": (
        lambda session: session.log.write_bytes(b"".join(forged(session))),
        "is not the one that was read|it was cut",
    ),
    "a fork goes on": (
        lambda session: session.append(session.lines[2]),
        "line after record 4: sequence mismatch",
    ),
    "a record of another chain": (
        lambda session: session.append(
            made.encode_record(5, b"\1" * 32, made.events.encode_payload(made.ended()))[0]
        ),
        "line after record 4: prev_chain mismatch",
    ),
    "no record": (lambda session: session.append(b"[]\n"), "line after record 4: parse error"),
}


@pytest.mark.parametrize("from_the_end", [True, False])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_log_that_is_rewritten_while_followed_is_told(root, rewrite, from_the_end):
    change, expected = REWRITES[rewrite]
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    tail = Tail(session.directory, Filter())
    if from_the_end:
        tail.last(1)
    following = Following(tail)
    session.append(session.lines[3])
    wait_until(lambda: 4 in sequences(following.shown), "record 4 is shown")
    change(session)
    end = following.join()
    assert isinstance(end, LogRewritten)
    assert end.message.startswith("TAMPERED: ")
    assert re.search(expected, end.message)
    assert end.exit_code == 1


@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("from_the_end", [True, False])
def test_a_session_that_is_forgotten_while_followed_was_removed_and_not_tampered_with(
    root, from_the_end, reads
):
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    read = Tail(session.directory, Filter())
    if from_the_end:
        read.last(1)
    following = tail.Following(read, lambda record: None)
    for _ in range(reads):
        following.poll()
    session.die()
    assert forget(root, session.directory.name)
    with pytest.raises(LogUnreadable, match="was removed on purpose") as caught:
        following.poll()
    assert not isinstance(caught.value, LogRewritten)


def test_following_begins_at_a_record_only(root):
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]) + b"[]\n")
    tail = Tail(session.directory, Filter())
    tail.last(1)
    assert "its last line is no record" in Following(tail).join().message


def test_a_session_that_is_just_starting_is_not_gone(root, monkeypatch):
    monkeypatch.setattr(tail, "ALIVE_POLLS", 1)
    session = LiveSession(root)
    (session.directory / store.SESSION).unlink()
    following = Following(Tail(session.directory, Filter()))
    session.append(b"".join(session.lines[1:]))
    assert following.join() == "ended"
    assert sequences(following.shown) == [3, 4]


def test_a_directory_that_stays_without_session_json_is_gone(root, monkeypatch):
    monkeypatch.setattr(tail, "STARTING_SECONDS", 0.0)
    session = LiveSession(root)
    (session.directory / store.SESSION).unlink()
    assert Following(Tail(session.directory, Filter())).join() == "crashed"


@pytest.mark.parametrize("text", ["latest", "0123456789abcdef", "0123", "agent"])
def test_waiting_for_a_session_that_starts_later(root, text):
    waiting = threading.Event()
    found = []
    thread = threading.Thread(
        target=lambda: found.append(wait_for_session(root, text, waiting.set)), daemon=True
    )
    thread.start()
    assert waiting.wait(BOUND_SECONDS)
    directory = made.running(root, name="agent")
    thread.join(BOUND_SECONDS)
    assert found == [directory]


# -- the command itself ---------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [*NONO_TRIO, "audit", "tail", "--audit-dir", str(tmp_path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_decision_is_shown_as_it_is_written(root, start):
    assert tail.POLL_SECONDS <= 0.1  # how long it takes where the machine has time
    payloads = [made.started(), *(made.network(n) for n in range(10)), made.ended()]
    session = LiveSession(root, payloads)
    session.append(session.lines[1])
    process = start("-f")
    assert "evil.test:443" in process.stdout.readline()
    for line in session.lines[2:-1]:
        session.append(line)
        assert "evil.test:443" in process.stdout.readline()
    session.append(session.lines[-1])
    assert process.wait(BOUND_SECONDS) == 0


def test_waiting_from_an_empty_state_directory_to_the_end(root, start):
    process = start("-f", "--json")
    assert "waiting for session latest" in process.stderr.readline()
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:]))
    out, err = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == 0
    assert [json.loads(line)["sequence"] for line in out.splitlines()] == [3, 4]
    assert err == ""


def test_ctrl_c_is_quiet(root, start):
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    process = start("-f")
    assert "example.com:443" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=BOUND_SECONDS)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(root, start):
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    process = start("-f")
    assert process.stdout.readline()
    process.stdout.close()
    session.append(session.lines[3])
    assert process.wait(BOUND_SECONDS) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


def test_a_crashed_session_is_said_to_be_one(root, start):
    made.unsealed(root)
    process = start("-f", "--decision", "deny")
    out, err = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == 6
    assert out.count("\n") == 1
    assert "never sealed" in err


def tail_after(root, data):
    """Return the tail of a session without a supervisor, at the end of its log, which is `data`."""
    directory = made.unsealed(root)
    with (directory / store.LOG).open("ab") as file:
        file.write(data)
    tail = Tail(directory, Filter())
    tail.last(10)
    return tail


@pytest.mark.parametrize(
    "line",
    [
        b'{"sequence":99,"event":{"type":"session_ended","ended":"2026-07-02T12:03:09Z",'
        b'"exit_code":0}}\n',
        made.encode_log(made.SMALL)[0][-1],
        b"no record\n",
    ],
)
def test_a_last_line_that_is_no_record_of_the_chain_ends_nothing(root, line):
    tail = tail_after(root, line)
    with pytest.raises(LogRewritten, match="TAMPERED"):
        tail.follow(pytest.fail)


@pytest.mark.parametrize("data", [bytes(400) + b"}\n", bytes(400) + b"}\nxx", bytes(400)])
def test_a_hole_of_zeros_at_the_end_is_a_crash(root, data):
    """A loss of power leaves it."""
    assert tail_after(root, data).follow(pytest.fail) == "crashed"


@pytest.mark.parametrize("forged", [{"status": "sealed"}, {"supervisor_pid": 1}])
def test_a_session_file_that_says_an_end_ends_nothing(root, monkeypatch, forged):
    """The session still runs: whoever may write its files must not make its follower go quietly."""
    monkeypatch.setattr(tail, "ALIVE_POLLS", 2)
    session = LiveSession(root)
    session.append(b"".join(session.lines[1:3]))
    following = Following(Tail(session.directory, Filter()))
    facts = json.loads((session.directory / store.SESSION).read_bytes())["nono_trio"]
    made.change_session(session.directory, nono_trio=facts | forged)
    found = following.join()
    assert isinstance(found, LogRewritten)
    assert "TAMPERED" in found.message
