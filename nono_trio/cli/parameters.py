"""Types of options that click has none for: what a shell makes of an unset variable is refused.

`--allow "$PROJECT"` with PROJECT unset gives an empty text, which as a path would be the working
directory: a grant that nobody asked for.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import click

from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from typing import Any


class GivenText(click.types.StringParamType):
    """A text that has to say something; `what` is what it names."""

    def __init__(self, what: str) -> None:
        self.name = what

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Return it as it is; raises UsageError for an empty one."""
        text = str(super().convert(value, param, ctx))
        if not text:
            flag = max(param.opts, key=len) if param is not None else "an option"
            raise UsageError(
                f"{flag}: expected {self.name}, got an empty text",
                hint="a variable that was meant to give it may not be set",
            )
        return text


class WholeNumber(click.IntRange):
    """A whole number in a range; what is wrong with another text is one sentence."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Return it; raises UsageError for anything else."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            raise _unexpected(f"a whole number{_bounds(self)}", value, param, ctx) from None


class Seconds(click.FloatRange):
    """A length of time that ends: `nan` and `inf` are floats, and no times to wait."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return it; raises UsageError for what is no number, not finite or out of range."""
        try:
            seconds = float(super().convert(value, param, ctx))
        except click.BadParameter:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise _unexpected(f"a number of seconds{_bounds(self)}", value, param, ctx)
        return seconds


class OneOf(click.Choice[str]):
    """One of a few words."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Return it; raises UsageError for another word."""
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter:
            *first, last = self.choices
            raise _unexpected(f"{', '.join(first)} or {last}", value, param, ctx) from None


def _unexpected(
    expected: str, value: object, param: click.Parameter | None, ctx: click.Context | None
) -> UsageError:
    """The error for a value that an option can't have."""
    flag = max(param.opts, key=len) if param is not None else "an option"
    hint = None if ctx is None else f"see `{ctx.command_path} --help`"
    return UsageError(f"{flag}: expected {expected}, got {str(value)!a}", hint=hint)


def _bounds(numbers: click.IntRange | click.FloatRange) -> str:
    least, most = numbers.min, numbers.max
    if most is not None:
        return f" from {least} to {most}"
    return f" above {least}" if numbers.min_open else f" of {least} or more"


class GivenProfile(GivenText):
    """A profile's name or file; several in a variable are told apart as in PATH."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The profiles in a variable; nothing for an empty one."""
        return [one for one in rv.split(os.pathsep) if one]


PATH = GivenText("a path")
PROFILE = GivenProfile("a profile")
