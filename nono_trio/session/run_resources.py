"""The resources of one run: listener, terminal, directories, home, the file of denials.

Rules of this file: nothing is made before the options are checked (prepare.py); `close` gives back
everything, and a home that can't be made takes the temporary directory with it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from nono_trio.errors import CageFailed, NonoTrioError
from nono_trio.sandbox.launcher.tempdir import identity_of, make_temporary, remove_temporary
from nono_trio.session.denials_file import open_denials
from nono_trio.session.homes.session_home import open_home, resolve_home
from nono_trio.session.ports import any_port, host_listeners, listen
from nono_trio.session.terminal import Terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Identity, Isolation
    from nono_trio.session.credentials.delivery import CageCredentials
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.denials_file import DenialsFile
    from nono_trio.session.homes.session_home import RunHome
    from nono_trio.session.tokens.captured_logins import SessionLogins
    from nono_trio.session.trust.cage_trust import CageTrust


class RunResources(msgspec.Struct):
    """The resources that belong to one run alone.

    `listener` is the proxy's on the host, and `temporary` a directory of the session's own, where
    the cage has no network and no /tmp of its own. `port` is the proxy's as the command knows it,
    `listen_ports` the host's side of each --listen-port; `taken_ports` has a warning for each one
    that another process has. `identities` are device and inode of the directories, which must be
    there when the command starts. `trust` is there if hosts are intercepted.
    `credentials` has the stand-ins of a run with credentials, `logins` those of captured tokens.
    """

    listener: socket.socket | None
    listen_ports: dict[int, socket.socket]
    taken_ports: dict[int, str]
    port: int
    terminal: Terminal
    token: str
    temporary: str | None
    identities: dict[str, Identity]
    home: RunHome
    denials: DenialsFile | None
    trust: CageTrust | None = None
    credentials: CageCredentials | None = None
    logins: SessionLogins | None = None

    def close(self) -> None:
        """Give everything back, also after one that fails."""
        with ExitStack() as last:  # in the other order
            if self.temporary is not None:
                last.callback(remove_temporary, self.temporary)
            for listener in (self.listener, *self.listen_ports.values()):
                if listener is not None:
                    last.callback(listener.close)
            if self.trust is not None:
                last.callback(self.trust.close)
            if self.denials is not None:
                last.callback(self.denials.close)
            last.callback(self.terminal.close)
            last.callback(self.home.close)
            if self.logins is not None:
                last.callback(self.logins.close)
            if self.credentials is not None:  # while the home is ours
                last.callback(self.credentials.close)


def make_resources(
    options: RunOptions,
    isolation: Isolation,
    files: FilePlan,
    *,
    dry: bool,
    tell: Callable[[str], None],
    intercepts: bool = False,
    credentials: SessionCredentials | None = None,
) -> RunResources:
    """Make what a run has to itself; raises UsageError or CageFailed.

    `dry`: the home is neither made nor taken. `tell` gets a sentence for each file
    that is copied into a new home. `intercepts`: programs are to trust the session.
    """
    wanted = options.session.network.proxy_port
    listener = None if isolation == "namespace" else listen(wanted)
    port = listener.getsockname()[1] if listener else wanted or any_port(options)
    listen_ports, taken_ports = host_listeners(options, isolation)
    terminal = Terminal()
    temporary, identities = None, {}
    if options.sandbox and isolation != "namespace":
        temporary = _make_temporary()
        identities = {temporary: identity_of(temporary)}
    denials = None
    if dry:
        home = resolve_home(options, files, isolation, temporary)
    else:
        home = _open_home(options, files, isolation, temporary, tell)
        root = options.session.audit.state_root
        denials = open_denials(root, files, isolation, sandbox=options.sandbox)
    own = RunResources(
        listener=listener,
        listen_ports=listen_ports,
        taken_ports=taken_ports,
        port=port,
        terminal=terminal,
        token=new_token(),
        temporary=temporary,
        identities=identities | home.identities,
        home=home,
        denials=denials,
    )
    if intercepts:
        own.trust = _open_trust(options, files, isolation, own)
    if credentials is not None:
        own.credentials = _deliver(options, files, isolation, own, credentials, dry=dry)
    if not dry and any(one.login is not None for one in options.session.network.credentials):
        own.logins = _open_logins(options, files, own)
    return own


def _open_logins(options: RunOptions, files: FilePlan, own: RunResources) -> SessionLogins:
    """Read the tokens that are kept with the home; if that fails, `own` is given back."""
    from nono_trio.session.credentials.access import guard_keyring  # late: few runs have any
    from nono_trio.session.opened_files import OpenedFiles
    from nono_trio.session.tokens.captured_logins import SessionLogins
    from nono_trio.session.tokens.token_keyring import LoginKeyring

    held = own.home.held
    refusal = guard_keyring(OpenedFiles(files, sandbox=options.sandbox), options.environment)
    try:
        return SessionLogins(
            options.session.network.credentials,
            None if held is None else os.path.dirname(held.path),
            LoginKeyring(refusal),
        )
    except OSError as error:
        own.home.take_back()
        own.close()
        raise CageFailed(
            f"the tokens of the home can't be read: {error.strerror or error}",
            hint="--home private keeps none",
        ) from error


def _open_trust(
    options: RunOptions, files: FilePlan, isolation: Isolation, own: RunResources
) -> CageTrust:
    """Make what has programs trust the session; if that fails, `own` is given back."""
    from nono_trio.session.trust.cage_trust import (  # late: certificates take 60 ms to import
        open_cage_trust,
    )

    held = own.home.held
    try:
        return open_cage_trust(options, files, isolation, held.path if held else None)
    except NonoTrioError:
        own.home.take_back()
        own.close()
        raise


def _deliver(
    options: RunOptions,
    files: FilePlan,
    isolation: Isolation,
    own: RunResources,
    credentials: SessionCredentials,
    *,
    dry: bool,
) -> CageCredentials:
    """Make what the command has of credentials; if that fails, `own` is given back."""
    from nono_trio.session.credentials.delivery import (  # late: few runs have any
        check_command,
        check_variables,
        deliver,
    )
    from nono_trio.session.opened_files import OpenedFiles

    try:
        check_variables(credentials)
        check_command(credentials, options.command)
        return deliver(
            credentials,
            OpenedFiles(files, sandbox=options.sandbox),
            own.home,
            options.session.audit.state_root,
            has_view=isolation == "namespace",
            sandbox=options.sandbox,
            dry=dry,
        )
    except NonoTrioError:
        own.home.take_back()
        own.close()
        raise


def new_token() -> str:
    """32 random bytes as 64 hex digits, new for every session."""
    return secrets.token_hex(32)


def _make_temporary() -> str:
    try:
        return make_temporary()
    except OSError as error:
        raise CageFailed(
            f"the command's temporary directory can't be made: {error.strerror or error}",
            hint="set TMPDIR to a directory that you can write",
        ) from error


def _open_home(
    options: RunOptions,
    files: FilePlan,
    isolation: Isolation,
    temporary: str | None,
    tell: Callable[[str], None],
) -> RunHome:
    try:
        return open_home(options, files, isolation, temporary, tell)
    except (OSError, NonoTrioError) as error:
        if temporary is not None:
            remove_temporary(temporary)
        if isinstance(error, NonoTrioError):
            raise
        raise CageFailed(
            f"the command's home can't be made: {error.strerror or error}",
            hint="--home closed runs without one",
        ) from error
