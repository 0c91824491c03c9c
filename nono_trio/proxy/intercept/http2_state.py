"""The state of HTTP/2 in one proxy: which servers speak it, and how many streams are open."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_SERVERS: Final = 256  # the cage chooses them; an agent talks to some dozens
# Requests of all HTTP/2 connections together. Each may hold its window both ways, as a connection
# of HTTP/1.1 does, and there are as many of those.
MAX_STREAMS: Final = 1024


class Http2State:
    """`open_streams` is the number of requests that are being served by HTTP/2."""

    def __init__(self) -> None:
        self.open_streams = 0
        self._speaks: OrderedDict[tuple[str, int], bool] = OrderedDict()

    def speaks(self, host: str, port: int) -> bool | None:
        """Return whether a server has chosen HTTP/2; None if it was not asked yet."""
        key = (host, port)
        if key in self._speaks:
            self._speaks.move_to_end(key)
        return self._speaks.get(key)

    def note(self, host: str, port: int, *, speaks: bool) -> None:
        """Note what a server has chosen; the server that was asked for longest ago is forgotten."""
        self._speaks[host, port] = speaks
        self._speaks.move_to_end((host, port))
        if len(self._speaks) > MAX_SERVERS:
            self._speaks.popitem(last=False)

    def forget(self, host: str, port: int) -> None:
        """Have a server asked again."""
        self._speaks.pop((host, port), None)
