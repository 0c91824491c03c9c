"""Recovery after a disk lost what it had taken: the page cache has it still, the disk has not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import SUPPORT
from harness import NONO_TRIO, RUN_SECONDS

BLOCK = 1024
TOOLS = ("unshare", "mkfs.ext4", "debugfs", "mount")

# Makes a crashed session whose last block is on the disk, and in the page cache, as it should be.
SESSION = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import sealed_session as made
from nono_trio.core.log.events import Network, NetworkEvent
event = Network(event=NetworkEvent(
    timestamp_unix_ms=1, mode="connect", decision="deny", target="a.test"))
made.unsealed(Path(sys.argv[1]), payloads=[*made.SMALL[:2], *[event] * 12], counts=(2,))
"""

# The backing file is changed below the mounted file system, which knows nothing of it.
SCRIPT = """
set -e
cd $WORK
truncate -s 16M image
mkfs.ext4 -q -b 1024 image
mkdir -p disk
mount -o loop image disk || exit 99
$PYTHON -c "$SESSION" $WORK/disk/state/audit $TESTS
sync -f disk
log=state/audit/0123456789abcdef/audit-events.ndjson
block=$(debugfs -R "blocks /$log" image 2>/dev/null | tr ' ' '\\n' | grep . | tail -n 1)
dd if=/dev/zero of=image bs=1024 seek=$block count=1 conv=notrunc,fsync 2>/dev/null
tail -c 3 disk/$log | od -An -c | grep -q '\\\\n'  # the cache still has the record
$NONO audit recover --all --json --audit-dir disk/state
umount disk
mount -o loop image disk
$NONO audit verify --all --json --audit-dir disk/state
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk image")
def test_recovery_reads_the_disk_and_not_the_page_cache(tmp_path: Path) -> None:
    """Before: recovered with all 14 records, and tampered after the next mount."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT],
        env={
            "PATH": path, "HOME": str(tmp_path), "WORK": str(tmp_path), "NONO": NONO_TRIO,
            "PYTHON": sys.executable, "SESSION": SESSION, "TESTS": str(SUPPORT),
        },
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip(f"no image may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr + done.stdout
    recovered, verified = map(json.loads, done.stdout.splitlines())
    assert recovered["outcome"] == "recovered"
    assert 0 < recovered["torn_bytes"] <= 2 * BLOCK
    assert verified["verdict"] == "verified"
    assert verified["event_count"] < 18  # 15 records, and the three that a recovery adds
