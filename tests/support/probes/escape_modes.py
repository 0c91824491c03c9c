"""Programs that run with their owner's rights for every user: modes with S_ISUID or S_ISGID."""

import os
import stat
import struct
from functools import partial

from escape_base import attempt, checked, libc, syscall

HERE = -100  # AT_FDCWD


def by_chmod(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    os.chmod(path, mode)


def by_fchmod(path, mode):
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o755)
    os.fchmod(descriptor, mode)


def by_fchmodat(path, mode):
    directory = os.open(os.path.dirname(path), os.O_PATH)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    os.chmod(os.path.basename(path), mode, dir_fd=directory)


def by_fchmodat2(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    syscall("fchmodat2", HERE, path.encode(), mode, 0)


def by_descriptor(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    held = os.open(path, os.O_PATH)
    os.chmod(f"/proc/self/fd/{held}", mode)


def by_high_bits(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    syscall("fchmodat2", HERE, path.encode(), mode | 1 << 32, 0)


def by_open(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))


def by_openat2(path, mode):
    how = struct.pack("=3Q", os.O_CREAT | os.O_WRONLY, mode, 0)
    syscall("openat2", HERE, path.encode(), how, len(how))


def by_nameless(path, mode):
    held = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_WRONLY, mode)
    source = f"/proc/self/fd/{held}".encode()
    checked(libc.linkat(HERE, source, HERE, path.encode(), 0x400), "linkat")  # AT_SYMLINK_FOLLOW


def by_mknod(path, mode):
    os.mknod(path, mode | stat.S_IFREG)


def by_creat(path, mode):
    checked(libc.creat(path.encode(), mode), "creat")


def make(host, action, bit):
    path = os.path.join(host.project, f"mode-{host.tag}")
    os.umask(0)
    action(path, 0o755 | bit)
    mode = os.stat(path).st_mode
    os.unlink(path)
    if not mode & bit:
        raise PermissionError(1, "the bit is not set")
    return f"mode {mode:o}"


for _what, _bit in {"set-user-id": stat.S_ISUID, "set-group-id": stat.S_ISGID}.items():
    for _how, _action in {
        "chmod": by_chmod, "fchmod": by_fchmod, "fchmodat": by_fchmodat, "fchmodat2": by_fchmodat2,
        "a descriptor in /proc": by_descriptor, "a mode with high bits": by_high_bits,
        "open": by_open, "openat2": by_openat2, "creat": by_creat, "mknod": by_mknod,
        "a nameless file (O_TMPFILE)": by_nameless,
    }.items():  # fmt: skip
        attempt(f"a {_what} file by {_how}")(partial(make, action=_action, bit=_bit))
