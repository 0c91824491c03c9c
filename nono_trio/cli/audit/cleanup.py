"""`nono-trio audit cleanup`: its options and its output; what goes is decided in cleanup.py of
audit/recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.parameters import GivenText, WholeNumber
from nono_trio.cli.shared_flags import audit_dir_option, audit_root, json_option
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean, counted, size_text
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import NonoTrioError, UsageError

if TYPE_CHECKING:
    from nono_trio.audit.recovery.cleanup import Choice, Cleaned, Limits
    from nono_trio.cli.audit.cleanup_answer import Cleanup

MAX_SIZE_FLAG = "--max-total-size"
_LIMITS = {
    "keep": "not among the newest",
    "older-than": "older",
    MAX_SIZE_FLAG[2:]: "beyond the size",
}
_STAY = {"running": "stays: it runs", "tampered": "stays, as evidence", "failed": "not removed"}


@click.command(
    short_help="Remove old sessions on purpose.",
    epilog="Example: nono-trio audit cleanup --older-than 90d --max-total-size 10G --dry-run",
)
@click.option("--keep", type=WholeNumber(0), metavar="N", help="Keep the newest N.")
@click.option(
    "--older-than",
    type=GivenText("an age or a time"),
    metavar="AGE",
    help="Remove what ended longer ago (12h, 90d), or before a day or a time.",
)
@click.option(
    MAX_SIZE_FLAG,
    type=GivenText("a size"),
    metavar="SIZE",
    help="Remove the oldest until the rest takes at most that much of the disk (500M, 10G).",
)
@click.option(
    "--dry-run", is_flag=True, help="Only show what would go; records are not verified for it."
)
@json_option
@audit_dir_option
def cleanup(
    keep: int | None, older_than: str | None, max_total_size: str | None, dry_run: bool,
    as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Remove old sessions on purpose: each as `audit forget` does, so that none is `missing`.

    One of --keep, --older-than and --max-total-size is needed; of several, each removes what it
    names. A running session stays, and counts. So does a tampered one, which is evidence: look at
    it, then `audit forget` it. Exit code: 0; 1 if a session that should go is tampered or could
    not be removed, or the rest of an earlier one; 4 if the ledger can't be written.
    """
    from nono_trio.audit.recovery.abandoned import remove_abandoned
    from nono_trio.audit.recovery.cleanup import choose, clean_up, exit_code

    limits = _limits(keep, older_than, max_total_size)
    root = audit_root(audit_dir)
    with Waiting("reading the sessions"):
        choice = choose(root, limits)
    told: list[Cleaned] = []
    try:
        with Waiting("removing") as wait:
            wait.expect(len(choice.named))
            for one in wait.over(clean_up(root, choice, dry_run=dry_run)):
                told.append(one)
                if not as_json:
                    print_verdict([_line(one)])
    except NonoTrioError as error:
        if not (as_json and told):
            raise
        raise SystemExit(_tell_ended(choice, told, error)) from error
    stuck = [] if dry_run else remove_abandoned(root).stuck
    if as_json:
        answer = _answer(choice, told, dry_run=dry_run)
        if stuck:
            answer.unfinished = [one.message for one in stuck]
        print_json(answer)
    else:
        say(_totals(choice, told, dry_run=dry_run))
        tell_stuck(stuck)
    raise SystemExit(exit_code(one.outcome for one in told) or int(bool(stuck)))


def tell_stuck(stuck: list[NonoTrioError]) -> None:
    """Say what an earlier start, removal or import left and could not be removed."""
    for one in stuck:
        say(clean(one.message))
        if one.hint is not None:
            say_hint(one.hint)


def _tell_ended(choice: Choice, told: list[Cleaned], error: NonoTrioError) -> int:
    """Print the JSON of a cleanup that an error ended: what is gone is gone. Return its code."""
    from nono_trio.cli.answers import Failure

    say(f"error: {clean(error.message)}")
    if error.hint is not None:
        say_hint(error.hint)
    answer = _answer(choice, told, dry_run=False)
    answer.error = Failure(message=error.message, hint=error.hint, exit_code=error.exit_code)
    print_json(answer)
    return error.exit_code


def _limits(keep: int | None, older_than: str | None, max_total_size: str | None) -> Limits:
    from nono_trio.audit.recovery.cleanup import Limits
    from nono_trio.cli.times import parse_since
    from nono_trio.core.profile.size import parse_size

    if keep is None and older_than is None and max_total_size is None:
        raise UsageError(
            "expected --keep, --older-than or --max-total-size",
            hint="nono-trio audit cleanup --older-than 90d --dry-run",
        )
    size = None
    if max_total_size is not None:
        try:
            size = parse_size(max_total_size)
        except UsageError as error:
            hint = "for example 500M or 10G"
            raise UsageError(f"{MAX_SIZE_FLAG}: {error.message}", hint=hint) from None
    since = None if older_than is None else parse_since(older_than, "--older-than")
    return Limits(keep=keep, since=since, total_bytes=size)


def _line(one: Cleaned) -> str:
    ended = clean(one.ended[: len("2026-07-02")])
    why = _STAY.get(one.outcome, _LIMITS[one.limit])
    reason = f" ({clean(one.reason)})" if one.reason is not None else ""
    return (
        f"{one.outcome:<12} {clean(one.session_id)}  {size_text(one.size):>9}  ended {ended}"
        f"  {why}{reason}"
    )


def _totals(choice: Choice, told: list[Cleaned], *, dry_run: bool) -> str:
    gone = [one for one in told if one.outcome in ("removed", "would-remove")]
    stay = [one for one in told if one.outcome in _STAY]
    kept = sum(one.size for one in choice.kept)
    done = "would be removed" if dry_run else "removed"
    text = f"{counted(len(gone), 'session')} {done}, {size_text(sum(one.size for one in gone))}"
    if stay:
        text += f"; {len(stay)} that should go {'stays' if len(stay) == 1 else 'stay'}"
    return f"{text}; {counted(len(choice.kept), 'session')} kept, {size_text(kept)}"


def _answer(choice: Choice, told: list[Cleaned], *, dry_run: bool) -> Cleanup:
    from nono_trio.cli.audit.cleanup_answer import Cleanup

    kept_size = sum(one.size for one in choice.kept)
    return Cleanup(dry_run=dry_run, sessions=told, kept=len(choice.kept), kept_size=kept_size)
