"""policy.json: everything that one session was allowed, with the place of each rule.

The file is written before the command starts, and the second record of the log binds it, so a proof
of the log proves its contents. To add a fact: give SessionPolicy (or one of its parts) a field with
a default; the encoding sorts the keys, so the order of the fields does not matter. Readers ignore
keys that they do not know. The file never contains secrets: it has names of variables, no values.
"""

from typing import Literal

import msgspec

from nono_trio.core.late import late_decoder


class SourcedEntry(msgspec.Struct, kw_only=True, frozen=True):
    """One entry and its source: a flag, a profile's line and key, or a policy group."""

    entry: str
    source: str


class CredentialPolicy(msgspec.Struct, kw_only=True, frozen=True):
    """One credential: no secret, and no stand-in.

    `secret_from` is env://VARIABLE, file, keyring or cmd; `source` is the flag or a profile's line.
    `is_held` is false if there was no secret at the start.
    """

    name: str
    source: str
    secret_from: str
    hosts: list[str]
    places: list[str]
    variables: list[str] = []
    files: list[str] = []
    optional: bool = False
    route: bool = False
    elsewhere: str = "deny"
    is_held: bool = True


class NetworkPolicy(msgspec.Struct, kw_only=True, frozen=True):
    """Host rules, pins and ports; `block`: nothing may be reached; `observe`: also what no entry
    names.

    `endpoints` are rules with their action, as in `deny POST https://a.example.com/**`.
    """

    block: bool = False
    observe: bool = False
    allow: list[SourcedEntry] = []
    deny: list[SourcedEntry] = []
    pins: list[SourcedEntry] = []
    open_ports: list[int] = []
    listen_ports: list[int] = []
    upstream_proxy: SourcedEntry | None = None
    intercept: list[SourcedEntry] = []
    no_intercept: list[SourcedEntry] = []
    endpoints: list[SourcedEntry] = []
    credentials: list[CredentialPolicy] = []

    def is_pinned(self, host: str, port: int) -> bool:
        """Return whether an entry pins the address of a host, in lower case, at a port."""
        beginning = f"{host}:{port}:"
        return any(one.entry.lower().startswith(beginning) for one in self.pins)


class GrantedPath(msgspec.Struct, kw_only=True, frozen=True):
    """A path of the cage; `asked_for`: by the user, not by a policy group."""

    path: str
    access: Literal["read", "write", "readwrite", "socket"]
    is_file: bool
    source: str
    asked_for: bool


class FilePolicy(msgspec.Struct, kw_only=True, frozen=True):
    """Grants, denied paths, those of them that the user closed (`closed`), and those that a flag
    opened (`bypasses`)."""

    grants: list[GrantedPath]
    denied: list[str] = []
    closed: list[str] = []
    bypasses: list[str] = []


class PassedVariables(msgspec.Struct, kw_only=True, frozen=True):
    """Names of the caller's variables: those passed on, and secrets held back; the patterns that
    the user allowed and denied."""

    passed: list[str] = []
    held_back: list[str] = []
    allow: list[str] = []
    deny: list[str] = []


class JudgingPolicy(msgspec.Struct, kw_only=True, frozen=True):
    """The attempts that make the run fail: `policy`, `all` or only the tripwires in `paths` (null).

    `expected` are hosts whose denial is no reason.
    """

    fail_on: str | None = None
    expected: list[str] = []
    paths: list[str] = []


class UsedProfile(msgspec.Struct, kw_only=True, frozen=True):
    """One file of a profile, bases included, and the SHA-256 (hex) of its bytes."""

    source: str
    sha256: str


class SessionOrigin(msgspec.Struct, kw_only=True, frozen=True):
    """The user, machine, directory and software of a run; `package_sha256` covers our own files."""

    user: str = ""
    user_id: int | None = None
    host: str = ""
    system: str = ""
    nono_trio: str = ""
    python: str = ""
    nono_py: str = ""
    package_sha256: str | None = None
    profiles: list[UsedProfile] = []


class SupervisorProcess(msgspec.Struct, kw_only=True, frozen=True):
    """The process that keeps the log; a pid alone may belong to another process later."""

    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""


class SigningKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The public keys of a signed session, in base64: `note` an Ed25519 key (32 bytes), `bundle`
    the DER SubjectPublicKeyInfo of a P-256 key."""

    note: str
    bundle: str


class SessionPolicy(msgspec.Struct, kw_only=True, frozen=True):
    """The whole of policy.json. `files` and `variables` are null where there is no cage (`proxy`).

    `limits` has the names of the flags; None stands for "not limited by us".
    """

    v: Literal[1] = 1
    session_id: str = ""
    name: str | None = None
    working_directory: str = ""
    home: str | None = None  # `kept NAME`, `private` or `closed`
    isolation: str = "none"
    enforcement: list[str] = []
    network: NetworkPolicy = NetworkPolicy()
    files: FilePolicy | None = None
    variables: PassedVariables | None = None
    audit_mode: str = "strict"
    audit_sync: str = "interval"
    signing_keys: SigningKeys | None = None
    limits: dict[str, int | float | None] = {}
    judging: JudgingPolicy | None = None
    origin: SessionOrigin = SessionOrigin()
    supervisor: SupervisorProcess = SupervisorProcess()

    @property
    def asked_paths(self) -> list[str]:
        """The paths that the user granted, in the order given."""
        return [grant.path for grant in self.files.grants if grant.asked_for] if self.files else []


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = late_decoder(SessionPolicy)


def encode_policy(policy: SessionPolicy) -> bytes:
    """Return the bytes of policy.json: compact, sorted keys, one line."""
    return _encoder.encode(policy) + b"\n"


def decode_policy(data: bytes) -> SessionPolicy:
    """Return the policy in a file.

    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    return _decoder.decode(data)
