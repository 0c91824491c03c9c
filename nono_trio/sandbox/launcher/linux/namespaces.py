"""The launcher's new namespaces: ids mapped one to one, a network with loopback only.

Runs in the launcher before the child exists. For an ordinary user one id is mapped, which needs no
privilege; for root every id of the outer namespace is kept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

from . import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

# The kernel's limit (net.core.somaxconn) is 4096 by default. A burst of a hostile child beyond it
# blocks the child's own connect(); it costs the supervisor no memory.
LISTEN_BACKLOG = 1024
LOOPBACK, LOOPBACK_IPV6 = "127.0.0.1", "::1"

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_INTERFACE_REQUEST = struct.Struct("16sH22x")


def enter_namespaces() -> None:
    """Move this process into new user, network, mount, IPC and (its children) PID namespaces.

    Ids keep their numbers. Raises OSError if the kernel or its policy refuses.
    """
    flags = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWPID
    flags |= syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid == 0:
            with _map_every_id():
                _unshare(flags)
            return
        _unshare(flags)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    except PermissionError as error:
        if not in_chroot():
            raise
        text = "this is a chroot, in which the kernel allows no user namespace"
        raise OSError(errno.EPERM, text) from error


def in_chroot() -> bool:
    """Tell whether this is a chroot, as far as /proc shows it.

    In a chroot to a plain directory no mount is at /. In a chroot to a mount point, the system's
    first process has another root.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            if all(line.split()[4] != "/" for line in mounts):
                return True
        first, own = os.stat("/proc/1/root/."), os.stat("/")
    except (OSError, IndexError):
        return False
    return (first.st_dev, first.st_ino) != (own.st_dev, own.st_ino)


def _unshare(flags: int) -> None:
    try:
        syscalls.unshare(flags)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # The text of ENOSPC would be about a full disk.
        text = "no more namespaces allowed (sysctl user.max_*_namespaces)"
        raise OSError(errno.EUSERS, text) from error


@contextlib.contextmanager
def _map_every_id() -> Iterator[None]:
    """Map every uid and gid of this namespace into the user namespace that the body enters.

    Only a process outside the new namespace may write such a map: a helper, forked before. With a
    single mapped id, root could not work in a tree that other users own (a mounted checkout in a CI
    container).
    """
    maps = {name: _identity_map(f"/proc/self/{name}") for name in ("uid_map", "gid_map")}
    begin_read, begin_write = os.pipe2(os.O_CLOEXEC)
    done_read, done_write = os.pipe2(os.O_CLOEXEC)
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(begin_write)
        os.read(begin_read, 1)
        try:
            for name, text in maps.items():
                _write(f"/proc/{target}/{name}", text)
            os.write(done_write, b"0")
        except OSError as failed:
            os.write(done_write, str(failed.errno).encode())
        os._exit(0)
    os.close(done_write)
    try:
        yield
        os.write(begin_write, b"b")
        number = int(os.read(done_read, 16) or b"5")
    finally:
        for descriptor in (begin_read, begin_write, done_read):
            os.close(descriptor)
        os.waitpid(helper, 0)
    if number:
        raise OSError(number, f"id maps: {os.strerror(number)}")


def _identity_map(path: str) -> str:
    with open(path, encoding="ascii") as file:
        extents = [line.split() for line in file]
    return "\n".join(f"{inside} {inside} {count}" for inside, _, count in extents) + "\n"


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def raise_loopback() -> None:
    """Bring up `lo`, the only interface of the new network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, _INTERFACE_REQUEST.pack(b"lo", 0))
        _, flags = _INTERFACE_REQUEST.unpack(request)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _INTERFACE_REQUEST.pack(b"lo", flags | _IFF_UP))


def listen_on_loopback(port: int, address: str = LOOPBACK) -> socket.socket:
    """Open a listening socket on a loopback address; port 0 lets the kernel choose."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, port))
    listener.listen(LISTEN_BACKLOG)
    return listener


def listen_on_both(port: int) -> dict[str, socket.socket]:
    """Open the listening sockets of `--open-port`: `localhost` may mean either loopback address."""
    sockets = {f"open:{port}": listen_on_loopback(port)}
    with contextlib.suppress(OSError):  # a kernel without IPv6
        sockets[f"open6:{port}"] = listen_on_loopback(port, LOOPBACK_IPV6)
    return sockets
