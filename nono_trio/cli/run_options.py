"""The options of `run`, for every command that starts, shows or explains a cage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nono_trio.cli.options import (
    PORT_RANGE,
    Command,
    build_session_options,
    option,
    session_options,
)
from nono_trio.cli.parameters import PATH, OneOf, Seconds, WholeNumber
from nono_trio.config.options import Limits, RunOptions
from nono_trio.config.resolve import choose
from nono_trio.config.secret import secret_variable
from nono_trio.core.policy.home_choice import FLAG, HomeChoice, parse_home
from nono_trio.core.profile.size import parse_size
from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem.plan import FileOptions
from nono_trio.startup import caller_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.config.resolve import Chosen

_FILES = (
    option(
        "-a", "--allow", multiple=True, type=PATH, metavar="DIR", help="Read and write below DIR."
    ),
    option(
        "-r", "--read", multiple=True, type=PATH, metavar="DIR", help="Read and execute below DIR."
    ),
    option("-w", "--write", multiple=True, type=PATH, metavar="DIR", help="Write below DIR."),
    option(
        "--allow-file", multiple=True, type=PATH, metavar="FILE", help="Read and write one file."
    ),
    option("--read-file", multiple=True, type=PATH, metavar="FILE", help="Read one file."),
    option("--write-file", multiple=True, type=PATH, metavar="FILE", help="Write one file."),
    option(
        "--allow-unix-socket",
        multiple=True,
        type=PATH,
        metavar="PATH|DIR",
        help="Connect to a socket of the host, or to every socket below DIR, where one that is"
        " made anew by its server is found again (below your home or /tmp: those that are there at"
        " the start); no file of DIR is opened. Recorded; what is behind it acts outside of the"
        " cage.",
    ),
    option(
        "--bypass-protection",
        multiple=True,
        type=PATH,
        metavar="PATH",
        help="Lift the protection of a path (secrets, start-up files, our own code and profiles);"
        " grant it as well.",
    ),
    option(
        "--home",
        metavar="kept[=NAME]|private|closed",
        help="The command's home, which only cages see: kept for the next run of this profile in"
        " this directory (or of NAME), private to this one, or none  [default: private, or what the"
        " profile says]",
    ),
    option("--allow-cwd", is_flag=True, help="Read and write below the working directory."),
    option(
        "--workdir", type=PATH, metavar="DIR", help="Start there instead of the current directory."
    ),
)

_ENVIRONMENT = (
    option("--env-allow", multiple=True, metavar="PATTERN",
           help="Pass on variables that look like secrets (*_TOKEN, *_KEY, *PASSWORD*, AWS_*, a URL"
           " with a password, ...) and are held back otherwise: a name, or a beginning with *."
           " Names like LD_PRELOAD or PYTHONPATH never pass. Repeatable."),
    option("--env-deny", multiple=True, metavar="PATTERN",
           help="Hold variables back; of the patterns that fit the longest decides, and deny on a"
           " tie. PATH, HOME, LANG, TERM and the like need their exact name. Repeatable."),
)  # fmt: skip

_CAGE = (
    option("--isolation", type=OneOf(["auto", "namespace", "landlock", "seatbelt", "none"]),
           default="auto", show_default=True,
           help="How the network is shut off: auto takes namespaces, and Landlock with seccomp"
           " where they are refused (on macOS Seatbelt, which is untested); `none` is a way out."
           " Recorded."),
    option("--no-sandbox", is_flag=True, help="Leave the file system open: recorded."),
    option("--transparent", type=OneOf(["on", "off"]), default=None,
           help="Let programs that know of no proxy reach it all the same (namespaces only)"
           "  [default: on, where the machine has it]"),
    option("--proxy-port", type=PORT_RANGE, default=0, metavar="PORT",
           help="The proxy's port inside the cage  [default: any]"),
    option("--open-port", type=WholeNumber(1, 65_535), multiple=True, metavar="PORT",
           help="Let the command reach PORT of the host's loopback; relayed and recorded."),
    option("--listen-port", type=WholeNumber(1, 65_535), multiple=True, metavar="PORT",
           help="Let the host reach PORT of the command; relayed and recorded."),
    option("--memory", metavar="SIZE", help="Memory of the whole cage, like 512M or 2G; of each"
           " process where no cgroup v2 is delegated."),
    option("--max-open-files", type=WholeNumber(16), metavar="N",
           help="Descriptors that each process may have open."),
    option("--max-processes", type=WholeNumber(1), metavar="N",
           help="Processes and threads of the whole cage (default: 4096). Where no cgroup v2 is"
           " delegated: not for root, and without namespaces all of yours."),
    option("--timeout", type=Seconds(0, min_open=True), metavar="SECONDS",
           help="End the whole run after that long (exit code 124)."),
)  # fmt: skip

_OUTPUT = (
    option("-s", "--silent", is_flag=True, help="Say nothing of our own but errors."),
    option("-v", "--verbose", is_flag=True, help="Say what the cage is made of."),
    option("--follow", is_flag=True, help="Print each decision on stderr as it is recorded."),
    option("--fail-on-deny", is_flag=True,
           help="Exit 3 when the command succeeded but a request was denied."),
)  # fmt: skip


def run_options(command: Command) -> Command:
    """Add every option of `run` to a command."""
    for decorate in reversed((*_FILES, *_ENVIRONMENT, *_CAGE, *_OUTPUT)):
        command = decorate(command)
    return session_options(command)


def build_run_options(command: Sequence[str], given: dict[str, Any]) -> RunOptions:
    """Take the options of `run` out of a command's arguments, its profile and its environment.

    Raises UsageError for what can't be meant.
    """
    chosen = choose(given)
    given = chosen.given
    return RunOptions(
        command=command,
        session=build_session_options(
            given,
            proxy_port=given["proxy_port"],
            sources=chosen.sources,
            profiles=chosen.profiles,
        ),
        files=FileOptions(
            allow=given["allow"],
            read=given["read"],
            write=given["write"],
            allow_file=given["allow_file"],
            read_file=given["read_file"],
            write_file=given["write_file"],
            unix_sockets=given["allow_unix_socket"],
            deny=chosen.deny,
            bypass_protection=[*given["bypass_protection"], *chosen.bypass],
            allow_cwd=given["allow_cwd"],
            workdir=given["workdir"],
            profile=chosen.requests,
            configuration=chosen.configuration,
        ),
        isolation=given["isolation"],
        sandbox=not given["no_sandbox"],
        transparent={"on": True, "off": False, None: None}[given["transparent"]],
        open_ports=given["open_port"],
        listen_ports=given["listen_port"],
        limits=Limits(
            memory=_memory(given["memory"]),
            open_files=given["max_open_files"],
            processes=given["max_processes"],
        ),
        timeout_seconds=given["timeout"],
        environment=caller_environment(),
        variables=chosen.variables.without(secret_variable(given["upstream_proxy_password"])),
        set_variables=chosen.set_variables,
        notes=chosen.notes,
        home=_home(chosen),
    )


def _home(chosen: Chosen) -> HomeChoice:
    given = chosen.given["home"]
    if given is None:
        return HomeChoice(profile=chosen.profile, seeds=chosen.seeds)
    source = chosen.sources.get("home", {}).get("", FLAG)
    kind, name = parse_home(given)
    return HomeChoice(kind, name, source, chosen.profile, chosen.seeds)


def _memory(given: str | None) -> int | None:
    try:
        return None if given is None else parse_size(given)
    except UsageError as error:
        raise UsageError(f"--memory: {error.message}", hint=error.hint) from None
