"""Which connections at the proxy's port are the cage's own, where the host's network is the cage's.

Any program of this machine can connect to a port on loopback. In landlock isolation the supervisor
makes the command's connections itself, so it knows their source ports. Rules: a port is good for
one connection, as another program may get it afterwards; the broker adds it before the command
knows that it is connected; the token is asked for all the same.
"""

from __future__ import annotations

import threading
from typing import Any, Final

# The listener's queue has room for 1,024; what is older was closed before it was accepted.
MOST_EXPECTED: Final = 4096


class SourcePorts:
    """Source ports of connections that were made and are not accepted yet. Thread-safe."""

    def __init__(self) -> None:
        self._expected: dict[int, None] = {}
        self._changing = threading.Lock()  # held for a moment only

    def expect(self, port: int) -> None:
        """A connection to the proxy has been made from `port` of 127.0.0.1."""
        with self._changing:
            self._expected.pop(port, None)
            self._expected[port] = None
            if len(self._expected) > MOST_EXPECTED:
                del self._expected[next(iter(self._expected))]

    def admits(self, address: Any) -> bool:  # noqa: ANN401  (as accept(2) gives it)
        """Return whether the peer at `address` is the command; once for each that was expected."""
        host, port, *_ = address
        with self._changing:
            return host == "127.0.0.1" and self._expected.pop(port, self) is None
