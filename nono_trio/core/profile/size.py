"""Sizes as people write them: `512M`, `2G`. `1.5` is refused, as in upstream."""

from __future__ import annotations

from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

_SIZE = late_pattern(r"([0-9]{1,15})\s*([A-Za-z]*)")
_UNITS = {"": 1, "b": 1}
_UNITS |= {
    unit: 1024**power
    for power, letter in enumerate("kmgt", 1)
    for unit in (letter, f"{letter}i", f"{letter}ib")
}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}

# Less than an interpreter needs to start; upstream's own lower bound.
SMALLEST = 1 << 20
LARGEST = 1 << 62


def parse_size(text: str) -> int:
    """Return bytes: K, M, G, T and KiB ... are powers of 1024, KB ... of 1000.

    Raises UsageError for a text that is not a size, or a size below 1 MiB.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"expected a size like 512M or 2G, got {text!r}")
    size = int(match[1]) * factor
    if not SMALLEST <= size <= LARGEST:
        bound = "at least 1M" if size < SMALLEST else "at most 4194304T"
        raise UsageError(f"expected a size of {bound}, got {text!r}")
    return size
