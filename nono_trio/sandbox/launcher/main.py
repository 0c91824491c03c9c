"""The launcher's entry point on every system.

The supervisor starts it as `python -I -S -c BOOTSTRAP` (sandbox/spawn.py): without environment and
site-packages, so that it imports no file that a user or an earlier child may have written. The
bootstrap makes a package of this directory alone; its modules import each other relatively, and
apart from that the standard library only. Fork is safe in this process: it has one thread and no
event loop.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from typing import NoReturn

from .steps import StageError, receive_plan, report_failure, take_signals

if sys.platform == "darwin":
    from .macos import detach, launch
else:
    from .linux.launch import detach, launch


def main(control_descriptor: int) -> NoReturn:
    """Run the launch with the supervisor at the other end of `control_descriptor`."""
    gc.freeze()  # the bootstrap (spawn.py) has imported without collecting
    gc.enable()
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    ignored = take_signals()
    detach(control_descriptor)
    try:
        plan = receive_plan(control)
        launch(control, plan, ignored)
    except StageError as failed:
        report_failure(control, failed)
    except OSError as failed:  # if the supervisor has ended, the report has no reader
        report_failure(control, StageError("launch", failed))
    os._exit(1)
