"""From options to a cage that is ready to start; runs before the event loop is imported.

Everything that can be refused is refused here, before a process or a file of the session exists:
rules, grants, a command that is missing or that the cage could not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.policy.cage_names import no_proxy
from nono_trio.core.policy.network_policy import Policy
from nono_trio.posix.umask import callers_umask
from nono_trio.sandbox.build_plan import (
    cage_files,
    enforcement,
    left_open,
)
from nono_trio.sandbox.launcher.cage_plan import CageGrant, CagePlan, MountOp
from nono_trio.sandbox.network_files import (
    asks_loopback,
    names_warnings,
    network_texts,
    with_network_texts,
)
from nono_trio.session.advice import advice
from nono_trio.session.command_variables import command_variables
from nono_trio.session.core_dumps import callers_core_limit
from nono_trio.session.descriptors import USUAL_CONNECTIONS, max_connections, require_room
from nono_trio.session.environment import held_back_warnings
from nono_trio.session.planned_program import PlannedProgram, plan_program
from nono_trio.session.platforms import preferred_isolation, require_process_control
from nono_trio.session.ports import check_ports, ports_of_cage
from nono_trio.session.resolver_settings import (
    direct_warnings,
    named_hosts,
    own_names,
    system_search,
)
from nono_trio.session.resource_limits import plan_limits
from nono_trio.session.run_resources import make_resources
from nono_trio.session.trust.unused_files import unused_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.ledger_signer import Follower
    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.core.policy.cage_names import OwnNames
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.core.policy.variables import Inherited
    from nono_trio.sandbox.build_plan import CageFiles
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation
    from nono_trio.session.command_variables import CommandVariables
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.resource_limits import PlannedLimits
    from nono_trio.session.run_resources import RunResources
    from nono_trio.session.tokens.token_endpoint import Route

# A supervisor that lives has killed the tree by then; one that hangs never will.
LAUNCHERS_MARGIN = 1.0


class PreparedRun(msgspec.Struct, frozen=True):
    """A run whose every part was accepted; `resources` are to be closed at its end."""

    plan: CagePlan
    files: FilePlan
    policy: Policy
    upstream_proxy: UpstreamProxy | None
    resources: RunResources
    executable: str
    enforcement: list[str]
    landlock_abi: str | None
    warnings: list[str]
    limits: PlannedLimits
    own_names: OwnNames
    inherited: Inherited
    credentials: SessionCredentials | None = None
    signer: Signer | None = None
    followers: Sequence[Follower] = ()
    max_connections: int = USUAL_CONNECTIONS


def build_policy(network: NetworkOptions) -> Policy:
    """Turn host rules into a policy; raises UsageError for a rule that can't be meant."""
    return Policy.build(
        allow=network.allow,
        deny=network.deny,
        resolve=network.resolve,
        block=network.block,
        search=system_search(),
        source=network.source,
        observe=network.observe,
        endpoints=network.endpoints,
        intercept=network.intercept,
        no_intercept=network.no_intercept,
    )


def prepare_run(
    options: RunOptions,
    isolation: Isolation | None = None,
    *,
    dry: bool = False,
    tell: Callable[[str], None] = lambda _text: None,
    accept: Callable[[FilePlan], None] = lambda _files: None,
    credentials: SessionCredentials | None = None,
) -> PreparedRun:
    """Resolve everything; raises UsageError, CommandNotFound or CageFailed.

    `isolation` overrides the options': `auto` begins with the best of this system. `dry`: nothing
    is made that outlives this run, so a kept home is neither made nor taken. `tell` gets a sentence
    for each file that is copied into a new one. `accept` gets the grants before anything is made,
    and may refuse them with a UsageError.
    `credentials` are those of an earlier try: their secrets are not asked for again.
    """
    # Refused here, before anything is made.
    network = options.session.network
    policy = build_policy(network)
    chosen = isolation or preferred_isolation(options)
    require_process_control()
    transparent = _transparent_ports(options, chosen, policy)
    connections = max_connections(options.session.max_connections)
    limits = plan_limits(options.limits, own_users=chosen == "namespace")
    program = plan_program(options, chosen, dry=dry)
    accept(program.files)
    signer, followers = _signing(options, policy, program.files, dry=dry)
    # Made for this run, given back by RunResources.close.
    if credentials is None:
        credentials = _open_credentials(options, policy, program.files, dry=dry)
    own = make_resources(
        options,
        chosen,
        program.files,
        dry=dry,
        tell=tell,
        intercepts=policy.intercepts_any,
        credentials=credentials,
    )
    # The cage from both.
    names = own_names(named_hosts(network), own_hosts_file=chosen == "namespace")
    direct, through_proxy = no_proxy(names, named_hosts(network))
    caged = _cage_files(options, chosen, program, own, names.text, transparent=bool(transparent))
    variables = command_variables(options, program.files, own, caged, direct, dry=dry)
    parts = _Parts(
        options=options,
        isolation=chosen,
        policy=policy,
        transparent=transparent,
        limits=limits,
        program=program,
        own=own,
        caged=caged,
        variables=variables,
        why_unbrokered=_why_unbrokered(options, chosen),
    )
    plan = _make_plan(parts)
    return PreparedRun(
        plan=plan,
        files=program.files,
        policy=policy,
        upstream_proxy=network.upstream_proxy,
        resources=own,
        executable=program.executable,
        enforcement=_enforcement(parts, plan),
        landlock_abi=program.landlock_abi,
        warnings=_warnings(parts, plan, through_proxy),
        limits=limits,
        own_names=names,
        inherited=variables.inherited,
        credentials=credentials,
        signer=signer,
        followers=followers,
        max_connections=connections,
    )


