"""Acts of a hostile program on the terminal, or the stderr, that it shares.

The arguments are acts, in order: off (TCOOFF), tostop, exclusive, raw, ask (a denied request by
the proxy), wait, read, ready, unappend (no O_APPEND, position 0), fill (the pipe of stderr), flags
(non-blocking and signalling, on what is shared).
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import termios
import time


def tostop():
    modes = termios.tcgetattr(0)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(0, termios.TCSANOW, modes)


def raw():
    modes = termios.tcgetattr(0)
    modes[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSANOW, modes)


def ask():
    _token, _, address = os.environ["HTTP_PROXY"].removeprefix("http://").rpartition("@")
    host, _, port = address.strip("/").rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"GET http://denied.example.com/ HTTP/1.1\r\nHost: denied.example.com\r\n\r\n")
        sock.recv(100)


def unappend():
    fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) & ~os.O_APPEND)
    os.lseek(2, 0, os.SEEK_SET)


def fill():
    os.set_blocking(2, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(2, b"x" * 4096)


def flags():
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        changed = before ^ os.O_NONBLOCK ^ os.O_APPEND | os.O_ASYNC
        fcntl.fcntl(descriptor, fcntl.F_SETFL, changed)


ACTS = {
    "off": lambda: termios.tcflow(0, termios.TCOOFF),
    "tostop": tostop,
    "exclusive": lambda: fcntl.ioctl(0, termios.TIOCEXCL),
    "raw": raw,
    "ask": ask,
    "wait": lambda: time.sleep(3600),
    "ready": lambda: os.write(1, b"ready\n"),
    "unappend": unappend,
    "fill": fill,
    "flags": flags,
    "read": lambda: os.read(0, 1),
}
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
for act in sys.argv[1:]:
    ACTS[act]()
