"""`nono-trio audit`: the group of the commands that read logs; each is imported when it is used."""

from __future__ import annotations

from typing import Final

import click

from nono_trio.cli.group import LazyGroup

_HERE: Final = "nono_trio.cli.audit"

# In the order of the alphabet, as click lists commands.
COMMANDS: Final = {
    "check-proof": (
        f"{_HERE}.proofs:check_proof",
        "Check a proof of a record, without its log.",
    ),
    "cleanup": (f"{_HERE}.cleanup:cleanup", "Remove old sessions on purpose."),
    "consistency": (
        f"{_HERE}.proofs:consistency",
        "Prove that a log only grew between two signed checkpoints.",
    ),
    "export": (
        f"{_HERE}.export:export",
        "Write sessions as NDJSON, OCSF, OpenTelemetry or upstream's envelope.",
    ),
    "export-session": (
        f"{_HERE}.archive:export_session",
        "Write one session into an archive that verifies alone.",
    ),
    "forget": (f"{_HERE}.commands:forget", "Remove a session on purpose."),
    "hosts": (f"{_HERE}.hosts:hosts", "List the hosts that sessions tried or talked to."),
    "import": (
        f"{_HERE}.archive:import_session",
        "Import another machine's session from an archive.",
    ),
    "learn": (
        f"{_HERE}.commands:learn",
        "Print a profile that allows what a session was allowed.",
    ),
    "ledger": (f"{_HERE}.ledger:ledger", "Check or mend the ledger of sealed sessions."),
    "list": (f"{_HERE}.commands:list_sessions", "List sessions, newest first."),
    "prove": (f"{_HERE}.proofs:prove", "Write a proof that a record is in a signed log."),
    "recover": (f"{_HERE}.commands:recover", "Seal the sessions of lost supervisors."),
    "report": (f"{_HERE}.report:report", "Write a session, or all, as one HTML page."),
    "search": (f"{_HERE}.search:search", "Find records in all sessions."),
    "ship": (
        f"{_HERE}.ship:ship",
        "Send sessions to an OpenTelemetry endpoint, a file or a command.",
    ),
    "show": (f"{_HERE}.commands:show", "Show what a session did."),
    "tail": (
        f"{_HERE}.commands:tail",
        "Print the last decisions of a session, live ones with -f.",
    ),
    "verify": (f"{_HERE}.verify_command:verify", "Prove that a session's log is whole."),
    "why": (
        f"{_HERE}.why:why",
        "Say what a session's policy said about a host, a URL or a path.",
    ),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def audit() -> None:
    """List, show, follow and verify the audit logs of sessions.

    SESSION is an id, an unambiguous prefix of one, a name, `latest`, or the path of a session
    directory.
    """
