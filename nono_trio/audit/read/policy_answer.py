"""Answers about a past session: might it reach a host, make a request or touch a path.

Rules of this file: the entries are read by the code that enforced them (core/policy), never by a
copy of its rules; nothing of this machine's present state is asked: no name is looked up.
A path is compared with the paths of the record, which have no symlinks in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from nono_trio.core.net.host import BadHost, parse_rule_host
from nono_trio.core.policy.asked_url import parse_asked_url
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.reasons import OBSERVE_FLAG, OPEN_PORT_FLAG, DenialCode, format_reason
from nono_trio.core.policy.rule import leads_to_loopback
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from nono_trio.core.log.policy_json import (
        FilePolicy,
        GrantedPath,
        NetworkPolicy,
        SessionPolicy,
        SourcedEntry,
    )

Operation = Literal["read", "write"]

_OWN_DIRECTORIES: Final = ("/tmp", "/dev/shm", "/proc")  # of a cage with namespaces
NOT_RESOLVED: Final = "the addresses of a name were checked when it was dialled"


@dataclass(frozen=True)
class PolicyAnswer:
    """One answer: `line` is the entry that decided and where it came from, None for a rule that is
    built in or for no entry at all."""

    subject: str
    allowed: bool
    reason: str
    line: str | None = None
    note: str | None = None


def host_answer(policy: SessionPolicy, text: str, port: int) -> PolicyAnswer:
    """Say whether the session might reach a host and port. Raises LogUnreadable for entries that
    this version does not understand, and UsageError for a text that is no host."""
    network = policy.network
    try:
        host = parse_rule_host(text)
    except BadHost as fault:
        raise UsageError(f"--host: {fault.reason}", hint="give a name or an address") from fault
    subject = f"{host.bracketed()}:{port}"
    if port in network.open_ports and leads_to_loopback(host):
        return PolicyAnswer(subject, True, "the port was relayed", f"{OPEN_PORT_FLAG} {port}")
    rules = _rules(network)
    verdict = rules.decide(host, port)
    addresses = rules.addresses(host, port)
    literal = (host.name,) if host.address is not None else ()
    for address in addresses or literal:
        checked = rules.check_address(host, port, address)
        verdict = checked if verdict.allowed else verdict
    note = None
    if verdict.allowed and addresses is not None:
        note = f"pinned to {', '.join(addresses)} ({_pin_source(network, host.name, port)})"
    elif verdict.allowed and host.address is None:
        note = NOT_RESOLVED
    reason = verdict.reason or "an entry allowed it"
    if verdict.observed:
        reason = f"no entry allowed it, {OBSERVE_FLAG} let it through"
    return PolicyAnswer(subject, verdict.allowed, reason, _line(network, verdict.rule), note)


def url_answer(
    policy: SessionPolicy, text: str, method: str, tool: str | None = None
) -> PolicyAnswer:
    """Say whether the session might make a request. Raises as `host_answer`. `tool` is that of an
    MCP call in it, or a method after `method:`."""
    asked = parse_asked_url(text, method)
    answer = host_answer(policy, asked.host, asked.port)
    subject = f"{method} {asked.scheme}://{answer.subject}{asked.target}"
    answer = replace(answer, subject=subject if tool is None else f"{subject} ({tool})")
    rules, host = _rules(policy.network), parse_rule_host(asked.host)
    if not answer.allowed:
        return answer
    if rules.decide(host, asked.port).tls_only and asked.scheme == "http":
        plain = f"{host.bracketed()}:{asked.port}"
        reason = format_reason(DenialCode.TLS_ONLY, destination=plain)
        return PolicyAnswer(answer.subject, False, reason, answer.line)
    if not rules.intercepts(host, asked.port):
        return answer
    found = rules.endpoint_verdict(asked.scheme, host, asked.port, method, asked.target)
    if found.messages is not None:
        from nono_trio.core.policy.mcp_policy import with_message  # imported with the rules

        found = with_message(found, tool)
    if found.is_by_rule:
        answer = replace(answer, line=_line(policy.network, found.rule))
    if not found.allowed:
        reason = found.reason or "denied"
        line = answer.line if found.is_by_rule else None
        return PolicyAnswer(answer.subject, False, reason, line)
    if found.observed:
        reason = "no endpoint rule allowed it, but it was let through and recorded"
        return replace(answer, reason=reason)
    return replace(answer, reason="an endpoint rule allowed it") if found.is_by_rule else answer


def path_answer(policy: SessionPolicy, path: str, operation: Operation) -> PolicyAnswer:
    """Say whether the session might read or write an absolute path."""
    subject = f"{operation} {path}"
    files = policy.files
    if files is None:
        return PolicyAnswer(subject, True, "the session had no cage for files")
    closed = _closed(files, path)
    if closed is not None:
        return PolicyAnswer(subject, False, f"{closed} was closed, whatever was granted")
    covering = [grant for grant in files.grants if _covers(grant, path)]
    giving = [grant for grant in covering if _gives(grant, operation)]
    for grant in sorted(giving or covering, key=lambda one: -len(one.path)):
        allowed = grant in giving
        reason = f"{grant.path} was granted, {grant.access}"
        if not allowed and grant.access != "socket":
            reason += " only"
        return PolicyAnswer(subject, allowed, reason, grant.source)
    return PolicyAnswer(subject, False, "no grant covered it", note=_note_of_own(policy, path))


def _note_of_own(policy: SessionPolicy, path: str) -> str | None:
    """A denied path may have been one that the command could use, of the cage's own."""
    own = [one for one in _OWN_DIRECTORIES if is_in(path, one)]
    if policy.isolation != "namespace" or not own:
        return None
    return f"the cage had its own {own[0]}, where no file of the machine was to be seen"


def _rules(network: NetworkPolicy) -> Policy:
    def texts(entries: list[SourcedEntry]) -> list[str]:
        return [one.entry for one in entries]

    try:
        return Policy.build(
            texts(network.allow),
            texts(network.deny),
            texts(network.pins),
            network.block,
            observe=network.observe,
            endpoints=texts(network.endpoints),
            intercept=texts(network.intercept),
            no_intercept=texts(network.no_intercept),
        )
    except UsageError as error:
        raise LogUnreadable(
            f"the session's policy has an entry that can't be read: {error.message}",
            hint="a newer nono-trio may have written it",
        ) from error


def _line(network: NetworkPolicy, rule: str | None) -> str | None:
    if rule is None:
        return "--block-net" if network.block else None
    for one in (*network.deny, *network.allow, *network.endpoints):
        if rule in (one.entry, one.entry.partition(" ")[2]):
            return f"{rule} ({one.source})"
    return rule


def _pin_source(network: NetworkPolicy, name: str, port: int) -> str:
    beginning = f"{name}:{port}:"
    return next(
        (one.source for one in network.pins if one.entry.lower().startswith(beginning)), "a pin"
    )


def _closed(files: FilePolicy, path: str) -> str | None:
    """Return the closed path that covers `path`; what a flag opened is not among them."""
    return next((one for one in files.denied if is_in(path, one)), None)


def _covers(grant: GrantedPath, path: str) -> bool:
    return path == grant.path if grant.is_file else is_in(path, grant.path)


def _gives(grant: GrantedPath, operation: Operation) -> bool:
    return grant.access in (operation, "readwrite")
