"""JSON for `--json`: one line, safe on a terminal, and possible for every text.

Rules of this file: what is not printable (C1 controls, text direction, the bytes of a path that is
not UTF-8) is written as an escape, so the line means the same and no terminal acts on it.
"""

from __future__ import annotations

import re
import sys
from typing import Final

import msgspec

# ASCII that JSON may hold raw is printable but for DEL, so this is where a search has to begin.
_PERHAPS_UNPRINTABLE: Final = r"[\x7f-\U0010ffff]"


def json_text(value: object) -> str:
    """`value` (structs, dataclasses and what JSON knows) as compact JSON without a newline."""
    import json  # late: most commands print none, and it takes 3 ms

    plain = msgspec.to_builtins(value)
    return escape_unprintable(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))


def escape_unprintable(text: str) -> str:
    """JSON with what is not printable as escapes, so that a terminal shows it and does nothing."""
    return re.sub(_PERHAPS_UNPRINTABLE, _escaped, text)  # compiled here: it takes 4 ms


def print_json(value: object) -> None:
    """Write `value` to stdout as one line and flush it: a reader may follow a live session."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    import json

    return json.dumps(character)[1:-1]
