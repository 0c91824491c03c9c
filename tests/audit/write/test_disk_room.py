"""Room on the disk: held without a trace in a file's size, kept for the end, given back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from disk_load import load
from harness import NONO_TRIO, RUN_SECONDS, wait_until

from nono_trio.audit.write import disk_room
from nono_trio.audit.write.chained_log import AppendFile
from nono_trio.audit.write.disk_room import CHUNK, NoRoom, hold, hold_file

MIB = 1024 * 1024
REQUESTS = 1200  # a chunk holds some 350 of their records


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def holding(tmp_path: Path) -> Path:
    """A directory whose file system can hold blocks."""
    probe = os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT)
    try:
        if not hold(probe, 4096):
            pytest.skip("this file system has no fallocate")
    finally:
        os.close(probe)
    return tmp_path


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk counts as full."""

    def refuse(_descriptor: int) -> None:
        raise NoRoom(28, "less than 64 MiB left on its disk")

    monkeypatch.setattr(disk_room, "require_floor", refuse)


def test_what_is_held_does_not_show_in_the_size(holding: Path) -> None:
    file = AppendFile(holding / "log", kept=4096)
    file.hold_room()
    file.append(b"one\n")
    assert (holding / "log").read_bytes() == b"one\n"
    assert blocks(holding / "log") >= 4096 + CHUNK
    file.release_room()
    assert (holding / "log").read_bytes() == b"one\n"
    assert blocks(holding / "log") <= 8192
    file.close()


def test_the_last_bytes_fit_where_no_others_do(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = AppendFile(tmp_path / "log", kept=4096)
    file.hold_room()
    request.getfixturevalue("full")
    line = b"x" * 1023 + b"\n"
    for _ in range(CHUNK // len(line)):
        file.append(line)
    with pytest.raises(NoRoom):
        file.append(line * 4)
    assert (tmp_path / "log").stat().st_size == file.offset <= CHUNK
    file.append(b"end\n", last=True)
    assert (tmp_path / "log").read_bytes().endswith(b"\nend\n")
    file.close()


@pytest.mark.usefixtures("full")
def test_nothing_is_held_below_the_floor(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "log", kept=4096)
    with pytest.raises(NoRoom, match="less than"):
        file.hold_room()
    with pytest.raises(NoRoom):
        hold_file(tmp_path / "other", 4096)
    file.close()


def test_room_is_held_anew_for_a_file_that_a_backup_gave_another_name(holding: Path) -> None:
    """Root writes to no file with two names, and its session goes on."""
    new = holding / "new"
    hold_file(new, CHUNK)
    os.link(new, holding / "backup")
    hold_file(new, 2 * CHUNK)
    assert blocks(new) >= 2 * CHUNK


def test_the_floor_is_small_on_a_small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(size: int, left: int) -> None:
        answer = os.statvfs_result((4096, 4096, size // 4096, left // 4096, left // 4096, *[0] * 5))
        monkeypatch.setattr(os, "fstatvfs", lambda _descriptor: answer)
        disk_room.require_floor(0)

    disk(8 * MIB, 128 * 1024)
    disk(1000 * 1024 * MIB, 65 * MIB)
    with pytest.raises(NoRoom, match="less than 81 KiB left on its disk"):
        disk(8 * MIB, 64 * 1024)
    with pytest.raises(NoRoom, match="less than 64 MiB left"):
        disk(1000 * 1024 * MIB, 63 * MIB)


def test_a_crash_leaves_no_nuls_and_recovery_gives_the_room_back(sessions, holding: Path) -> None:
    with sessions.started("run", "--", "sleep", "60") as run:
        wait_until(lambda: sessions.directories and sessions.records(), "the log begins")
        log = sessions.only / "audit-events.ndjson"
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert blocks(log) >= CHUNK
    assert b"\0" not in log.read_bytes()
    assert sessions.verdict()[1]["verdict"] == "crashed"
    assert sessions.call("audit", "recover", sessions.only.name).returncode == 0
    assert sessions.verdict()[1]["verdict"] == "verified"
    assert blocks(log) < CHUNK
    assert sorted(path.name for path in sessions.only.iterdir() if path.name[0] == ".") == []


def on_small_disk(tmp_path: Path, script: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run a shell script with an empty tmpfs of 8 MiB at $DISK; (exit code, stderr)."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is not installed")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=8m tmpfs $DISK || exit 99\n{script}"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mounted],
        env={**environment, "DISK": str(disk), "KEPT": str(tmp_path / "kept"), "NONO": NONO_TRIO},
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd=tmp_path,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip(f"no tmpfs may be mounted in a user namespace here: {done.stderr.strip()}")
    return done.returncode, done.stderr


@pytest.mark.parametrize("left", [0, 64, 200, 500])
def test_a_start_on_a_full_disk_leaves_nothing_behind(sessions, tmp_path: Path, left: int) -> None:
    """At whatever step the room runs out: the next start, with room, is the only session."""
    script = f"""
    head -c {8 * MIB - left * 1024} /dev/zero >$DISK/ballast
    $NONO run --audit-dir $DISK/state -- true; first=$?
    find $DISK/state -name '*.ndjson' -o -name '*.json' -o -name '.*' >$KEPT
    rm $DISK/ballast
    $NONO run --audit-dir $DISK/state -s -- true || exit 98
    $NONO audit verify --all --audit-dir $DISK/state >&2 || exit 97
    exit $first
    """
    code, said = on_small_disk(tmp_path, script, sessions.environment)
    assert code == 4, said
    assert "the audit log can't be created in" in said
    assert "hint: " in said
    assert (tmp_path / "kept").read_text() == ""


def test_best_effort_on_a_disk_that_stays_full_tells_the_loss_and_is_sealed(
    sessions, origin, tmp_path: Path
) -> None:
    arguments = load(sessions, origin, REQUESTS, "--audit-mode", "best-effort", "--audit-dir", "D")
    words = " ".join(f"'{word}'" for word in arguments).replace("'D'", '"$DISK/state"')
    script = f"""
    head -c {7 * MIB} /dev/zero >$DISK/ballast
    (while [ ! -e $DISK/state/audit/*/session.json ]; do sleep 0.01; done
     dd if=/dev/zero of=$DISK/more bs=4096 2>/dev/null) &
    $NONO {words}; code=$?
    wait
    cp -r $DISK/state $KEPT
    exit $code
    """
    code, said = on_small_disk(tmp_path, script, sessions.environment)
    assert code == 0, said
    assert len(origin.seen) == REQUESTS
    sessions.state = tmp_path / "kept"
    assert sessions.verdict()[1]["verdict"] == "verified"
    decisions = sessions.decisions()
    lost = [e["reason"] for e in decisions if e["target"] == "nono-trio:audit"]
    assert sum(int(reason.split()[0]) for reason in lost) + len(decisions) - len(lost) == REQUESTS
    assert "events lost so far" in said


@pytest.mark.skipif(sys.platform != "linux", reason="fallocate is Linux's")
def test_a_system_without_it_keeps_the_floor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(disk_room, "hold", lambda *_: False)
    file = AppendFile(tmp_path / "log", kept=4096)
    file.append(b"one\n")
    request.getfixturevalue("full")
    file.append(b"two\n")  # within the chunk that was checked
    with pytest.raises(NoRoom):
        file.append(b"x" * CHUNK)
    file.release_room()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    file.close()
