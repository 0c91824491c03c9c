"""Makes SIGTERM end a command like Ctrl-C, so that the command can remove its files."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextlib.contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """End the command at SIGTERM as at Ctrl-C, so that what it unpacked is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)
