"""Searches one body, or the messages of one WebSocket, while they are on their way.

Rules of this file:
- Bytes that may begin a stand-in are kept until that is decided (core/credentials/search.py), so
  the host never has a whole one.
- A stand-in that may pass is noted before it goes: the caller sends nothing while `unrecorded` has
  names.
- One that would be swapped in a body that is read whole stays in this one. The first is noted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from nono_trio.core.http.websocket_frames import BadFrame, FrameReader
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.credentials.interfaces import MustNotGoOn
from nono_trio.proxy.credentials.refusals import BODY, MESSAGE, TRAILERS, exfiltration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nono_trio.core.credentials.search import StreamSearch
    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.credentials.origin import NamedSearch, OriginCredentials

MAX_QUEUED: Final = 64 * 1024  # bytes of frames that wait: a message's kept bytes and what follows


class BodySearch:
    """Searches one body. `noted` are the credentials whose stand-ins the record names already.
    `note_left` gets the name of one whose stand-in stays, on its own host."""

    def __init__(
        self,
        origin: OriginCredentials,
        part: str = BODY,
        noted: Iterable[str] = (),
        note_left: Callable[[str], None] | None = None,
    ) -> None:
        self._refused = origin.refused
        self._passed = origin.passed
        self._part = part
        self._noted = {*noted}
        self._stream = _stream(origin.refused)
        self._passing = _stream(origin.passed)
        self._own = None if note_left is None else origin.in_bodies
        self._staying = _stream(self._own)
        self._note_left = note_left
        self.unrecorded: list[str] = []
        """Credentials whose stand-ins may pass, once that is recorded."""
        self.is_late = True
        """The request is on its way, after the record that allowed it."""

    def feed(self, data: bytes) -> bytes:
        """Take the next part; return the bytes that may go now. Raises MustNotGoOn."""
        if self._passing is not None and self._passed is not None:
            found = self._passing.feed(data).found
            if found is not None:
                self._note(self._passed.names[found])
                self._passing = self._passed.search.stream()
        if self._staying is not None:
            self._search_own(self._staying.feed(data).found)
        if self._stream is None or self._refused is None:
            return data
        fed = self._stream.feed(data)
        if fed.found is not None:
            name = self._refused.names[fed.found]
            raise MustNotGoOn(exfiltration(name, self._part, is_late=self.is_late))
        return fed.data

    def end(self) -> bytes:
        """Return what was kept, at the end of the body or message."""
        if self._passing is not None:
            self._passing.end()
        return b"" if self._stream is None else self._stream.end()

    def check_trailers(self, fields: Iterable[Field]) -> None:
        """Search in trailers. Raises MustNotGoOn."""
        fields = [*fields]
        names = [name for name, _ in fields]
        if self._refused is not None and (found := self._refused.find_in_fields(names)):
            raise MustNotGoOn(exfiltration(found, TRAILERS, is_late=self.is_late))
        self.check(b"\n".join(part for field in fields for part in field), TRAILERS)

    def check(self, data: bytes, part: str) -> None:
        """Search in a whole text. Raises MustNotGoOn."""
        if self._refused is not None and (name := self._refused.find(data)) is not None:
            raise MustNotGoOn(exfiltration(name, part, is_late=self.is_late))
        if self._passed is not None and (name := self._passed.find(data)) is not None:
            self._note(name)

    def _search_own(self, found: int | None) -> None:
        if found is not None and self._own is not None and self._note_left is not None:
            self._note_left(self._own.names[found])
            self._staying = None  # one note is enough

    def _note(self, name: str) -> None:
        if name not in self._noted:
            self._noted.add(name)
            self.unrecorded.append(name)


class WebSocketSearch:
    """Searches the messages of a WebSocket client, each whole, across its fragments."""

    def __init__(self, origin: OriginCredentials) -> None:
        self._search = BodySearch(origin, MESSAGE)
        self._frames = FrameReader()
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._queued = 0
        self._free = 0  # bytes of payload in the queue that may go

    @property
    def unrecorded(self) -> list[str]:
        """As `BodySearch.unrecorded`."""
        return self._search.unrecorded

    def take(self, data: bytes) -> bytes:
        """Take what the client has sent; return the bytes that may go now. Raises MustNotGoOn."""
        try:
            for raw, payload, is_control, ends_message in self._frames.read(data):
                if is_control:
                    self._search.check(payload, MESSAGE)
                self._queue.append((raw, bool(payload) and not is_control))
                self._queued += len(raw)
                if payload and not is_control:
                    self._free += len(self._search.feed(payload))
                if ends_message:
                    self._free += len(self._search.end())
        except BadFrame as fault:
            raise MustNotGoOn(_bad(fault.reason)) from fault
        return self.ready()

    def ready(self) -> bytes:
        """Return the bytes that may go now. Raises MustNotGoOn."""
        gone: list[bytes] = []
        while self._queue and not self.unrecorded:
            raw, is_payload = self._queue[0]
            if is_payload:
                if not self._free:
                    break
                going = raw[: self._free]
                self._free -= len(going)
            else:
                going = raw
            gone.append(going)
            if len(going) < len(raw):
                self._queue[0] = (raw[len(going) :], True)
                break
            self._queue.popleft()
        self._queued -= sum(map(len, gone))
        if self._queued > MAX_QUEUED and not self.unrecorded:
            raise MustNotGoOn(_bad("has too much before it that is not decided"))
        return b"".join(gone)


def _stream(one: NamedSearch | None) -> StreamSearch | None:
    return None if one is None else one.search.stream()


def _bad(reason: str) -> Refusal:
    return Refusal(400, f"the WebSocket frame {reason}", category=UNSET)
