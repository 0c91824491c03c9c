"""Options that several commands share, each once (--json, --audit-dir); environment twins.

Rules of this file: `nono-trio audit` uses it, so it imports neither the loop nor the cage.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nono_trio.audit import store
from nono_trio.cli.option_help import GroupedOption
from nono_trio.cli.parameters import PATH
from nono_trio.errors import NonoTrioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound="Callable[..., Any]")


def environment_twin(flag: str) -> str:
    """Return the environment variable of a long flag: `NONO_TRIO_<FLAG>`."""
    return "NONO_TRIO_" + flag.removeprefix("--").replace("-", "_").upper()


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:  # noqa: ANN401  (click's own settings)
    """Make a click option with its environment twin; `group` is that of its help."""
    flag = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", environment_twin(flag))
    return click.option(*names, cls=GroupedOption, **settings)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
audit_dir_option = option(
    "--audit-dir",
    type=PATH,
    metavar="DIR",
    envvar=store.STATE_VARIABLE,
    group="audit",
    help="State directory  [default: $XDG_STATE_HOME/nono-trio]",
)

no_pager_option = option(
    "--no-pager", is_flag=True, group="output", help="Print long output without a pager."
)


def audit_location(audit_dir: str | None) -> Path | str:
    """As `audit_root`. It also takes the URL of a store and returns that of the sessions there."""
    if audit_dir is not None and "://" in audit_dir:
        from nono_trio.audit.remote import as_path, is_url, require_url

        if is_url(audit_dir):
            path = as_path(audit_dir)
            if path is not None:
                return store.audit_root(path)
            require_url(audit_dir, audit_dir)
            return f"{audit_dir.rstrip('/')}/audit"
    return audit_root(audit_dir)


def audit_root(audit_dir: str | None) -> Path:
    """Return the directory of the sessions below the state directory that was given, or ours."""
    return store.audit_root(store.state_root(audit_dir, os.environ))


def chosen_sessions(location: Path | str, session: str | None) -> Iterable[Path] | None:
    """Return the directory of the session that was chosen; None for every one of a directory.

    Those at a URL are fetched one after another (audit/remote.py), by name.
    """
    if session is not None and "://" in session:
        from nono_trio.audit.remote import SessionsAt, as_path, is_url

        if is_url(session):
            path = as_path(session)
            return SessionsAt(location, session) if path is None else [path]
    if isinstance(location, str):
        from nono_trio.audit.remote import SessionsAt

        return SessionsAt(location, session)
    return None if session is None else [session_directory(location, session)]


def complete_sessions(
    ctx: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return what a shell may complete to the name of a session: ids, `latest`, or files."""
    from click.shell_completion import CompletionItem  # late: for completion only

    if "/" in incomplete or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="file")]
    names = [store.LATEST]
    with suppress(NonoTrioError):
        names += store.session_names(audit_root(ctx.params.get("audit_dir")))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def session_directory(
    root: Path, session: str, hint: str = "give the session's id or directory"
) -> Path:
    """Find a session's directory by id, prefix, name or path; raises UsageError for a file."""
    found = store.find_session(root, session)
    if found.is_dir():
        return found
    raise UsageError(f"expected a session, got the file {found}", hint=hint)
