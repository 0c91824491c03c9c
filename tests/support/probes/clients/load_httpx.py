"""Asks for URL/0, URL/1, ... in threads until the connection breaks; others ask for HELD, which
is not answered. `argv[3]` is h1 or h2."""

import itertools
import sys
import threading

import httpx

url, held, protocol = sys.argv[1:]
client = httpx.Client(http2=protocol == "h2", timeout=None)
# On a connection of its own: in httpx, a thread that reads one stream keeps others from theirs.
waiting = httpx.Client(http2=protocol == "h2", timeout=None)
numbers = itertools.count()


def hold(number):
    try:
        waiting.get(f"{held}/{number}")
    except httpx.HTTPError:
        return


def work():
    try:
        while True:
            client.get(f"{url}/{next(numbers)}")
    except httpx.HTTPError:
        return


workers = [threading.Thread(target=hold, args=(number,)) for number in range(3)]
workers += [threading.Thread(target=work) for _ in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
