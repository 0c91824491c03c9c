from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nono_trio.audit import store
from nono_trio.core.log.session_json import NonoTrioFacts, SessionMetadata
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix import process_info


def metadata(session_id="0123456789abcdef", started="2026-07-02T11:48:52Z", **facts):
    return SessionMetadata(
        session_id=session_id,
        started=started,
        command=["true"],
        tracked_paths=[],
        merkle_roots=[],
        nono_trio=NonoTrioFacts(**facts),
    )


def stored(root, session_id, **fields):
    directory = store.create_session_directory(root, session_id)
    store.write_session_json(directory, metadata(session_id, **fields))
    return directory


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def here(**changes):
    facts = {
        "supervisor_pid": os.getpid(),
        "supervisor_start_ticks": process_info.process_start_ticks(os.getpid()),
        "boot_id": process_info.boot_id(),
    }
    return metadata(**(facts | changes))


def test_where_the_state_is():
    home = {"HOME": "/home/a"}
    assert store.state_root(None, home) == Path("/home/a/.local/state/nono-trio")
    assert store.state_root(None, home | {"XDG_STATE_HOME": "/x"}) == Path("/x/nono-trio")
    relative = home | {"XDG_STATE_HOME": "x"}
    assert store.state_root(None, relative) == Path("/home/a/.local/state/nono-trio")
    assert store.state_root(None, relative | {"NONO_TRIO_STATE_DIR": "/s"}) == Path("/s")
    assert store.state_root("/o", relative | {"NONO_TRIO_STATE_DIR": "/s"}) == Path("/o")
    assert store.audit_root(Path("/s")) == Path("/s/audit")


def test_a_directory_has_the_name_of_its_place_however_it_is_spelled(tmp_path, monkeypatch):
    place = tmp_path / "place"
    (place / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(place / "inside")
    spelled = (place, Path(".."), Path("../../place"), Path("../inside/.."), tmp_path / "link")
    assert {store.place_name(path) for path in spelled} == {"place"}
    assert store.place_name(Path()) == "inside"


def test_session_ids():
    ids = {store.new_session_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)
    for good in ("a", "20260421-200000-11111", "A_b-9" * 12):
        assert store.is_session_id(good)
    for bad in ("", ".", "..", "a/b", "a" * 65, "ä", "a\n", "a b"):
        assert not store.is_session_id(bad)


def test_directories_are_private_and_made_once(tmp_path):
    root = tmp_path / "state" / "audit"
    directory = store.create_session_directory(root, "abc")
    assert [mode(path) for path in (root.parent, root, directory)] == [0o700] * 3
    with pytest.raises(FileExistsError):
        store.create_session_directory(root, "abc")
    with pytest.raises(UsageError):
        store.create_session_directory(root, "../abc")


def test_session_json_is_replaced_whole(tmp_path):
    store.write_session_json(tmp_path, metadata(status="open"))
    store.write_session_json(tmp_path, metadata(status="sealed"))
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]
    assert mode(tmp_path / "session.json") == 0o600
    assert store.read_metadata(tmp_path).nono_trio.status == "sealed"
    assert store.read_summary(tmp_path).nono_trio.status == "sealed"


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    store.write_session_json(tmp_path, metadata(status="open"))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_session_json(tmp_path, metadata(status="sealed"))
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]
    assert store.read_metadata(tmp_path).nono_trio.status == "open"


@pytest.mark.parametrize("text", [b"", b"{}", b"[" * 200_000, b"\xff", b'{"session_id":1}'])
def test_a_session_json_that_is_none_is_a_clear_error(tmp_path, text):
    (tmp_path / "session.json").write_bytes(text)
    with pytest.raises(LogUnreadable, match="is no session file"):
        store.read_metadata(tmp_path)
    assert store.read_summary(tmp_path) is None


def test_sessions_are_sorted_by_time_not_by_text(tmp_path):
    stored(tmp_path, "early", started="2026-07-02T12:00:00+05:00")  # 07:00 UTC
    stored(tmp_path, "late", started="2026-07-02T08:00:00.123456789Z")
    (tmp_path / "crashed").mkdir()
    (tmp_path / "ledger.ndjson").touch()
    (tmp_path / "a.b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "late")
    found = store.sessions(tmp_path)
    assert {session.session_id for session in found} == {"crashed", "late", "early"}
    dated = [session.session_id for session in found if session.summary]
    assert dated == ["late", "early"]
    assert store.sessions(tmp_path / "nowhere") == []


def test_finding_a_session(tmp_path):
    first = stored(tmp_path, "aa11", started="2026-07-02T08:00:00Z", name="build")
    second = stored(tmp_path, "aa22", started="2026-07-02T09:00:00Z", name="build")
    third = stored(tmp_path, "bb33", started="2026-07-02T10:00:00Z", name="aa1")
    assert store.find_session(tmp_path, "aa11") == first
    assert store.find_session(tmp_path, "aa2") == second
    assert store.find_session(tmp_path, "aa1") == third  # a name beats a prefix
    assert store.find_session(tmp_path, "build") == second  # the newest of that name
    assert store.find_session(tmp_path, "latest") == third
    assert store.find_session(tmp_path, str(first)) == first
    with pytest.raises(UsageError, match="one session that begins with 'aa'"):
        store.find_session(tmp_path, "aa")
    for nothing in ("cc", "", "./cc", "x/../y"):
        with pytest.raises(LogUnreadable):
            store.find_session(tmp_path, nothing)


def test_a_path_in_the_working_directory_is_found_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("copied.ndjson").touch()
    assert store.find_session(tmp_path, "copied.ndjson") == Path("copied.ndjson")


def test_latest_of_nothing_is_an_error(tmp_path):
    with pytest.raises(LogUnreadable, match="latest"):
        store.find_session(tmp_path, "latest")


def test_this_process_is_alive(held):
    assert store.is_alive(held, here())


def test_a_living_process_that_does_not_hold_the_log_is_not_alive(tmp_path):
    """Another program may have written its pid there."""
    (tmp_path / store.LOG).touch()
    assert not store.is_alive(tmp_path, here())


@pytest.fixture
def held(tmp_path):
    """A directory whose log this process holds."""
    with (tmp_path / store.LOG).open("wb") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_id": "another-boot"},
        {"supervisor_start_ticks": 1},
        {"supervisor_pid": 2**22 + 1},
        {"supervisor_pid": -1},
        {"supervisor_pid": 10**30},
    ],
)
def test_another_process_is_not_alive(changes, held):
    assert not store.is_alive(held, here(**changes))


def test_a_session_without_facts_is_not_alive(held):
    assert not store.is_alive(held, metadata())
    upstream = metadata()
    upstream.nono_trio = __import__("msgspec").UNSET
    assert not store.is_alive(held, upstream)


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    ticks = process_info.process_start_ticks(child.pid)
    assert ticks is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # exited, not yet reaped
    assert process_info.process_start_ticks(child.pid) is None
    child.wait()
