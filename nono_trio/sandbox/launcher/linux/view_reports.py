"""Reports of the view's server to the supervisor: one message for each look-up, never waited for.

Rules: what the supervisor does not take at once is kept and sent later, in order. What is kept is
bounded in bytes; a look-up beyond that is counted, and each message carries the counts. The last
message has no path: without it the supervisor knows that it was not told all.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

MOST_KEPT: Final = 4 << 20  # bytes: a supervisor that is late by seconds still learns of each name
# At the end, for what is kept: the supervisor may ask twice about paths that hang.
LAST_SECONDS: Final = 4.0  # the launcher waits a little longer

# Number, thread, creates, the number of look-ups that were not sent, and of those that were to
# create something; then a path.
TOLD: Final = struct.Struct("=II?II")
MOST_TOLD: Final = TOLD.size + 4096 + 256  # PATH_MAX, and one name behind it
ACKNOWLEDGED: Final = struct.Struct("=I")
NO_PATH: Final = 0  # the number of the last message


class Reports:
    """Reports of look-ups, sent to the supervisor at `sock`, which must not block."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._untold = 0
        self._untold_creates = 0
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0

    @property
    def are_kept(self) -> bool:
        """Return whether some wait until the socket takes them."""
        return bool(self._kept)

    def send(self, number: int, thread: int, path: bytes, *, creates: bool) -> bool:
        """Send or keep the report of a look-up; return False if it is only counted."""
        message = self._message(number, thread, path, creates=creates)
        if not self._kept:
            try:
                self._sock.send(message)
            except BlockingIOError:
                pass
            except OSError:  # the supervisor has gone
                return self._count(creates=creates)
            else:
                return True
        if self._kept_bytes + len(message) > MOST_KEPT:
            return self._count(creates=creates)
        self._kept.append(message)
        self._kept_bytes += len(message)
        return True

    def send_kept(self) -> None:
        """Send as many of the kept ones as the socket takes."""
        with contextlib.suppress(OSError):  # full again, or the supervisor has gone
            while self._kept:
                self._sock.send(self._kept[0])
                self._kept_bytes -= len(self._kept.popleft())

    def end(self) -> None:
        """Send the kept ones and the last message, for LAST_SECONDS at most."""
        self._kept.append(self._message(NO_PATH, 0, b"", creates=False))
        deadline = time.monotonic() + LAST_SECONDS
        with contextlib.suppress(OSError):  # the supervisor has gone, or is stopped
            while self._kept and (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                self._sock.send(self._kept.popleft())

    def _count(self, *, creates: bool) -> bool:
        self._untold += 1
        self._untold_creates += creates
        return False

    def _message(self, number: int, thread: int, path: bytes, *, creates: bool) -> bytes:
        return TOLD.pack(number, thread, creates, self._untold, self._untold_creates) + path
