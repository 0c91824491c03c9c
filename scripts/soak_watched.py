"""Run a command of nono-trio whose loop is watched from inside.

    soak_watched.py OUTPUT ARGUMENT...

SIGCONT writes to OUTPUT (JSON) the number of tasks, and of the turns of the loop since the last one
the 99th percentile and the largest, in milliseconds. A turn is all that runs between two looks at
the sockets; it is counted in CPU time of the main thread, so a busy machine makes it no longer.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

import trio

MOST_TURNS: Final = 200_000  # of two seconds; the oldest are forgotten
SHARE: Final = 0.99


class Watch(trio.abc.Instrument):
    """Takes the time of each turn of the loop."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._turns: deque[float] = deque(maxlen=MOST_TURNS)
        self._began = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:
        """Begin a turn."""
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """End it."""
        self._turns.append(time.thread_time() - self._began)

    def write(self, *_: object) -> None:
        """Write the figures and forget the turns; a handler of a signal in the main thread."""
        turns = sorted(self._turns) or [0.0]
        self._turns.clear()
        figures = {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "p99": turns[int(len(turns) * SHARE)] * 1000,
            "most": turns[-1] * 1000,
        }
        unfinished = self._output.with_suffix(".new")
        unfinished.write_text(json.dumps(figures))
        os.replace(unfinished, self._output)


if __name__ == "__main__":
    # As the command begins, but for its re-execution.
    from nono_trio import startup

    startup.collect_rarely()
    from nono_trio.cli.main import main

    watch = Watch(Path(sys.argv[1]))
    signal.signal(signal.SIGCONT, watch.write)
    trio.run = functools.partial(trio.run, instruments=[watch])
    sys.argv[:] = ["nono-trio", *sys.argv[2:]]
    main()
