"""The home is an overlay, a kept one and one below /tmp too: look-ups of the real home are seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import PYTHON_GRANTS, Sessions
from seen_files import below, denied, needs_view, server_of

pytestmark = needs_view

KEPT = ".local/share/nono-trio/homes/x.namespace"
ENTRIES = {"home", "home.json", "lock"}

# Everything that programs do in a home, on what an earlier session left and on new files.
USED = """
import fcntl, mmap, os, shutil, socket
os.chdir(os.environ["HOME"])
assert open(".old/file").read() == "old\\n"
assert os.listdir("planted") == ["own"]
assert open(".toolrc").read() == "real\\n"
open(".config/tool/new", "w").close()
os.makedirs("a/b/c")
os.rename("a/b", "moved")
os.rename(".old", "renamed")
open("one", "w").write("text")
os.link("one", "two")
assert os.stat("one").st_ino == os.stat("two").st_ino
os.setxattr("one", "user.mine", b"1")
for name in ("user.overlay.opaque", "user.overlay.redirect", "trusted.overlay.opaque"):
    try:
        os.setxattr("moved", name, b"y")
    except OSError:
        pass
os.mkfifo("pipe", 0o600)
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
    server.bind("socket")
    server.listen()
    client.connect("socket")
with open("one", "r+b") as file, open("one", "rb") as other:
    fcntl.flock(file, fcntl.LOCK_EX)
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:4] = b"TEXT"
    os.fsync(file.fileno())
    assert other.read() == b"TEXT"
os.close(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600))
os.symlink("one", "link")
os.replace("two", "link")
os.chmod("one", 0o500)
shutil.rmtree("a")
devices = {os.lstat(name).st_dev for name in (".", "one", "moved", "pipe", "renamed/file")}
assert len(devices) == 1, devices
for name in (".npmrc", ".ssh/id", ".config/other", "missing", "one"):
    os.path.exists(name)
print("used")
"""
HELD = """
import os, sys
print(os.stat(os.environ["HOME"]).st_dev, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def kept(open_place: Path) -> Sessions:
    """A real home whose name has what ends a mount option, and a kept home from earlier."""
    home = open_place / "ho,me a:b"
    for name in ("project", ".ssh", ".config/tool", f"{KEPT}/home/.old", f"{KEPT}/home/planted"):
        (home / name).mkdir(parents=True)
    for name in (".npmrc", ".toolrc", ".ssh/id", ".config/other"):
        (home / name).write_text("real\n")
    for directory in (home / KEPT, home / KEPT / "home"):
        directory.chmod(0o700)
    (home / KEPT / "home/.old/file").write_text("old\n")
    return Sessions(open_place / "state", home)


def test_a_kept_home_is_seen_and_used_as_before(kept: Sessions) -> None:
    """What a hostile command left there (the marks of an overlay) changes only its own files."""
    place = kept.home / KEPT
    planted = place / "home/planted"
    (planted / "own").touch()
    for name, value in (("redirect", b"/../../../etc"), ("opaque", b"y"), ("metacopy", b"")):
        os.setxattr(planted, f"user.overlay.{name}", value)
    done = kept.run(
        *PYTHON_GRANTS, "--home", "kept=x", "--allow", f"{kept.home}/.config/tool",
        "--read-file", f"{kept.home}/.toolrc", "--", sys.executable, "-c", USED,
    )  # fmt: skip
    assert done.stdout == "used\n", done.stderr
    found = below(kept.home, denied(kept))
    assert found == {(name, "Read") for name in (".npmrc", ".ssh", ".config/other")}
    assert {path.name for path in place.iterdir()} == ENTRIES
    assert {path.stat().st_mode & 0o777 for path in (place, place / "home")} == {0o700}
    files = {path.name for path in (place / "home").iterdir()}
    assert files >= {"renamed", "moved", "one", "link", "pipe", "socket", "planted"}
    assert (place / "home/one").read_text() == "TEXT"
    assert os.getxattr(place / "home/one", "user.mine") == b"1"
    marks = {name for name in os.listxattr(place / "home/moved") if "redirect" in name}
    assert marks <= {"user.overlay.overlay.redirect"}  # the command's own, under another name


def test_a_session_that_was_killed_leaves_a_home_that_works(kept: Sessions) -> None:
    options = [*PYTHON_GRANTS, "--home", "kept=x", "--", sys.executable, "-c", HELD]
    place = kept.home / KEPT
    with kept.started("run", *options, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        device = int(process.stdout.readline())
        # Whoever gives up an overlay last waits for the disk: the server does, not the cage.
        assert device in devices_of(server_of(process.pid))
        assert len(set(os.listdir(place)) - ENTRIES) == 1
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    done = kept.run(
        "--home", "kept=x", "--fail-on-path", f"{kept.home}/.npmrc",
        "--", "sh", "-c", "cat ~/.old/file ~/.npmrc; echo new >~/.new",
    )  # fmt: skip
    assert done.returncode == 3
    assert "can't fail the run" not in done.stderr
    assert done.stdout == "old\n", done.stderr
    assert set(os.listdir(place)) == ENTRIES
    assert (place / "home/.new").read_text() == "new\n"
    assert ".npmrc (read)" in done.stderr


@pytest.mark.parametrize("kind", ["private", "kept=x"])
def test_a_home_below_tmp_is_seen(kind: str, open_place: Path) -> None:
    """Before: nothing was seen there, and a tripwire in it never fired."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        sessions = Sessions(open_place / "state", Path(directory) / "home")
        (sessions.home / ".config/tool").mkdir(parents=True)
        (sessions.home / ".npmrc").touch()
        granted = str(sessions.home / ".config/tool")
        script = "cat ~/.npmrc ~/.ssh/id; ls -A /tmp ~; echo new >~/.config/tool/new"
        options = ["--home", kind, "--allow", granted, "--fail-on-path", f"{sessions.home}/.ssh/id"]
        done = sessions.run(*options, "--", "sh", "-c", script)
        assert done.returncode == 3, done.stderr
        assert "can't fail the run" not in done.stderr
        found = below(sessions.home, denied(sessions))
        assert found == {(".npmrc", "Read"), (".ssh/id", "Read")}
        own = Path(directory).name  # the cage's /tmp has nothing but the way to the home
        assert done.stdout.split() == ["/tmp:", own, f"{sessions.home}:", ".config", ".ssh"]
        assert (sessions.home / ".config/tool/new").read_text() == "new\n"


def test_a_tripwire_that_the_kept_home_has_itself_is_told(kept: Sessions) -> None:
    (kept.home / KEPT / "home/.ssh").write_text("of an earlier command\n")
    done = kept.run("--home", "kept=x", "--fail-on-path", f"{kept.home}/.ssh/id", "--", "true")
    assert done.returncode == 0
    assert (
        f"/.ssh/id can't fail the run: the cage shows {kept.home / KEPT}/home/.ssh" in done.stderr
    )


def devices_of(process: int) -> set[int]:
    """The device numbers of the directories that a process has open."""
    return {link.stat().st_dev for link in Path(f"/proc/{process}/fd").iterdir()}
