"""`nono-trio doctor`: what this machine can enforce, what is missing and how to get it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from nono_trio.audit.store import state_root
from nono_trio.cli.json_output import print_json
from nono_trio.cli.tables import drawing, is_drawn
from nono_trio.cli.text import clean
from nono_trio.config.options import AuditOptions, NetworkOptions, RunOptions, SessionOptions
from nono_trio.sandbox.filesystem.plan import FileOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.sandbox.probe import Check

DEGRADED = 1
STATE_WIDTH = 8
NAME_WIDTH = 22
# In every system, harmless, and never executed: a cage has to be prepared for something.
HARMLESS = "true"


@click.command(epilog="Example: nono-trio doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Say what this machine can enforce, what is missing and how to get it.

    Cages are really built, as a run would, and ended before anything is executed. Exit code: 0 if
    runs are fully isolated here, 1 if they are not.
    """
    from nono_trio.explain.doctor import best_isolation, examine

    checks = examine(_options())
    isolation = best_isolation(checks)
    if as_json:
        from nono_trio.cli.process_answers import DoctorAnswer

        print_json(DoctorAnswer(isolation=isolation, checks=checks))
    else:
        _tell(checks)
        print(_summary(isolation))
    raise SystemExit(0 if isolation == "namespace" else DEGRADED)


def _options() -> RunOptions:
    """A run of something harmless, granted nothing."""
    audit = AuditOptions(state_root(None, os.environ))
    return RunOptions(
        command=[HARMLESS],
        session=SessionOptions(NetworkOptions(), audit),
        files=FileOptions(workdir="/"),
        environment=dict(os.environ),
    )


def _tell(checks: Sequence[Check]) -> None:
    """Print the findings; on a terminal what is to be pasted has a line of its own."""
    drawn = is_drawn()
    for check in checks:
        optional = "" if check.required or check.state == "ok" else " (optional)"
        name, found = f"{check.name}{optional}", clean(check.found)
        if drawn:
            drawing().print_check(check.state, name, found, (STATE_WIDTH, NAME_WIDTH))
        else:
            print(f"{check.state:<{STATE_WIDTH}} {name:<{NAME_WIDTH}} {found}")
        if check.fix is not None:
            indent = "" if drawn else f"{'':<{NAME_WIDTH}} "
            print(f"{'':<{STATE_WIDTH}} {indent}get it: {clean(check.fix)}")


def _summary(isolation: str | None) -> str:
    if isolation == "namespace":
        return "runs are fully isolated on this machine (--isolation namespace)"
    if isolation == "landlock":
        return (
            "runs are isolated in part on this machine: `auto` takes --isolation landlock, which"
            " says what it leaves open"
        )
    if isolation == "seatbelt":
        return (
            "runs are isolated in part on this machine: `auto` takes --isolation seatbelt, which is"
            " untested and says what it leaves open"
        )
    return "runs can't be isolated on this machine"
