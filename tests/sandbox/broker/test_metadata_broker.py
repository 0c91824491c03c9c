"""Modes, owners, times, attributes and watches: ordinary programs notice nothing.

In landlock isolation the supervisor makes these changes, in every cage those with S_ISGID. What a
hostile program tries with them is in tests/support/probes/escape_modes.py and escape_metadata.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from harness import (
    LISTENED,
    NONO_TRIO,
    PYTHON_GRANTS,
    SYSTEM_PYTHON,
    Sessions,
    guarded,
    landlock_isolation,
)

isolations = pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=guarded)]
)


def work(sessions: Sessions) -> Path:
    directory = sessions.home / "work"
    directory.mkdir(exist_ok=True)
    return directory


def shell(sessions: Sessions, isolation: str, script: str):
    """With the granted directory as home."""
    directory = work(sessions)
    return sessions.run(
        "--isolation", isolation, "--allow-cwd", "--",
        "sh", "-euc", f"umask 022; export HOME={directory}; {script}", cwd=directory,
    )  # fmt: skip


def python(sessions: Sessions, isolation: str, program: str, *options: str):
    return sessions.run(
        "-s", "--isolation", isolation, "--allow-cwd", *options, *PYTHON_GRANTS,
        "--", sys.executable, "-c", program, cwd=work(sessions),
    )  # fmt: skip


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@guarded
def test_files_by_what_a_process_calls_itself(sessions: Sessions) -> None:
    program = """
import os
for name in "abc":
    open(name, "w").close()
directory = os.open(".", os.O_RDONLY)
os.chmod("/proc/self/cwd/a", 0o640)
os.chmod(f"/proc/self/fd/{directory}/b", 0o640)
os.utime(f"/dev/fd/{directory}/c", (5, 5))
print([oct(os.stat(name).st_mode & 0o777) for name in "ab"], int(os.stat("c").st_mtime))
try:
    os.chmod("/proc/self/root/etc/hostname", 0o600)
except OSError as error:
    print(error.errno)
"""
    done = python(sessions, "landlock", program)
    assert done.stdout == "['0o640', '0o640'] 5\n13\n", done.stderr


@isolations
def test_a_shared_repository_and_its_copies(sessions: Sessions, isolation: str) -> None:
    """git makes set-group-id directories; tar and cp keep every mode and time."""
    need("git")
    done = shell(
        sessions, isolation,
        "git init -q --shared one; touch -d @1000000000 one/file; chmod 640 one/file;"
        " ln -s nowhere one/link; tar cf one.tar one; mkdir two; tar -xpf one.tar -C two;"
        " cp -a one three; chown -h $(id -u) one/link; touch -h -d @1000000000 one/link",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "refused" not in done.stderr
    directory = work(sessions)
    for copy in ("one", "two/one", "three"):
        assert stat.S_IMODE((directory / copy / ".git/refs").stat().st_mode) == 0o2775, copy
        found = (directory / copy / "file").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o640, 1_000_000_000), copy
    assert (directory / "one/link").lstat().st_mtime == 1_000_000_000


CHANGES = """
import ctypes, os, stat
libc = ctypes.CDLL(None, use_errno=True)
open("file", "w").close(); os.mkdir("below"); open("below/file", "w").close()
os.symlink("file", "link"); os.symlink(os.path.abspath("file"), "absolute")
held = os.open("below", os.O_RDONLY)
path = os.open("file", os.O_PATH)
def mode(name, **at): return oct(stat.S_IMODE(os.stat(name, **at).st_mode))
os.chmod("file", 0o601); print(mode("file"))
os.chmod(os.path.abspath("file"), 0o602); print(mode("file"))
os.chmod("link", 0o603); print(mode("file"))
os.chmod("absolute", 0o604); print(mode("file"))
os.chmod("file", 0o605, dir_fd=held); print(mode("file", dir_fd=held))
os.chmod(f"/proc/self/fd/{path}", 0o606); print(mode("file"))
os.chmod(f"/proc/{os.getpid()}/fd/{path}", 0o607); print(mode("file"))
with open("file") as file: os.fchmod(file.fileno(), 0o610); print(mode("file"))
os.chdir("below"); os.chmod("../file", 0o611); print(mode("../file")); os.chdir("..")
os.chmod("below", 0o2755); print(mode("below"))
with open("file") as file: os.fchown(file.fileno(), os.getuid(), os.getgid())
os.chown("link", -1, os.getgid()); os.lchown("link", os.getuid(), -1)
os.utime("link", ns=(1, 2)); print(os.stat("file").st_mtime_ns)
os.utime("link", ns=(3, 4), follow_symlinks=False); print(os.lstat("link").st_mtime_ns)
print(libc.utimes(b"file", None), os.stat("file").st_mtime_ns > 2)
times = (ctypes.c_long * 4)(5, 6, 7, 8)
print(libc.utimes(b"file", times), os.stat("file").st_mtime_ns)
print(libc.utime(b"file", (ctypes.c_long * 2)(5, 6)), os.stat("file").st_mtime_ns)
try:
    os.setxattr("file", "user.one", b"1" * 300); print(len(os.getxattr("file", "user.one")))
    os.removexattr("file", "user.one"); print(os.listxattr("file"))
except OSError as error:
    print(300, [], sep="\\n") if error.errno == 95 else print(error)
for call, arguments in {
    "chmod": (b"missing", 0o600), "fchmod": (999, 0o600), "chmod ": (b"", 0o600),
    "chmod  ": (None, 0o600), "chmod   ": (b"x/" * 3000, 0o600),
    "fchmodat": (held, b"no", 0o600, 0),
    "setxattr": (b"file", b"nothing", b"", 0, 0), "inotify_add_watch": (held, b"file", 2),
}.items():
    print(getattr(libc, call.strip())(*arguments), ctypes.get_errno())
