"""Regular expressions and decoders that are made when they are first used.

A run imports some ninety of the first and ten of the others and uses a third of them; to make them
all took a twentieth of its start. Nothing is imported to make one, so the command may run by then.
The first use binds the module's name to what it has made. Later uses cost no more than those of a
pattern that the module made itself.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, AnyStr, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

_Decoded = TypeVar("_Decoded")


def late_pattern(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return what is used as `re.compile(text, flags)`; call it in a module's own scope only."""
    late = _Late(lambda: re.compile(text, flags), sys._getframe(1).f_globals)
    return cast("re.Pattern[AnyStr]", late)


@overload
def late_decoder(kind: type[_Decoded]) -> msgspec.json.Decoder[_Decoded]: ...
@overload
def late_decoder(kind: Any) -> msgspec.json.Decoder[Any]: ...  # noqa: ANN401  (a union is no type)
def late_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return what is used as `msgspec.json.Decoder(kind)`; call it in a module's own scope only."""
    late = _Late(lambda: _decoder(kind), sys._getframe(1).f_globals)
    return cast("msgspec.json.Decoder[Any]", late)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401
    import msgspec  # late: `--help` needs patterns only, and what is decoded has imported it

    return msgspec.json.Decoder(kind)


class _Late:
    """A pattern or decoder that `make` makes at its first use; `names` are its module's globals."""

    def __init__(self, make: Callable[[], Any], names: dict[str, Any]) -> None:
        self._make = make
        self._names = names

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (of what is made)
        if name.startswith("__"):  # asked by tools that look at every value of a module
            raise AttributeError(name)
        made = self._make()
        for known, value in list(self._names.items()):
            if value is self:
                self._names[known] = made
        # For another module, or a tuple, that has this object.
        found = self.__dict__[name] = getattr(made, name)
        return found
