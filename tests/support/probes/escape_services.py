"""Ways out by other programs: sockets that have a path or an abstract name, IPC objects, keys."""

import array
import contextlib
import ctypes
import mmap
import os
import socket
import threading
import time
from functools import partial

from escape_base import (
    WAIT_SECONDS,
    Stopped,
    attempt,
    present,
    reach,
    read,
    secret_in,
    syscall,
)

STREAM, DATAGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
UNIX = socket.AF_UNIX
RACE_SECONDS = 0.5


def pathname(host, which, kind=STREAM):
    return unix(host, present(host, "unix").get(which) or "", kind)


def unix(host, name, kind):
    if not name:
        raise Stopped("this machine has no such socket to try it on")
    if kind == DATAGRAM:
        return unix_datagram(host, name)
    return reach(UNIX, kind, name, host)


def unix_datagram(host, name):
    """The answer comes to an abstract name of ours, as the other side can't open our files."""
    with socket.socket(UNIX, DATAGRAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.bind("")  # the kernel chooses an abstract name
        sock.sendto(host.tag.encode(), name)
        try:
            return secret_in(sock.recv(4096), host)
        except OSError:
            return "sent; the answer did not come"


for _which, _name in (
    ("run", "a docker-like socket in /run"),
    ("agent", "an ssh-agent-like socket in /tmp"),
    ("tmux", "a tmux-like socket in /tmp"),
    ("x11", "an X11-like socket in /tmp/.X11-unix"),
    ("home", "a socket in $HOME"),
    ("elsewhere", "a socket in /var/tmp"),
):
    attempt(_name)(partial(pathname, which=_which))
attempt("a datagram socket with a path")(partial(pathname, which="datagram", kind=DATAGRAM))
attempt("a seqpacket socket with a path")(partial(pathname, which="seqpacket", kind=SEQPACKET))
attempt("a socket inside a granted directory")(partial(pathname, which="granted"))


@attempt("a socket through a symlink in a granted directory")
def symlinked_socket(host):
    link = os.path.join(host.project, "link-to-socket")
    os.symlink(host.unix["elsewhere"], link)
    return unix(host, link, STREAM)


@attempt("a socket by another process' root in /proc")
def socket_by_proc(host):
    return unix(host, f"/proc/{host.victim['pid']}/root{host.unix['elsewhere']}"[-107:], STREAM)


def abstract(host, kind, number):
    return unix(host, "\0" + host.abstract[kind], number)


for _kind, _number in (("stream", STREAM), ("datagram", DATAGRAM), ("seqpacket", SEQPACKET)):
    attempt(f"an abstract {_kind} socket")(partial(abstract, kind=_kind, number=_number))


@attempt("listening at an abstract name that others may trust")
def squat_abstract(host):
    if host.isolation == "namespace":
        raise Stopped("the names of its network are its own")
    with socket.socket(UNIX, STREAM) as sock:
        sock.bind(f"\0{host.tag}")
        sock.listen()
        return "clients of that name reach it"


@attempt("listening at an abstract name that is bound while listen is judged")
def squat_meanwhile(host):
    if host.isolation == "namespace":
        raise Stopped("the names of its network are its own")
    deadline = time.monotonic() + RACE_SECONDS
    rounds = 0
    while time.monotonic() < deadline:
        rounds += 1
        with socket.socket(UNIX, STREAM) as sock:
            name = f"\0{host.tag}-{rounds}"
            thread = threading.Thread(target=bind_after, args=(sock, name, rounds % 60 * 1e-5))
            thread.start()
            with contextlib.suppress(OSError):
                sock.listen()
            thread.join()
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"clients of that name reach it, after {rounds} rounds"
    raise Stopped(f"not in {rounds} rounds")


def bind_after(sock, name, seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    with contextlib.suppress(OSError):
        sock.bind(name)


@attempt("an X11-like abstract socket")
def abstract_x11(host):
    return unix(host, "\0" + host.abstract["x11"], STREAM)


@attempt("a directory that a host program passes along (SCM_RIGHTS)")
def passed_directory(host):
    """The program behind a socket in a granted directory is careless: it passes a directory."""
    with socket.socket(UNIX, STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(host.unix["passing"])
        sock.send(b"pass me a directory")
        _, ancillary, _, _ = sock.recvmsg(16, socket.CMSG_SPACE(4))
    if not ancillary:
        raise Stopped("nothing was passed")
    directory = array.array("i", ancillary[0][2])[0]
    descriptor = os.open("secret", os.O_RDONLY, dir_fd=directory)
    return secret_in(os.read(descriptor, 4096), host)


@attempt("chdir through a passed directory, then ..")
def passed_directory_up(host):
    with socket.socket(UNIX, STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(host.unix["passing"])
        sock.send(b"pass me a directory")
        _, ancillary, _, _ = sock.recvmsg(16, socket.CMSG_SPACE(4))
    os.fchdir(array.array("i", ancillary[0][2])[0])
    return read("../outside/secret", host)


@attempt("descriptors that were left open for it")
def inherited(host):
    found = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2}
    for descriptor in sorted(found):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the listing's own
            continue
        if not target.startswith(("pipe:", "/proc/")):  # the pipe of this attempt
            return f"{descriptor} is {target}"
    raise Stopped("standard streams only")


@attempt("opening the file behind a standard stream anew")
def reopen(host):
    with open("/proc/self/fd/2", "r+b", buffering=0) as file:
        return f"opened {os.readlink(f'/proc/self/fd/{file.fileno()}')}"


# --- System V and POSIX objects, keys ---


@attempt("System V shared memory")
def shared_memory(host):
    number = syscall("shmget", present(host, "ipc_key"), 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0o10000)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return secret_in(ctypes.string_at(address, 64), host)


@attempt("System V message queue")
def message_queue(host):
    number = syscall("msgget", present(host, "ipc_key"), 0)
    buffer = ctypes.create_string_buffer(512)
    length = syscall("msgrcv", number, buffer, 256, 0, 0o4000)  # IPC_NOWAIT
    return secret_in(buffer.raw[8 : 8 + length], host)


@attempt("System V semaphore")
def semaphore(host):
    number = syscall("semget", present(host, "ipc_key"), 0, 0)
    value = syscall("semctl", number, 0, 12, 0)  # GETVAL
    return f"the semaphore is {value}"


@attempt("POSIX message queue")
def posix_queue(host):
    descriptor = syscall("mq_open", present(host, "posix_queue").encode(), os.O_RDWR, 0, None)
    buffer = ctypes.create_string_buffer(8192)
    length = syscall("mq_timedreceive", descriptor, buffer, 8192, None, (ctypes.c_long * 2)())
    return secret_in(buffer.raw[:length], host)


@attempt("POSIX shared memory")
def posix_memory(host):
    descriptor = os.open(present(host, "posix_memory"), os.O_RDWR)
    with mmap.mmap(descriptor, 64) as memory:
        return secret_in(memory[:64], host)


KEYCTL_SEARCH, KEYCTL_READ = 10, 11
_SESSION, _USER, _USER_SESSION = -3, -4, -5


def key_below(host, ring):
    description = present(host, "key").encode()
    key = syscall("keyctl", KEYCTL_SEARCH, ring, b"user", description, 0)
    buffer = ctypes.create_string_buffer(256)
    length = syscall("keyctl", KEYCTL_READ, key, buffer, 256)
    return secret_in(buffer.raw[:length], host)


attempt("a key in the caller's session keyring")(partial(key_below, ring=_SESSION))
attempt("a key in the user's keyring")(partial(key_below, ring=_USER))


@attempt("a key by request_key")
def requested_key(host):
    key = syscall("request_key", b"user", present(host, "key").encode(), None, 0)
    buffer = ctypes.create_string_buffer(256)
    length = syscall("keyctl", KEYCTL_READ, key, buffer, 256)
    return secret_in(buffer.raw[:length], host)


@attempt("a key left for other programs of the user")
def planted_key(host):
    return f"key {syscall('add_key', b'user', host.tag.encode(), b'x', 1, _USER)}"
