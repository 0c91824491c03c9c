"""Ways out by files: foreign ones, its own log, what is granted for reading only, devices."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from functools import partial

from escape_base import (
    Stopped,
    attempt,
    checked,
    first_opened,
    libc,
    overwrite,
    present,
    read,
    secret_in,
    syscall,
    wait_for,
)


def in_outside(host, name="secret"):
    return os.path.join(host.outside, name)


# --- reading ---


@attempt("reading a file outside")
def read_outside(host):
    return read(in_outside(host), host)


@attempt("listing a directory outside")
def list_outside(host):
    return f"found {os.listdir(host.outside)[0]}"


@attempt("the size of a file outside")
def stat_outside(host):
    return f"{os.stat(in_outside(host)).st_size} bytes"


@attempt("the names of new files outside, by inotify")
def watch_outside(host):
    descriptor = checked(libc.inotify_init1(os.O_NONBLOCK), "inotify_init1")
    checked(libc.inotify_add_watch(descriptor, host.outside.encode(), 0x100), "inotify_add_watch")
    with open(os.path.join(host.project, f"touch-{host.tag}"), "w"):
        pass  # the other side makes a file outside when it sees this one
    seen = []

    def event():
        try:
            seen.append(os.read(descriptor, 4096)[16:])
        except BlockingIOError:
            return False
        return True

    if not wait_for(event):
        raise Stopped("no event")
    return f"saw {seen[0]!r}"


@attempt("reading through a symlink of its own")
def read_symlink(host):
    link = os.path.join(host.project, "link-out")
    os.symlink(in_outside(host), link)
    return read(link, host)


@attempt("reading through .. out of a granted directory")
def read_dotdot(host):
    return read(os.path.join(host.project, "..", "outside", "secret"), host)


@attempt("reading through /proc/self/root")
def read_proc_root(host):
    return read("/proc/self/root" + in_outside(host), host)


@attempt("reading through a symlink race")
def read_race(host):
    """Swap a granted file and a symlink out while another process opens it."""
    path, other = (os.path.join(host.project, name) for name in ("race", "race-link"))
    with open(path, "w") as file:
        file.write("mine")
    os.symlink(in_outside(host), other)
    pid = os.fork()
    if pid == 0:
        while True:
            libc.renameat2(-100, path.encode(), -100, other.encode(), 2)
    try:
        for _ in range(3000):
            try:
                with open(path, "rb", buffering=0) as file:
                    if host.secret.encode() in file.read(100):
                        return "won"
            except OSError:
                continue
        raise Stopped("lost 3000 times")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@attempt("a closed path inside a grant (~/.config/gcloud)")
def closed_path(host):
    return read(os.path.join(host.home, ".config", "gcloud", "token"), host)


@attempt("a secret in $HOME (~/.ssh)")
def home_secret(host):
    return read(os.path.join(host.home, ".ssh", "id_test"), host)


@attempt("a hard link to a closed file")
def link_closed(host):
    link = os.path.join(host.project, "linked-key")
    os.link(os.path.join(host.home, ".config", "gcloud", "token"), link)
    return read(link, host)


@attempt("a hard link to a file outside")
def link_outside(host):
    link = os.path.join(host.project, "linked")
    os.link(in_outside(host), link)
    return read(link, host)


@attempt("moving a file from outside into a grant")
def move_in(host):
    os.rename(in_outside(host, "movable"), os.path.join(host.project, "moved"))
    return read(os.path.join(host.project, "moved"), host)


@attempt("moving the directory outside into a grant by exchange")
def exchange_directories(host):
    mine = os.path.join(host.project, "exchanged")
    os.mkdir(mine)
    syscall("renameat2", -100, host.outside.encode(), -100, mine.encode(), 2)
    return read(os.path.join(mine, "secret"), host)


@attempt("opening by file handle")
def by_handle(host):
    """A handle names an inode without a path; any inode number can be guessed."""
    handle = ctypes.create_string_buffer(136)
    ctypes.c_uint.from_buffer(handle).value = 128
    mount = ctypes.c_int()
    path = in_outside(host).encode()
    try:
        syscall("name_to_handle_at", -100, path, handle, ctypes.byref(mount), 0)
    except OSError:
        here = host.project.encode()
        syscall("name_to_handle_at", -100, here, handle, ctypes.byref(mount), 0)
    directory = os.open(host.project, os.O_RDONLY)
    descriptor = syscall("open_by_handle_at", directory, handle, os.O_RDONLY)
    return secret_in(os.read(descriptor, 4096), host)


for _what, _path in {
    "the host's /tmp": "tmp_file",
    "the host's /dev/shm": "shm_file",
    "root's password file (/etc/shadow)": "/etc/shadow",
    "the kernel's memory (/proc/kcore)": "/proc/kcore",
    "the machine's memory (/dev/mem)": "/dev/mem",
    "the kernel's log (/dev/kmsg)": "/dev/kmsg",
    "the frames of physical memory (/proc/kpagemap)": "/proc/kpagemap",
}.items():

    def read_named(host, path=_path):
        if not path.startswith("/"):
            return read(present(host, path), host)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.read(descriptor, 16)
        return "read it"

    attempt(f"reading {_what}")(read_named)


# --- writing ---


def readonly(host, name="file"):
    return os.path.join(host.readonly, name)


@attempt("writing a file that is granted for reading")
def write_readonly(host):
    return overwrite(readonly(host), host)


@attempt("truncating a file that is granted for reading")
def truncate_readonly(host):
    os.truncate(readonly(host), 0)
    return "truncated"


@attempt("a new file in a directory that is granted for reading")
def create_readonly(host):
    return overwrite(readonly(host, "new"), host, os.O_WRONLY | os.O_CREAT)


@attempt("deleting a file that is granted for reading")
def delete_readonly(host):
    os.unlink(readonly(host))
    return "deleted"


@attempt("a hard link from reading to writing")
def link_readonly(host):
    link = os.path.join(host.project, "linked-file")
    os.link(readonly(host), link)
    return overwrite(link, host)


@attempt("moving a file from reading to writing")
def move_readonly(host):
    moved = os.path.join(host.project, "moved-file")
    os.rename(readonly(host), moved)
    return overwrite(moved, host)


@attempt("opening a read-only descriptor anew for writing")
def reopen_readonly(host):
    with open(readonly(host), "rb") as file:
        return overwrite(f"/proc/self/fd/{file.fileno()}", host)


@attempt("making others wait that open a file it may read (F_SETLEASE)")
def lease(host):
    """Until the lease ends, every writer of the file waits, at most 45 s at a time."""
    with open(readonly(host), "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return "leased"


@attempt("a snapshot of the whole file system in a granted directory (btrfs)")
def snapshot(host):
    """Refused as such: another file system than btrfs would say that it knows no such command."""
    directory = os.open(host.project, os.O_RDONLY)
    try:
        fcntl.ioctl(directory, 0x50009401, bytearray(struct.pack("=q4088s", directory, b"copy")))
    except OSError as error:
        if error.errno != errno.EPERM:
            return f"asked for: {error}"
        raise
    finally:
        os.close(directory)
    return "made"


@attempt("mapping a read-only file for writing")
def map_readonly(host):
    with open(readonly(host), "rb") as file:
        mapped = mmap.mmap(file.fileno(), 4, mmap.MAP_SHARED, mmap.PROT_READ)
        address = ctypes.c_void_p(libc_address(mapped))
        checked(libc.mprotect(address, 4096, 3), "mprotect")
        ctypes.memmove(address, b"tag-", 4)
        return "wrote through the mapping"


def libc_address(mapped):
    """Return the address of a read-only mapping from /proc/self/maps; ctypes lacks it."""
    with open("/proc/self/maps") as file:
        for line in file:
            if line.rstrip().endswith("/readonly/file"):
                return int(line.split("-")[0], 16)
    raise Stopped(f"no mapping of {len(mapped)} bytes")


@attempt("writing a private mapping through /proc/self/mem")
def private_mapping(host):
    with open(readonly(host), "rb") as file, open("/proc/self/mem", "r+b", buffering=0) as memory:
        with mmap.mmap(file.fileno(), 4, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
            memory.seek(libc_address(mapped))
            memory.write(b"tag-")
        file.seek(0)
        if file.read(4) == b"tag-":
            return "the file changed"
    raise Stopped("only its own copy changed")


@attempt("changing the mode of a file that is granted for reading")
def chmod_readonly(host):
    os.chmod(readonly(host), 0o600)
    return "changed"


@attempt("changing the mode of a file outside")
def chmod_outside(host):
    os.chmod(in_outside(host, "touchable"), 0o640)
    return "changed"


@attempt("changing the times of a file outside")
def utime_outside(host):
    os.utime(in_outside(host, "touchable"), (1, 1))
    return "changed"


@attempt("changing the attributes of a file outside")
def xattr_outside(host):
    os.setxattr(in_outside(host, "touchable"), "user.escape", b"1")
    return "changed"


@attempt("writing a file outside")
def write_outside(host):
    return overwrite(in_outside(host), host, os.O_WRONLY | os.O_APPEND)


@attempt("moving its own file out of the grant")
def move_out(host):
    mine = os.path.join(host.project, "leaving")
    with open(mine, "w") as file:
        file.write(host.tag)
    os.rename(mine, in_outside(host, "arrived"))
    return "moved out"


@attempt("linking a nameless file (O_TMPFILE) outside")
def link_nameless(host):
    descriptor = os.open(host.project, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.link(f"/proc/self/fd/{descriptor}", in_outside(host, "nameless"), follow_symlinks=True)
    return "linked"


@attempt("a start-up file in $HOME")
def bashrc(host):
    return overwrite(os.path.join(host.home, ".bashrc"), host, os.O_WRONLY | os.O_APPEND)


for _what, _path in {
    "the loader's preload list": "/etc/ld.so.preload",
    "the account list": "/etc/passwd",
    "a system program": "/usr/bin/env",
    "a system library directory": "/usr/lib/escape-test",
    "root's crontab": "/var/spool/cron/crontabs/root",
}.items():

    def write_system(host, path=_path):
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return f"opened {path} for writing"

    attempt(f"writing {_what}")(write_system)


# --- devices ---


def make_device(host, kind, major, minor):
    path = os.path.join(host.project, f"device-{major}-{minor}")
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return "made and opened it"


attempt("a block device of its own (mknod)")(
    partial(make_device, kind=stat.S_IFBLK, major=8, minor=0)
)
attempt("a character device of its own (mknod)")(
    partial(make_device, kind=stat.S_IFCHR, major=1, minor=1)
)


@attempt("a disk of the host")
def block_device(host):
    names = [name for name in os.listdir("/dev") if name[:2] in ("sd", "vd", "nv", "xv", "dm")]
    names += ["vda", "sda", "nvme0n1"]
    return first_opened([f"/dev/{name}" for name in names], os.O_RDONLY)


@attempt("the machine's console")
def console(host):
    return first_opened(["/dev/console"], os.O_RDWR | os.O_NOCTTY)


@attempt("a device that makes networks or machines (tun, kvm, fuse, vhost)")
def powerful_device(host):
    names = ("net/tun", "kvm", "fuse", "vhost-net", "vhost-vsock", "uinput", "loop-control")
    return first_opened([f"/dev/{name}" for name in names], os.O_RDWR)
