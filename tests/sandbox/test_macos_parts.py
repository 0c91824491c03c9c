"""The parts of the macOS side that are plain functions: numbers and texts in, answers out."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from nono_trio.posix import process_info
from nono_trio.posix.paths import is_below
from nono_trio.posix.process_handle import ProcessHandle
from nono_trio.posix.process_table import children_by_parent
from nono_trio.proxy.transport import kqueue
from nono_trio.proxy.transport.epoll import Watch
from nono_trio.proxy.transport.kqueue import (
    EV_CLEAR,
    EV_EOF,
    EV_ERROR,
    FILTER_READ,
    FILTER_WRITE,
    flags_of,
)
from nono_trio.sandbox.filesystem import policy_groups
from nono_trio.sandbox.filesystem.plan import FileOptions, plan_files
from nono_trio.sandbox.filesystem.system_paths import LINUX, MACOS
from nono_trio.sandbox.launcher.nono_py import library_path, load_library
from nono_trio.waker import Waker

RESET = 54  # ECONNRESET in Darwin's <errno.h>

# -- kqueue ---------------------------------------------------------------------------------------


def test_the_numbers_are_epolls():
    for name in ("EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP", "EPOLLET"):
        assert getattr(kqueue, name) == getattr(select, name)


@pytest.mark.parametrize(
    ("event", "readable", "ending", "broken"),
    [
        ((FILTER_READ, EV_CLEAR, 0), True, False, False),
        ((FILTER_READ, EV_CLEAR | EV_EOF, 0), True, True, False),  # the peer's half-close
        ((FILTER_READ, EV_CLEAR | EV_EOF, RESET), True, True, True),
        ((FILTER_READ, EV_ERROR, 0), True, True, True),
        ((FILTER_WRITE, EV_CLEAR, 0), False, False, False),
        ((FILTER_WRITE, EV_CLEAR | EV_EOF, 0), False, False, False),  # our own half-close
        ((FILTER_WRITE, EV_CLEAR | EV_EOF, RESET), True, True, True),
        ((FILTER_WRITE, EV_ERROR, 0), True, True, True),
    ],
)
def test_what_a_kevent_means(event, readable, ending, broken):
    woken = []

    class Counting(Waker):
        def wake(self):
            woken.append(1)

    watch = Watch("client", Counting())
    watch.note(flags_of(*event))
    assert (watch.readable, watch.ending, watch.broken) == (readable, ending, broken)
    assert woken == [1]


# -- processes and the boot -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "started"),
    [
        ("Ss   Wed Nov 25 01:16:24 2026\n", 1_795_569_384),
        ("R+ Thu Jan  1 00:00:00 1970", 0),
        ("Z    Wed Nov 25 01:16:24 2026\n", None),
        ("", None),
    ],
)
def test_when_a_process_began(answer, started):
    assert process_info.started_of(answer) == started


def test_ps_answers_in_that_form():
    """Linux' ps knows the same words: seconds of UTC, whatever the caller's zone and language."""
    answer = process_info.output_of("ps", "-o", "state=,lstart=", "-p", str(os.getpid()))
    started = process_info.started_of(answer)
    assert started is not None
    assert time.time() - 86_400 < started <= time.time() + 1


def test_a_program_that_is_not_there_says_nothing():
    assert process_info.output_of("/bin/no-such-program") == ""


def test_children_by_parent():
    assert children_by_parent("    1     0\n   40     1\n   41     1\n   50    40\n") == {
        0: [1], 1: [40, 41], 40: [50],
    }  # fmt: skip
    assert children_by_parent("") == {}


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "61"]) as process:
        yield process
        process.kill()


async def test_a_handle_knows_of_the_end(sleeper):
    handle = ProcessHandle(sleeper.pid)
    assert not handle.ended_within(0)
    handle.signal(signal.SIGTERM)
    await handle.ended()
    assert handle.ended_within(0)
    handle.close()
    assert sleeper.wait() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        ProcessHandle(sleeper.pid)


# -- what a cage takes of the policy groups -------------------------------------------------------

# Other programs' and other users' places, by every name.
NOBODY_GRANTED = (
    "/private/tmp/x", "/tmp/x", "/private/var/folders/zz/T/x", "/var/folders/zz/T/x",
    "/Users/a/x", "/System/Volumes/Data/Users/a/x", "/Volumes/disk/x", "/dev/ttys001",
    "/private/var/root/x", "/Library/Keychains/login.keychain-db",
)  # fmt: skip


@pytest.fixture(scope="module")
def groups():
    return json.loads(load_library(library_path()).embedded_policy_json())["groups"]


@pytest.mark.parametrize(("system", "word"), [(LINUX, "linux"), (MACOS, "macos")])
def test_each_group_is_one_of_that_system(groups, system, word):
    for name in (*system.groups, *system.deny_groups):
        assert groups[name].get("platform") in (None, word)
    twins = {name for name in groups if name.startswith("deny_") and name.endswith(f"_{word}")}
    assert twins - {"deny_macos_private"} <= set(system.deny_groups)


def test_a_mac_grants_nothing_around_other_programs_files(groups):
    named = [
        path
        for name in MACOS.groups
        for kind in groups[name]["allow"].values()
        for path in kind
        if not path.startswith("~") and not MACOS.leaves_out(path)
    ]
    for path in (*named, *MACOS.extra_read):
        assert not [one for one in NOBODY_GRANTED if is_below(one, path) or one == path]
    assert {"/bin", "/usr/lib", "/System/Library", "/Library/Frameworks"} <= set(named)


# -- our own state --------------------------------------------------------------------------------


def test_no_group_opens_the_state_directory(tmp_path, monkeypatch):
    """`user_tools` grants ~/.local/state for writing, and the state is there by default."""
    state = tmp_path / ".local" / "state" / "nono-trio"
    state.parent.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = tuple(one for one in LINUX.replaced if not str(tmp_path).startswith(one))
    monkeypatch.setattr(policy_groups, "SYSTEM", replace(LINUX, replaced=kept))
    library = load_library(library_path())
    options = FileOptions(workdir="/")
    capabilities = library.CapabilitySet()
    library.load_embedded_policy().resolve_groups(["user_tools"], capabilities)
    granted = {one.original: str(one.access) for one in capabilities.fs_capabilities()}
    assert granted[str(state.parent)] == "read+write"  # or this test shows nothing

    def opened(state_root: Path) -> bool:
        files = plan_files(options, state_root, library, can_cover=True)
        return files.covers(str(state / "audit" / "x"), "write") is not None

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "usual"))
    assert not opened(tmp_path / "elsewhere"), "a run without the variable keeps its logs there"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert not opened(tmp_path / "elsewhere"), "other sessions' logs are there by default"
    assert not opened(state)
    assert not opened(state.parent)
    assert not opened(state / "below")


def test_this_is_not_a_mac():
    assert (policy_groups.SYSTEM is MACOS) is (sys.platform == "darwin")
