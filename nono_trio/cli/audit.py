"""`nono-trio audit`: list, show, follow and verify sessions.

The commands' options and the order of their output; what they do is in audit_verify.py and
audit_tail.py, how it looks in audit_render.py. Nothing here imports the loop, the proxy or the
sandbox: an auditor's machine need not be able to run a session.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nono_trio.audit import store
from nono_trio.audit.verdict import SCHEMA, Verification, worst
from nono_trio.cli.text import clean, counted, decision_line
from nono_trio.core.events import Decision, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nono_trio.audit.read import LogRecord

# `audit tail` of a session that crashed while it was followed: the code `audit verify` would give.
CRASHED = 6
# Decisions of either end that `show` prints; the rest is counted.
TIMELINE_ENDS = 10
MAX_JOBS = 256

DECISIONS = list(Decision.__args__)

_audit_dir = click.option(
    "--audit-dir",
    metavar="DIR",
    envvar=store.STATE_VARIABLE,
    help="State directory  [default: $XDG_STATE_HOME/nono-trio]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@click.group()
def audit() -> None:
    """List, show, follow and verify the audit logs of sessions.

    SESSION is an id, an unambiguous prefix of one, a name, `latest`, or the path of a session
    directory.
    """


@audit.command(epilog="Example: nono-trio audit verify latest")
@click.argument("targets", nargs=-1, metavar="[SESSION|DIR|FILE]...")
@click.option("--all", "every", is_flag=True, help="Verify every session there is.")
@click.option(
    "--quick",
    is_flag=True,
    help="Compare checksums only: finds accidents, proves nothing, says `undamaged`.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, MAX_JOBS),
    default=1,
    show_default=True,
    metavar="N",
    help="Verify in that many processes.",
)
@_json
@_audit_dir
def verify(
    targets: tuple[str, ...], every: bool, quick: bool, jobs: int, as_json: bool,
    audit_dir: str | None,
) -> None:  # fmt: skip
    """Prove that a session's log is whole: hashes, chain, checkpoints, seal and ledger.

    Verdict and exit code: verified 0; tampered 1; unreadable or missing 2; open (still running) 5;
    crashed (never sealed) 6; undamaged (--quick) 0. Of several sessions the worst decides. A
    session directory of upstream nono is judged by upstream's rules; a log file without its session
    is never `verified`. --json prints one object a line, also for errors.
    """
    from nono_trio.cli.audit_verify import verify_all, verify_targets

    if every == bool(targets):
        raise click.UsageError("expected sessions, or --all, and not both")
    root = _root(audit_dir)
    answers = (
        verify_all(root, quick=quick, jobs=jobs)
        if every
        else verify_targets(root, targets, quick=quick, jobs=jobs)
    )
    several = every or len(targets) > 1
    told = [_tell(answer, as_json=as_json, several=several) for answer in answers]
    if several and not as_json:
        _sum_up(told, root)
    raise SystemExit(worst(answer.verdict for answer in told))


def _tell(answer: Verification, *, as_json: bool, several: bool) -> Verification:
    from nono_trio.cli.audit_render import verification_hint, verification_lines

    if as_json:
        _print_json(answer)
        return answer
    for line in verification_lines(answer, brief=several):
        print(line)
    hint = verification_hint(answer)
    if hint is not None and not several:
        sys.stdout.flush()
        print(f"hint: {clean(hint)}", file=sys.stderr)
    return answer


def _sum_up(told: list[Verification], root: Path) -> None:
    from collections import Counter

    if not told:
        _say(f"no session in {root}")
        return
    verdicts = Counter(answer.verdict for answer in told)
    _say(f"{counted(len(told), 'session')}: "
         + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))  # fmt: skip
