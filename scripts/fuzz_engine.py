"""Shared by all fuzz targets: their form, one bounded run, mutations, and making an input small.

A target is a function of bytes. It returns the kind of outcome in a few words. Every exception that
leaves it is a violation: it catches the errors that its reader declares, and asserts its property.
"""

from __future__ import annotations

import signal
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

MEMORY = 2 << 30  # bytes of address space
RUN_SECONDS = 10.0  # of one input on a loaded machine; it takes a millisecond
SHOWN_LINES = 12


@dataclass(frozen=True)
class Target:
    """`seeds` are good inputs, `tokens` words that mutations put in."""

    name: str
    about: str
    run: Callable[[bytes], str]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()


class Violation(Exception):
    """An input broke the property; the text has the end of the traceback."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


class Hang(Exception):
    """One input took too long."""


def run_once(target: Target, data: bytes) -> str:
    """Run one input within RUN_SECONDS; return its outcome. Raises Violation."""
    try:
        with _bounded():
            return target.run(data)
    except Exception as error:
        lines = traceback.format_exception(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {where.filename}:{where.lineno}"
        raise Violation("".join(lines[-SHOWN_LINES:]), kind) from None


@contextmanager
def _bounded() -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"no outcome within {RUN_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, RUN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Mutator:
    """Makes new inputs of old ones."""

    def __init__(self, rng: random.Random, tokens: Sequence[bytes]) -> None:
        self._rng = rng
        self._tokens = [*tokens, b"\0", b"\r\n", b"\n", b"\r", b" ", b"\xff", b":", b"%", b"/"]

    def mutate(self, kept: Sequence[bytes]) -> bytes:
        """Change one of `kept` in one to eight places."""
        rng = self._rng
        data = bytearray(rng.choice(kept))
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            rng.choice(self._CHANGES)(self, data, kept)
        return bytes(data)

    def _place(self, data: bytearray) -> tuple[int, int]:
        start = self._rng.randint(0, len(data))
        return start, min(len(data), start + self._rng.choice((1, 1, 2, 4, 8, 32, 256)))

    def _flip(self, data: bytearray, _: Sequence[bytes]) -> None:
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _replace(self, data: bytearray, _: Sequence[bytes]) -> None:
        if data:
            data[self._rng.randrange(len(data))] = self._rng.randrange(256)

    def _insert_token(self, data: bytearray, _: Sequence[bytes]) -> None:
        at = self._place(data)[0]
        data[at:at] = self._rng.choice(self._tokens)

    def _overwrite_token(self, data: bytearray, _: Sequence[bytes]) -> None:
        token = self._rng.choice(self._tokens)
        at = self._place(data)[0]
        data[at : at + len(token)] = token

    def _delete(self, data: bytearray, _: Sequence[bytes]) -> None:
        start, end = self._place(data)
        del data[start:end]

    def _repeat(self, data: bytearray, _: Sequence[bytes]) -> None:
        start, end = self._place(data)
        data[start:start] = data[start:end] * self._rng.choice((1, 1, 2, 16))

    def _splice(self, data: bytearray, kept: Sequence[bytes]) -> None:
        other = self._rng.choice(kept)
        cut = self._rng.randint(0, len(other))
        data[self._place(data)[0] :] = other[cut:]

    def _count_up_or_down(self, data: bytearray, _: Sequence[bytes]) -> None:
        if data:
            at = self._rng.randrange(len(data))
            data[at] = (data[at] + self._rng.choice((1, 255))) % 256

    _CHANGES = (
        _flip, _replace, _insert_token, _insert_token, _overwrite_token, _delete, _repeat, _splice,
        _count_up_or_down,
    )  # fmt: skip


def shrunk(target: Target, data: bytes, seconds: float) -> tuple[bytes, str]:
    """Return a smaller input that breaks the property at the same place, and what it says."""

    def broken(candidate: bytes) -> Violation | None:
        try:
            run_once(target, candidate)
        except Violation as violation:
            return violation
        return None

    first = broken(data)
    if first is None:
        return data, "run alone, it breaks nothing: the cause is an input before it, or the load"
    ends, size = time.monotonic() + seconds, max(len(data) // 2, 1)
    while size and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            smaller = data[:at] + data[at + size :]
            found = broken(smaller)
            if found is not None and found.kind == first.kind:
                data = smaller
            else:
                at += size
        size //= 2
    return data, str(broken(data) or first)


def pieces(data: bytes, size: int) -> list[bytes]:
    """Cut `data` into pieces of `size` bytes, at least one."""
    return [data[at : at + size] for at in range(0, len(data), max(size, 1))] or [b""]


def require(condition: object, what: str, *values: object) -> None:
    """Raise for a property that does not hold. Not `assert`: an option could switch that off."""
    if not condition:
        raise AssertionError(f"{what}: {values!r}"[:2000])
