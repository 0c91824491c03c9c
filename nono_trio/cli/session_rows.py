"""Rows that `show`, `list`, `ps` and `inspect` have in common: the policy, faults, what is missing.

Rules of this file: (label, text) pairs, not cleaned yet; every list is cut to what a person reads,
and says how much was left out; --json has it whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.store import SESSION
from nono_trio.core.log.file_events import MORE_FILES, access_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.core.log.policy_json import (
        CredentialPolicy,
        NetworkPolicy,
        SessionPolicy,
        SourcedEntry,
    )

NOT_BOUND: Final = " (not bound yet)"
TAMPERED: Final = "tampered: its files contradict its log or the ledger (`audit verify` says where)"
SHOWN: Final = 12  # entries of one list; a profile with groups has hundreds
SHOWN_DENIED: Final = 3  # mostly the same fifty in every session
SHOWN_HOSTS: Final = 4  # of one credential; a cloud's preset has 34
LONGEST: Final = 200  # characters of one entry


def run_exit_code(session: StoredSession) -> int | None:
    """The exit code of the run itself; None where it is not known."""
    code = session.facts.run_exit_code
    return code if isinstance(code, int) else None


def no_command_text(session: StoredSession) -> str:
    """Return the text for a session whose command is not known."""
    try:
        known = (session.directory / SESSION).exists()
    except OSError:  # one that can't be read must not hide the others
        return "(can't be read)"
    return "(not bound yet)" if known else "(no session.json)"


def file_text(denied: Sequence[tuple[str, str]]) -> str:
    """Return the text about files that are not granted: (path, access), creates first."""
    single = [one for one in denied if one[0] != MORE_FILES]
    ordered = sorted(single, key=lambda one: (one[1] != "Write", one))
    shown = bounded_list([f"{path} ({access_word(access)})" for path, access in ordered])
    more = "" if len(single) == len(denied) else "; still others are counted in the log"
    return f"{len(single):,} not granted: {shown}{more}"


def fault_rows(session: StoredSession) -> Iterator[tuple[str, str]]:
    """Rows about a contradiction in the session's files, if there is one."""
    fault = session.fault
    if fault is not None:
        expected, got = _short(fault.expected), _short(fault.got)
        yield "fault", f"{fault.failure}: expected {expected}, got {got}"


def policy_rows(session: StoredSession) -> Iterator[tuple[str, str]]:
    """Rows about the policy, each rule with its source."""
    policy = session.policy
    if policy is None:
        yield "policy", "not bound" if session.fault is not None else "not bound yet"
        return
    yield from _network_rows(policy.network)
    yield from _file_rows(policy)
    if policy.variables is not None:
        yield "passed", bounded_list(policy.variables.passed) or "no variables"
        if policy.variables.held_back:
            yield "held back", bounded_list(policy.variables.held_back)
    if policy.home is not None:
        yield "home", policy.home
    profiles = [f"{one.source} (sha256 {one.sha256[:16]})" for one in policy.origin.profiles]
    if profiles:
        yield "profiles", bounded_list(profiles)


def _network_rows(network: NetworkPolicy) -> Iterator[tuple[str, str]]:
    if network.block:
        yield "rules", "the network is closed"
    if network.observe:
        yield "rules", "observed only: hosts that no entry names were let through (--observe)"
    for label, entries in (
        ("allow", network.allow),
        ("deny", network.deny),
        ("endpoint", network.endpoints),
        ("intercept", network.intercept),
        ("tunnel", network.no_intercept),
        ("resolve", network.pins),
    ):
        yield from _sourced_rows(label, entries)
    for one in network.credentials[:SHOWN]:
        yield "credential", _credential(one)
    yield from _left_out("credential", len(network.credentials))
    for label, ports in (("open ports", network.open_ports), ("listen", network.listen_ports)):
        if ports:
            yield label, bounded_list([str(port) for port in ports])
    if network.upstream_proxy is not None:
        yield "upstream", _sourced(network.upstream_proxy)


def _file_rows(policy: SessionPolicy) -> Iterator[tuple[str, str]]:
    files = policy.files
    if files is None:
        return
    asked = [grant for grant in files.grants if grant.asked_for]
    for grant in asked[:SHOWN]:
        yield "granted", f"{_short(grant.path)}, {grant.access}  ({_short(grant.source)})"
    yield from _left_out("granted", len(asked))
    others = len(files.grants) - len(asked)
    if others:
        yield "granted", f"{others} more by policy groups (all with --json)"
    if files.denied:
        yield "denied", bounded_list(files.denied, SHOWN_DENIED)
    if files.bypasses:
        yield "opened", bounded_list(files.bypasses)


def _sourced_rows(label: str, entries: Sequence[SourcedEntry]) -> Iterator[tuple[str, str]]:
    for entry in entries[:SHOWN]:
        yield label, _sourced(entry)
    yield from _left_out(label, len(entries))


def _left_out(label: str, count: int) -> Iterator[tuple[str, str]]:
    if count > SHOWN:
        yield label, f"... and {count - SHOWN} more (all with --json)"


def _credential(one: CredentialPolicy) -> str:
    """Name a credential, where its secret came from, and its hosts."""
    state = "" if one.is_held else ", which had no secret"
    hosts = bounded_list([host.removeprefix("https://") for host in one.hosts], SHOWN_HOSTS)
    return f"{one.name}{state} from {one.secret_from} for {hosts}  ({_short(one.source)})"


def _sourced(entry: SourcedEntry) -> str:
    return f"{_short(entry.entry)}  ({_short(entry.source)})"


def bounded_list(entries: Sequence[str], shown: int = SHOWN) -> str:
    """The first entries in one line, and how many there are besides."""
    text = ", ".join(map(_short, entries[:shown]))
    more = len(entries) - shown
    return f"{text} and {more} more (all with --json)" if more > 0 else text


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
