"""The one question that `why` and `audit why` take."""

from __future__ import annotations

import click


def check_question(
    host: str | None,
    port: int | None,
    url: str | None,
    method: str | None,
    path: str | None,
    operation: str | None,
) -> None:
    """Raise click.UsageError unless there is one question, without options of another one."""
    if [host, url, path].count(None) != 2:
        raise click.UsageError("expected one of --host, --url and --path")
    belongs = ((port, host), (method, url), (operation, path))
    if any(one is not None and to is None for one, to in belongs):
        raise click.UsageError("--port belongs to --host, --method to --url, --op to --path")
