"""The entry points of the command: the console script, `python -m nono_trio`, the re-execution.

Nothing else of ours is imported before the search path is our own: see startup.py.
"""

from __future__ import annotations

import os

from nono_trio import startup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_INTERRUPTED = 130  # as cli/main.py has it for Ctrl-C later on


def main() -> NoReturn:
    """Begin, and run the command line; ends the process."""
    _run(startup.begin)


def resume(descriptor: int) -> NoReturn:
    """Go on in the interpreter that `main` re-executed, and run the command line."""
    _run(lambda: startup.resume(descriptor))


def _run(begin: Callable[[], None]) -> NoReturn:
    try:
        begin()
        startup.collect_rarely()
        from nono_trio.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:  # while modules are imported, or after the command
        os._exit(_INTERRUPTED)
