"""Patterns of a search: a host, a path, a program, each with `*` and `?`. Pure.

Rules of this file: `*` stands for any text (slashes and dots too) and `?` for one character;
nothing else is special. Matching takes time linear in the text, because a command chooses the
texts. A pattern has a literal: bytes that are in the raw JSON of every text that it fits, with
A-Z folded, unless that JSON has a `\\u` escape. Looking for these bytes first misses nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Final, NoReturn

from nono_trio.core.late import late_pattern
from nono_trio.core.log.processes import program_name, program_text
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_LITERAL: Final = 2  # a shorter one is in nearly every record
HOST_FORMS: Final = "for example api.example.com, '*.example.com:443' or '[2001:db8::1]:443'"
_UPPER_TO_LOWER: Final = {ord("A") + number: ord("a") + number for number in range(26)}
# JSON writes these as they are, or as `\u`: there is no other escape for them.
_LITERAL: Final = late_pattern(r"[0-9A-Za-z_.:@%+=, -]+")
_WILDCARD: Final = late_pattern(r"[*?]")
_BRACKETED: Final = late_pattern(r"\[([0-9A-Fa-f:.*?]+)\](?::(.*))?", re.DOTALL)
_ADDRESS_LIKE: Final = late_pattern(r"[0-9A-Fa-f:.*?]+")
_ADDRESS_PART: Final = late_pattern(r"[0-9:]")
_PORT: Final = late_pattern(r"[0-9]{1,5}")
_MAX_PORT: Final = 65535


def folded(text: str) -> str:
    """Return a text with A-Z in lower case and all else unchanged, as the folded raw bytes are."""
    return text.lower() if text.isascii() else text.translate(_UPPER_TO_LOWER)


@dataclass(frozen=True)
class TextGlob:
    """A text with wildcards."""

    text: str
    _pieces: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pieces = tuple(_compiled(piece) for piece in self.text.split("*"))
        object.__setattr__(self, "_pieces", pieces)

    @property
    def is_literal(self) -> bool:
        """True without wildcards."""
        return _WILDCARD.search(self.text) is None

    @cached_property
    def head(self) -> str:
        """The part before the first wildcard."""
        return _WILDCARD.split(self.text, maxsplit=1)[0]

    @cached_property
    def literal(self) -> bytes | None:
        """The folded bytes to look for; None if the pattern has too few."""
        found = [run for part in _WILDCARD.split(self.text) for run in _LITERAL.findall(part)]
        longest = max(found, key=len, default="")
        return folded(longest).encode() if len(longest) >= LEAST_LITERAL else None

    def fits(self, text: str) -> bool:
        """Return True if the whole text fits. The leftmost place is right for every piece, because
        each has one length."""
        first, *rest = self._pieces
        if not rest:
            return first.fullmatch(text) is not None
        *middle, last = rest
        begun = first.match(text)
        if begun is None:
            return False
        at, end = begun.end(), len(text) - len(self.text.rpartition("*")[2])
        for piece in middle:
            found = piece.search(text, at, max(at, end))
            if found is None:
                return False
            at = found.end()
        return at <= end and last.fullmatch(text, end) is not None


def _compiled(piece: str) -> re.Pattern[str]:
    return re.compile(re.escape(piece).replace(r"\?", "."), re.DOTALL)


@dataclass(frozen=True)
class HostGlob:
    """A host with wildcards, and a port or None for any."""

    host: TextGlob
    port: int | None = None

    def fits(self, host: str, port: int | None) -> bool:
        """Return True for a host and port of a record; case and one root dot are no difference."""
        if self.port is not None and port != self.port:
            return False
        return self.host.fits(folded(host).removesuffix("."))

    @property
    def may_be_address(self) -> bool:
        """True if an IP address may fit."""
        text = self.host.text
        return _ADDRESS_LIKE.fullmatch(text) is not None and _ADDRESS_PART.search(text) is not None


def parse_host_glob(text: str, flag: str = "--host") -> HostGlob:
    """Parse HOST[:PORT] with wildcards; IPv6 with a port is in brackets. Raises UsageError."""
    if "/" in text or "@" in text:
        _refuse_mistaken(flag, text)
    host, port = _split_port(flag, text)
    if not host:
        _refuse(flag, text, "expected a host", f"every host is '*', as in {flag} '*:443'")
    host = _a_labels(flag, host)
    return HostGlob(TextGlob(_one_spelling(folded(host).removesuffix(".") or host)), port)


def _split_port(flag: str, text: str) -> tuple[str, int | None]:
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        return bracketed[1], _port(flag, text, bracketed[2])
    if text.count(":") != 1:  # IPv6 without brackets has no port
        return text, None
    host, _, port = text.partition(":")
    return host, _port(flag, text, port)


def _port(flag: str, text: str, port: str | None) -> int | None:
    if port is None or port == "*":
        return None
    if not _PORT.fullmatch(port) or not port.isascii() or int(port) > _MAX_PORT:
        _refuse(flag, text, f"expected a port from 0 to {_MAX_PORT}", HOST_FORMS)
    return int(port)


def _a_labels(flag: str, host: str) -> str:
    """The host with A-labels, as records have them."""
    if host.isascii():
        return host
    import idna  # late: its tables cost milliseconds, and few patterns need them

    labels = []
    for label in host.split("."):
        if not label.isascii() and _WILDCARD.search(label):
            hint = "a wildcard stands for whole labels of such a name, as in '*.bücher.example'"
            _refuse(flag, host, "expected a label without wildcards", hint)
        try:
            plain = label if label.isascii() else idna.encode(label, uts46=True).decode()
        except UnicodeError:
            _refuse(flag, host, "expected a host name", HOST_FORMS)
        labels.append(plain)
    return ".".join(labels)


def _one_spelling(host: str) -> str:
    """An IPv6 address as records spell it; any other text unchanged."""
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        return host


def _refuse_mistaken(flag: str, text: str) -> NoReturn:
    from nono_trio.core.policy.mistaken_hosts import meant_by  # late: for a mistake only

    meant = meant_by(text)
    if meant is None:
        _refuse(flag, text, "expected a host", HOST_FORMS)
    hint = f"write the host: {flag} {meant.host}"
    if "/" in text:
        hint += "; the path of a request is --path"
    _refuse(flag, text, f"expected a host, got {meant.what}", hint)


def _refuse(flag: str, text: str, reason: str, hint: str) -> NoReturn:
    raise UsageError(f"{flag} {text!a}: {reason}", hint=hint)


@dataclass(frozen=True)
class PathGlob:
    """A path with wildcards; without them, it is also everything below it."""

    glob: TextGlob

    def fits(self, path: str) -> bool:
        """Return True if a path fits."""
        if self.glob.fits(path):
            return True
        return self.glob.is_literal and path.startswith(self.glob.text.rstrip("/") + "/")

    def fits_request(self, path: str) -> bool:
        """As `fits`, for the path of a request, with its query or without."""
        return self.fits(path) or ("?" in path and self.fits(path.partition("?")[0]))

    def fits_missing(self, path: str) -> bool:
        """As `fits`, but the path ends with the first name that was missing: the program may have
        asked for a path below it."""
        return self.fits(path) or self.glob.head.startswith(path.rstrip("/") + "/")


@dataclass(frozen=True)
class ProgramGlob:
    """A program with wildcards: its file, its name, the script of an interpreter."""

    glob: TextGlob

    def fits(self, exe: str | None, argv: Sequence[str] | None) -> bool:
        """Return True for a program of processes.ndjson."""
        texts = [program_text(exe, argv), *(argv or ())]
        if exe is not None:
            texts += [exe, program_name(exe)]
        texts += [program_name(argument) for argument in argv or () if "/" in argument]
        return any(self.glob.fits(text) for text in texts)
