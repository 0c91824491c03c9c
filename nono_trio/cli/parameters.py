"""Types of options that click has none for: what a shell makes of an unset variable is refused.

`--allow "$PROJECT"` with PROJECT unset gives an empty text, which as a path would be the working
directory: a grant that nobody asked for.
"""

from __future__ import annotations

import math
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


class Seconds(click.FloatRange):
    """A length of time that ends: `nan` and `inf` are floats, and no times to wait."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return it; fails for what is no number, not finite or out of range."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no length of time", param, ctx)
        return seconds


PATH = GivenText("a path")
PROFILE = GivenText("a profile")
