"""An MCP message as values: one call, another request, a notification or a response.

Rules of this file: arguments are kept as a hash only, and no text here quotes a message. The reader
is mcp_reader.py.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import msgspec

MAX_BODY: Final = 64 * 1024  # bytes; a longer call is refused, since all of it must be read first
TOOLS_CALL: Final = "tools/call"


class BadMessage(Exception):
    """A body that is no MCP message, or that can be read in two ways. `reason` continues "the MCP
    message"; `status` is that of the answer."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Message(msgspec.Struct, frozen=True):
    """One message. `method` is None for a response. `tool` is that of a call, and `arguments`
    "sha256:HEX" of the bytes of its arguments, or "". `identifier` is None for a message that gets
    no answer."""

    method: str | None
    tool: str | None = None
    arguments: str = ""
    identifier: int | str | None = None


def cut_off() -> BadMessage:
    """The refusal of a body whose rest did not come."""
    return BadMessage("was cut off")


def too_late(seconds: float) -> BadMessage:
    """The refusal of a body that takes too long."""
    return BadMessage(f"was not complete within {seconds:g} seconds", 408)


def too_long() -> BadMessage:
    """The refusal of a body that can't be read whole."""
    return BadMessage(
        f"is longer than {MAX_BODY} bytes, so it can't be read before it is sent", 413
    )


def folded(text: str) -> str:
    """A text as a server may compare it that does not regard case or form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()
