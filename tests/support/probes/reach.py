"""Run in the cage: try to reach past it, print one JSON object of what happened."""

import ctypes
import errno
import json
import os
import socket
import sys

targets = json.loads(sys.argv[1])


def attempt(action):
    try:
        return f"ok {action()}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)


def connect(family, kind, address):
    def action():
        with socket.socket(family, kind) as sock:
            sock.settimeout(2)
            sock.connect(address)
            sock.send(b"out")
            return "sent"

    return action


def ptrace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) < 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")


def mount():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "mount")


def look_up():
    address = socket.getaddrinfo("example.com", 80, socket.AF_INET)[0][4][0]
    return "synthetic" if address.startswith("198.18.") else address


stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
results = {
    "tcp host loopback": attempt(connect(socket.AF_INET, stream, ("127.0.0.1", targets["tcp"]))),
    "tcp other address": attempt(connect(socket.AF_INET, stream, ("192.0.2.1", 80))),
    "tcp6 other address": attempt(connect(socket.AF_INET6, stream, ("2001:db8::1", 80))),
    "udp host loopback": attempt(connect(socket.AF_INET, datagram, ("127.0.0.1", targets["udp"]))),
    "udp other address": attempt(connect(socket.AF_INET, datagram, ("192.0.2.1", 53))),
    "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet socket": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)),
    "dns": attempt(look_up),
    "pathname socket": attempt(connect(socket.AF_UNIX, stream, targets["unix"])),
    "abstract socket": attempt(connect(socket.AF_UNIX, stream, "\0" + targets["abstract"])),
    "read ssh key": attempt(lambda: open(os.path.expanduser("~/.ssh/id_test")).read()),
    "read shadow": attempt(lambda: open("/etc/shadow").read()),
    "read outside": attempt(lambda: open(targets["outside"]).read()),
    "write state": attempt(lambda: open(targets["state"] + "/x", "w")),
    "list state": attempt(lambda: os.listdir(targets["state"])),
    "signal supervisor": attempt(lambda: os.kill(targets["supervisor"], 0)),
    "signal init": attempt(lambda: os.kill(1, 9)),
    "trace init": attempt(lambda: ptrace(1)),
    "read init memory": attempt(lambda: open("/proc/1/mem", "rb").read(1)),
    "read init environment": attempt(lambda: open("/proc/1/environ", "rb").read(1)),
    "write sysctl": attempt(lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/x")),
    "mount": attempt(mount),
}

print(json.dumps(results))