def _signing(
    options: RunOptions, policy: Policy, files: FilePlan, *, dry: bool
) -> tuple[Signer | None, list[Follower]]:
    """Return the signer of the log and who follows its ledger; none of a log that is not signed."""
    if options.session.audit.sign_key is None:
        return None, []
    # Late: cryptography takes 40 ms.
    from nono_trio.session.signing import run_followers, run_signer

    followers = run_followers(options, policy, files)
    return run_signer(options, files, dry=dry), followers


def _open_credentials(
    options: RunOptions, policy: Policy, files: FilePlan, *, dry: bool
) -> SessionCredentials | None:
    """Read the secrets of a run; None without credentials. Raises UsageError.

    `dry`: those alone that are read without running or asking anything.
    """
    credentials = options.session.network.credentials
    if not credentials:
        return None
    if dry:
        credentials = [one for one in credentials if one.is_at_hand]
    from nono_trio.session.credentials.table import open_credentials  # late: few runs have any
    from nono_trio.session.opened_files import OpenedFiles

    opened = OpenedFiles(files, sandbox=options.sandbox)

    def route() -> Route:
        from nono_trio.session.trust.token_route import token_route  # late: few runs fetch tokens

        return token_route(
            options.session.network,
            policy,
            options.environment,
            can_read=opened.reader,
            may_write=opened.may_write,
        )

    return open_credentials(credentials, options.environment, opened, route)


class _Parts(msgspec.Struct, frozen=True):
    """The parts of a run that the plan, its enforcement and the warnings are made of.

    `why_unbrokered` is None if the supervisor can decide system calls of the command.
    """

    options: RunOptions
    isolation: Isolation
    policy: Policy
    transparent: list[int]
    limits: PlannedLimits
    program: PlannedProgram
    own: RunResources
    caged: CageFiles
    variables: CommandVariables
    why_unbrokered: str | None


def _transparent_ports(options: RunOptions, isolation: Isolation, policy: Policy) -> list[int]:
    """Check all ports of a run; return those of the transparent network. Raises UsageError."""
    check_ports(options, isolation, policy)
    transparent = ports_of_cage(options, isolation, policy)
    listeners = len(transparent) + bool(transparent and policy.every_port_networks)
    require_room(len(options.open_ports) + len(options.listen_ports), listeners)
    return transparent


def _make_plan(parts: _Parts) -> CagePlan:
    options, own, caged = parts.options, parts.own, parts.caged
    is_namespace = parts.isolation == "namespace"
    can_broker = parts.isolation in ("namespace", "landlock")
    return CagePlan(
        isolation=parts.isolation,
        library=parts.program.library,
        landlock=options.sandbox,
        grants=caged.grants,
        identities=caged.identities,
        mounts=caged.mounts,
        answers_denied=is_namespace and options.sandbox,
        watched=[*options.judging.directories],
        closed=caged.closed,
        directory=caged.directory,
        executable=parts.program.executable,
        command=[*options.command],
        environment=parts.variables.of_command,
        umask=callers_umask(),
        foreground=own.terminal.is_ours,
        port=own.port,
        open_ports=[*options.open_ports],
        transparent_ports=parts.transparent,
        every_port_networks=[*parts.policy.every_port_networks] if parts.transparent else [],
        asks_loopback=asks_loopback(caged, transparent=bool(parts.transparent)),
        listen_ports=[port for port in options.listen_ports if port not in own.taken_ports],
        brokered=can_broker and parts.why_unbrokered is None,
        limits=parts.limits.per_process,
        temporary=own.temporary,
        stops_whole=own.terminal.exists,
        core_limit=callers_core_limit(),
        deadline_seconds=_deadline(options),
    )


