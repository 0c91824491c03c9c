"""From options to a cage that is ready to start; runs before the event loop is imported.

Everything that can be refused is refused here, before a process or a file of the session exists:
rules, grants, a command that is missing or that the cage could not read.
"""

from __future__ import annotations

import errno
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.cage_names import no_proxy
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.variables import inherit
from nono_trio.errors import CageFailed, NonoTrioError, UsageError
from nono_trio.posix.paths import ON_MACOS, home_directory
from nono_trio.posix.umask import callers_umask
from nono_trio.sandbox.build_plan import (
    FIRST_NETWORK_ABI,
    abi_number,
    cage_files,
    enforcement,
    left_open,
    transparent_ports,
)
from nono_trio.sandbox.filesystem.plan import FilePlan, plan_files
from nono_trio.sandbox.launcher.cage_plan import CageGrant, CagePlan, MountOp
from nono_trio.sandbox.launcher.nono_py import library_path, load_library, why_no_landlock
from nono_trio.sandbox.launcher.tempdir import identity_of, make_temporary, remove_temporary
from nono_trio.sandbox.network_files import asks_loopback, names_warnings, own_files, with_own_files
from nono_trio.session.advice import advice
from nono_trio.session.core_dumps import callers_core_limit
from nono_trio.session.denials_file import VARIABLE as DENIALS_VARIABLE
from nono_trio.session.denials_file import open_denials
from nono_trio.session.descriptors import require_room
from nono_trio.session.environment import (
    child_environment,
    held_back_warnings,
    socket_variables,
    terminal_variables,
)
from nono_trio.session.executable import find_executable, require_covered
from nono_trio.session.fixed_places import fixed_place_variables
from nono_trio.session.homes.session_home import RunHome, make_homes_inside, open_home, resolve_home
from nono_trio.session.loading import links_to_show
from nono_trio.session.platforms import preferred_isolation, require_process_control
from nono_trio.session.resolver_settings import (
    direct_warnings,
    named_hosts,
    own_names,
    system_search,
)
from nono_trio.session.resource_limits import plan_limits
from nono_trio.session.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.core.policy.cage_names import OwnNames
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.core.policy.variables import Inherited
    from nono_trio.sandbox.launcher.cage_plan import Isolation
    from nono_trio.session.denials_file import DenialsFile
    from nono_trio.session.resource_limits import PlannedLimits

# In a network of its own every port is free; a random one keeps programs from relying on it.
_PORTS = range(20_000, 60_000)
# A supervisor that lives has killed the tree by then; one that hangs never will.
LAUNCHERS_MARGIN = 1.0


@dataclass
class PreparedRun:
    """A run whose every part was accepted.

    `listener` is the host's, and `temporary` a directory of the session's own, where there is no
    network and no /tmp of the child's own.
    """

    plan: CagePlan
    files: FilePlan
    policy: Policy
    upstream_proxy: UpstreamProxy | None
    token: str
    terminal: Terminal
    executable: str
    enforcement: list[str]
    landlock_abi: str | None
    warnings: list[str]
    listener: socket.socket | None
    listen_ports: dict[int, socket.socket]
    limits: PlannedLimits
    temporary: str | None
    home: RunHome
    own_names: OwnNames
    inherited: Inherited
    denials: DenialsFile | None = None

    def close(self) -> None:
        """Give back what belongs to this run alone."""
        self.home.close()
        self.terminal.close()
        if self.denials is not None:
            self.denials.close()
        for listener in (self.listener, *self.listen_ports.values()):
            if listener is not None:
                listener.close()
        if self.temporary is not None:
            remove_temporary(self.temporary)


def new_token() -> str:
    """32 random bytes as 64 hex digits, new for every session."""
    return secrets.token_hex(32)


def build_policy(network: NetworkOptions) -> Policy:
    """Turn host rules into a policy; raises UsageError for a rule that can't be meant."""
    return Policy.build(
        allow=network.allow,
        deny=network.deny,
        resolve=network.resolve,
        block=network.block,
        search=system_search(),
        source=network.source,
    )


def resolve_files(
    options: RunOptions, isolation: Isolation, library: ModuleType | None = None
) -> FilePlan:
    """Turn file flags and policy groups into grants; raises UsageError as `plan_files`."""
    return plan_files(
        options.files,
        options.session.audit.state_root,
        library or load_library(_library_path()),
        can_cover=isolation == "namespace",
    )


