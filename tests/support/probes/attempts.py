"""Makes each attempt of docs/attempts.md: `attempts.py FILE`, where FILE has one attempt a line.

An attempt that the cage refuses is no error here; the test reads the log.
"""

import base64
import contextlib
import os
import socket
import ssl
import struct
import sys
import urllib.parse

SECONDS = 30.0  # nothing here waits that long: what is refused is refused at once


def stream(host, port):
    """Connect to the first address of a name: the next one would be another attempt."""
    family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind)
    sock.settimeout(SECONDS)
    sock.connect(address)
    return sock


def connect(host, port):
    stream(host, port).close()


def http(host, port):
    with stream(host, port) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        while sock.recv(4096):
            pass


def tls(host, port):
    context = ssl.create_default_context()
    with stream(host, port) as sock, context.wrap_socket(sock, server_hostname=host):
        pass


def udp(host, port):
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, int(port), type=socket.SOCK_DGRAM
    )[:1]:
        with socket.socket(family, kind, protocol) as sock:
            if family == socket.AF_INET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"x", address)


def lookup(name):
    socket.getaddrinfo(name, None, socket.AF_INET)


def lookup6(name):
    socket.getaddrinfo(name, None, socket.AF_INET6)


def query(name, kind):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def text_record(name, server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.sendto(query(name, 16), (server, 53))
        sock.recv(512)


def text_record_by_tcp(name, server):
    with stream(server, 53) as sock:
        data = query(name, 16)
        sock.sendall(struct.pack("!H", len(data)) + data)
        sock.recv(512)


def ask_proxy(line, headers="", token=True):
    proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
    user = f"{proxy.username}:{proxy.password}".encode()
    secret = f"Proxy-Authorization: Basic {base64.b64encode(user).decode()}\r\n" if token else ""
    line = line.replace("PROXY", str(proxy.port))
    with stream(proxy.hostname, proxy.port) as sock:
        sock.sendall(f"{line} HTTP/1.1\r\n{headers}{secret}\r\n".encode())
        sock.recv(4096)


def get(url):
    ask_proxy(f"GET {url}", f"Host: {urllib.parse.urlsplit(url).netloc}\r\n")


def tunnel(target):
    ask_proxy(f"CONNECT {target}", f"Host: {target}\r\n")


def tunnel_without_password(target):
    ask_proxy(f"CONNECT {target}", f"Host: {target}\r\n", token=False)


def no_request(word):
    ask_proxy(word)


def home(path):
    return os.path.expanduser(path)


def read(path):
    open(home(path)).close()


def write(path):
    os.close(os.open(home(path), os.O_WRONLY))


def stat(path):
    os.stat(home(path))


def list_(path):
    os.listdir(home(path))


def enter(path):
    os.chdir(home(path))


def execute(path):
    os.execv(home(path), ["x"])


def create(path):
    open(home(path), "x").close()


def append(path):
    open(home(path), "a").close()


def mkdir(path):
    os.mkdir(home(path))


def symlink(path):
    os.symlink("target", home(path))


def fifo(path):
    os.mkfifo(home(path))


def unlink(path):
    os.unlink(home(path))


def socket_of(family, kind, protocol):
    socket.socket(getattr(socket, family), getattr(socket, kind), int(protocol)).close()


VERBS = {
    "connect": connect, "http": http, "tls": tls, "udp": udp, "lookup": lookup,
    "lookup6": lookup6, "TXT": text_record, "TXT-by-TCP": text_record_by_tcp, "GET": get,
    "CONNECT": tunnel, "CONNECT-without-password": tunnel_without_password,
    "no-request": no_request, "read": read, "write": write, "stat": stat, "list": list_,
    "enter": enter, "execute": execute, "create": create, "append": append, "mkdir": mkdir,
    "symlink": symlink, "fifo": fifo, "unlink": unlink, "socket": socket_of,
}  # fmt: skip

if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        lines = file.read().splitlines()
    for line in lines:
        verb, *arguments = line.split()
        with contextlib.suppress(OSError):
            VERBS[verb](*arguments)
    print("done")
