"""Groups of commands: a mistyped command is answered with the nearest that exists.

Rules of this file: the module of a LazyGroup's command is imported only when that command is used.
Its line in the help is in the group's table (a test holds the two together).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from nono_trio.cli.msgspec_import import sparing_typing_extensions
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem

# Name -> where the command is (`module:attribute`), and its line in the group's help.
Places: TypeAlias = "Mapping[str, tuple[str, str]]"


class CommandGroup(click.Group):
    """A `click.Group` whose error for an unknown command can be pasted back."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it; raises UsageError for a name that is no command's."""
        name, names = args[0], self.list_commands(ctx)
        if name.startswith("-") or name in names or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from nono_trio.core.profile.values import nearest  # late: it is for mistakes only

        meant = nearest(name, names)
        hint = f"see `{ctx.command_path} --help`"
        if meant is not None:
            hint = f"did you mean `{ctx.command_path} {meant}`?"
        raise UsageError(f"there is no command {name!a}", hint=hint)


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are used."""

    def __init__(self, *arguments: Any, places: Places, **more: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **more)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        del ctx
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None when there is no such name."""
        del ctx
        if cmd_name not in self.places:
            return None
        name, _, attribute = self.places[cmd_name][0].partition(":")
        with sparing_typing_extensions():
            module = importlib.import_module(name)
        command: click.Command = getattr(module, attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, from the table instead of from the modules; then options."""
        from click.shell_completion import CompletionItem  # late: for completion only

        found = [
            CompletionItem(name, help=line)
            for name, (_, line) in self.places.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table instead of from the modules."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.places.items()])