def prepare_run(
    options: RunOptions,
    isolation: Isolation | None = None,
    *,
    dry: bool = False,
    tell: Callable[[str], None] = lambda _text: None,
) -> PreparedRun:
    """Resolve everything; raises UsageError, CommandNotFound or CageFailed.

    `isolation` overrides the options': `auto` begins with the best of this system. `dry`: nothing
    is made that outlives this run, so a kept home is neither made nor taken. `tell` is told at once
    what is copied into a new one.
    """
    network = options.session.network
    policy = build_policy(network)
    chosen = isolation or preferred_isolation(options)
    require_process_control()
    _check_ports(options, chosen, policy)
    transparent = _transparent(options, chosen, policy)
    require_room(len(options.open_ports) + len(options.listen_ports), len(transparent))
    limits = plan_limits(options.limits, own_users=chosen == "namespace")
    library_file = _library_path()
    library = load_library(library_file)
    files = resolve_files(options, chosen, library)
    if not dry and options.sandbox and make_homes_inside(files):
        files = resolve_files(options, chosen, library)  # what is there now can be covered
    executable = find_executable(options.command[0], files.start)
    links: list[str] = []
    if options.sandbox:
        require_covered(options.command[0], executable, files)
        kept_home = home_directory() if options.home.kind == "kept" else None
        links = links_to_show(executable, files, kept_home)
    abi = _landlock_abi(library, options, chosen)
    listener = None if chosen == "namespace" else listen(network.proxy_port)
    port = listener.getsockname()[1] if listener else network.proxy_port or _any_port(options)
    inherited = inherit(options.environment, options.variables)
    terminal = Terminal()
    token = new_token()
    temporary = None
    if options.sandbox and chosen != "namespace":
        temporary = _make_temporary()
    held = {} if temporary is None else {temporary: identity_of(temporary)}
    unguarded = _unguarded(options, chosen)
    if dry:
        home = resolve_home(options, files, chosen, temporary)
    else:
        home = _open_home(options, files, chosen, temporary, tell)
    caged = cage_files(
        files,
        chosen,
        sandbox=options.sandbox,
        temporary=temporary,
        memory=options.limits.memory,
        home=home.path,
    )
    caged.identities.update(held | home.identities)
    names = own_names(named_hosts(network), own_hosts_file=chosen == "namespace")
    if chosen == "namespace":
        texts = own_files(names.text, transparent=bool(transparent), granted=files.user_paths)
        caged = with_own_files(caged, texts)
    direct, through_proxy = no_proxy(names, named_hosts(network))
    granted = {}
    if options.sandbox:
        granted = socket_variables(options.environment, options.variables, files)
    inherited.passed.update(granted)
    variables = child_environment(
        inherited, given=options.set_variables, token=token, port=port, direct=direct
    )
    denials = None
    if not dry:
        root = options.session.audit.state_root
        denials = open_denials(root, files, chosen, sandbox=options.sandbox)
    if denials is not None and options.sandbox:
        caged.grants.append(CageGrant(denials.path, "read", is_file=True))
    mounts = caged.mounts
    if chosen == "namespace":
        mounts = [
            *mounts,
            *(MountOp("bind", path) for path in links),
            *home.mounts(options.limits.memory),
            *(denials.mounts() if denials is not None else ()),
        ]
    plan = CagePlan(
        isolation=chosen,
        library=library_file,
        landlock=options.sandbox,
        grants=caged.grants,
        identities=caged.identities,
        mounts=mounts,
        closed=caged.closed,
        directory=caged.directory,
        executable=executable,
        command=[*options.command],
        environment=home.variables(variables, files)
        | _temporary_variables(options, files, temporary)
        | fixed_place_variables(variables, files, temporary, own_home=bool(home.plan))
        | terminal_variables(
            inherited.passed, [one.path for one in caged.mounts if one.kind == "stream"]
        )
        | granted  # by their own names, wherever the home is
        | ({} if denials is None else {DENIALS_VARIABLE: denials.path})
        | ({DENIALS_VARIABLE: ""} if dry else {}),  # a run has it: its name is shown
        umask=callers_umask(),
        foreground=terminal.is_ours,
        port=port,
        open_ports=[*options.open_ports],
        transparent_ports=transparent,
        asks_loopback=asks_loopback(caged, transparent=bool(transparent)),
        listen_ports=[*options.listen_ports],
        brokered=chosen in ("namespace", "landlock") and unguarded is None,
        limits=limits.per_process,
        temporary=temporary,
        stops_whole=terminal.exists,
        core_limit=callers_core_limit(),
        deadline_seconds=_deadline(options),
    )
    return PreparedRun(
        plan=plan,
        files=files,
        policy=policy,
        upstream_proxy=network.upstream_proxy,
        token=token,
        terminal=terminal,
        executable=executable,
        enforcement=[*enforcement(plan, abi, _socket_paths(options, files)), *limits.enforcement],
        landlock_abi=abi,
        warnings=[
            *options.notes,
            *(files.warnings if options.sandbox else ()),  # about grants, which it has none of
            *held_back_warnings(inherited.held_back),
            *(advice(variables, files) if options.sandbox else ()),
            *limits.warnings,
            *left_open(plan, abi, unguarded),
            *direct_warnings(through_proxy),
            *names_warnings(asks_loopback=plan.asks_loopback),
            *home.warnings(),
        ],
        listener=listener,
        listen_ports=_listeners(options, chosen),
        limits=limits,
        temporary=temporary,
        home=home,
        own_names=names,
        inherited=inherited,
        denials=denials,
    )


