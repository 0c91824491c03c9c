"""Run a command in a mount namespace in which a FUSE file system does not respond.

usage: dead_mount.py POINT LIFE KIND COMMAND...; LIFE is a descriptor: the file system ends with it.
KIND "mount": nothing about the mount at POINT has an answer. KIND "directory": POINT has one
directory, POINT/granted, and every other look-up in POINT has no answer. Root only.

The process of a request that has no answer can't be ended by a signal, as with a real one.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from nono_trio.sandbox.launcher.linux import fuse_messages as fuse
from nono_trio.sandbox.launcher.linux import syscalls, view_server
from nono_trio.sandbox.launcher.linux.view_tree import Place

DIRECTORY = stat.S_IFDIR | 0o755
PLACES = [Place("/", DIRECTORY, 0, 0), Place("/granted", DIRECTORY, 0, 0)]
FOR_EVER = 3600.0  # seconds


def main() -> None:
    point, life, kind, *command = sys.argv[1:]
    os.set_inheritable(int(life), False)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_PRIVATE | syscalls.MS_REC)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = {"source": "dead", "fd": str(device), "rootmode": "40000", "allow_other": None}
    mount = syscalls.make_mount("fuse", {**options, "user_id": "0", "group_id": "0"})
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild: no child of the supervisor that `command` becomes
            os.close(mount)
            serve(device, int(life), kind)
        os._exit(0)
    os.wait()
    os.close(device)
    syscalls.attach_mount(mount, point)
    os.close(mount)
    os.execv(command[0], command)


def serve(device: int, life: int, kind: str) -> None:
    """Serve until `life` is at its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # whoever reads the command's output waits for its end
        os.dup2(null, stream)
    with socket.socket(fileno=life) as control:
        if kind == "mount":
            read_only(device, control)
        else:
            answer_about_places(device, control)
    os._exit(0)


def read_only(device: int, control: socket.socket) -> None:
    """Take every request and answer the first alone, without which the kernel sends no others."""
    poll = select.poll()
    for descriptor in (device, control.fileno()):
        poll.register(descriptor, select.POLLIN)
    while not any(descriptor == control.fileno() for descriptor, _ in poll.poll()):
        request = fuse.parse_request(os.read(device, fuse.READ_SIZE))
        if request.operation == fuse.INIT:
            os.write(device, fuse.answer(request.unique, fuse.init_body(request)))


def answer_about_places(device: int, control: socket.socket) -> None:
    """Serve PLACES. Nobody acknowledges a missing name, so it has no answer."""
    view_server.ANSWER_SECONDS = FOR_EVER  # type: ignore[misc]
    os.set_blocking(device, False)
    _nobody, supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    view_server.ViewServer(device, control, supervisor, PLACES).run()


if __name__ == "__main__":
    main()
