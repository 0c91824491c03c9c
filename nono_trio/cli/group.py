"""A group of commands that answers a mistyped one with the nearest that exists."""

from __future__ import annotations

import click

from nono_trio.errors import UsageError


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
