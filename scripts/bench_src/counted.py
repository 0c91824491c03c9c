"""Run a command of nono-trio and count the instructions that Python executes in its main thread.

    counted.py OUTPUT ARGUMENT...

The first SIGCONT begins to count, the second writes OUTPUT: JSON, each function with its
instructions and its calls (a coroutine that goes on counts as called), and ends the count.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import CodeType, FrameType

# Traced steps take many times as long. With the usual bound a turn would end after a few of them.
TURN_SECONDS: Final = 0.25


class Counts:
    """The counts of each function, between two signals."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._instructions: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()
        self._is_on = False

    def toggle(self, *_: object) -> None:
        """For SIGCONT."""
        self._is_on = not self._is_on
        sys.settrace(self._enter if self._is_on else None)
        if not self._is_on:
            self._write()

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self._calls[frame.f_code] += 1
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._count

    def _count(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self._instructions[frame.f_code] += 1
        return self._count

    def _write(self) -> None:
        found = [
            (code.co_filename, code.co_qualname, self._instructions[code], calls)
            for code, calls in self._calls.items()
        ]
        unfinished = self._output.with_suffix(".new")
        unfinished.write_text(json.dumps(found))
        os.replace(unfinished, self._output)


if __name__ == "__main__":
    # As the command begins, but for its re-execution.
    from nono_trio import startup

    startup.collect_rarely()
    from nono_trio import steps
    from nono_trio.cli.main import main

    steps.MAX_SECONDS = TURN_SECONDS  # type: ignore[misc]
    signal.signal(signal.SIGCONT, Counts(Path(sys.argv[1])).toggle)
    sys.argv[:] = ["nono-trio", *sys.argv[2:]]
    sys.exit(main())
