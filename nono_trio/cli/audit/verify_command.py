"""`nono-trio audit verify`: its options, and the order of what it prints. The work is in verify.py,
how it looks in render.py."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nono_trio.audit import store
from nono_trio.audit.verify.worker_process import early_workers
from nono_trio.cli.audit.public_key import public_key_option, read_public_keys
from nono_trio.cli.ending import ending_at_sigterm
from nono_trio.cli.json_output import print_json
from nono_trio.cli.parameters import PATH, WholeNumber
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_location,
    complete_sessions,
    json_option,
)
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import counted
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import JSON_SCHEMA, LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.proof.public_keys import PublicKeys

MAX_JOBS = 256


@click.command(
    short_help="Prove that a session's log is whole.",
    epilog="Example: nono-trio audit verify latest",
)
@click.argument(
    "targets",
    nargs=-1,
    metavar="[SESSION|DIR|ARCHIVE|FILE|URL]...",
    shell_complete=complete_sessions,
)
@click.option("--all", "every", is_flag=True, help="Verify every session there is.")
@click.option(
    "--quick",
    is_flag=True,
    help="Compare checksums only: finds accidents, proves nothing, says `undamaged`.",
)
@click.option(
    "--jobs",
    type=WholeNumber(1, MAX_JOBS),
    metavar="N",
    help="Verify in that many processes (default: one; for a long log as many as there are CPUs, up"
    " to 4).",
)
@click.option(
    "--upstream",
    is_flag=True,
    help="Judge logs that bind no policy too, by upstream nono's weaker rules.",
)
@click.option(
    "--since",
    type=PATH,
    metavar="FILE",
    help="Hash only what came after the last checkpoint in FILE, an earlier copy of the session's"
    " checkpoints.ndjson; says `consistent`.",
)
@public_key_option
@json_option
@audit_dir_option
def verify(
    targets: tuple[str, ...], every: bool, quick: bool, jobs: int | None, upstream: bool,
    since: str | None, public_key_file: str | None, as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Prove that a session's log is whole: hashes, chain, checkpoints, seal and ledger.

    Verdict and exit code: verified 0; tampered 1; missing (the ledger knows it) 1; unreadable 2;
    open (still running) 5; crashed (never sealed) 6; undamaged (--quick) 0;
    consistent (--since) 0. Of several sessions the worst decides. A session of upstream nono needs
    --upstream; a log file without its session is never `verified`; an archive (`audit
    export-session`) is judged by the ledger's line and the keys in it. --json prints one object a
    line, also for errors, and one without a verdict where there is no session.

    A session, a log or a state directory (--audit-dir) may be at s3://, gs:// or az:// (with the
    extra nono-trio[remote]): each session is fetched into a private directory, and judged there.

    Signatures are always checked. With --public-key-file a session that is not signed with that
    key is tampered, and one whose end is not signed (recovered, or the signer failed) is crashed.
    """
    if since is not None:
        if len(targets) != 1 or every or quick or upstream or jobs or public_key_file is not None:
            raise click.UsageError("--since takes one session, and only --json beside it")
        from nono_trio.cli.audit.verify import verify_from_checkpoint

        with Waiting("verifying"):
            answer = verify_from_checkpoint(audit_location(audit_dir), targets[0], Path(since))
        raise SystemExit(_tell(answer, as_json=as_json, several=False).exit_code)
    if every == bool(targets):
        raise click.UsageError("expected sessions, or --all, and not both")
    if quick and public_key_file is not None:
        raise click.UsageError("--quick checks no signature: leave out --public-key-file")
    pinned = None if public_key_file is None else read_public_keys(public_key_file)
    root = audit_location(audit_dir)
    several = every or len(targets) > 1
    size = 0 if quick or several else _log_size(root, targets[0])
    with early_workers(size, jobs), Waiting("verifying") as wait, ending_at_sigterm():
        answers = _answers(root, None if every else targets, quick, jobs, upstream, pinned, wait)
        told = [_tell(answer, as_json=as_json, several=several) for answer in wait.over(answers)]
    if several and not as_json:
        _sum_up(told, root, every=every)
    elif not told:
        print_json({"schema": JSON_SCHEMA, "verdict": None, "session_id": None})
    from nono_trio.audit.verify.verdict import worst

    raise SystemExit(worst(answer.verdict for answer in told))


def _log_size(root: Path | str, target: str) -> int:
    """Return the size of the log of the session that is probably meant; 0 if none is found."""
    for directory in (target, os.path.join(root, target)):
        try:
            return os.stat(os.path.join(directory, store.LOG)).st_size
        except (OSError, ValueError):
            continue
    return 0


def _answers(
    root: Path | str, targets: tuple[str, ...] | None, quick: bool, jobs: int | None,
    upstream: bool, pinned: PublicKeys | None, wait: Waiting,
) -> Iterator[Verification]:  # fmt: skip
    """Return the answers for the targets; with None, those for all sessions."""
    # Late: they take a third of the start, and the workers start meanwhile.
    from nono_trio.audit.verify.many import unreadable_answer
    from nono_trio.cli.audit.verify import verify_all, verify_targets

    judge = partial(verify_all, root) if targets is None else partial(verify_targets, root, targets)
    try:
        return judge(quick=quick, jobs=jobs, upstream=upstream, pinned=pinned, wait=wait)
    except LogUnreadable as error:  # of the root
        return iter([unreadable_answer(str(root), error)])


def _tell(answer: Verification, *, as_json: bool, several: bool) -> Verification:
    from nono_trio.cli.audit.render import verification_hint, verification_lines

    if as_json:
        print_json(answer)
        return answer
    print_verdict(verification_lines(answer, brief=several))
    hint = verification_hint(answer)
    if hint is not None and not several:
        from nono_trio.cli.live import say_hint

        say_hint(hint)
    return answer


def _sum_up(told: list[Verification], root: Path | str, *, every: bool) -> None:
    from collections import Counter

    from nono_trio.cli.audit.verify import removed_sessions
    from nono_trio.cli.live import say

    removed = removed_sessions(root) if every else 0
    if not told and not removed:
        say(f"no session in {root}")
        return
    verdicts = Counter(answer.verdict for answer in told).most_common()
    found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts)
    if removed:
        found += f"{', ' if found else ''}{removed} removed"
    say(f"{counted(len(told), 'session')}: {found}")
