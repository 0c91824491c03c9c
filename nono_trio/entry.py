"""The entry points of the command: the console script, `python -m nono_trio`, the re-execution.

Nothing else of ours is imported before the search path is our own: see startup.py.
"""

from __future__ import annotations

from nono_trio import startup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Begin, and run the command line; ends the process."""
    startup.begin()
    _run()


def resume(descriptor: int) -> NoReturn:
    """Go on in the interpreter that `main` re-executed, and run the command line."""
    startup.resume(descriptor)
    _run()


def _run() -> NoReturn:
    startup.collect_rarely()
    from nono_trio.cli.main import main as command_line

    command_line()
