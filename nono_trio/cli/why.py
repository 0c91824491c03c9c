"""`nono-trio why`: allowed or denied, by which rule, and which flag would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec.structs import asdict

from nono_trio.cli.flags import given_options, run_options
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.option_help import GroupedCommand
from nono_trio.cli.question import (
    DEFAULT_PORT,
    asked_method,
    check_question,
    question_options,
)
from nono_trio.cli.shared_flags import json_option
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean
from nono_trio.config.settle import settle_run
from nono_trio.errors import JSON_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.explain.answer import Answer

LABEL_WIDTH = 9


@click.command(
    cls=GroupedCommand,
    epilog="Example: nono-trio why --host a.example.com --allow-domain '*.example.com'",
)
@question_options("May")
@json_option
@run_options
def why(
    host: str | None,
    port: int | None,
    url: str | None,
    method: str | None,
    tool: str | None,
    path: str | None,
    operation: Literal["read", "write"] | None,
    as_json: bool,
    **given: Any,  # noqa: ANN401  (click passes any)
) -> None:
    """Say whether a run with these flags may reach a host, a URL or a file, and why.

    Takes every flag of `nono-trio run` and asks what enforces them. Names are not resolved. Exit
    code: 0 for any answer.
    """
    check_question(host, port, url, method, path, operation, tool)
    options = settle_run((), given_options(given))
    if host is not None:
        from nono_trio.explain.why_host import explain_host

        answer = explain_host(options, host, port or DEFAULT_PORT)
    elif url is not None:
        from nono_trio.explain.why_url import explain_url

        answer = explain_url(options, url, asked_method(method, tool), tool)
    else:
        from nono_trio.explain.why import explain_path

        answer = explain_path(options, path or "", operation or "read")
    if not answer.allowed:  # a grant that was skipped is the usual reason for it
        for warning in answer.warnings:
            say(f"warning: {clean(warning)}")
    _tell(answer, as_json=as_json)


def _tell(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        fields = asdict(answer)
        status = "allowed" if fields.pop("allowed") else "denied"
        told = {"schema": JSON_SCHEMA, "status": status, **fields}
        print_json(told)
        return
    print_verdict(_lines(answer))


def _lines(answer: Answer) -> Iterator[str]:
    yield f"{'allowed' if answer.allowed else 'denied':<{LABEL_WIDTH}}{clean(answer.subject)}"
    rows = [("why", answer.reason), ("rule", answer.rule), ("change", answer.hint)]
    rows += [("note", note) for note in answer.notes]
    for label, text in rows:
        if text is not None:
            yield f"  {label:<{LABEL_WIDTH - 2}}{clean(text)}"
