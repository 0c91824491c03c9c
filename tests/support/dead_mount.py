"""Run a command in a mount namespace in which a FUSE file system does not respond.

usage: dead_mount.py POINT LIFE KIND COMMAND...; LIFE is a descriptor: the file system ends with it.
KIND "mount": nothing about the mount at POINT has an answer. KIND "directory": POINT has one
directory, POINT/granted, and every other look-up in POINT has no answer. Root only.

The process of a request that has no answer can't be ended by a signal, as with a real one.
"""

from __future__ import annotations

import os
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
    """Serve until `life` is at its end. Nobody acknowledges, so a missing name has no answer."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # whoever reads the command's output waits for its end
        os.dup2(null, stream)
    view_server.ANSWER_SECONDS = FOR_EVER  # type: ignore[misc]
    os.set_blocking(device, False)
    _nobody, supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(fileno=life) as control:
        server = view_server.ViewServer(device, control, supervisor, PLACES)
        if kind == "mount":
            answer = server._serve_one
            server._serve_one = lambda request: (  # type: ignore[method-assign]
                answer(request) if request.operation == fuse.INIT else None
            )
        server.run()
    os._exit(0)


if __name__ == "__main__":
    main()