def _enforcement(parts: _Parts, plan: CagePlan) -> list[str]:
    """Sentences on what holds the command."""
    files, trust, abi = parts.program.files, parts.own.trust, parts.program.landlock_abi
    credentials = parts.own.credentials
    sockets = [grant.path for grant in files.sockets] if parts.options.sandbox else []
    return [
        *enforcement(plan, abi, sockets),
        *parts.limits.enforcement,
        *(trust.statements if trust is not None else ()),
        *(credentials.statements if credentials is not None else ()),
        *(parts.own.logins.statements if parts.own.logins is not None else ()),
    ]


def _warnings(parts: _Parts, plan: CagePlan, through_proxy: int) -> list[str]:
    """Sentences for the user; `through_proxy` counts names that programs take to the proxy."""
    options, program, own, variables = parts.options, parts.program, parts.own, parts.variables
    network = options.session.network
    return [
        *options.notes,
        *(program.files.warnings if options.sandbox else ()),  # about grants
        *held_back_warnings(variables.inherited.held_back),
        *(advice(variables.before_home, program.files) if options.sandbox else ()),
        *parts.limits.warnings,
        *left_open(plan, program.landlock_abi, parts.why_unbrokered),
        *direct_warnings(through_proxy),
        *names_warnings(asks_loopback=plan.asks_loopback),
        *own.home.warnings(),
        *own.taken_ports.values(),
        *(own.trust.notes if own.trust is not None else ()),
        *(own.credentials.session.warnings if own.credentials is not None else ()),
        *(own.logins.warnings if own.logins is not None else ()),
        *unused_files(network, intercepts=parts.policy.intercepts_any),
    ]


def _cage_files(
    options: RunOptions,
    isolation: Isolation,
    program: PlannedProgram,
    own: RunResources,
    hosts: str,
    *,
    transparent: bool,
) -> CageFiles:
    """Put the granted files and the run's own together; `hosts` is the text of /etc/hosts."""
    files, memory, denials = program.files, options.limits.memory, own.denials
    caged = cage_files(
        files,
        isolation,
        sandbox=options.sandbox,
        temporary=own.temporary,
        memory=memory,
        home=own.home.path,
    )
    caged.identities.update(own.identities)
    if isolation == "namespace":
        texts = network_texts(hosts, transparent=transparent, granted=files.user_paths)
        caged = with_network_texts(caged, texts)
        caged.mounts.extend(MountOp("bind", path) for path in program.links)
        caged.mounts.extend(own.home.mounts(memory))
        caged.mounts.extend(denials.mounts() if denials is not None else ())
        caged.mounts.extend(own.trust.mounts() if own.trust is not None else ())
        caged.mounts.extend(own.credentials.mounts() if own.credentials is not None else ())
    if denials is not None and options.sandbox:
        caged.grants.append(CageGrant(denials.path, "read", is_file=True))
    if own.trust is not None and options.sandbox:
        caged.grants.extend(own.trust.grants())
    if own.credentials is not None and options.sandbox:
        caged.grants.extend(own.credentials.grants())
    return caged


def _deadline(options: RunOptions) -> float | None:
    """Seconds until the launcher ends the cage: after the supervisor had its time to do it."""
    if options.timeout_seconds is None:
        return None
    return options.timeout_seconds + options.session.grace_seconds + LAUNCHERS_MARGIN


def _why_unbrokered(options: RunOptions, isolation: Isolation) -> str | None:
    """Return why the supervisor can't decide the system calls of this cage; None if it can."""
    if isolation not in ("namespace", "landlock"):
        return None
    if not options.brokered:
        return "another process already handles seccomp notifications"
    from nono_trio.sandbox.broker.seccomp_notify import refused_by

    return refused_by(Path("/proc"))
