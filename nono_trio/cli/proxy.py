"""`nono-trio proxy`: the same proxy and log without a child."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nono_trio.cli.flags import given_options, session_options
from nono_trio.cli.live import say
from nono_trio.cli.option_help import GroupedCommand
from nono_trio.cli.shared_flags import option
from nono_trio.cli.stderr import begin_session
from nono_trio.cli.unkept_log import UNKEPT, end_of_log
from nono_trio.config.settle import settle_proxy
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.cli.answers import ReadyLine
    from nono_trio.config.options import SessionOptions
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.tokens.token_endpoint import Route
    from nono_trio.session.trust.proxy_trust import ProxyTrust

_DEFAULT_LISTEN = "127.0.0.1:0"
IN_CLEAR = (
    "--listen beyond loopback: the token travels in clear, anyone who sees the traffic can use"
    " the proxy as you; keep it on a network of your own, or in a tunnel"
)


@click.command(
    cls=GroupedCommand,
    epilog="Example: nono-trio proxy --listen 127.0.0.1:8080 --allow-domain example.com",
)
@option("--listen", default=_DEFAULT_LISTEN, show_default=True, metavar="ADDR:PORT",
        help="Listen at this address; port 0 for any free one.")  # fmt: skip
@option(
    "--ready-file",
    metavar="F",
    help="Write the line of stdout to a file as well, readable by you alone, until the end.",
)
@option("--follow", is_flag=True, help="Print each decision on stderr as it is recorded.")
@session_options
def proxy(listen: str, ready_file: str | None, follow: bool, **given: Any) -> None:  # noqa: ANN401  (click passes any)
    """Run the filtering, auditing proxy alone: a sidecar, a container's entry, a benchmark.

    Prints one JSON line on stdout when it is ready: port, token, proxy_url, session_id,
    session_dir, ca_file if hosts are intercepted (clients must trust it), and credentials with the
    stand-in of each --credential by its name, and routes with the URL of each --credential-route.
    SIGTERM or SIGINT: stop accepting, grace, drain, seal, exit 0.
    """
    from nono_trio.session.trio_import import import_trio

    import_trio()
    from nono_trio.cli.follow import FollowPrinter
    from nono_trio.cli.ready_file import ReadyFile
    from nono_trio.session.cage_launch import Listeners
    from nono_trio.session.ports import listen as open_listener
    from nono_trio.session.prepare import build_policy
    from nono_trio.session.run import run_proxy
    from nono_trio.session.run_resources import new_token

    address, port = _parse_listen(listen)
    announced = None if ready_file is None else ReadyFile(ready_file)
    options, notes = settle_proxy(given_options(given))
    policy = build_policy(options.network)
    for warning in _warnings(options, notes, address, intercepts=policy.intercepts_any):
        say(f"warning: {warning}")
    credentials = _open_credentials(options, policy)
    trust = _open_trust(options) if policy.intercepts_any else None
    listener = open_listener(port, address)
    token = new_token()

    def ready(record: SessionRecord) -> None:
        bound = listener.getsockname()[1]
        line = _ready_line(record, token, address, bound)
        if trust is not None:
            line.ca_file = trust.ca_file
        if credentials is not None:
            line.credentials = _stand_ins(credentials)
            line.routes = _routes(credentials, f"{_reached_at(address)}:{bound}")
        text = json.dumps(msgspec.to_builtins(line))
        if announced is not None:
            announced.write(text)
        _print_ready(text)

    remove_unkept = end_of_log(options.audit)
    begin_session()
    observers = [FollowPrinter().observe] if follow else []
    with ExitStack() as last:  # in the other order, also after one that fails
        if announced is not None:
            last.callback(announced.remove)
        if credentials is not None:
            last.callback(credentials.close)
        if trust is not None:
            last.callback(trust.close)
        finished = run_proxy(
            options, policy, token, listener, ready, Listeners(warn=say, observe=observers),
            None if trust is None else trust.session, credentials,
        )  # fmt: skip
    remove_unkept(finished)
    if finished.outcome.error is not None:
        raise finished.outcome.error


def _warnings(
    options: SessionOptions, notes: Iterable[str], address: str, *, intercepts: bool
) -> Iterator[str]:
    import ipaddress

    from nono_trio.core.net.address import is_loopback
    from nono_trio.session.trust.unused_files import unused_files

    yield from notes
    if not options.audit.keeps_log:
        yield UNKEPT
    if not is_loopback(ipaddress.ip_address(address)):
        yield IN_CLEAR
    yield from unused_files(options.network, intercepts=intercepts)


def _ready_line(record: SessionRecord, token: str, address: str, port: int) -> ReadyLine:
    from nono_trio.cli.answers import ReadyLine
    from nono_trio.session.environment import proxy_url

    return ReadyLine(
        port=port,
        token=token,
        proxy_url=proxy_url(token, port, _reached_at(address)),
        session_id=record.session_id,
        session_dir=str(record.directory),
    )


def _print_ready(text: str) -> None:
    try:
        click.echo(text)
    except OSError as error:
        raise UsageError(
            f"the ready line can't be written: {error.strerror or error}",
            hint="stdout has to be open: the line has the port and the token",
        ) from error


def _open_trust(options: SessionOptions) -> ProxyTrust:
    from nono_trio.session.core_dumps import forbid_core_dumps
    from nono_trio.session.trust.proxy_trust import open_proxy_trust
    from nono_trio.startup import caller_environment

    forbid_core_dumps()  # before there is a key
    trust = open_proxy_trust(options, caller_environment())
    for note in trust.session.roots.notes:
        say(f"warning: {note}")
    return trust


def _open_credentials(options: SessionOptions, policy: Policy) -> SessionCredentials | None:
    if not options.network.credentials:
        return None
    from nono_trio.session.core_dumps import forbid_core_dumps
    from nono_trio.session.credentials.table import open_credentials
    from nono_trio.startup import caller_environment

    forbid_core_dumps()  # before there is a secret
    environment = caller_environment()

    def route() -> Route:
        from nono_trio.session.trust.token_route import token_route

        return token_route(options.network, policy, environment)

    credentials = open_credentials(options.network.credentials, environment, route=route)
    for warning in credentials.warnings:
        say(f"warning: {warning}")
    for one in options.network.credentials:
        if one.files:
            say(f"warning: credential {one.name}: a proxy alone shows no files to its clients")
    return credentials


def _stand_ins(credentials: SessionCredentials) -> dict[str, str | dict[str, str]]:
    """Return the stand-ins for clients, by the names of their credentials; those of AWS keys by
    their variables."""
    return {
        one.credential.name: {name: value.decode() for name, value in one.values().items()}
        if one.credential.kind == "sigv4"
        else one.stand_in.decode()
        for one in credentials.held
    }


def _routes(credentials: SessionCredentials, listener: str) -> dict[str, str] | msgspec.UnsetType:
    """Return the base URLs of the routes; UNSET, which the line leaves out, if there are none."""
    from nono_trio.session.credentials.routes import route_urls

    return route_urls([one.credential for one in credentials.held], listener) or msgspec.UNSET


def _reached_at(address: str) -> str:
    """The host of the URL: loopback for a listener on every address, which is no place to go to."""
    import ipaddress

    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        parsed = ipaddress.ip_address("127.0.0.1" if parsed.version == 4 else "::1")
    return f"[{parsed}]" if parsed.version == 6 else str(parsed)


def _parse_listen(text: str) -> tuple[str, int]:
    """Split ADDR:PORT; the address must be a literal, so that nothing is resolved here."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not colon or not _is_port(port) or not _is_address(address):
        raise UsageError(
            f"--listen: expected ADDR:PORT, got {text!r}", hint="for example 127.0.0.1:8080"
        )
    return address, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 65_535


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
