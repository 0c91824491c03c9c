"""What a profile may say, and how profiles add up.

Rules of this file: the structures are the schema, so a key exists once it stands here; lists add
up, base first, each entry once; what has one value is replaced by whoever comes later; tables of
names (environment.set) are merged name by name. Every entry remembers the file and line it came
from, for whoever has to explain it later.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations at run time)
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Extends: TypeAlias = str | list[str]


class Table(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A table of a profile; every key may be left out."""


class About(Table, frozen=True):
    """`meta`: for people only."""

    name: str | None = None
    description: str | None = None


class Filesystem(Table, frozen=True):
    """`filesystem`: as the flags of the same names; `deny` closes paths inside grants. `home_seed`
    are files of the real home that a new kept home begins with."""

    allow: list[str] = []
    read: list[str] = []
    write: list[str] = []
    allow_file: list[str] = []
    read_file: list[str] = []
    write_file: list[str] = []
    allow_unix_socket: list[str] = []
    deny: list[str] = []
    bypass_protection: list[str] = []
    home: str | None = None
    home_seed: list[str] = []


class Network(Table, frozen=True):
    """`network`: as the flags of the same names; `groups` are names of
    core/policy/host_groups.py."""

    block: bool | None = None
    allow_domain: list[str] = []
    deny_domain: list[str] = []
    groups: list[str] = []
    resolve: list[str] = []
    upstream_proxy: str | None = None
    upstream_proxy_password: str | None = None
    upstream_bypass: list[str] = []
    open_port: list[Port] = []
    listen_port: list[Port] = []


class Environment(Table, frozen=True):
    """`environment`: patterns as --env-allow and --env-deny take them; `set` gives values."""

    allow: list[str] = []
    deny: list[str] = []
    set: dict[str, str] = {}


class Audit(Table, frozen=True):
    """`audit`: as the flags --audit-mode, --audit-sync and --audit-queue."""

    mode: Literal["strict", "best-effort"] | None = None
    sync: Literal["always", "interval", "never"] | None = None
    queue: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class ProfileLimits(Table, frozen=True):
    """`limits`: as the flags; `timeout` in seconds, `memory` a size like 512M."""

    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    memory: str | None = None
    max_processes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_open_files: Annotated[int, msgspec.Meta(ge=16)] | None = None


class Profile(Table, frozen=True):
    """A whole profile, as its file has it or with everything it extends."""

    meta: About = About()
    extends: Extends = []
    filesystem: Filesystem = Filesystem()
    network: Network = Network()
    environment: Environment = Environment()
    audit: Audit = Audit()
    limits: ProfileLimits = ProfileLimits()

    @property
    def bases(self) -> list[str]:
        """What it extends, in order."""
        return [self.extends] if isinstance(self.extends, str) else self.extends


# What belongs to one file alone and is never taken over from a base.
_OWN: Final = ("meta", "extends")


@dataclass(frozen=True)
class Origin:
    """Where an entry stands; `built_in` for a profile that we ship."""

    file: str
    line: int
    built_in: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Sourced:
    """A profile and where its entries come from, by dotted key and entry ("" for single values)."""

    profile: Profile = field(default_factory=Profile)
    origins: Mapping[tuple[str, str], Origin] = field(default_factory=dict)

    def origin(self, key: str, entry: object = "") -> Origin | None:
        """The origin of an entry of a dotted key; None for what nobody gave."""
        return self.origins.get((key, str(entry)))


def merge(base: Sourced, over: Sourced) -> Sourced:
    """Put `over` on `base`; `meta` and `extends` are those of `over`."""
    merged = {
        table.name: _merge_table(
            getattr(base.profile, table.name), getattr(over.profile, table.name)
        )
        for table in msgspec.structs.fields(Profile)
        if table.name not in _OWN
    }
    profile = Profile(meta=over.profile.meta, extends=over.profile.extends, **merged)
    # A list entry that both have stands where the base has it; a single value where `over` has it.
    origins = dict(base.origins)
    for (key, entry), origin in over.origins.items():
        if entry == "" or key == "environment.set":
            origins[key, entry] = origin
        else:
            origins.setdefault((key, entry), origin)
    return Sourced(profile, origins)


def _merge_table(base: Any, over: Any) -> Any:  # noqa: ANN401  (one of the tables, both the same)
    return type(base)(
        **{
            name: _merge_value(getattr(base, name), getattr(over, name))
            for name in base.__struct_fields__
        }
    )


def _merge_value(base: Any, over: Any) -> Any:  # noqa: ANN401  (whatever a table holds)
    if isinstance(base, list):
        return list(dict.fromkeys([*base, *over]))
    if isinstance(base, dict):
        return {**base, **over}
    return base if over is None else over
