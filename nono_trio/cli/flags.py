"""The options of a session: those of `run`, and the part of them that `proxy` has too.

Rules of this file: the option of a profile's field is made from its declaration
(core/profile/fields.py); only what no profile can say is written out here; each has the group that
`--help` shows it in (option_help.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nono_trio.cli.parameters import (
    CREDENTIAL,
    ENDPOINT,
    MCP_TOOL,
    PATH,
    PROFILE,
    OneOf,
    Seconds,
    WholeNumber,
)
from nono_trio.cli.shared_flags import Command, audit_dir_option, option
from nono_trio.config.options import Given
from nono_trio.core.profile.fields import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nono_trio.core.profile.fields import Field

# The group of a field is its section, where it has no other name.
_GROUPS = {"filesystem": "files", "environment": "start"}

_PROFILE = (
    option("-p", "--profile", type=PROFILE, multiple=True, metavar="NAME|FILE", group="start",
           help="Start from a profile: lists add up, a flag's value beats the profile's, a later"
           " profile's an earlier one's. See `nono-trio profile list`."),
    option("--network-profile", type=PROFILE, metavar="NAME|FILE", group="start",
           help="Take only the network of a profile: minimal, developer, enterprise, ..."),
)  # fmt: skip

_SESSION = (
    option("--name", metavar="NAME", group="audit", help="A name to find the session by."),
    option("--grace", type=Seconds(0, 86_400), default=5.0, show_default=True, metavar="SECONDS",
           group="limits",
           help="Time for the command and for open connections to end by themselves."),
    option("--max-connections", type=WholeNumber(1, 1_000_000), default=None, metavar="N",
           group="limits",
           help="Connections that the proxy serves at a time; one more gets a 503"
           "  [default: 4096, or what the limit of open files has room for]"),
)  # fmt: skip

_AUTHORITIES = (
    option("--tls-ca-cert", type=PATH, metavar="FILE", group="requests",
           help="Sign for intercepted hosts with your certificate authority: its certificates"
           " (PEM, the signing one first); needs --tls-ca-key."),
    option("--tls-ca-key", type=PATH, metavar="FILE", group="requests",
           help="Its key: PEM, unencrypted, readable by you alone (0600), outside the grants."),
    option("--upstream-ca", type=PATH, metavar="FILE", group="requests",
           help="Trust the roots in FILE too when intercepted hosts are connected to."),
)  # fmt: skip

_CREDENTIALS = (
    option("--credential", type=CREDENTIAL, multiple=True,
           metavar="NAME[=SOURCE][@HOST,...]", group="credentials",
           help="Keep a secret outside of the cage: the command gets a stand-in. It is swapped in"
           " requests to the hosts of the credential, and refused in others. NAME is a service"
           " (anthropic, openai, github, ...) or one of your own with SOURCE and HOST. SOURCE is"
           " env://VAR, file://PATH, keyring://SERVICE/USER or cmd://COMMAND LINE."),
    option("--credential-route", multiple=True, metavar="NAME", group="credentials",
           help="Give a credential a base URL on the proxy, for clients that can't be intercepted,"
           " and set the base URL variables of its service."),
)  # fmt: skip

_FILES = (
    option(
        "--allow-cwd",
        is_flag=True,
        group="files",
        help="Read and write below the working directory.",
    ),
    option(
        "--workdir",
        type=PATH,
        metavar="DIR",
        group="files",
        help="Start there instead of the current directory.",
    ),
)

_CAGE = (
    option("--isolation", type=OneOf(["auto", "namespace", "landlock", "seatbelt", "none"]),
           default="auto", show_default=True, group="isolation",
           help="How the network is shut off: auto takes namespaces, and Landlock with seccomp"
           " where they are refused (on macOS Seatbelt, which is untested); `none` is a way out."
           " Recorded."),
    option("--no-sandbox", is_flag=True, group="isolation",
           help="Leave the file system open: recorded."),
    option("--transparent", type=OneOf(["on", "off"]), default=None, group="isolation",
           help="Let programs that know of no proxy reach it all the same (namespaces only)"
           "  [default: on, where the machine has it]"),
    option("--proxy-port", type=WholeNumber(0, 65_535), default=0, metavar="PORT",
           group="isolation",
           help="The proxy's port inside the cage  [default: any]"),
)  # fmt: skip

_ATTRIBUTION = (
    option("--attribution", type=OneOf(["on", "off"]), default="on", show_default=True,
           group="audit",
           help="Find out which program each network record came from."),
)  # fmt: skip

_UNKEPT = (
    option("--no-audit", is_flag=True, group="audit",
           help="Remove the log at the end."),
)  # fmt: skip

_OUTPUT = (
    option("-s", "--silent", is_flag=True, group="output",
           help="Say nothing of our own but errors."),
    option("-v", "--verbose", is_flag=True, group="output", help="Say what the cage is made of."),
    option("--follow", is_flag=True, group="output",
           help="Print each decision on stderr as it is recorded."),
    option("--summary", type=OneOf(["text", "json", "github", "none"]), default="text",
           show_default=True, group="output",
           help="What the end of a run prints: lines, one line of JSON, the Markdown page of"
           " $GITHUB_STEP_SUMMARY, or nothing."),
    option("--summary-file", type=PATH, metavar="FILE", group="output",
           help="Append the summary to FILE  [default: stderr; github: $GITHUB_STEP_SUMMARY]"),
)  # fmt: skip

_JUDGING = (
    option("--fail-on-deny", is_flag=True, group="judging",
           help="Exit 3 when the command succeeded but something was denied: a network attempt, or"
           " (where denied files are seen) a file created outside the grants. A dead host, a"
           " request that comes again with the proxy's password, and hits of --deny-domain,"
           " --deny-endpoint and --deny-mcp-tool don't count."),
    option("--fail-on", type=OneOf(["policy", "all"]), default=None, group="judging",
           help="policy: as --fail-on-deny. all: also for hits of --deny-domain, --deny-endpoint"
           " and --deny-mcp-tool, and for look-ups of files that are not granted."),
    option("--fail-on-path", type=PATH, multiple=True, metavar="PATH", group="judging",
           help="A tripwire: exit 3 when the command succeeded but looked up PATH, which is not"
           " granted (the last part may have *)."),
    option("--observe", is_flag=True, group="judging",
           help="Let through, and record, the hosts that no entry names; `audit learn` makes a"
           " profile of it. Hits of --deny-domain, metadata, loopback and private addresses, other"
           " ports of programs without the proxy and files stay closed."),
    option("--expect-deny", multiple=True, metavar="HOST[:PORT]", group="judging",
           help="A host that is denied and no reason to fail. *.SUFFIX too."),
)  # fmt: skip


def session_options(command: Command) -> Command:
    """Add the profile, network, audit and session options to a command."""
    return _with_options(
        command,
        *_PROFILE,
        *_declared("network"),
        *_CREDENTIALS,
        *_AUTHORITIES,
        audit_dir_option,
        *_declared("audit"),
        *_UNKEPT,
        *_SESSION,
    )


def run_options(command: Command) -> Command:
    """Add every option of `run` to a command."""
    command = _with_options(
        command,
        *_declared("filesystem"),
        *_FILES,
        *_declared("environment"),
        *_CAGE,
        *_declared("network", run_only=True),
        *_declared("limits"),
        *_JUDGING,
        *_ATTRIBUTION,
        *_OUTPUT,
    )
    return session_options(command)


def given_options(values: dict[str, Any]) -> Given:
    """Return the parameters of the running command, and what click knows of their sources.

    Click takes a list from its flags or from the environment; `Given.also` has what the environment
    gives beside flags.
    """
    context = click.get_current_context()
    also = {}
    explicit = set()
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source not in (None, ParameterSource.DEFAULT):
            explicit.add(name)
        is_list = isinstance(parameter, click.Option) and parameter.multiple
        # `--profile` is what a run starts from: the flag's replace the environment's.
        if not is_list or source is not ParameterSource.COMMANDLINE or name == "profile":
            continue
        text = parameter.value_from_envvar(context)
        if text:
            also[name] = parameter.type_cast_value(context, text)
    return Given(values, frozenset(explicit), also)


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    for decorate in reversed(options):
        command = decorate(command)
    return command


def _declared(section: str, *, run_only: bool = False) -> Iterator[Callable[[Command], Command]]:
    """Make the options of a section's fields, in their order."""
    for field in fields_of(section):
        if field.flags and field.run_only is run_only:
            yield _option(field)


def _option(field: Field) -> Callable[[Command], Command]:
    settings: dict[str, Any] = {"help": field.help, "type": _type(field)}
    settings["group"] = field.group or _GROUPS.get(field.section, field.section)
    if field.kind == "switch":
        settings["is_flag"] = True
    if field.merge == "adds_up":
        settings["multiple"] = True
    if field.default is not None:
        settings |= {"default": field.default, "show_default": True}
    if field.metavar is not None:
        settings["metavar"] = field.metavar
    return option(*field.flags, str(field.parameter), **settings)


def _type(field: Field) -> click.ParamType[Any] | None:
    """Return the converter of a field's values; None for plain text, which the policy reads."""
    if field.kind == "path":
        return PATH
    if field.kind in ("allowed_endpoint", "denied_endpoint"):
        return ENDPOINT
    if field.kind in ("allowed_mcp", "denied_mcp"):
        return MCP_TOOL
    if field.kind == "choice":
        return OneOf(field.choices)
    if field.kind == "whole_number":
        return WholeNumber(field.least, field.most)
    if field.kind == "seconds":
        return Seconds(field.least, field.most, min_open=field.above)
    return None
