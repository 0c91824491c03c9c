"""The command line of nono-trio in which system calls on the files of the state fail as asked.

    python torture_faults.py FAULT ARGUMENT...     as `nono-trio ARGUMENT...`

FAULT is the JSON of a `Fault`. The calls are those that the product makes: `os.write` of the log
and its neighbours, `os.fdatasync`. Nothing of the product is replaced.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import time

_real_time, _real_time_ns = time.time, time.time_ns


@dataclasses.dataclass
class Fault:
    """The calls from the `first` to the one before `end`, counted from 1, fail for files below
    `state`. Without `call` no file is touched."""

    state: str
    fired: str = ""
    """A file that is made when the fault happens for the first time."""
    call: str = ""
    first: int = 1
    end: int = 1 << 60
    error: str = ""
    most: int = 0
    """The most bytes that a write takes; 0 for all."""
    seconds: float = 0.0
    """How long the call takes before it does anything."""
    jumps: list[float] = dataclasses.field(default_factory=list)
    """Seconds that are added to the wall clock, one after the other, a look each."""

    def to_json(self) -> str:
        """The argument for this program."""
        return json.dumps(dataclasses.asdict(self))


def install(fault):
    """Replace the call, and the wall clock if it jumps."""
    if fault.jumps:
        _tell(fault)
        _install_clock(fault.jumps)
    if not fault.call:
        return
    real = getattr(os, fault.call)
    calls = 0

    def faulty(descriptor, *arguments):
        nonlocal calls
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(fault.state):
            return real(descriptor, *arguments)
        calls += 1
        if not fault.first <= calls < fault.end:
            return real(descriptor, *arguments)
        _tell(fault)
        time.sleep(fault.seconds)
        if fault.error:
            number = getattr(errno, fault.error)
            raise OSError(number, os.strerror(number))
        if fault.most:
            return real(descriptor, bytes(arguments[0][: fault.most]))
        return real(descriptor, *arguments)

    setattr(os, fault.call, faulty)


def _tell(fault):
    if fault.fired:
        os.close(os.open(fault.fired, os.O_WRONLY | os.O_CREAT, 0o600))
        fault.fired = ""


def _install_clock(jumps):
    looks = 0

    def jump():
        nonlocal looks
        looks += 1
        return jumps[looks % len(jumps)]

    time.time = lambda: _real_time() + jump()
    time.time_ns = lambda: _real_time_ns() + int(jump() * 1e9)


if __name__ == "__main__":
    install(Fault(**json.loads(sys.argv.pop(1))))
    from nono_trio import entry

    entry.main()
