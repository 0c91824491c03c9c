"""Run in the cage: N threads fetch URL/0, URL/1, ... through the proxy until COUNT or for ever."""

import base64
import itertools
import os
import socket
import sys
import threading
from urllib.parse import urlsplit

url, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
proxy = urlsplit(os.environ["HTTP_PROXY"])
secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
numbers = itertools.count()


def fetch(number):
    head = (
        f"GET {url}/{number} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Proxy-Authorization: Basic {secret}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((proxy.hostname, proxy.port)) as sock:
        sock.sendall(head.encode())
        while sock.recv(65536):
            pass


def work():
    while (number := next(numbers)) < count or count == 0:
        try:
            fetch(number)
        except OSError:
            return


workers = [threading.Thread(target=work) for _ in range(threads)]
print("up", flush=True)
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
