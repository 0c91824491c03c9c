"""Calls of a hostile program that hang in the connect broker.

`unix PATH`: connects to a listener whose backlog is full, from many threads, while another process
makes the sockets block again and again. `proxy`: the same with the proxy's port, once its backlog
is full. Says "attacking" when the calls are under way and stays until it is ended.
"""

import contextlib
import fcntl
import os
import resource
import socket
import sys
import threading
import time

THREADS = 60
SILENT = 2600  # more than the proxy serves and its backlog: heads that never end


def make_blocking_for_ever(sockets):
    """In a process of its own: the flag is one of the socket that all copies share."""
    if os.fork() == 0:
        while True:
            for sock in sockets:
                fcntl.fcntl(sock, fcntl.F_SETFL, 0)


def connect_for_ever(sock, address):
    while True:
        try:
            sock.connect(address)
        except OSError:
            time.sleep(0.001)


def fill_proxy(address):
    kept = []
    for _ in range(SILENT):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        with contextlib.suppress(OSError):
            sock.send(b"G")  # accepted only once it has sent something
        kept.append(sock)
    return kept


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    kept = []
    if sys.argv[1] == "unix":
        family, address = socket.AF_UNIX, sys.argv[2]
    else:
        family = socket.AF_INET
        address = ("127.0.0.1", int(os.environ["HTTP_PROXY"].rpartition(":")[2].strip("/")))
        kept = fill_proxy(address)
    sockets = [socket.socket(family) for _ in range(THREADS)]
    for each in range(4):
        make_blocking_for_ever(sockets[each::4])
    for sock in sockets:
        threading.Thread(target=connect_for_ever, args=(sock, address), daemon=True).start()
    print("attacking", len(kept), flush=True)
    time.sleep(3600)


main()
