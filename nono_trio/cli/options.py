"""The options that `run` and `proxy` share, and how they become session options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nono_trio.audit.store import LATEST, state_root
from nono_trio.cli.parameters import PATH, PROFILE, OneOf, Seconds, WholeNumber
from nono_trio.config.options import AuditOptions, NetworkOptions, SessionOptions
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.config.options import Sources
    from nono_trio.core.log.policy_json import UsedProfile
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy

Command = TypeVar("Command", bound="Callable[..., Any]")

# Bounds of `--audit-queue`: one record at a time still works, a million is a gigabyte.
QUEUE_RANGE = WholeNumber(1, 1_000_000)
PORT_RANGE = WholeNumber(0, 65_535)
SECONDS = Seconds(0, 86_400)
MAX_NAME = 64  # of a session: a column of a table
_NAME_MARKS = "._-"


def environment_twin(flag: str) -> str:
    """Return the environment variable of a long flag: `NONO_TRIO_<FLAG>`."""
    return "NONO_TRIO_" + flag.removeprefix("--").replace("-", "_").upper()


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:  # noqa: ANN401  (click's own settings)
    """Make a click option with its environment twin, shown in the help."""
    flag = next(name for name in names if name.startswith("--")).partition("/")[0]
    settings.setdefault("envvar", environment_twin(flag))
    settings.setdefault("help", None)
    return click.option(*names, **settings)


_PROFILE = (
    option("-p", "--profile", type=PROFILE, multiple=True, metavar="NAME|FILE",
           help="Start from a profile: lists add up, a flag's value beats the profile's, a later"
           " profile's an earlier one's. Repeatable. See `nono-trio profile list`."),
    option("--network-profile", type=PROFILE, metavar="NAME|FILE",
           help="Take only the network of a profile: minimal, developer, enterprise, ..."),
)  # fmt: skip

_NETWORK = (
    option(
        "--allow-domain", "--allow-proxy", "--proxy-allow", "allow_domain", multiple=True,
        metavar="HOST[:PORT]",
        help="Allow a host (ports 80 and 443, or the one given, or :* for any); *.SUFFIX for"
        " every name below it; the name of a group (github, llm_apis, package_registries, ...) for"
        " its hosts; tls://HOST[:PORT] for TLS that may hide its name (ECH) or have none;"
        " tcp://HOST:PORT for whatever is spoken there. Repeatable.",
    ),
    option("--deny-domain", multiple=True, metavar="HOST[:PORT]",
           help="Deny a host; wins over every --allow-domain. Repeatable."),
    option("--resolve", multiple=True, metavar="HOST:PORT:ADDR",
           help="Pin the address of a name, as curl does. Repeatable."),
    option("--upstream-proxy", metavar="URL|env",
           help="Go out through an HTTP proxy: http(s)://[USER@]HOST:PORT, or env for the one that"
           " HTTPS_PROXY and NO_PROXY name. Names are left to it to resolve."),
    option("--upstream-proxy-password", metavar="env://VAR|file://PATH",
           help="The password for the user of --upstream-proxy."),
    option("--upstream-bypass", multiple=True, metavar="HOST|*.SUFFIX",
           help="Reach a host without the upstream proxy. Repeatable."),
    option("--block-net", is_flag=True,
           help="Allow nothing at all; what is asked of the proxy is denied and recorded."),
)  # fmt: skip

_AUDIT = (
    option("--audit-dir", type=PATH, metavar="DIR", envvar="NONO_TRIO_STATE_DIR",
           help="State directory  [default: $XDG_STATE_HOME/nono-trio]"),
    option("--audit-mode", type=OneOf(["strict", "best-effort"]), default="strict",
           show_default=True, help="When the log can't be written: stop, or count the loss."),
    option("--audit-sync", type=OneOf(["always", "interval", "never"]), default="interval",
           show_default=True, help="When a record is on disk before its request goes on: every"
           " batch, within a second, or when the system likes."),
    option("--audit-queue", type=QUEUE_RANGE, default=16_384, show_default=True, metavar="N",
           help="Records that may wait for the writer."),
)  # fmt: skip

_SESSION = (
    option("--name", metavar="NAME", help="A name to find the session by."),
    option("--grace", type=SECONDS, default=5.0, show_default=True, metavar="SECONDS",
           help="Time for the command and for open connections to end by themselves."),
)  # fmt: skip


def session_options(command: Command) -> Command:
    """Add the profile, network, audit and session options to a command."""
    for decorate in reversed((*_PROFILE, *_NETWORK, *_AUDIT, *_SESSION)):
        command = decorate(command)
    return command


def build_session_options(
    given: dict[str, Any],
    *,
    proxy_port: int = 0,
    sources: Sources | None = None,
    profiles: Sequence[UsedProfile] = (),
) -> SessionOptions:
    """Take the shared options out of a command's arguments, a profile's entries included."""
    name = given["name"]
    if name is not None:
        check_name(name)
    return SessionOptions(
        network=NetworkOptions(
            allow=given["allow_domain"],
            deny=given["deny_domain"],
            resolve=given["resolve"],
            block=given["block_net"],
            proxy_port=proxy_port,
            upstream_proxy=_upstream_proxy(given),
            sources=sources or {},
        ),
        audit=AuditOptions(
            state_root=state_root(given["audit_dir"], os.environ),
            mode=given["audit_mode"],
            sync=given["audit_sync"],
            queue=given["audit_queue"],
        ),
        name=name,
        grace_seconds=given["grace"],
        profiles=profiles,
    )


def _upstream_proxy(given: dict[str, Any]) -> UpstreamProxy | None:
    url, reference = given["upstream_proxy"], given["upstream_proxy_password"]
    if url is None:
        for name in ("upstream_proxy_password", "upstream_bypass"):
            if given[name]:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} needs --upstream-proxy", hint="name the proxy as well")
        return None
    from nono_trio.core.policy.upstream_proxy import (  # late: few do
        PASSWORD_FLAG,
        parse_upstream_proxy,
    )

    password = None
    if reference is not None:
        from nono_trio.config.secret import read_secret

        password = read_secret(PASSWORD_FLAG, reference, os.environ)
    return parse_upstream_proxy(url, given["upstream_bypass"], password, os.environ)


def check_name(name: str) -> None:
    """Raise UsageError for a session name that could not be typed back, or is another's."""
    if name == LATEST:
        raise UsageError(
            f"--name: {LATEST} stands for the newest session", hint="give another name"
        )
    if 0 < len(name) <= MAX_NAME and all(c.isalnum() or c in _NAME_MARKS for c in name):
        return
    fitting = "".join(c if c.isalnum() or c in _NAME_MARKS else "-" for c in name)[:MAX_NAME]
    raise UsageError(
        f"--name: expected 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, got"
        f" {name!a}",
        hint=f"--name {fitting}" if fitting else "--name build-7",
    )
