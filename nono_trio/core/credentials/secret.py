"""A secret as a value that does not show itself, and the form in which sources give one.

Rules of this file: no `repr`, error or pickle has the value; two secrets are compared in constant
time; what a source gives loses one line break at its end, because files and commands end with one.
"""

from __future__ import annotations

import hmac
from typing import ClassVar, NoReturn


class Secret:
    """The real value of a credential. `reveal` is the only way to it. `lifetime`: for how many
    seconds it may be used, if its source says so."""

    __slots__ = ("_value", "lifetime")
    __hash__: ClassVar[None]  # type: ignore[assignment]  # a hash would tell of it

    def __init__(self, value: bytes, lifetime: int | None = None) -> None:
        self._value = value
        self.lifetime = lifetime

    def reveal(self) -> bytes:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


def without_line_end(text: bytes) -> bytes:
    """Return `text` without one line break at its end."""
    return text.removesuffix(b"\n").removesuffix(b"\r") if text.endswith(b"\n") else text
