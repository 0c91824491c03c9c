"""`nono-trio audit why`: what a past session's policy said about a host, a URL or a path."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from nono_trio.cli.json_output import print_json
from nono_trio.cli.question import (
    DEFAULT_PORT,
    asked_method,
    check_question,
    question_options,
)
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean
from nono_trio.errors import JSON_SCHEMA, LogUnreadable

if TYPE_CHECKING:
    from nono_trio.audit.read.policy_answer import PolicyAnswer


@click.command(
    short_help="Say what a session's policy said about a host, a URL or a path.",
    epilog="Example: nono-trio audit why latest --host api.example.com",
)
@click.argument("session", shell_complete=complete_sessions)
@question_options("Might")
@json_option
@audit_dir_option
def why(
    session: str, host: str | None, port: int | None, url: str | None, method: str | None,
    tool: str | None, path: str | None,
    operation: Literal["read", "write"] | None, as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Say whether a session might reach a host, request a URL or touch a path, and which line of
    its policy says so. The answer is from the policy that the log binds, not from today's profile.

    Exit code: 0 for any answer; 2 for a session without a bound policy.
    """
    check_question(host, port, url, method, path, operation, tool)
    from nono_trio.audit.read.policy_answer import host_answer, path_answer, url_answer
    from nono_trio.audit.verify import bound_facts

    stored = bound_facts.look(session_directory(audit_root(audit_dir), session))
    if stored.policy is None or stored.fault is not None:
        raise LogUnreadable(
            f"session {stored.session_id} has no policy that its log binds",
            hint=f"nono-trio audit verify {stored.session_id}",
        )
    if host is not None:
        answer = host_answer(stored.policy, host, port or DEFAULT_PORT)
    elif url is not None:
        answer = url_answer(stored.policy, url, asked_method(method, tool), tool)
    else:
        asked = os.path.realpath(path or "")
        answer = path_answer(stored.policy, asked, operation or "read")
    _tell(stored.session_id, answer, as_json=as_json)


def _tell(session_id: str, answer: PolicyAnswer, *, as_json: bool) -> None:
    if as_json:
        fields = asdict(answer)
        status = "allowed" if fields.pop("allowed") else "denied"
        print_json({"schema": JSON_SCHEMA, "session_id": session_id, "status": status, **fields})
        return
    print_verdict([f"{'allowed' if answer.allowed else 'denied':<9}{clean(answer.subject)}"])
    for label, text in (("why", answer.reason), ("line", answer.line), ("note", answer.note)):
        if text is not None:
            print(f"  {label:<7}{clean(text)}")
