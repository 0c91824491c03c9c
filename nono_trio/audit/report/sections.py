"""The sections of one session on the page.

Rules of this file: it only writes down what session_report.py says; a text of the log goes through
`code` or `cut` (tables.py), so it is bounded, and through `element`, so it is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.report.attempt_tables import (
    credentials,
    denied,
    failed,
    files,
    hosts_by_bytes,
    hosts_by_decision,
    programs,
)
from nono_trio.audit.report.chart import chart
from nono_trio.audit.report.markup import Html, element, joined
from nono_trio.audit.report.policy_words import policy_parts
from nono_trio.audit.report.tables import Heading, Row, badge, code, cut, facts, number_tiles, table
from nono_trio.audit.report.words import (
    GOOD,
    clock,
    duration,
    exit_text,
    fault_place,
    in_short,
    moment,
    proof_rows,
    quoted,
    sum_command,
    verdict_text,
    when,
)
from nono_trio.core.log.shown_text import command_text, counted, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nono_trio.audit.report.policy_words import PolicyPart
    from nono_trio.audit.report.session_report import (
        SessionReport,
    )
    from nono_trio.audit.verify.verdict import Verdict

OPEN_ROWS: Final = 12  # a longer list of records is folded
OUTCOMES: Final = {
    "denied": "bad",
    "failed": "warn",
    "allowed": "good",
    "file": "bad",
    "log": "plain",
}
VERDICT_KINDS: Final[dict[Verdict, str]] = {
    "verified": "good",
    "open": "plain",
    "crashed": "warn",
    "unreadable": "warn",
    "tampered": "bad",
    "missing": "bad",
}


class Sections:
    """The sections of one session; `name` makes ids unique, `level` is that of their headings,
    `root` is the directory of the sessions that are found by their ids, `command` returns a command
    as it works where the report is made."""

    def __init__(
        self,
        report: SessionReport,
        name: str,
        level: int,
        root: Path,
        command: Callable[[str], str],
    ) -> None:
        self._report = report
        self._name = name
        self._level = level
        self._root = root
        self._command = command
        self._made = [*self._parts()]

    def all(self) -> Html:
        """Every section, in order."""
        return joined([self.summary(), *(self._section(*one) for one in self._made)])

    def summary(self) -> Html:
        """The verdict, a few sentences, and the numbers."""
        report = self._report
        attempts, story = report.story.attempts, report.story
        numbers = [
            ("Denied", f"{attempts.denied:,}", "bad" if attempts.denied else "plain"),
            ("Failed", f"{attempts.failed:,}", "warn" if attempts.failed else "plain"),
            ("Allowed", f"{attempts.allowed:,}", "plain"),
            ("Files not granted", f"{len(report.files) + report.cut.files:,}", "plain"),
            ("Came in", size_text(story.bytes_down), "plain"),
            ("Went out", size_text(story.bytes_up), "plain"),
        ]
        unbound = Html("")
        if report.status in ("running", "crashed"):
            unbound = element(
                "p", "The session is not sealed: its numbers are not bound yet.", class_="note"
            )
        return joined(
            [
                self._verdict(),
                element("p", " ".join(in_short(report)), class_="in-short"),
                number_tiles(numbers),
                unbound,
            ]
        )

    def _verdict(self) -> Html:
        answer = self._report.answer
        verdict = answer.verdict
        parts = [badge(verdict, VERDICT_KINDS.get(verdict, "plain")), " ", verdict_text(answer)]
        if answer.first_bad is not None:
            bad = answer.first_bad
            parts += [
                element("strong", f" {bad.failure}"),
                f" ({fault_place(answer)}): expected ",
                code(bad.expected),
                ", got ",
                code(bad.got),
                ".",
            ]
        kind = "verdict" if verdict in GOOD else f"alert {VERDICT_KINDS.get(verdict, 'warn')}"
        return element("p", joined(parts), class_=kind)

    def _section(self, anchor: str, title: str, content: Html) -> Html:
        heading = element(f"h{self._level}", title)
        return element("section", heading, content, id=f"{self._name}-{anchor}")

    def anchors(self) -> Iterator[tuple[str, str]]:
        """The address in the page and the title of each section."""
        for anchor, title, _ in self._made:
            yield f"#{self._name}-{anchor}", title

    def _parts(self) -> Iterator[tuple[str, str, Html]]:
        report = self._report
        yield "ran", "What ran", self._what_ran()
        yield "timeline", "Timeline", joined([chart(self._name, report.timeline), self._records()])
        yield "denied", "Denied attempts", denied(report)
        if report.failed:
            yield "failed", "Failed attempts", failed(report)
        yield "hosts", "Hosts", joined([hosts_by_bytes(report), hosts_by_decision(report)])
        yield "files", "Files not granted", files(report)
        yield "programs", "Programs", programs(report)
        yield "credentials", "Credentials", credentials(report)
        yield "policy", "Policy", self._policy()
        yield "proof", "Proof", self._proof()

    # -- what ran ---------------------------------------------------------------------------------

    def _what_ran(self) -> Html:
        return facts(self._run_rows())

    def _run_rows(self) -> Iterator[tuple[str, str]]:
        report = self._report
        stored, facts_ = report.stored, report.stored.facts
        yield "command", code(command_text(report.command) or "not bound yet")
        if stored.name:
            yield "name", code(stored.name)
        yield "session", code(stored.session_id)
        yield "started", when(report.started)
        yield "ended", when(report.ended)
        if report.ended is None and report.last_ms is not None:
            yield "last record", when(moment(report.last_ms))
        yield "duration", duration(report)
        yield "exit code", exit_text(report)
        totals = stored.totals
        if totals is not None and (identity := totals.executable_identity) is not None:
            yield "program", code(identity.resolved_path)
            yield "its SHA-256", code(identity.sha256)
        if isinstance(facts_.working_directory, str):
            yield "directory", code(facts_.working_directory)
        if isinstance(facts_.isolation, str):
            yield "isolation", facts_.isolation
        if stored.policy is not None:
            origin = stored.policy.origin
            yield "nono-trio", origin.nono_trio
            yield (
                "Python, nono-py",
                f"{origin.python or 'not recorded'}, {origin.nono_py or 'not recorded'}",
            )
            if origin.user:
                yield "user and machine", f"{origin.user}@{origin.host}, {origin.system}"
        yield "records", f"{report.story.events:,}"
        if facts_.lost_total:
            yield "lost", counted(int(facts_.lost_total), "event")

    # -- timeline ---------------------------------------------------------------------------------

    def _records(self) -> Html:
        report = self._report
        begin = report.timeline.begin
        rows = [
            Row(
                [
                    clock(one.unix_ms, with_day=False),
                    badge(one.outcome, OUTCOMES[one.outcome]),
                    code(one.target) if one.target else "",
                    cut(one.detail),
                    joined(map(code, one.programs), ", "),
                ],
                offset=max(0, one.unix_ms - begin),
            )
            for one in report.records
        ]
        note = ""
        if report.cut.records:
            note = (
                "Listed are the first and the last records of either kind (allowed; all others)."
                f" {counted(report.cut.records, 'record')} between them"
                " count above and are not in this list."
            )
        headings = [
            Heading("Time", kind="narrow"),
            Heading("Outcome", kind="narrow"),
            Heading("Host or file", kind="wide"),
            Heading("What", kind="wide"),
            Heading("Program", kind="wide"),
        ]
        drawn = table("Records, in the order of the log", headings, rows, note=note)
        summary = element("summary", f"Records ({len(rows):,})")
        return element("details", summary, drawn, class_="records", open=len(rows) <= OPEN_ROWS)

    # -- policy and proof -------------------------------------------------------------------------

    def _policy(self) -> Html:
        policy = self._report.stored.policy
        if policy is None:
            return element("p", "No policy is bound by this log.")
        cage = [
            element(f"h{self._level + 1}", "Cage"),
            element("ul", joined(element("li", cut(line)) for line in policy.enforcement)),
        ]
        return joined([*(self._policy_part(part) for part in policy_parts(policy)), *cage])

    def _policy_part(self, part: PolicyPart) -> Html:
        content = [element(f"h{self._level + 1}", part.title)]
        content += [element("p", cut(sentence)) for sentence in part.sentences]
        if part.entries:
            rows = [Row([one.meaning, code(one.entry), cut(one.source)]) for one in part.entries]
            headings = [Heading("Rule"), Heading("Entry", kind="wide"), Heading("From")]
            content.append(table(f"{part.title}: entries", headings, rows, part.left_out))
        return joined(content)

    def _proof(self) -> Html:
        answer = self._report.answer
        rows: list[tuple[str, str]] = [
            ("verdict", badge(answer.verdict, VERDICT_KINDS.get(answer.verdict, "plain")))
        ]
        if answer.first_bad is not None:
            bad = answer.first_bad
            rows += [
                ("class", bad.failure),
                ("where", fault_place(answer)),
                ("expected", code(bad.expected)),
                ("got", code(bad.got)),
            ]
        rows += [(label, code(value) if len(value) >= 64 and " " not in value else value)
                 for label, value in proof_rows(answer)]  # fmt: skip
        rows += [("note", note) for note in answer.notes]
        content = [facts(rows), element(f"h{self._level + 1}", "How to check it by hand")]
        content.append(element("ol", joined(self._steps())))
        return joined(content)

    def _steps(self) -> Iterator[Html]:
        report = self._report
        name = report.stored.session_id
        if report.stored.directory.parent != self._root:
            name = quoted(str(report.stored.directory))
        if report.answer.rules == "nono":
            name = f"--upstream {name}"
        yield _step(
            "Ask nono-trio again. It reads the files anew and trusts nothing on this page:",
            self._command(f"nono-trio audit verify {name}"),
        )
        if report.answer.attestation.present:
            yield _step(
                "Compare the signatures with a key that you got elsewhere:",
                self._command(f"nono-trio audit verify {name} --public-key-file audit-key.pem"),
            )
        if report.sums:
            yield _step(
                "Compare the files with those that this report was made of:", *sum_command(report)
            )
        yield element(
            "li",
            "Compare chain head and Merkle root above with those that you kept elsewhere. What each"
            " file binds, and which commands of other tools check it, is in docs/proof.md of"
            " nono-trio.",
        )


def _step(sentence: str, *lines: str) -> Html:
    return element("li", sentence, element("pre", element("code", joined(lines, Html("\n")))))


def session_links(sections: Sequence[tuple[str, str]]) -> Html:
    """The table of contents."""
    links = joined(element("li", element("a", title, href=address)) for address, title in sections)
    return element("nav", element("ul", links), aria_label="Sections")
