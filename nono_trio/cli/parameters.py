"""Types of options that click lacks; each refuses the empty text of an unset variable.

`--allow "$PROJECT"` with PROJECT unset gives an empty text, which as a path would be the working
directory: a grant that the user did not ask for.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Type = click.ParamType[Any]
else:  # older releases of click have no type parameter there
    _Type = object


class _OneSentence(_Type):
    """For a click type: its error is one sentence: what was expected, what came."""

    def expected(self) -> str:
        """Return what a value must be, for the error."""
        raise NotImplementedError

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401  (as the click type has it)
        """Return the value; raises UsageError for an invalid one."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            raise self.unexpected(value, param, ctx) from None

    def unexpected(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> UsageError:
        """Return the error for an invalid value."""
        hint = None if ctx is None else f"see `{ctx.command_path} --help`"
        message = f"{_flag(param)}: expected {self.expected()}, got {str(value)!a}"
        return UsageError(message, hint=hint)


class WholeNumber(_OneSentence, click.IntRange):
    """A whole number in a range."""

    def expected(self) -> str:
        """A whole number and its bounds."""
        return f"a whole number{_bounds(self)}"


class Seconds(_OneSentence, click.FloatRange):
    """A length of time that ends: `nan` and `inf` are floats, but no times to wait."""

    def expected(self) -> str:
        """A number and its bounds."""
        return f"a number of seconds{_bounds(self)}"

    def convert(
        self,
        value: Any,  # noqa: ANN401  (as click has it)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return a finite number; raises UsageError for anything else."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            raise self.unexpected(value, param, ctx)
        return seconds


class OneOf(_OneSentence, click.Choice[str]):
    """One of a few words."""

    def expected(self) -> str:
        """The words."""
        *first, last = self.choices
        return f"{', '.join(first)} or {last}"


class GivenText(click.types.StringParamType):
    """A text that must not be empty; `what` is what it names."""

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
            raise UsageError(
                f"{_flag(param)}: expected {self.name}, got an empty text",
                hint="a variable that was meant to give it may not be set",
            )
        return text


class GivenPath(GivenText):
    """The path of a file or directory, which a shell completes."""

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Have the shell complete files."""
        from click.shell_completion import CompletionItem  # late: for completion only

        return [CompletionItem(incomplete, type="file")]


def _flag(param: click.Parameter | None) -> str:
    return max(param.opts, key=len) if param is not None else "an option"


def _bounds(numbers: click.IntRange | click.FloatRange) -> str:
    least, most = numbers.min, numbers.max
    if most is not None:
        return f" from {least} to {most}"
    return f" above {least}" if numbers.min_open else f" of {least} or more"


class GivenProfile(GivenPath):
    """A profile's name or file; several in a variable are separated as in PATH."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The profiles in a variable; nothing for an empty one."""
        return [one for one in rv.split(os.pathsep) if one]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names of profiles; have the shell complete files where none fits."""
        from click.shell_completion import CompletionItem  # late: for completion only

        from nono_trio.config.profiles import available

        names = sorted({found.name for found in available(os.environ)})
        offered = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return offered or super().shell_complete(ctx, param, incomplete)


class GivenEndpoint(GivenText):
    """METHODS URL, with a word behind it; several in a variable are separated by spaces too."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The rules in a variable: a word behind a URL begins the next one, unless it is an
        option of a rule (it has no colon, and no word of methods has an underscore)."""
        rules: list[list[str]] = []
        for word in rv.split():
            is_option = word == "allow_encoded_slash"
            if not rules or ("://" in rules[-1][-1] and not is_option) or len(rules[-1]) > 2:
                rules.append([])
            rules[-1].append(word)
        return [*map(" ".join, rules)]


class GivenCredentials(GivenText):
    """NAME[=SOURCE][@HOST,...]; several in a variable are on lines of their own, because a command
    line has spaces."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The credentials in a variable."""
        return [line for line in map(str.strip, rv.splitlines()) if line]


PATH = GivenPath("a path")
CREDENTIAL = GivenCredentials("a credential")
ENDPOINT = GivenEndpoint("methods and a URL")
MCP_TOOL = GivenEndpoint("names and a URL")
PROFILE = GivenProfile("a profile")
