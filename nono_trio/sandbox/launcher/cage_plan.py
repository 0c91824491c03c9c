"""The cage plan: the supervisor's whole order to the launcher, as one typed value.

The supervisor makes a CagePlan (sandbox/build_plan.py, session/prepare.py) and sends `encode` of it
as one message, never through argv; the launcher takes it from `decode` and nowhere else. The
annotations are the schema: a new field is declared here once. Rules: `decode` takes exactly the
fields of a type and raises PlanError for an unknown one, a missing one or a value of another type;
an error names fields and types, never a value, which may be a secret.

No `from __future__ import annotations`: `decode` needs the types themselves. No dataclasses: their
import costs a third of the launch.
"""

import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin

Isolation: TypeAlias = Literal["namespace", "landlock", "seatbelt", "none"]
FileAccess: TypeAlias = Literal["read", "write", "readwrite"]
Identity: TypeAlias = tuple[int, int]  # device and inode
MountKind: TypeAlias = Literal[
    "bind",  # the host's `path`, with `writable` and the `identity` that it must have
    "private",  # an empty directory in memory of `size` bytes and `files` files
    "empty_home",  # the same, for the user alone
    "kept_home",  # the host's `source`, which is the cage's home; `work` is a name beside it
    "directory",  # an empty directory, so that it can be named
    "read_only",  # what other mounts show at `path`, made read-only
    "cover",  # what other mounts show at `path`, hidden
    "text",  # a file with `text`
    "host_file",  # the host's file `source`, with its `identity`, read-only
    "stream",  # the file or terminal `source` behind a standard stream
]


class CageGrant(NamedTuple):
    """A path that the cage may use: a directory with what is below it, or a file."""

    path: str
    access: FileAccess
    is_file: bool


class MountOp(NamedTuple):
    """One mount of the view at `path`; `kind` determines which other fields apply."""

    kind: MountKind
    path: str
    source: str = ""
    writable: bool = False
    identity: Identity | None = None
    size: int = 0
    files: int = 0
    text: str = ""
    work: str = ""  # an empty directory, for what the kernel keeps of an overlay


class CagePlan(NamedTuple):
    """A cage and the command in it."""

    isolation: Isolation
    library: str  # nono-py's extension module
    landlock: bool  # the file sandbox
    grants: list[CageGrant]
    identities: dict[str, Identity]  # of the files at granted paths, if there is no view
    mounts: list[MountOp]  # the view; empty without namespaces
    answers_denied: bool  # the view answers look-ups of what is not granted, if it can
    watched: list[str]  # directories that such a view shows, empty, because tripwires lie in them
    closed: list[str]  # paths inside grants, if there is no view to cover them
    directory: str
    executable: str
    command: list[str]
    environment: dict[str, str]
    umask: int
    foreground: bool
    port: int
    open_ports: list[int]
    transparent_ports: list[int]
    every_port_networks: list[str]  # ADDRESS/PREFIX: decided at each port, if the kernel can
    asks_loopback: bool  # resolvers ask 127.0.0.1, because resolv.conf can't be shown
    listen_ports: list[int]
    brokered: bool  # the supervisor's broker decides calls that a filter can't judge
    limits: dict[str, int]
    temporary: str | None
    stops_whole: bool  # the supervisor stops with the child (Ctrl-Z), and the cage with it
    core_limit: int  # the caller's, in bytes; -1 for none
    deadline_seconds: float | None  # from "go" until the launcher ends the cage

    @property
    def allowed(self) -> list[CageGrant]:
        """The grants; every file where the file sandbox is off."""
        return self.grants if self.landlock else [CageGrant("/", "readwrite", is_file=False)]

    def mounted(self, *kinds: MountKind) -> list[MountOp]:
        """The mounts of some kinds, in the plan's order."""
        return [mount for mount in self.mounts if mount.kind in kinds]


class PlanError(Exception):
    """The message is not a cage plan."""


def encode(plan: CagePlan) -> dict[str, object]:
    """Return `plan` as JSON has it."""
    return {name: _encoded(value) for name, value in plan._asdict().items()}


def _encoded(value: Any) -> object:  # noqa: ANN401  (any field's)
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    return value._asdict() if hasattr(value, "_asdict") else value


def decode(message: object) -> CagePlan:
    """Return the plan that `encode` was given; raises PlanError."""
    plan: CagePlan = _decoder(CagePlan)(message, "plan")
    return plan


_Decoder: TypeAlias = Callable[[object, str], Any]


def _decoder(kind: Any) -> _Decoder:  # noqa: ANN401  (a type, or what typing makes of one)
    """Return a function that checks a JSON value and converts it to `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:  # X | None
        return _optional(_decoder(arguments[0]))
    if origin is Literal:
        return _one_of(arguments)
    if origin is list:
        return _list(_decoder(arguments[0]))
    if origin is dict:
        return _mapping(_decoder(arguments[1]))
    if origin is tuple:
        return _tuple([_decoder(one) for one in arguments])
    if hasattr(kind, "_fields"):
        return _record(kind, {name: _decoder(of) for name, of in kind.__annotations__.items()})
    return _number if kind is float else _exactly(kind)


def _expected(expected: str, value: object, where: str) -> PlanError:
    return PlanError(f"{where}: expected {expected}, got {type(value).__name__}")


def _exactly(kind: type) -> _Decoder:
    def decode(value: object, where: str) -> object:
        if type(value) is not kind:  # a bool is an int, but none of these
            raise _expected(kind.__name__, value, where)
        return value

    return decode


def _number(value: object, where: str) -> float:
    if type(value) is not float and type(value) is not int:
        raise _expected("float", value, where)
    return value


def _optional(inner: _Decoder) -> _Decoder:
    return lambda value, where: None if value is None else inner(value, where)


def _one_of(words: tuple[str, ...]) -> _Decoder:
    def decode(value: object, where: str) -> object:
        if type(value) is not str or value not in words:
            raise PlanError(f"{where}: expected one of {', '.join(words)}")
        return value

    return decode


def _list(inner: _Decoder) -> _Decoder:
    def decode(value: object, where: str) -> list[Any]:
        if type(value) is not list:
            raise _expected("list", value, where)
        return [inner(one, where) for one in value]

    return decode


def _tuple(inner: list[_Decoder]) -> _Decoder:
    def decode(value: object, where: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(inner):
            raise _expected(f"list of {len(inner)}", value, where)
        return tuple(check(one, where) for check, one in zip(inner, value, strict=True))

    return decode


def _mapping(inner: _Decoder) -> _Decoder:
    def decode(value: object, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise _expected("dict", value, where)
        return {key: inner(one, where) for key, one in value.items()}

    return decode


def _record(kind: Callable[..., Any], fields: dict[str, _Decoder]) -> _Decoder:
    named = [(name, f".{name}", check) for name, check in fields.items()]

    def decode(value: object, where: str) -> object:
        if type(value) is not dict:
            raise _expected("dict", value, where)
        if value.keys() != fields.keys():
            unknown, missing = value.keys() - fields.keys(), fields.keys() - value.keys()
            told = [*(f"unknown {name!a}" for name in unknown), *(f"no {name}" for name in missing)]
            raise PlanError(f"{where}: {', '.join(sorted(told))}")
        return kind(*[check(value[name], where + suffix) for name, suffix, check in named])

    return decode
