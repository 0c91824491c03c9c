"""A session's policy in words: what it was allowed, part by part, each entry with its source.

Rules of this file: it says what policy.json has, which the log binds, and reads no rule again.
Lists are cut to what a page can show, and say how many entries they lack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.core.log.policy_json import (
        FilePolicy,
        JudgingPolicy,
        NetworkPolicy,
        SessionPolicy,
        SourcedEntry,
    )

MAX_ENTRIES: Final = 200  # of one part
MAX_CLOSED: Final = 12  # by policy groups: mostly the same fifty in every session
MAX_NAMES: Final = 100
ACCESS: Final = {
    "read": "may read",
    "write": "may write",
    "readwrite": "may read and write",
    "socket": "may connect to",
}


@dataclass(frozen=True)
class PolicyEntry:
    """One entry: what it means, its text, and the flag, profile line or group it came from."""

    meaning: str
    entry: str
    source: str = ""


@dataclass
class PolicyPart:
    """One part: sentences about the whole of it, then entries; `left_out` counts those beyond."""

    title: str
    sentences: list[str] = field(default_factory=list)
    entries: list[PolicyEntry] = field(default_factory=list)
    left_out: int = 0


def policy_parts(policy: SessionPolicy) -> list[PolicyPart]:
    """Return the parts of a policy in the order of a page."""
    return [_network(policy.network), _files(policy), _environment(policy), _run(policy)]


def _network(network: NetworkPolicy) -> PolicyPart:
    part = PolicyPart("Network")
    if network.block:
        part.sentences.append("The network was closed (--block-net).")
    elif network.observe:
        part.sentences.append(
            "Hosts that no entry names were let through and recorded (--observe)."
        )
    elif not (network.allow or network.endpoints or network.open_ports):
        part.sentences.append("No host was allowed.")
    else:
        part.sentences.append("Only these hosts were allowed; every other one was denied.")
    _fill(part, [*_network_entries(network)])
    return part


def _network_entries(network: NetworkPolicy) -> Iterator[PolicyEntry]:
    for meaning, entries in (
        ("must not reach", network.deny),
        ("may reach", network.allow),
        ("requests", network.endpoints),
        ("requests are recorded", network.intercept),
        ("requests are not seen", network.no_intercept),
        ("name has this address", network.pins),
    ):
        yield from _sourced(meaning, entries)
    for port in network.open_ports:
        yield PolicyEntry("may reach on this machine", f"port {port}", "--open-port")
    for port in network.listen_ports:
        yield PolicyEntry("is reached from this machine at", f"port {port}", "--listen-port")
    if network.upstream_proxy is not None:
        yield from _sourced("goes through the proxy", [network.upstream_proxy])


def _sourced(meaning: str, entries: Sequence[SourcedEntry]) -> Iterator[PolicyEntry]:
    for one in entries:
        yield PolicyEntry(meaning, one.entry, one.source)


def _files(policy: SessionPolicy) -> PolicyPart:
    part, files = PolicyPart("Files"), policy.files
    if files is None:
        part.sentences.append("There was no cage for files.")
        return part
    groups = sum(not grant.asked_for for grant in files.grants)
    if groups:
        part.sentences.append(
            f"Policy groups granted {counted(groups, 'path')} of the system beside these."
        )
    if not any(grant.asked_for for grant in files.grants):
        part.sentences.append("No path was granted by a flag or a profile.")
    by_groups = [path for path in files.denied if path not in {*files.closed}]
    if by_groups:
        part.sentences.append(
            f"Closed by policy groups, whatever is granted: {_names(by_groups, MAX_CLOSED)}."
        )
    _fill(part, [*_file_entries(files)])
    return part


def _file_entries(files: FilePolicy) -> Iterator[PolicyEntry]:
    for grant in files.grants:
        if grant.asked_for:
            yield PolicyEntry(ACCESS.get(grant.access, grant.access), grant.path, grant.source)
    for path in files.bypasses:
        yield PolicyEntry("was opened", path, "--bypass-protection")
    for path in files.closed:
        yield PolicyEntry("was closed", path, "--deny")


def _environment(policy: SessionPolicy) -> PolicyPart:
    part, variables = PolicyPart("Variables"), policy.variables
    if variables is None:
        part.sentences.append("The session started no command.")
        return part
    passed = _names(variables.passed) or "none"
    part.sentences.append(f"Passed to the command: {passed}.")
    if variables.held_back:
        part.sentences.append(f"Held back: {_names(variables.held_back)}.")
    return part


def _run(policy: SessionPolicy) -> PolicyPart:
    part = PolicyPart("The run")
    if policy.home is not None:
        part.sentences.append(f"Home: {policy.home}.")
    part.sentences.append(f"Audit: {policy.audit_mode}, sync {policy.audit_sync}.")
    limits = [f"--{key.replace('_', '-').removeprefix('--')} {value}"
              for key, value in policy.limits.items() if value is not None]  # fmt: skip
    if limits:
        part.sentences.append(f"Limits: {', '.join(limits)}.")
    if policy.judging is not None:
        part.sentences += _judging(policy.judging)
    _fill(
        part,
        [
            PolicyEntry("profile", one.source, f"SHA-256 {one.sha256}")
            for one in policy.origin.profiles
        ],
    )
    return part


def _judging(judging: JudgingPolicy) -> Iterator[str]:
    if judging.fail_on is not None:
        flag = "--fail-on all" if judging.fail_on == "all" else "--fail-on-deny"
        yield f"Denied attempts fail the run ({flag})."
    if judging.expected:
        yield f"Expected denials: {_names(judging.expected)}."
    if judging.paths:
        yield f"Look-ups of these paths fail the run: {_names(judging.paths)}."


def _names(names: Sequence[str], most: int = MAX_NAMES) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _fill(part: PolicyPart, entries: Sequence[PolicyEntry]) -> None:
    part.entries = [*entries[:MAX_ENTRIES]]
    part.left_out = max(0, len(entries) - MAX_ENTRIES)
