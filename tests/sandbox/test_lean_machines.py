"""Machines that lack root's capabilities, /proc, a real root, or calls that a container refuses.

Available features are used; a missing one is reported in one sentence. Root makes each machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT
from harness import NONO_TRIO, RUN_SECONDS, landlock_isolation

from nono_trio.sandbox.launcher.linux.syscalls import KEPT_CAPABILITIES

if TYPE_CHECKING:
    from harness import Sessions

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such machines")

LANDLOCK = ("--isolation", "landlock")
# A container's `--cap-drop ALL --cap-add ...`: all but CAP_SETPCAP, by the names of setpriv.
LEAN = [
    "net_raw", "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid",
    "net_bind_service", "sys_chroot", "mknod", "audit_write",
]  # fmt: skip
PIDFD_OPEN, PIDFD_SEND_SIGNAL, PIDFD_GETFD = 434, 424, 438

# As a seccomp profile that does not know a call: it fails with ENOSYS.
REFUSING = """
import os, struct, sys
sys.path.insert(0, sys.argv[1])
from nono_trio.sandbox.launcher.linux import syscalls
calls = [int(number) for number in sys.argv[2].split(",")]
program = [(0x20, 0, 0, 0)]
program += [(0x15, len(calls) - at, 0, number) for at, number in enumerate(calls)]
program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 38)]
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
syscalls.install_filter(b"".join(struct.pack("=HBBI", *each) for each in program))
os.execv(sys.argv[3], sys.argv[3:])
"""


def call(sessions: Sessions, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]}")
    return subprocess.run(
        words, env=sessions.environment, cwd=sessions.home, capture_output=True, text=True,
        check=False, stdin=subprocess.DEVNULL, timeout=RUN_SECONDS,
    )  # fmt: skip


@landlock_isolation
@pytest.mark.parametrize("kept", ["net_raw", "dac_override", "mknod", ",".join(LEAN)])
def test_root_without_the_right_to_drop_rights(sessions: Sessions, kept: str) -> None:
    added = ",".join(f"+{name}" for name in kept.split(","))
    done = call(
        sessions,
        "setpriv", f"--bounding-set=-all,{added}", "--inh-caps=-all", NONO_TRIO, "run", "-s",
        *LANDLOCK, "--", "grep", "-E", "Cap(Inh|Prm|Eff|Amb)|NoNewPrivs", "/proc/self/status",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert found.pop("NoNewPrivs") == "1"
    held = {
        number for mask in found.values() for number in range(64) if int(mask, 16) >> number & 1
    }
    assert held <= KEPT_CAPABILITIES


@pytest.mark.parametrize("isolation", ["auto", "landlock", "none"])
def test_without_proc_nothing_is_started(sessions: Sessions, isolation: str) -> None:
    script = 'umount -l /proc && exec "$@"'
    done = call(
        sessions,
        "unshare", "--mount", "sh", "-c", script, "sh", NONO_TRIO, "run", "-s",
        "--isolation", isolation, "--", "echo", "ran",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr == (
        "nono-trio: error: there is no /proc here, by which the processes of a cage are found\n"
        "hint: mount it: mount -t proc proc /proc\n"
    )


@pytest.mark.parametrize("isolation", ["namespace", "landlock", "none"])
@pytest.mark.parametrize("calls", [[PIDFD_OPEN], [PIDFD_SEND_SIGNAL], [PIDFD_GETFD]])
def test_calls_that_a_container_does_not_know(
    sessions: Sessions, isolation: str, calls: list[int]
) -> None:
    package = str(ROOT)
    done = call(
        sessions,
        sys.executable, "-c", REFUSING, package, ",".join(map(str, calls)), NONO_TRIO, "run", "-s",
        "--isolation", isolation, "--", "echo", "ran",
    )  # fmt: skip
    if calls == [PIDFD_GETFD]:
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
        return
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.splitlines() == [
        "nono-trio: error: process handles (pidfd_open, pidfd_send_signal) are refused here:"
        " Function not implemented",
        "hint: they need Linux 5.3, and in a container a seccomp profile that knows them",
    ]


# All of the machine, below another root.
CHROOT = """
root=$1
for each in /*; do
    if [ -L "$each" ]; then cp -df "$each" "$root"
    elif [ -d "$each" ]; then mkdir -p "$root$each" && mount --rbind "$each" "$root$each"
    fi
done
exec chroot "$@"
"""


def test_a_chroot_is_called_by_its_name(sessions: Sessions, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    chroot = ["unshare", "--mount", "sh", "-ec", CHROOT, "sh", str(root), NONO_TRIO]
    done = call(sessions, *chroot, "run", "-s", "--isolation", "namespace", "--", "echo", "ran")
    assert done.returncode == 126
    assert "this is a chroot, in which the kernel allows no user namespace" in done.stderr
    done = call(sessions, *chroot, "doctor")
    assert "in a chroot the kernel allows none" in done.stdout
