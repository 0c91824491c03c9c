"""`nono-trio audit report`: a session, or all, as one HTML page in a file.

The page itself is made in audit/report/. Rules of this file: every session is verified for the
page. The file is made whole or not at all, and only its owner can read it, because it has paths,
hosts and command lines in it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nono_trio import __version__
from nono_trio.audit import ledger
from nono_trio.cli.answers import JudgedSession, ReportAnswer
from nono_trio.cli.audit.public_key import public_key_option, read_public_keys
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.output_file import STDOUT, output_file, output_place, require_output
from nono_trio.cli.parameters import PATH
from nono_trio.cli.pasted import pasteable
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.text import clean, counted
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import LogUnreadable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.report.index import Index
    from nono_trio.audit.report.page import PageParts
    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.proof.public_keys import PublicKeys

MAX_SECTIONS: Final = 50  # of a page of all sessions; a browser shows some megabytes at once


@click.command(
    short_help="Write a session, or all, as one HTML page.",
    epilog="Example: nono-trio audit report latest -o report.html",
)
@click.argument("session", required=False, shell_complete=complete_sessions)
@click.option("--all", "every", is_flag=True, help="All sessions: an index, and the newest whole.")
@click.option("-o", "--output", type=PATH, metavar="F", required=True, help="The file to make.")
@click.option("--force", is_flag=True, help="Replace F if it is there.")
@click.option(
    "--upstream",
    is_flag=True,
    help="Judge logs that bind no policy too, by upstream nono's weaker rules.",
)
@public_key_option
@json_option
@audit_dir_option
def report(
    session: str | None, every: bool, output: str, force: bool, upstream: bool,
    public_key_file: str | None, as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Write what a session did as one HTML file that loads nothing: what ran, its policy, a
    timeline, denied attempts with rule and program, hosts, files, programs, credentials by name,
    and the verdict of `audit verify` with the commands to check it by hand.

    The file is readable by you alone (0600). --all makes an index with totals; the newest 50
    sessions have a section each. Exit code: 0 for any verdict, the page has it.
    """
    if every == bool(session):
        raise click.UsageError("expected one session, or --all, and not both")
    if output == STDOUT:
        raise UsageError("--output: expected a file, got -", hint="as in -o report.html")
    root = audit_root(audit_dir)
    directory = None if session is None else session_directory(root, session).absolute()
    pinned = None if public_key_file is None else read_public_keys(public_key_file)
    require_output(output, root, replace=force)
    with Waiting("verifying and reading") as wait:
        work = _Work(root, pinned, wait, upstream=upstream)
        pieces = work.all() if directory is None else work.one(directory)
        with output_file(output, replace=force) as file:
            file.writelines(piece.encode() for piece in pieces)
            size = file.tell()
    if as_json:
        sessions, sections = work.verdicts()
        place = str(output_place(output))
        print_json(ReportAnswer(file=place, bytes=size, sessions=sessions, sections=sections))
    else:
        say(f"{clean(output)}: {work.told()}")


class _Work:
    """Verifies and reads sessions, one in memory at a time, and makes the page of them."""

    def __init__(
        self, root: Path, pinned: PublicKeys | None, wait: Waiting, *, upstream: bool
    ) -> None:
        from nono_trio.audit.report.page import PageParts

        self._root = root
        self._pinned = pinned
        self._upstream = upstream
        self._wait = wait
        self._parts: PageParts = PageParts(datetime.now(UTC), __version__, root, pasteable)
        self._verdicts: list[JudgedSession] = []
        self._index: Index | None = None
        self._ledger: LedgerReport | None = None

    def one(self, directory: Path) -> Iterator[str]:
        """Return the page of one session."""
        from nono_trio.audit.report.session_report import ONE_SESSION, report_session
        from nono_trio.audit.verify.session import verify

        answer = verify(
            directory,
            upstream=self._upstream,
            pinned=self._pinned,
            watch=self._wait.watch,
            jobs=None,
        )
        self._note(answer)
        self._parts.add(report_session(directory, answer, ONE_SESSION), folded=False)
        return self._parts.page()

    def all(self) -> Iterator[str]:
        """Return the page of all sessions, and of those that only the ledger knows."""
        from nono_trio.audit.report.index import Index
        from nono_trio.cli.audit.verify import removed_sessions, verify_all

        self._index = Index(removed=removed_sessions(self._root))
        self._ledger = ledger.readable_report(self._root)
        answers = verify_all(
            self._root,
            quick=False,
            jobs=None,
            upstream=self._upstream,
            pinned=self._pinned,
            wait=self._wait,
        )
        for answer in answers:
            self._note(answer)
            self._add(answer, self._index)
        return self._parts.page(self._index)

    def _add(self, answer: Verification, index: Index) -> None:
        from nono_trio.audit.report.index import index_row, missing_row
        from nono_trio.audit.report.session_report import ONE_OF_MANY, report_session
        from nono_trio.audit.verify import bound_facts

        directory = Path(answer.path)
        if answer.verdict == "missing" or not directory.is_dir():
            index.add(missing_row(answer))
            return
        address = None
        if index.with_section < MAX_SECTIONS:
            try:
                found = report_session(directory, answer, ONE_OF_MANY, ledger=self._ledger)
                address = self._parts.add(found, folded=True)
            except LogUnreadable:  # one that can't be read must not hide the others
                address = None
        index.add(index_row(bound_facts.look(directory, self._ledger), answer, address))

    def _note(self, answer: Verification) -> None:
        name = answer.session_id or answer.path
        self._verdicts.append(JudgedSession(session_id=name, verdict=answer.verdict))

    def verdicts(self) -> tuple[list[JudgedSession], int]:
        """Return the sessions for --json, and the number of those that the page has whole."""
        index = self._index
        sections = len(self._verdicts) if index is None else index.with_section
        return self._verdicts, sections

    def told(self) -> str:
        """The sentence for a person."""
        if self._index is None:
            one = self._verdicts[0]
            return f"session {clean(one.session_id)} is {one.verdict}"
        verdicts = ", ".join(
            f"{count} {verdict}" for verdict, count in self._index.verdicts.most_common()
        )
        found = f": {verdicts}" if verdicts else ""
        return f"{counted(self._index.sessions, 'session')}{found}"
