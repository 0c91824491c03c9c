"""Commands of `nono-trio audit`: list, show, follow, recover and remove sessions.

The commands' options and the order of their output; what they do is in recover.py, listing.py,
tail.py and learn.py, how it looks in render.py. Nothing here imports the loop, the proxy or the
sandbox: an auditor's machine need not be able to run a session.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import click

from nono_trio.audit import store
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.pager import paged
from nono_trio.cli.parameters import GivenText, OneOf, WholeNumber
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    no_pager_option,
    session_directory,
)
from nono_trio.cli.style import is_styled, painted_line
from nono_trio.cli.tables import drawing, is_drawn, print_table
from nono_trio.cli.text import clean, decision_line
from nono_trio.cli.waiting import Waiting
from nono_trio.core.log.events import Decision, Network
from nono_trio.errors import JSON_SCHEMA, LogUnreadable, UsageError

if TYPE_CHECKING:
    from nono_trio.audit.read.records import LogRecord

# `audit tail` of a session that crashed while it was followed: the code `audit verify` would give.
CRASHED = 6
# Decisions of either end that `show` prints; the rest is counted.
TIMELINE_ENDS = 10
TAIL_LINES = 10
RECENT = 20

DECISIONS = get_args(Decision)


@click.command(
    short_help="Seal the sessions of lost supervisors.",
    epilog="Example: nono-trio audit recover latest",
)
@click.argument("session", required=False, shell_complete=complete_sessions)
@click.option("--all", "every", is_flag=True, help="Recover every crashed session there is.")
@click.option(
    "--audit-sign-key",
    "sign_key",
    type=GivenText("a key"),
    metavar="KEY",
    help="Sign the end of a session that this key signs, as `run --audit-sign-key` takes it.",
)
@json_option
@audit_dir_option
def recover(
    session: str | None, every: bool, sign_key: str | None, as_json: bool, audit_dir: str | None
) -> None:
    """Seal the session of a supervisor that was lost (kill -9, power), so that it can be verified.

    A torn last record is kept beside the log and cut from it; a record says so. The exit code in
    the log is -1: how the command ended is not known. Exit code: recovered, or sealed before 0;
    tampered (left as it is) 1; unreadable 2; could not be sealed 4; still running 5. Of several
    the worst decides; 1 if --all can't remove what a killed removal left. Recovering again is
    harmless.

    Without --audit-sign-key the end of a signed session is not signed: `audit verify
    --public-key-file` says `crashed` of it, and how far it is proved. It can't be signed later.
    """
    from nono_trio.cli.audit.recover import recover_sessions

    if every == bool(session):
        raise click.UsageError("expected one session, or --all, and not both")
    root = audit_root(audit_dir)
    directory = session_directory(root, session) if session else None
    signer = None
    if sign_key is not None:
        from nono_trio.audit.keys.key_store import open_signer
        from nono_trio.startup import caller_environment

        signer = open_signer(sign_key, root.parent, caller_environment())
    raise SystemExit(recover_sessions(root, directory, as_json=as_json, signer=signer))


@click.command(
    short_help="Remove a session on purpose.",
    epilog="Example: nono-trio audit forget 89139b466fe900c5",
)
@click.argument("session", shell_complete=complete_sessions)
@json_option
@audit_dir_option
def forget(session: str, as_json: bool, audit_dir: str | None) -> None:
    """Remove a session's directory, and say so in the ledger: it is not `missing` afterwards.

    A session that is gone already only gets its line. Exit code: removed 0; running 1; no such
    session 2; the ledger can't be written 4.
    """
    from nono_trio.audit.recovery.forget import forget as forget_session

    root = audit_root(audit_dir)
    known = store.is_session_id(session) and not os.path.isdir(root / session)
    session_id = session if known else store.find_session(root, session).name
    if not known and store.find_session(root, session).parent != root:
        raise UsageError(
            f"expected a session in {root}, got {session}", hint="see `nono-trio audit list`"
        )
    try:
        forget_session(root, session_id)
    except LogUnreadable:
        if not known:
            raise
        session_id = store.find_session(root, session).name
        forget_session(root, session_id)
    if as_json:
        print_json({"schema": JSON_SCHEMA, "session_id": session_id, "removed": True})
    else:
        say(f"session {clean(session_id)} is removed; its line in the ledger says so")


@click.command(
    "list",
    short_help="List sessions, newest first.",
    epilog="Example: nono-trio audit list --today --status crashed",
)
@click.option("--today", is_flag=True, help="Only sessions that started today.")
@click.option("--since", metavar="T", help="Started at T or later: a day, a time, or an age (7d).")
@click.option("--until", metavar="T", help="Started at T or earlier.")
@click.option("--command", metavar="S", help="The command line has S in it, in either case.")
@click.option("--path", metavar="P", help="A granted path lies below P, or P below it.")
@click.option(
    "--status",
    type=OneOf(["running", "crashed", "sealed", "tampered"]),
    help="Only these; `tampered` verifies each session to find out.",
)
@click.option(
    "--recent",
    type=WholeNumber(1),
    default=RECENT,
    show_default=True,
    metavar="N",
    help="Only the newest N of them.",
)
@click.option("--all", "every", is_flag=True, help="All of them.")
@no_pager_option
@json_option
@audit_dir_option
def list_sessions(
    today: bool, since: str | None, until: str | None, every: bool, recent: int, no_pager: bool,
    as_json: bool, audit_dir: str | None,
    **filters: Any,  # noqa: ANN401  (click passes any)
) -> None:  # fmt: skip
    """List sessions, newest first: id, name, start, status, attempts, command.

    Each row follows from the log's first and last records, its policy, its summary and the
    ledger; a session whose files say otherwise is `tampered`. Sealed logs below some 100,000
    records are verified on the way, for two seconds; the others are `not verified`. Counts of a
    session that is not sealed are not bound yet.
    """
    from nono_trio.cli import times
    from nono_trio.cli.audit import listing

    if today and since is not None:
        raise click.UsageError("--today and --since exclude each other")
    begin = times.today() if today else since and times.parse_since(since)
    end = until and times.parse_until(until)
    root = audit_root(audit_dir)
    wanted = listing.ListFilter(
        since=begin or None, until=end or None, recent=None if every else recent, **filters
    )
    with Waiting("reading the sessions"):
        listed = listing.listed(root, wanted)
    rows = listed.rows
    if as_json:
        print_json(listing.answer(listed))
        return
    if not rows:
        is_filtered = any((begin, end, *filters.values()))
        say("no session fits" if is_filtered else f"no session in {root}")
        return
    now = datetime.now(UTC)
    with paged(wanted=not no_pager):
        print_table(listing.LIST_COLUMNS, [listing.list_row(*row, now) for row in rows])
    sys.stdout.flush()
    if listed.more:
        say(f"these are the newest {len(rows)}; `nono-trio audit list --all` has all")
    if any(status != "sealed" for _, status, _ in rows):
        say("the counts of sessions that are not sealed are not bound yet")


@click.command(short_help="Show what a session did.", epilog="Example: nono-trio audit show latest")
@click.argument("session", default=store.LATEST, shell_complete=complete_sessions)
@no_pager_option
@json_option
@audit_dir_option
def show(session: str, no_pager: bool, as_json: bool, audit_dir: str | None) -> None:
    """Show what a session ran, how it was caged, where it went, and when (default: the newest).

    Command, cage, policy and totals are those that the log binds, or the session is shown as
    tampered; what nothing binds yet says so. A sealed log below some 100,000 records is verified;
    of another one, the records between first and last are taken at their word, and it is shown as
    not verified. --json has the whole policy.
    """
    from nono_trio.audit.read.status import status as status_of
    from nono_trio.audit.read.summary import read_story
    from nono_trio.audit.verify import bound_facts
    from nono_trio.audit.verify.on_the_way import ProofOnTheWay
    from nono_trio.cli.audit.render import proof_text, show_lines

    directory = session_directory(audit_root(audit_dir), session)
    with Waiting("reading the log"):
        stored = bound_facts.look(directory, files=True)
        story = read_story(directory, TIMELINE_ENDS)
        stored = ProofOnTheWay(directory.parent).prove(bound_facts.compared(stored, story))
    status = status_of(stored)
    if as_json:
        from nono_trio.cli.audit.show_answer import show_answer

        print_json(show_answer(stored, status, story))
        return
    with paged(wanted=not no_pager):
        if is_drawn():
            from nono_trio.cli.audit.show_panels import show_parts

            drawing().print_panels([*show_parts(stored, status, story)])
            print(f"proof {proof_text(stored)}")
            return
        for line in show_lines(stored, status, story):
            print(line)


@click.command(
    short_help="Print the last decisions of a session, live ones with -f.",
    epilog="Example: nono-trio audit tail -f --decision deny --host '*.example.com'",
)
@click.argument("session", default=store.LATEST, shell_complete=complete_sessions)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on with new decisions until the session ends; wait for it to start.",
)
@click.option(
    "-n",
    "count",
    type=WholeNumber(0),
    default=TAIL_LINES,
    show_default=True,
    metavar="N",
    help="Begin with the last N decisions.",
)
@click.option("--decision", type=OneOf(DECISIONS), help="Only these decisions.")
@click.option(
    "--host",
    type=GivenText("a pattern"),
    metavar="GLOB",
    help="Only HOST[:PORT] that fits, for example '*.example.com'.",
)
@json_option
@audit_dir_option
def tail(
    session: str, follow: bool, count: int, decision: str | None, host: str | None,
    as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Print the last decisions of a session (default: the newest), live ones with -f.

    -f ends with the session: exit code 0, or 6 if it crashed. Ctrl-C: 130. --json prints
    one object a decision, a line each.
    """
    from nono_trio.audit.search.patterns import parse_host_glob
    from nono_trio.audit.search.tail import Filter, Tail, wait_for_session

    root = audit_root(audit_dir)
    if follow:
        path = wait_for_session(root, session, lambda: say(f"waiting for session {clean(session)}"))
    else:
        path = store.find_session(root, session)
    wanted = Filter(decision=decision, host=None if host is None else parse_host_glob(host))
    reader = Tail(path, wanted)
    show_record = _print_record_json if as_json else _print_record
    for record in reader.last(count):
        show_record(record)
    if follow and reader.follow(show_record) == "crashed":
        from nono_trio.audit.recovery.recover_command import recover_command  # late: rare

        say(f"session {clean(path.name)} was never sealed and its supervisor is gone")
        if path.is_dir():
            say_hint(f"`{recover_command(path)}` seals it")
        raise SystemExit(CRASHED)


@click.command(
    short_help="Print a profile that allows what a session was allowed.",
    epilog="Example: nono-trio audit learn latest > agent.toml",
)
@click.argument("session", default=store.LATEST, shell_complete=complete_sessions)
@json_option
@audit_dir_option
def learn(session: str, as_json: bool, audit_dir: str | None) -> None:
    """Print a profile that allows exactly what a session was allowed (default: the newest).

    Denied hosts are in it as comments. It is for a person to review; the log is verified
    first.
    """
    from nono_trio.cli.audit.learn import Lesson

    with Waiting("verifying and reading the log"):
        lesson = Lesson(session_directory(audit_root(audit_dir), session))
    if as_json:
        print_json({"schema": JSON_SCHEMA, **lesson.fields()})
        return
    for line in lesson.lines():
        print(line)


def _print_record(record: LogRecord) -> None:
    if isinstance(record.event, Network):
        line = decision_line(record.event.event)
        print(painted_line(line) if is_styled(sys.stdout) else line, flush=True)


def _print_record_json(record: LogRecord) -> None:
    from nono_trio.cli.answers import TailAnswer

    if isinstance(record.event, Network):
        print_json(TailAnswer(sequence=record.sequence, event=record.event.event))
