"""Trees of processes that are hard to end: `sleepers N`, `chains N`, `nested N`, `bomb N`,
`continued N`.

`marker` is the last argument, and every command line of the tree contains it. The first process
ends once the tree is complete, so only the tree remains.
"""

import contextlib
import os
import signal
import sys
import time


def plant(action):
    """Do `action` in a process of its own session."""
    if os.fork() == 0:
        os.setsid()
        action()
        os._exit(0)


def sleep():
    time.sleep(3600)


def chain():
    """Each process starts the next and ends."""
    while os.fork() == 0:
        pass
    os._exit(0)


def nest(depth):
    while depth and os.fork() == 0:
        depth -= 1
    time.sleep(3600)


def bomb():
    """Each process starts others for as long as it lives."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


def continued():
    """As a bomb, and each process continues all others, which undoes a stop."""
    while True:
        with contextlib.suppress(OSError):
            os.fork()
        os.kill(-1, signal.SIGCONT)


count = int(sys.argv[2])
TREES = {"sleepers": sleep, "chains": chain, "bomb": bomb, "continued": continued}
if sys.argv[1] == "nested":
    plant(lambda: nest(count))
else:
    for _ in range(count):
        plant(TREES[sys.argv[1]])
time.sleep(0.5)
print("planted", flush=True)
