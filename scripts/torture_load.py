"""Run in the cage: threads ask through the proxy and print each answer that they got.

    torture_load.py HOST:PORT MARK THREADS COUNT

In turn: an allowed plain request (`allow PATH`), a denied one (`deny NAME`), a tunnel (`tunnel N`).
A line is one write after the status line was read, so what is printed was acknowledged.
"""

from __future__ import annotations

import base64
import itertools
import os
import socket
import sys
import threading
from urllib.parse import urlsplit

ORIGIN, MARK, THREADS, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
PROXY = urlsplit(os.environ["HTTP_PROXY"])
SECRET = base64.b64encode(f"{PROXY.username}:{PROXY.password}".encode()).decode()
SECONDS = 30.0
numbers = itertools.count()


def ask(line, host):
    """Send one request; return the status, 0 if the connection ended before."""
    head = f"{line} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {SECRET}\r\n\r\n"
    with socket.create_connection((PROXY.hostname, PROXY.port), SECONDS) as sock:
        sock.sendall(head.encode())
        words = sock.makefile("rb").readline().split()
    return int(words[1]) if len(words) > 1 else 0


def one(number):
    kind = number % 3
    if kind == 0:
        path = f"/{MARK}/{number}"
        told = ask(f"GET http://{ORIGIN}{path}", ORIGIN), 200, f"allow {path}"
    elif kind == 1:
        name = f"n{number}.{MARK}.denied.test"
        told = ask(f"GET http://{name}/", name), 403, f"deny {name}"
    else:
        told = ask(f"CONNECT {ORIGIN}", ORIGIN), 200, f"tunnel {number}"
    status, wanted, text = told
    if status == wanted:
        os.write(1, f"{text}\n".encode())


def work():
    while (number := next(numbers)) < COUNT:
        try:
            one(number)
        except OSError:
            continue


threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
