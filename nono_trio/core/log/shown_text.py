"""Texts for people about a log: untrusted strings made harmless, names, sizes, lengths of time.

Rules of this file: text of the command, the network or a log goes through `clean` before a person
sees it. No escape sequence, line break or text direction of theirs remains, and what was replaced
stays visible. Colour and lines for a terminal are in cli/, markup is in audit/report/.
`nono-trio --help` imports this file, so it imports no msgspec.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.core.log.events import NetworkEvent

# A host name is at most 253 characters, but a log may hold any text in its place.
MAX_TARGET: Final = 260

IPV6_CHARACTERS: Final = frozenset("0123456789abcdefABCDEF:.")
# Python decodes the bytes 0x80 to 0xff of an argument that is not UTF-8 to these.
UNDECODED: Final = range(0xDC80, 0xDD00)
NO_TARGET: Final = "(malformed request)"


def clean(text: str) -> str:
    r"""`text` with everything that is not printable written as an escape: `\x1b`, `\u202e`.

    Printable is what Unicode calls so, and the space: no control, format (also text direction),
    separator, surrogate or unassigned character gets through.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` characters of `text`, with `…` for what was cut off."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def target_text(host: str, port: int | None) -> str:
    """`host:port`, cleaned and bounded; an IPv6 address in brackets."""
    return target_name(clean(host), port)


def target_name(host: str, port: int | None) -> str:
    """As `target_text`, not cleaned: for a caller that shows escapes in its own way."""
    name = shorten(host, MAX_TARGET) or NO_TARGET
    if ":" in name and IPV6_CHARACTERS.issuperset(name):
        name = f"[{name}]"
    return name if port is None or not host else f"{name}:{port}"


def detail_parts(event: NetworkEvent) -> list[str]:
    """Request, status and reason, as far as the event has them; not cleaned, not bounded."""
    parts = []
    if event.path is not None:
        parts.append(f"{event.method or '?'} {event.path}")
    if event.status is not None:
        parts.append(f"status {event.status}")
    if event.reason is not None:
        parts.append(event.reason)
    elif event.denial_category:
        parts.append(event.denial_category.replace("_", " "))
    return parts


def size_text(count: int) -> str:
    """A number of bytes in decimal units: `999 B`, `1.5 kB`."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def counted(count: int, singular: str) -> str:
    """`1 record`, `2 records`."""
    return f"{count:,} {singular}" if count == 1 else f"{count:,} {singular}s"


def duration_text(seconds: float) -> str:
    """A length of time as people say it: `4s`, `2m 30s`, `3h 12m`, `5d 4h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"


def command_text(command: Iterable[str]) -> str:
    """A command line as a shell takes it back, harmless to a terminal.

    An argument that is not printable is quoted as `$'\\x1b'`, which shells read as its bytes.
    """
    return " ".join(_quoted(argument) for argument in command)


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    return "$'" + "".join(map(_quoted_character, argument)) + "'"


def _quoted_character(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    code = ord(character)
    if code in UNDECODED:
        return f"\\x{code - UNDECODED.start + 0x80:02x}"
    return f"\\x{code:02x}" if code < 0x80 else _escape_wide(code)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code <= 0xFF else _escape_wide(code)


def _escape_wide(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
