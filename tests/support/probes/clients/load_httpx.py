"""Asks for URL/0, URL/1, ... in threads until there is no proxy; others ask for HELD, which is not
answered. `argv[3]` is h1 or h2.

Of two threads that begin streams of one HTTP/2 connection, httpx may send the later number first.
That breaks the protocol's rules, and the connection is ended. So whoever had it asks again.
"""

import itertools
import sys
import threading

import httpx

url, held, protocol = sys.argv[1:]
client = httpx.Client(http2=protocol == "h2", timeout=None)
# On a connection of its own: in httpx, a thread that reads one stream keeps others from theirs.
waiting = httpx.Client(http2=protocol == "h2", timeout=None)
numbers = itertools.count()


def ask(asker, place):
    while True:
        try:
            return asker.get(place)
        except httpx.ConnectError:
            raise
        except httpx.TransportError:
            continue


def hold(number):
    try:
        ask(waiting, f"{held}/{number}")
    except httpx.HTTPError:
        return


def work():
    try:
        while True:
            ask(client, f"{url}/{next(numbers)}")
    except httpx.HTTPError:
        return


workers = [threading.Thread(target=hold, args=(number,)) for number in range(3)]
workers += [threading.Thread(target=work) for _ in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
