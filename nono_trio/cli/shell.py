"""`nono-trio shell`: the user's own shell in the cage."""

from __future__ import annotations

import os
from typing import Any

import click

from nono_trio.cli.flags import given_options, run_options
from nono_trio.cli.option_help import GroupedCommand
from nono_trio.cli.parameters import PATH
from nono_trio.cli.run import execute
from nono_trio.cli.shared_flags import option
from nono_trio.config.settle import settle_run

# POSIX promises this one; it is used where $SHELL is not set.
_FALLBACK = "/bin/sh"


@click.command(
    cls=GroupedCommand, epilog="Example: nono-trio shell --allow-cwd --allow-domain example.com"
)
@option(
    "--shell", type=PATH, metavar="PATH", help="The shell to start  [default: $SHELL, or /bin/sh]"
)
@run_options
def shell(shell: str | None, **given: Any) -> None:  # noqa: ANN401  (click passes any)
    """Start your shell in a cage, with job control; exit it to seal the log."""
    command = [shell or os.environ.get("SHELL") or _FALLBACK]
    raise SystemExit(execute(settle_run(command, given_options(given)), given))