def _socket_paths(options: RunOptions, files: FilePlan) -> list[str]:
    return [grant.path for grant in files.sockets] if options.sandbox else []


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


def _deadline(options: RunOptions) -> float | None:
    """When the launcher ends the cage by itself: after what the supervisor does at the timeout."""
    if options.timeout_seconds is None:
        return None
    return options.timeout_seconds + options.session.grace_seconds + LAUNCHERS_MARGIN


def _transparent(options: RunOptions, isolation: Isolation, policy: Policy) -> list[int]:
    """Return the ports of the transparent network, none where there is no such network."""
    if isolation == "namespace":
        return [] if options.transparent is False else transparent_ports(policy.named_ports)
    if options.transparent:
        raise UsageError(
            f"--transparent on needs namespace isolation, got {isolation}",
            hint="without it programs have to know of the proxy (HTTP_PROXY is set)",
        )
    return []


def _unguarded(options: RunOptions, isolation: Isolation) -> str | None:
    """Return why the supervisor can't be asked about the calls of this cage here."""
    if isolation not in ("namespace", "landlock"):
        return None
    if not options.guarded:
        return "system calls are asked about by somebody else"
    from nono_trio.sandbox.broker.seccomp_notify import refused_by

    return refused_by(Path("/proc"))


def _check_ports(options: RunOptions, isolation: Isolation, policy: Policy) -> None:
    """Refuse ports that could not be let through as promised: relayed and recorded."""
    check_contradictions(options, policy)
    if options.open_ports and isolation != "namespace":
        raise UsageError(
            f"--open-port needs namespace isolation, got {isolation}: the command would reach the"
            " port past the audit",
            hint="allow it through the proxy instead, for programs that know of it:"
            f" --allow-domain localhost:{options.open_ports[0]}",
        )
    both = {*options.open_ports} & {*options.listen_ports, options.session.network.proxy_port}
    if both:
        raise UsageError(f"port {min(both)} is asked for twice", hint="give each port one use")


def check_contradictions(options: RunOptions, policy: Policy) -> None:
    """Refuse to open a port of this machine that the same options close."""
    for port in options.open_ports:
        for name in ("127.0.0.1", "localhost", "::1"):
            denial = policy.denial_of(parse_host(name), port)
            if denial is None:
                continue
            network = options.session.network
            closing = network.source("block_net")
            if denial.rule is not None:
                source = network.source("deny_domain", denial.rule)
                closing = f"{source} {denial.rule}" if source.startswith("--") else source
            raise UsageError(
                f"--open-port {port} contradicts {closing}", hint="give one of the two, not both"
            )


def _temporary_variables(
    options: RunOptions, files: FilePlan, temporary: str | None
) -> dict[str, str]:
    """Point programs to a temporary directory that they may use: the caller's, if granted."""
    inherited = options.set_variables.get("TMPDIR") or options.environment.get("TMPDIR")
    if inherited and (not options.sandbox or files.covers(inherited, "write")):
        return {}
    if temporary is None and inherited is None:
        return {}
    return dict.fromkeys(("TMPDIR", "TMP", "TEMP"), temporary or "/tmp")


def listen(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Open a listening socket on the host; raises UsageError when the port can't be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        hint = "choose another port, or 0 for any free one"
        if error.errno == errno.EADDRNOTAVAIL:
            hint = "choose an address of this machine, as 127.0.0.1 is"
        shown = f"[{address}]" if ":" in address else address
        raise UsageError(f"can't listen on {shown}:{port}: {error.strerror}", hint=hint) from error
    return listener


def _library_path() -> str:
    try:
        return library_path()
    except ImportError as error:
        raise CageFailed(str(error), hint="pip install nono-py") from error


def _listeners(options: RunOptions, isolation: Isolation) -> dict[int, socket.socket]:
    """Open the host's side of `--listen-port`; without a network of its own the child does."""
    if isolation != "namespace":
        return {}
    return {port: listen(port) for port in options.listen_ports}


def _any_port(options: RunOptions) -> int:
    taken = {*options.open_ports, *options.listen_ports}
    while (port := _PORTS[secrets.randbelow(len(_PORTS))]) in taken:
        pass
    return port


def _landlock_abi(library: ModuleType, options: RunOptions, isolation: Isolation) -> str | None:
    """Return the kernel's Landlock ABI where the cage rests on it.

    Raises CageFailed when it can't do what is asked of it.
    """
    if ON_MACOS or not (options.sandbox or isolation == "landlock"):
        return None
    try:
        version: str = library.detect_abi().version
    except RuntimeError as error:
        raise CageFailed(
            f"this kernel has no Landlock: {why_no_landlock(error)}",
            hint="`--isolation namespace --no-sandbox` runs without it, every file open (recorded)",
        ) from error
    if isolation == "landlock" and abi_number(version) < FIRST_NETWORK_ABI:
        raise CageFailed(
            f"landlock isolation needs Landlock ABI {FIRST_NETWORK_ABI} (Linux 6.7), got {version}",
            hint="`--isolation none` runs without an isolated network (recorded in the log)",
        )
    return version
