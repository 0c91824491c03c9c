"""Tells whether a file's file system may stop answering: a network's, or one of FUSE.

A thread that waits for such a file system can't be killed, and our process could not end before it.
Rule of this file: the file system itself is not asked.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nono_trio.sandbox.launcher.linux.view_tree import unescaped
from nono_trio.sandbox.statx import known_device

if TYPE_CHECKING:
    from nono_trio.sandbox.statx import Device

# The kinds that wait for no other machine or process. Overlays are mostly a container's root.
_LOCAL: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "jfs", "reiserfs", "nilfs2",
     "ubifs", "tmpfs", "ramfs", "rootfs", "devtmpfs", "overlay", "squashfs", "erofs", "iso9660",
     "vfat", "exfat", "ntfs3", "hfsplus", "aufs")
)  # fmt: skip
MOST_LINKS: Final = 40  # as the kernel's limit
MOUNTS: Final = "/proc/self/mountinfo"


def may_hang(place: int) -> bool:
    """Return True if the file that is open as `place` is on such a file system, and we are not: if
    ours is dead, nothing is left to save. Blocks for a moment; raises nothing."""
    try:
        device = known_device(place)
        if device is None or device in _own_devices():
            return False
        return _kind_of(device) not in (None, *_LOCAL)
    except (OSError, ValueError, IndexError):
        return False


@lru_cache(1)
def _own_devices() -> frozenset[Device]:
    found = []
    for path in ("/", sys.executable, __file__):
        device = os.stat(path).st_dev
        found.append((os.major(device), os.minor(device)))
    return frozenset(found)


def _kind_of(device: Device) -> str | None:
    """The kind of a file system that this machine has mounted, else None: the cage's own ones."""
    number = f"{device[0]}:{device[1]}"
    with open(MOUNTS, encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, behind = line.partition(" - ")
            if before.split()[2] == number:
                return behind.split()[0]
    return None


def followed(link: bytes) -> bytes:
    """Return where a symlink leads, without symlinks: an absolute path.

    At a mount that may hang, other than those that `link` lies in, the rest is as the links write
    it, because nothing is asked there. So it is after MOST_LINKS.
    """
    directory, _, name = link.rpartition(b"/")
    done = os.path.realpath(directory or b"/")
    above = done + b"/"
    hanging = {point for point in _hanging_mounts() if not above.startswith(point + b"/")}
    rest, links = [name], 0
    while rest:
        name = rest.pop()
        if name == b"..":
            done = os.path.dirname(done)
        elif name not in (b"", b"."):
            done = os.path.join(done, name)
            if done in hanging or links == MOST_LINKS:
                break
            try:
                target = os.readlink(done)
            except OSError:  # no link, or nothing
                continue
            links += 1
            rest += target.split(b"/")[::-1]
            done = b"/" if target.startswith(b"/") else os.path.dirname(done)
    return os.path.normpath(b"/".join((done, *rest[::-1])))


def _hanging_mounts() -> set[bytes]:
    """The mount points of such file systems, but of those that our own files are on."""
    found = set()
    try:
        with open(MOUNTS, "rb") as file:
            for line in file:
                before, _, behind = line.partition(b" - ")
                fields = before.split()
                major, _, minor = fields[2].partition(b":")
                is_local = behind.split()[0].decode("ascii", "replace") in _LOCAL
                if not is_local and (int(major), int(minor)) not in _own_devices():
                    found.add(unescaped(fields[4]))
    except (OSError, ValueError, IndexError):
        return found
    return found
