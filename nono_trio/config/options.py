"""The options of a session: what the command line gives, and what they settle to.

Rules of this file: a field that has the name of a click parameter gets that parameter's value
(config/settle.py), so a new flag needs a field here and no other line of the config. No type here
is a dataclass: one takes up to half a millisecond of every start.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from nono_trio.core.policy.home_choice import HomeChoice
from nono_trio.core.policy.judging import Judging
from nono_trio.core.policy.variables import VariableRules
from nono_trio.core.profile.fields import QUEUE_RECORDS, flag_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nono_trio.audit.write.recorder import AuditMode, AuditSync
    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.log.policy_json import UsedProfile
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.sandbox.filesystem.plan import FileOptions

IsolationChoice = Literal["auto", "namespace", "landlock", "seatbelt", "none"]

# The source of an entry that no flag gave: by the parameter's name and the entry ("" if
# it has one value), the profile's line and key, or the group.
Sources: TypeAlias = "dict[str, dict[str, str]]"


class Given(msgspec.Struct, frozen=True):
    """The click parameters of a command with what flags and environment gave them.

    `explicit` are the parameters that have more than their default, `also` the entries that the
    environment gives a list beside its flags.
    """

    values: Mapping[str, Any]
    explicit: frozenset[str] = frozenset()
    also: Mapping[str, Sequence[Any]] = MappingProxyType({})


class HostFiles(msgspec.Struct, frozen=True):
    """The CA, certificate and key for connections to one host whose requests are seen: two paths,
    and the source of the key."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class NetworkOptions(msgspec.Struct, frozen=True):
    """Host rules as given, or by a profile (`sources` says so); `proxy_port` 0 lets us choose.

    `upstream_proxy` is what allowed connections go through, if they don't go out directly.
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    resolve: Sequence[str] = ()
    block: bool = False
    proxy_port: int = 0
    upstream_proxy: UpstreamProxy | None = None
    sources: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    observe: bool = False
    intercept: Sequence[str] = ()
    no_intercept: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    tls_ca_cert: str | None = None
    tls_ca_key: str | None = None
    upstream_ca: str | None = None
    host_files: Mapping[str, HostFiles] = MappingProxyType({})
    """Endpoint rules with their action, as in `deny POST https://a.example.com/**`."""
    credentials: Sequence[Credential] = ()
    """The hosts and endpoints that they open are among the other entries."""

    def source(self, name: str, entry: object = "") -> str:
        """Return the source of an entry: its flag, unless a profile or a group gave it."""
        return self.sources.get(name, {}).get(str(entry), flag_of(name))


class AuditOptions(msgspec.Struct, frozen=True):
    """The directory of the log, how it is written, the reference of the key that signs it, and the
    command and the witnesses that get the signed checkpoints of the ledger. Without `keeps_log` the
    log is removed once the session has ended."""

    state_root: Path
    mode: AuditMode = "strict"
    sync: AuditSync = "interval"
    queue: int = QUEUE_RECORDS
    sign_key: str | None = None
    anchor_command: str | None = None
    witnesses: Sequence[str] = ()
    keeps_log: bool = True


class SessionOptions(msgspec.Struct, frozen=True):
    """The options of `run` and `proxy`; `grace_seconds` is for open connections and for the child.
    `max_connections` is None for as many as usual.

    `profiles` are the files that the options come from.
    """

    network: NetworkOptions
    audit: AuditOptions
    name: str | None = None
    grace_seconds: float = 5.0
    max_connections: int | None = None
    profiles: Sequence[UsedProfile] = ()


class Limits(msgspec.Struct, frozen=True):
    """Resource limits of the child; None leaves the caller's own. `memory` is in bytes."""

    memory: int | None = None
    max_open_files: int | None = None
    max_processes: int | None = None


class RunOptions(msgspec.Struct, frozen=True):
    """A whole `run`; `transparent` None takes it where the machine has it. `brokered` is false
    once the machine turned out to have no broker for the system calls of the cage.

    Of `environment`, the caller's, `variables` says what is passed on; `set_variables` goes over
    it. `notes` are warnings about the options themselves, for the user.
    """

    command: Sequence[str]
    session: SessionOptions
    files: FileOptions
    isolation: IsolationChoice = "auto"
    sandbox: bool = True
    transparent: bool | None = None
    brokered: bool = True
    attribution: bool = True
    open_ports: Sequence[int] = ()
    listen_ports: Sequence[int] = ()
    limits: Limits = msgspec.field(default_factory=Limits)
    timeout_seconds: float | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    variables: VariableRules = msgspec.field(default_factory=VariableRules)
    set_variables: dict[str, str] = msgspec.field(default_factory=dict)
    notes: Sequence[str] = ()
    home: HomeChoice = msgspec.field(default_factory=HomeChoice)
    judging: Judging = msgspec.field(default_factory=Judging)
