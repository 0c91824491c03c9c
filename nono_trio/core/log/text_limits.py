"""How long a text in a record may be: a child chooses many of them, and each is written twice.

Rules of this file: a record that is short stays as it is; in a longer one each long text keeps its
beginning, and of the rest the number of bytes and their SHA-256, so that who has the whole text can
still tell that it was this one. The command of a session is its user's own and has room for a
prompt, but its records must stay far below the longest line that a reader takes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from nono_trio.core.log.events import Network, SessionStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.events import Payload

# An ordinary record is some 350 bytes; one that is longer has a text in it that was made long.
SHORT_RECORD = 2048
MAX_TEXT = 512
MAX_ARGUMENT = 32 * 1024
MAX_COMMAND = 128 * 1024

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def bounded_text(text: str, limit: int = MAX_TEXT) -> str:
    """The first `limit` characters, and what the rest was; a shorter text is returned as it is."""
    if len(text) <= limit:
        return text
    rest = text[limit:].encode("utf-8", "surrogatepass")
    return f"{text[:limit]}... ({len(rest)} more bytes, sha256:{hashlib.sha256(rest).hexdigest()})"


def bounded_command(command: Sequence[str]) -> list[str]:
    """The arguments of a command, each bounded, and all of them together."""
    kept: list[str] = []
    room = MAX_COMMAND
    for number, argument in enumerate(command):
        short = bounded_text(argument, MAX_ARGUMENT)
        room -= len(short)
        if room < 0:
            rest = "\0".join(command[number:]).encode("utf-8", "surrogatepass")
            digest = hashlib.sha256(rest).hexdigest()
            return [*kept, f"... ({len(command) - number} more arguments, sha256:{digest})"]
        kept.append(short)
    return kept


def bounded_payload(payload: Payload) -> Payload:
    """A payload whose texts are bounded; for one whose record is longer than SHORT_RECORD."""
    if isinstance(payload, Network):
        return Network(event=bounded_struct(payload.event))
    return payload if isinstance(payload, SessionStarted) else bounded_struct(payload)


def bounded_struct(struct: _Struct) -> _Struct:
    """A copy with every text in it bounded, those in lists and in structs of its own included."""
    changes = {name: _bounded(getattr(struct, name)) for name in struct.__struct_fields__}
    return msgspec.structs.replace(struct, **changes)


def _bounded(value: Any) -> Any:  # noqa: ANN401  (whatever a field of a payload may hold)
    if isinstance(value, str):
        return bounded_text(value)
    if isinstance(value, list):
        return [_bounded(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return bounded_struct(value)
    return value
