"""The tables of one session: attempts, hosts, files, programs, credentials.

Rules of this file: it only writes down what session_report.py says; a text of the log goes through
`code` or `cut` (tables.py), so it is bounded, and through `element`, so it is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.report.markup import Html, element, joined
from nono_trio.audit.report.tables import Heading, Row, code, codes, cut, table
from nono_trio.audit.report.words import clock
from nono_trio.core.log.shown_text import counted, size_text, target_name

if TYPE_CHECKING:
    from nono_trio.audit.report.session_report import HostTotals, RefusedHost, SessionReport
    from nono_trio.audit.report.watcher import RefusedBy

MAX_PORTS: Final = 8
BAR_WIDTH: Final = 100


def denied(report: SessionReport) -> Html:
    """Return what the policy refused: rule, program, and the flag that would allow it."""
    if not report.denied:
        return element("p", "None.")
    rows = [
        Row(
            [
                code(_with_ports(one)),
                f"{one.count:,}",
                joined(
                    [
                        cut(one.reason),
                        *([Html("<br>"), "by ", code(one.line)] if one.line else []),
                    ]
                ),
                _by(one.by),
                _between(one.by),
                codes(one.flags) if one.flags else "no single flag",
            ]
        )
        for one in report.denied
    ]
    headings = [
        Heading("Host", kind="wide"),
        Heading("Attempts", number=True),
        Heading("Rule", kind="wide"),
        Heading("Program", kind="wide"),
        Heading("When (UTC)", kind="narrow"),
        Heading("To allow", kind="wide"),
    ]
    note = "One attempt counts once: its look-up, its connection and its TLS handshake are one."
    if report.story.attempts.repeats:
        note += f" {report.story.attempts.repeats:,} repeats came too fast for a record each."
    return table("What the policy refused", headings, rows, report.cut.denied, note)


def failed(report: SessionReport) -> Html:
    """Return what the policy allowed and the network did not give."""
    rows = [
        Row([code(_with_ports(one)), f"{one.count:,}", cut(one.reason), _by(one.by)])
        for one in report.failed
    ]
    headings = [
        Heading("Host", kind="wide"),
        Heading("Attempts", number=True),
        Heading("Why", kind="wide"),
        Heading("Program", kind="wide"),
    ]
    caption = "Allowed by the policy, not given by the network"
    return table(caption, headings, rows, report.cut.failed)


def hosts_by_bytes(report: SessionReport) -> Html:
    """Return the hosts that bytes went to or came from, the most first."""
    moved = [one for one in report.hosts if one.bytes_moved]
    if not moved:
        return element("p", "No byte went to or came from any host.")
    most = max(one.bytes_moved for one in moved)
    rows = [
        Row(
            [
                code(target_name(one.target, None)),
                _bar(one, most),
                size_text(one.bytes_down),
                size_text(one.bytes_up),
                codes(one.addresses),
            ]
        )
        for one in moved
    ]
    headings = [
        Heading("Host", kind="wide"),
        Heading("Share"),
        Heading("In", number=True),
        Heading("Out", number=True),
        Heading("Addresses", kind="wide"),
    ]
    return table("Hosts by bytes", headings, rows, report.cut.hosts)


def hosts_by_decision(report: SessionReport) -> Html:
    """Return every host with its attempts by outcome, denied ones first."""
    hosts = report.hosts
    if not hosts:
        return Html("")
    ordered = sorted(hosts, key=lambda one: (-one.denied, -one.failed, -one.allowed, one.target))
    rows = [
        Row(
            [
                code(target_name(one.target, None)),
                f"{one.denied:,}",
                f"{one.failed:,}",
                f"{one.allowed:,}",
            ]
        )
        for one in ordered
    ]
    headings = [
        Heading("Host", kind="wide"),
        Heading("Denied", number=True),
        Heading("Failed", number=True),
        Heading("Allowed", number=True),
    ]
    return table("Hosts by decisions", headings, rows, report.cut.hosts)


def files(report: SessionReport) -> Html:
    """Return the paths that were not granted."""
    if not report.files:
        return element("p", "None was seen.")
    rows = [
        Row([code(one.path), one.access, _by(one.by), _between(one.by)]) for one in report.files
    ]
    headings = [
        Heading("Path", kind="wide"),
        Heading("Access", kind="narrow"),
        Heading("Program", kind="wide"),
        Heading("When (UTC)", kind="narrow"),
    ]
    note = "A look-up is seen, and a file that was to be created; both got “no such file”."
    if report.cut.more_files:
        note += " Still others are counted in the log without their paths."
    return table("Paths outside the grants", headings, rows, report.cut.files, note)


def programs(report: SessionReport) -> Html:
    """Return the programs of the network records, those with denials first."""
    if not report.programs:
        return element("p", "No program of a network record was found.")
    rows = [
        Row(
            [
                code(one.name),
                f"{one.denied:,}",
                f"{one.failed:,}",
                f"{one.allowed:,}",
                str(one.processes or "-"),
                code(one.exe) if one.exe else "-",
                code(one.sha256) if one.sha256 else "-",
            ]
        )
        for one in report.programs
    ]
    headings = [
        Heading("Program", kind="wide"),
        Heading("Denied", number=True),
        Heading("Failed", number=True),
        Heading("Allowed", number=True),
        Heading("Processes", number=True),
        Heading("File", kind="wide"),
        Heading("SHA-256"),
    ]
    return table("Programs of the network records", headings, rows, report.cut.programs)


def credentials(report: SessionReport) -> Html:
    """Return the credentials by name."""
    if report.stored.policy is None:
        return element("p", "Not known: no policy is bound by this log.")
    if not report.credentials:
        return element("p", "The session had none.")
    rows = [
        Row(
            [
                code(one.name),
                f"{one.requests:,}",
                one.secret_from if one.is_held else f"{one.secret_from}: there was no secret",
                codes(one.hosts[:MAX_PORTS]),
            ]
        )
        for one in report.credentials
    ]
    headings = [
        Heading("Credential"),
        Heading("Requests", number=True),
        Heading("Secret from"),
        Heading("For"),
    ]
    note = "The command had a stand-in; the proxy put the secret in. No secret is in the log."
    return table("Credentials and the requests that got them", headings, rows, note=note)


def _with_ports(host: RefusedHost) -> str:
    name = target_name(host.target, None)
    if not host.ports or not host.target:
        return name
    more = ",…" if len(host.ports) > MAX_PORTS else ""
    return f"{name}:{','.join(map(str, host.ports[:MAX_PORTS]))}{more}"


def _by(by: RefusedBy | None) -> str:
    if by is None or not by.programs:
        return "not known"
    names = joined(map(code, by.programs), Html("<br>"))
    return joined([names, f" and {counted(by.more, 'record')} of others"]) if by.more else names


def _between(by: RefusedBy | None) -> str:
    if by is None:
        return "not known"
    first, last = clock(by.first_ms, with_day=False), clock(by.last_ms, with_day=False)
    return first if first == last else joined([first, Html("<br>"), f"to {last}"])


def _bar(host: HostTotals, most: int) -> Html:
    """The share of a host as a bar; the numbers beside it say the same."""
    width = max(1, round(host.bytes_moved * BAR_WIDTH / most))
    return element(
        "svg",
        element("rect", x=0, y=0, width=width, height=8),
        viewBox=f"0 0 {BAR_WIDTH} 8",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )
