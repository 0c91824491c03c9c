"""The note of an allowed request: the one place that writes it and reads it back.

Upstream's record has a reason, but no field for the entry that allowed a request, the names that
were looked up, an MCP message or a credential. So the `reason` of an allowed request has these
parts. A note may come from a log that another program wrote: what is not ours is left out.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from nono_trio.core.policy.reasons import LISTEN_PORT_FLAG, OBSERVE_FLAG, OPEN_PORT_FLAG
from nono_trio.core.policy.rule import ALLOW_FLAG, entry_scheme

_NOTE_SEPARATOR: Final = "; "
_NAME_SEPARATOR: Final = ", "
_LOOKED_UP_AS: Final = "looked up as "
_MCP: Final = "MCP "
_IN_BODY: Final = "swapped in the body: "
_PASSED_ON: Final = "stand-in passed on: "


class McpCall(msgspec.Struct, frozen=True):
    """The part of an MCP message that is recorded: the method, the tool of a call, and
    "sha256:HEX" of the bytes of its arguments; "" for what it lacks. Names are without blanks."""

    method: str
    tool: str = ""
    arguments: str = ""


class Note(msgspec.Struct, frozen=True):
    """The text in the record of an allowed request; a request by a plain entry has no text."""

    entry: str = ""
    """The entry as its user wrote it, if it allows more than a plain one."""
    looked_up: tuple[str, ...] = ()
    """The full names that the look-up of an allowed host without a dot asks for, in order."""
    port_flag: str = ""
    """OPEN_PORT_FLAG or LISTEN_PORT_FLAG if the port is relayed without the proxy."""
    observed: bool = False
    """True if no entry allows it and only OBSERVE_FLAG let it through."""
    call: McpCall | None = None
    """The MCP message in the request."""
    in_body: tuple[str, ...] = ()
    """The credentials whose stand-ins were swapped in the body."""
    passed_on: tuple[str, ...] = ()
    """The credentials whose stand-ins went to a host that they are not bound to."""

    @property
    def scheme(self) -> str:
        """The scheme of the entry, in lower case; "" for none."""
        return entry_scheme(self.entry)


_PLAIN: Final = Note()


def format_note(note: Note) -> str | None:
    """Return the text of a note; None for an empty note."""
    parts = []
    if note.port_flag:
        parts.append(note.port_flag)
    if note.observed:
        parts.append(OBSERVE_FLAG)
    if note.entry:
        parts.append(f"{ALLOW_FLAG} {note.entry}")
    if note.looked_up:
        parts.append(format_looked_up(note.looked_up))
    if note.call is not None:
        parts.append(format_call(note.call))
    if note.in_body:
        parts.append(_IN_BODY + _NAME_SEPARATOR.join(note.in_body))
    if note.passed_on:
        parts.append(_PASSED_ON + _NAME_SEPARATOR.join(note.passed_on))
    return _NOTE_SEPARATOR.join(parts) or None


def format_looked_up(names: tuple[str, ...]) -> str:
    """Return the text for the full names that a look-up asks for."""
    return f"{_LOOKED_UP_AS}{_NAME_SEPARATOR.join(names)}"


def format_call(call: McpCall) -> str:
    """Return the text for an MCP message."""
    words = (call.method, call.tool, call.arguments)
    return _MCP + " ".join(word for word in words if word)


def with_call(note: str | None, call: McpCall) -> str:
    """Return the text of a note with an MCP message."""
    return format_call(call) if note is None else f"{note}{_NOTE_SEPARATOR}{format_call(call)}"


def with_credentials(
    note: str | None, in_body: tuple[str, ...], passed_on: tuple[str, ...]
) -> str | None:
    """Return the text of a note with the credentials in the request."""
    added = format_note(Note(in_body=in_body, passed_on=passed_on))
    return _NOTE_SEPARATOR.join(part for part in (note, added) if part) or None


def _parse_call(words: list[str]) -> McpCall:
    """Read a message: the third word may be missing, and the second one with it."""
    return McpCall(*[*words, "", ""][:3])


def parse_note(text: str | None) -> Note:
    """Read a note; a text that is not ours is an empty note. Raises nothing."""
    note = _PLAIN
    for part in text.split(_NOTE_SEPARATOR) if text else ():
        if part.startswith(_LOOKED_UP_AS):
            names = part.removeprefix(_LOOKED_UP_AS).split(_NAME_SEPARATOR)
            note = replace(note, looked_up=tuple(names))
        elif part.startswith(f"{ALLOW_FLAG} "):
            note = replace(note, entry=part.removeprefix(f"{ALLOW_FLAG} "))
        elif part in (OPEN_PORT_FLAG, LISTEN_PORT_FLAG):
            note = replace(note, port_flag=part)
        elif part == OBSERVE_FLAG:
            note = replace(note, observed=True)
        elif part.startswith(_MCP):
            note = replace(note, call=_parse_call(part.removeprefix(_MCP).split(" ")))
        elif part.startswith(_IN_BODY):
            names = part.removeprefix(_IN_BODY).split(_NAME_SEPARATOR)
            note = replace(note, in_body=tuple(names))
        elif part.startswith(_PASSED_ON):
            names = part.removeprefix(_PASSED_ON).split(_NAME_SEPARATOR)
            note = replace(note, passed_on=tuple(names))
    return note
