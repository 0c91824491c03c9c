"""The types of the answers of `--json` whose shape is published (docs/schemas).

Rules of this file: a field never changes its meaning and never goes while JSON_SCHEMA stays the
same. A new field that older answers lack is UNSET by default. Answers that come whole from another
folder (`Verification`, `Recovery`, `Repair`) have their types there. Those of `ps`, `stop`,
`inspect` and `doctor` are in process_answers.py, those of `audit show` and `audit cleanup` are in
audit/show_answer.py and audit/cleanup_answer.py: they import more.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.audit.read.status import Status  # noqa: TC001  (these four are for msgspec)
from nono_trio.audit.stored_session import FirstBad  # noqa: TC001
from nono_trio.audit.verify.verdict import Verdict, Verification  # noqa: TC001
from nono_trio.core.log.events import NetworkEvent  # noqa: TC001
from nono_trio.errors import JSON_SCHEMA


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """An error: one sentence, a hint, and the exit code of the command."""

    message: str
    hint: str | None
    exit_code: int


class ErrorAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of every command that fails."""

    schema: int = JSON_SCHEMA
    error: Failure


class TailAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """One line of `audit tail --json`: a decision and its place in the log."""

    schema: int = JSON_SCHEMA
    sequence: int
    event: NetworkEvent


class ListRow(msgspec.Struct, kw_only=True, frozen=True):
    """One session of `audit list`.

    Null: no record tells it. `counts_bound`: the log binds the counts. `proved`: its whole log
    was verified on the way. `imported` is when it came from another machine. `fault` is the first
    contradiction in its files.
    """

    session_id: str
    name: str | None
    status: Status
    started: str | None
    ended: str | None
    command: list[str] | None
    tracked_paths: list[str] | None
    exit_code: int | None
    run_exit_code: int | None
    event_count: int | None
    allowed: int | None
    denied: int | None
    failed: int | None
    counts_bound: bool
    proved: bool
    fault: FirstBad | None
    directory: str
    imported: str | UnsetType = UNSET


class ListAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit list`, newest first; `more`: there are others that fit."""

    schema: int = JSON_SCHEMA
    sessions: list[ListRow]
    more: bool


class SearchProgram(msgspec.Struct, kw_only=True, frozen=True):
    """A program that held a connection; `exe` and `argv` are null for one that was not found."""

    name: str
    exe: str | None
    argv: list[str] | None


class SearchAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """One line of `audit search --json`: a record that was found.

    Null: the record lacks it. `time` is in UTC. `kind` is network, file, url or command; `method`
    is DNS for a look-up. `real_path`, `access` and `pid` are of a file.
    """

    schema: int = JSON_SCHEMA
    session_id: str
    session_name: str | None
    session_status: Status
    sequence: int
    time: str | None
    kind: str
    decision: str
    host: str | None
    port: int | None
    method: str | None
    path: str | None
    real_path: str | None
    access: str | None
    status: int | None
    rule: str | None
    category: str | None
    reason: str | None
    pid: int | None
    programs: list[SearchProgram]


class HostRow(msgspec.Struct, kw_only=True, frozen=True):
    """A host and port of `audit hosts`, over all sessions; `port` is null for a name that was only
    looked up. `more_programs`: there were others besides `programs`."""

    host: str
    port: int | None
    first: str | None
    last: str | None
    allowed: int
    denied: int
    failed: int
    connections: int
    bytes_up: int
    bytes_down: int
    sessions: int
    programs: list[str]
    more_programs: bool


class HostsAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit hosts`; `other_hosts` counts those without a row, null without any."""

    schema: int = JSON_SCHEMA
    sessions: int
    hosts: list[HostRow]
    other_hosts: HostRow | None


class ReadyLine(msgspec.Struct, kw_only=True):
    """The line that `proxy` prints once it listens, with the token for its clients.

    `credentials` has the stand-ins by the names of their credentials; those of AWS keys by their
    variables. `routes` has base URLs by the names of their credentials.
    """

    schema: int = JSON_SCHEMA
    port: int
    token: str
    proxy_url: str
    session_id: str
    session_dir: str
    ca_file: str | UnsetType = UNSET
    credentials: dict[str, str | dict[str, str]] | UnsetType = UNSET
    routes: dict[str, str] | UnsetType = UNSET


class ExportedSession(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit export-session`: the archive's absolute path and size."""

    schema: int = JSON_SCHEMA
    session_id: str
    file: str
    bytes: int


class ImportedSession(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit import`; `imported` is false for a session that is here already, and for
    one that was refused: the verification says which."""

    schema: int = JSON_SCHEMA
    session_id: str
    imported: bool
    verification: Verification


class JudgedSession(msgspec.Struct, kw_only=True, frozen=True):
    """A session of a report, by its id or path."""

    session_id: str
    verdict: Verdict


class ReportAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit report`: the page's absolute path and size, and the sessions in it.

    `sections` counts those that the page has whole.
    """

    schema: int = JSON_SCHEMA
    file: str
    bytes: int
    sessions: list[JudgedSession]
    sections: int


class ShipAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The last line of `audit ship`: how many records and flows were sent, and how many were
    refused; `faults` counts sessions that were tampered with, cut, removed or unreadable."""

    schema: int = JSON_SCHEMA
    sent: int
    refused: int
    faults: int


class GeneratedKey(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `keys generate`; `public_keys` is what `keys export` prints."""

    schema: int = JSON_SCHEMA
    file: str
    key_id: str
    public_keys: str


class ListedKey(msgspec.Struct, kw_only=True, frozen=True):
    """A key of `keys list`; `key_id` is null for one that can't be used, and `reason` says why."""

    name: str
    file: str
    key_id: str | None
    reason: str | None


class KeysAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `keys list`."""

    schema: int = JSON_SCHEMA
    keys: list[ListedKey]


class ExportedKey(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `keys export`: both public keys in Base64, and the verifier key with --vkey."""

    schema: int = JSON_SCHEMA
    key_id: str
    note_key: str
    bundle_key: str
    vkey: str | None


HostOutcome: TypeAlias = Literal["denied", "failed", "allowed"]


class SummaryHost(msgspec.Struct, kw_only=True, frozen=True):
    """A host of a run; a refused one has the reason, and the flags that would have allowed it."""

    outcome: HostOutcome
    target: str
    ports: list[int | None]
    count: int
    reason: str | UnsetType = UNSET
    flags: list[str] | UnsetType = UNSET


class SummaryAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `run --summary json`; `verdict` is that of `audit verify` about its log.

    `exit_code` is the run's, `command_exit_code` the command's own; `failure` says why they differ.
    """

    schema: int = JSON_SCHEMA
    session_id: str
    directory: str
    verdict: Verdict
    exit_code: int
    command_exit_code: int
    failure: str | None
    denied: int
    failed: int
    allowed: int
    hosts: list[SummaryHost]
    denied_programs: dict[str, list[str]]
    observed: list[str]
    created_files: list[str]
    looked_up_files: list[str]
    lost: dict[str, int]
