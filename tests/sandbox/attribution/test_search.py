"""Who has a socket: one holder whatever it takes, the others as long as there is time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from nono_trio.sandbox.attribution import search
from nono_trio.sandbox.attribution.cage_processes import CageProcesses
from nono_trio.sandbox.attribution.search import Search

AMPLE = 60.0  # seconds of processor time
# The cage's PID 1 is not searched. Its child connects, and has a child that has the socket too.
SHARED = """
import os, socket, sys
if os.fork():
    os.wait()
else:
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        print(os.fstat(sock.fileno()).st_ino, os.getpid(), child, flush=True)
        sys.stdin.read()
        os.close(writing)
        os.wait()
    else:
        os.close(writing)
        os.read(reading, 1)
"""


@pytest.mark.parametrize(("seconds_for_others", "count"), [(AMPLE, 2), (0.0, 1)])
def test_others_are_looked_for_as_long_as_there_is_time(monkeypatch, seconds_for_others, count):
    monkeypatch.setattr(search, "SWEEP_SECONDS", AMPLE)
    monkeypatch.setattr(search, "MOST_SAVED", AMPLE)
    monkeypatch.setattr(search, "MOST_SAVED_FOR_OTHERS", seconds_for_others)
    monkeypatch.setattr(search, "SHARE_OF_OTHERS", 0.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(listener.getsockname()[1])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        inode, *holders = map(int, process.stdout.readline().split())
        looking = Search(CageProcesses(os.getpid()), lambda _process, _holder: None)
        found, is_complete = looking.holders([inode])
        looking.close()
        process.communicate()
    pids = [holder.pid for holder in found[inode]]
    assert is_complete
    assert len({*pids}) == len(pids) == count
    assert {*pids} <= {*holders}
