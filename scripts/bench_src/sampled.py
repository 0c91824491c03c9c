"""Run a command of nono-trio and sample where the main thread spends its CPU time.

    sampled.py OUTPUT ARGUMENT...

SIGCONT writes what was sampled since the last one to OUTPUT (JSON: place to count) and begins anew.
A place is the innermost function of nono_trio or trio; time in a C function counts for its caller.
The clock is the main thread's own, so what other threads do is not in it. Sampled by SIGURG: a
session takes most other signals itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

EVERY: Final = 1_000_000  # nanoseconds; the kernel looks at its own tick, which may be longer
_THREAD_CPU_CLOCK: Final = 3  # CLOCK_THREAD_CPUTIME_ID, of the thread that makes the timer
_PACKAGES: Final = ("/site-packages/trio/", "/nono_trio/")  # a checkout may lie below the latter


class _Event(ctypes.Structure):
    """struct sigevent, notified by a signal."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    ]


class Sampler:
    """Counts of places; written and forgotten at SIGCONT."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        """Take a sample after each EVERY of CPU time."""
        signal.signal(signal.SIGURG, self._sample)
        signal.signal(signal.SIGCONT, self._write)
        libc = ctypes.CDLL(None, use_errno=True)
        timer = ctypes.c_void_p()
        event = _Event(signal=signal.SIGURG)
        times = (ctypes.c_long * 4)(0, EVERY, 0, EVERY)  # interval and first time
        if libc.timer_create(_THREAD_CPU_CLOCK, ctypes.byref(event), ctypes.byref(timer)) or (
            libc.timer_settime(timer, 0, ctypes.byref(times), None)
        ):
            raise OSError(ctypes.get_errno(), "no timer of this thread's CPU time")

    def _sample(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            code = frame.f_code
            for package in _PACKAGES:
                before, found, place = code.co_filename.rpartition(package)
                if found and before:
                    self._counts[f"{package.split('/')[-2]}/{place}:{code.co_name}"] += 1
                    return
            frame = frame.f_back
        self._counts["the interpreter"] += 1

    def _write(self, *_: object) -> None:
        counts, self._counts = self._counts, Counter()
        unfinished = self._output.with_suffix(".new")
        unfinished.write_text(json.dumps(counts))
        os.replace(unfinished, self._output)


if __name__ == "__main__":
    # As the command begins, but for its re-execution, which would lose the timer.
    from nono_trio import startup

    startup.collect_rarely()
    from nono_trio.cli.main import main

    Sampler(Path(sys.argv[1])).start()
    sys.argv[:] = ["nono-trio", *sys.argv[2:]]
    sys.exit(main())
