"""The one question that `why` and `audit why` take: about a host, a URL or a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from nono_trio.cli.parameters import PATH, GivenText, OneOf, WholeNumber

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_PORT: Final = 443
DEFAULT_METHOD: Final = "GET"
MCP_METHOD: Final = "POST"  # carries every message of MCP


def question_options(may: str) -> Callable[[Command], Command]:
    """Add the options of a question; `may` is the verb of its help, May or Might."""
    options = (
        click.option(
            "--host",
            type=GivenText("a host"),
            metavar="HOST",
            help=f"{may} this host be reached? A name or an address.",
        ),
        click.option(
            "--port",
            type=WholeNumber(1, 65_535),
            metavar="PORT",
            help=f"At this port  [default: {DEFAULT_PORT}]",
        ),
        click.option(
            "--url",
            type=GivenText("a URL"),
            metavar="URL",
            help=f"{may} this be requested? http:// or https://.",
        ),
        click.option(
            "--method",
            type=GivenText("a method"),
            metavar="METHOD",
            help=f"With this method  [default: {DEFAULT_METHOD}]",
        ),
        click.option(
            "--mcp-tool",
            "tool",
            type=GivenText("a tool"),
            metavar="TOOL",
            help="With a call of this MCP tool, or method:NAME.",
        ),
        click.option(
            "--path", type=PATH, metavar="PATH", help=f"{may} this file or directory be touched?"
        ),
        click.option(
            "--op",
            "operation",
            type=OneOf(["read", "write"]),
            help="Read (and execute), or write  [default: read]",
        ),
    )

    def add(command: Command) -> Command:
        for one in reversed(options):  # the last that is added is the first in the help
            command = one(command)
        return command

    return add


def check_question(
    host: str | None,
    port: int | None,
    url: str | None,
    method: str | None,
    path: str | None,
    operation: str | None,
    tool: str | None = None,
) -> None:
    """Raise click.UsageError unless there is one question, without options of another one."""
    if [host, url, path].count(None) != 2:
        raise click.UsageError("expected one of --host, --url and --path")
    belongs = ((port, host), (method, url), (tool, url), (operation, path))
    if any(one is not None and to is None for one, to in belongs):
        raise click.UsageError(
            "--port belongs to --host, --method and --mcp-tool to --url, --op to --path"
        )


def asked_method(method: str | None, tool: str | None) -> str:
    """Return the method of the request that a question is about."""
    return method or (DEFAULT_METHOD if tool is None else MCP_METHOD)
