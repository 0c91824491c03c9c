"""The help of commands with many options: in groups, each of which fits a screen.

Rules of this file: an option names its group where it is declared (flags.py, shared_flags.py; for a
profile's field its section, core/profile/fields.py); GROUPS has their titles and order. A flag that
only repeats another one for users of other programs is left out.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from nono_trio.cli.style import is_styled, painted

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUPS: Final[Mapping[str, str]] = {
    "": "Options",
    "start": "Profile and environment",
    "files": "Files",
    "network": "Network",
    "requests": "Requests that are seen",
    "mcp": "Tools of MCP servers",
    "credentials": "Credentials",
    "isolation": "Isolation",
    "limits": "Limits",
    "judging": "Judging",
    "audit": "Audit",
    "output": "Output",
}
# The texts begin after that many columns; a longer flag has a line of its own.
FLAG_WIDTH: Final = 26
VARIABLES: Final = (
    "Most flags have a variable, NONO_TRIO_<FLAG>. Flags that name files, hosts, ports or patterns"
    " may be given more than once."
)
# Stands for the hyphens of a flag while lines are broken: a flag stays whole.
_UNBROKEN: Final = "\N{NON-BREAKING HYPHEN}"
_FLAG: Final = r"--[a-z-]+|\$[A-Z_a-z/-]+"


class GroupedOption(click.Option):
    """An option with the key of its group in GROUPS."""

    def __init__(self, *names: Any, group: str = "", **settings: Any) -> None:  # noqa: ANN401  (as click has it)
        super().__init__(*names, **settings)
        self.group = group

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401  (as click has it)
        """As click has it, but -- is no value: what should follow the flag was left out."""
        if value == "--" or (isinstance(value, (list, tuple)) and "--" in value):
            raise click.BadOptionUsage(
                self.opts[0], f"option {self.opts[0]!r} requires an argument"
            )
        return super().type_cast_value(ctx, value)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Its flags with what they take, and its text; the bounds of a number are in its error."""
        if self.hidden:
            return None
        flags = [next(flag for flag in self.opts if flag.startswith("--"))]
        flags = [*(flag for flag in self.opts if not flag.startswith("--")), *flags]
        value = "" if self.is_flag else f" {self._value(ctx)}"
        default = self.get_help_extra(ctx).get("default")
        text = self.help or ""
        return f"{', '.join(flags)}{value}", f"{text}  [default: {default}]" if default else text

    def _value(self, ctx: click.Context) -> str:
        """Its value in the usage; the words of a choice without the brackets that click adds."""
        if isinstance(self.type, click.Choice) and self.metavar is None:
            return "|".join(self.type.choices)
        return self.make_metavar(ctx)


class GroupedCommand(click.Command):
    """A command whose help has its options by group; those of no group come first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group that has options."""
        records: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                flags, text = record
                records[_group_of(parameter)].append((flags, re.sub(_FLAG, _unbroken, text)))
        for group, title in GROUPS.items():
            if records[group]:
                _write_group(formatter, title, records[group])
        formatter.write_paragraph()
        formatter.write_text(VARIABLES)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as one line, which can be pasted."""
        del ctx
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")

    def get_help(self, ctx: click.Context) -> str:
        """The whole text."""
        return super().get_help(ctx).replace(_UNBROKEN, "-")


def _unbroken(flag: re.Match[str]) -> str:
    return flag[0].replace("-", _UNBROKEN)


def _group_of(option: click.Option) -> str:
    if isinstance(option, GroupedOption):
        return option.group
    return "output" if {"--help", "--json"} & {*option.opts} else ""


def _write_group(
    formatter: click.HelpFormatter, title: str, records: list[tuple[str, str]]
) -> None:
    """Write a title and its options; their texts begin at the same column in each group."""
    formatter.write_paragraph()
    formatter.write_heading(painted(title, "bold") if is_styled(sys.stdout) else title)
    with formatter.indentation():
        first, *rest = records
        flags, text = first
        formatter.write_dl([(flags.ljust(FLAG_WIDTH), text), *rest], col_max=FLAG_WIDTH)
