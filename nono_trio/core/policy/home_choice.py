"""The choice of a cage's home: the values of `--home` and of a profile, and the name of a kept
home.

Rules of this file: a name is a file name of letters, digits, - and _, so that it can be shown,
pasted and joined to a path. The digest in it keeps the homes of two working directories or profiles
apart; the words before the digest let a person tell them apart.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, TypeAlias

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

HomeKind: TypeAlias = Literal["kept", "private", "closed"]

FLAG: Final = "--home"
MAX_NAME: Final = 64  # the longest name that a person can give; generated names are shorter
# More sessions of one profile in one directory than a person runs at a time; each may hold a copy.
MOST_AT_A_TIME: Final = 16
_WORD: Final = 20  # characters of the profile's name, and of the directory's name
_DIGEST: Final = 10  # hex digits: 40 bits keep a million homes apart

_NAME: Final = late_pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_STORED: Final = late_pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\.(namespace|landlock|seatbelt|none)")
_OTHER: Final = late_pattern(r"[^a-z0-9]+")


class HomeChoice(msgspec.Struct, frozen=True):
    """The home that was chosen.

    `source` is the flag, the profile's line and key, or "" for the default. `profile` is the name
    or file of the profile; the name of a kept home without a name of its own comes from it. `seeds`
    are absolute paths, each with the line that names it.
    """

    kind: HomeKind = "private"
    name: str | None = None
    source: str = ""
    profile: str = "default"
    seeds: tuple[tuple[str, str], ...] = ()

    @property
    def by_flag(self) -> bool:
        """True if the flag chose it, not a profile."""
        return self.source == FLAG


def parse_home(text: str) -> tuple[HomeKind, str | None]:
    """Read `kept`, `kept=NAME`, `private` or `closed`; raises UsageError."""
    word, equals, name = text.partition("=")
    if word == "kept" and equals:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{FLAG} expected a name of at most {MAX_NAME} letters, digits, - and _, got"
                f" {name!a}",
                hint=f"for example {FLAG} kept=work",
            )
        return "kept", name
    if text in ("kept", "private", "closed"):
        return text, None  # type: ignore[return-value]  # one of the three words
    raise UsageError(
        f"{FLAG} expected kept, kept=NAME, private or closed, got {text!a}",
        hint=f"{FLAG} kept keeps what the command writes to its home for the next run",
    )


def home_name(profile: str, directory: str) -> str:
    """The name of the home that a profile has in a working directory."""
    key = "\0".join((profile, directory)).encode("utf-8", "surrogateescape")
    words = [_word(profile.rpartition("/")[2].partition(".")[0]), _word(directory)]
    digest = hashlib.sha256(key).hexdigest()[:_DIGEST]
    return "-".join([*filter(None, words), digest])


def _word(text: str) -> str:
    last = text.rstrip("/").rpartition("/")[2]
    return _OTHER.sub("-", last.lower()).strip("-")[:_WORD].strip("-")


def stored_name(name: str, isolation: str, number: int = 1) -> str:
    """The file name of a home; `number` counts those that sessions hold at the same time."""
    return f"{name if number == 1 else f'{name}-{number}'}.{isolation}"


def is_stored_name(text: str) -> bool:
    """Return True if a file name is the name of a stored home."""
    return _STORED.fullmatch(text) is not None