"""
CHANGED = """0o601 0o602 0o603 0o604 0o605 0o606 0o607 0o610 0o611 0o2755
2 4 0 True 0 7000008000 0 6000000000 300 []
-1 2 -1 9 -1 2 -1 14 -1 36 -1 2 -1 95 -1 22"""


@isolations
def test_every_way_to_name_a_file(sessions: Sessions, isolation: str) -> None:
    done = python(sessions, isolation, CHANGES)
    expected = CHANGED.split()
    if isolation == "landlock":
        expected[-3] = "1"  # EPERM: attributes but a user's are for capabilities
    assert done.stdout.split() == expected, done.stderr


def test_what_a_program_sees_is_what_the_kernel_says(sessions: Sessions) -> None:
    """The same without a cage."""
    done = python(sessions, "none", CHANGES)
    assert done.stdout.split() == CHANGED.split(), done.stderr


WATCH = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
inotify = libc.inotify_init()
print(libc.inotify_add_watch(inotify, b".", 0x100))
open("new", "w").close()
print(os.read(inotify, 100)[16:].rstrip(b"\\0").decode())
print(libc.inotify_add_watch(inotify, b".", 0x100), libc.inotify_rm_watch(inotify, 1))
print(libc.inotify_add_watch(inotify, sys.argv[1].encode(), 0x100), ctypes.get_errno())
"""


@guarded
def test_watches_are_for_granted_directories(sessions: Sessions, tmp_path: Path) -> None:
    done = sessions.run(
        "--isolation", "landlock", "--allow-cwd", *PYTHON_GRANTS,
        "--", sys.executable, "-c", WATCH, str(tmp_path), cwd=work(sessions),
    )  # fmt: skip
    assert done.stdout == "1\nnew\n1 0\n-1 13\n", done.stderr
    assert f"refused, 1x: watches outside the grants: {tmp_path}" in done.stderr


@isolations
def test_what_was_refused_is_told(sessions: Sessions, isolation: str) -> None:
    done = shell(
        sessions, isolation, "touch a 'b\033[31m'; chmod g+s b* || true; chmod u+s a || true"
    )
    assert "refused, 2x: set-user-id and set-group-id files: " in done.stderr
    assert str(work(sessions) / "a") in done.stderr
    assert "\033" not in done.stderr
    assert not any(path.stat().st_mode & 0o6000 for path in work(sessions).iterdir())


GIVEN_UP = """
import os, sys
open("roots", "w").close(); os.mkdir("closed", 0o700); open("closed/own", "w").close()
os.chown("closed/own", 65534, 65534); open("own", "w").close(); os.chown("own", 65534, 65534)
os.mkdir("group"); os.chown("group", 65534, 0)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in ("roots", "closed/own", "own"):
    try:
        os.chmod(name, 0o640)
        print("changed")
    except PermissionError:
        print("refused")
os.chmod("group", 0o2755)
print(oct(os.stat("group").st_mode & 0o7777))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
@isolations
def test_a_program_that_gave_up_root_gets_no_more_than_it_has(
    sessions: Sessions, isolation: str
) -> None:
    """The supervisor is still root, and acts with the child's rights."""
    work(sessions).chmod(0o755)
    for directory in work(sessions).parents:
        if directory == sessions.home.parents[0]:
            break
        directory.chmod(directory.stat().st_mode | 0o111)
    done = sessions.run(
        "-s", "--isolation", isolation, "--allow-cwd",
        "--", SYSTEM_PYTHON, "-c", GIVEN_UP, cwd=work(sessions),
    )  # fmt: skip
    # The last: a group that is not its own, so the kernel leaves the bit out.
    assert done.stdout.split() == ["refused", "refused", "changed", "0o755"], done.stderr


@guarded
def test_npm_installs(sessions: Sessions) -> None:
    """It changes the mode of every program that it links."""
    need("npm")
    directory = work(sessions)
    package = directory / "tool"
    package.mkdir()
    (package / "package.json").write_text(
        json.dumps({"name": "tool", "version": "1.0.0", "bin": "tool.js"})
    )
    (package / "tool.js").write_text("#!/usr/bin/env node\nconsole.log('runs')\n")
    (directory / "package.json").write_text(json.dumps({"name": "here", "version": "1.0.0"}))
    done = shell(
        sessions, "landlock",
        "npm install --offline --no-audit --no-fund --install-links ./tool >&2;"
        " node_modules/.bin/tool",
    )  # fmt: skip
    assert done.stdout == "runs\n", done.stderr


# -- without a broker ------------------------------------------------------------------------------

CLOSES = """
import os, sys
state = sys.argv[1]
for path, mode in ((state + "/audit/ledger.ndjson", 0o400), (state + "/audit", 0), (state, 0),
                   (sys.argv[2], 0o100)):
    os.chmod(path, mode)
"""


@landlock_isolation
def test_a_state_that_was_closed_is_opened_again(sessions: Sessions) -> None:
    """Another process handles the notifications here, so no broker stops the command."""
    (sessions.state / "audit").mkdir(parents=True, mode=0o700)
    (sessions.state / "audit/ledger.ndjson").touch(0o600)
    done = subprocess.run(
        [
            sys.executable, "-c", LISTENED, str(ROOT), NONO_TRIO, "run",
            "--isolation", "landlock", *PYTHON_GRANTS,
            "--", sys.executable, "-c", CLOSES, str(sessions.state), str(sessions.state.parent),
        ],
        env=sessions.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "modes of the audit state had been changed" in done.stderr
    assert sessions.verdict()[0] == 0
    assert stat.S_IMODE(sessions.state.stat().st_mode) & 0o700 == 0o700
