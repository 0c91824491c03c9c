"""`why --host`: may a host and port be reached, by which entry, and which flag would change it.

Rules of this file: as those of why.py; names are not resolved.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NoReturn

from nono_trio.core.net.host import BadHost, parse_rule_host
from nono_trio.core.policy.mistaken_hosts import meant_by
from nono_trio.core.policy.request_note import format_looked_up
from nono_trio.core.policy.rule import (
    ALLOW_FLAG,
    DENY_FLAG,
    HTTP_PORT,
    MCP,
    Inspection,
    leads_to_loopback,
)
from nono_trio.errors import UsageError
from nono_trio.explain.answer import Answer
from nono_trio.posix.listening import loopback_listeners
from nono_trio.proxy.upstream.local_addresses import is_local
from nono_trio.sandbox.build_plan import transparent_ports
from nono_trio.session.ports import check_contradictions
from nono_trio.session.prepare import build_policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.policy_verdict import Verdict
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy

_UNRESOLVED = (
    "names are not resolved here: when it is dialled each address is checked too (metadata and"
    " link-local never, loopback and private ranges only for entries that mean them)"
)
_NOT_OPEN = (
    "through the proxy a tunnel; for programs that know of none the port is closed: a session"
    " listens at a limited number of ports"
)
_BY_TPROXY = "without the proxy this port needs a kernel with tproxy: see `nono-trio doctor`"
_OWN_LOOPBACK = (
    "through the proxy only: a program that knows of none reaches the cage's own loopback"
    " (--open-port {port} relays the port there)"
)
_LISTENS = "a program of this machine listens there; an attempt is recorded, and is no stray"
_PROXY_ONLY = "through the proxy only: a program that knows of none reaches nothing in {} isolation"
SEEN = "its requests are seen, and recorded one by one (`why --url` asks about one of them)"
_NO_ISOLATION = "--isolation none: the command can reach any network past the proxy and its rules"


def explain_host(options: RunOptions, text: str, port: int) -> Answer:
    """Say whether the cage's command may reach a host and port; raises UsageError for bad rules."""
    _require_host(text)
    return host_answer(options, build_policy(options.session.network), text, port)


def host_answer(options: RunOptions, policy: Policy, text: str, port: int) -> Answer:
    """Answer as `explain_host` does, with the policy of the options."""
    check_contradictions(options, policy)
    notes = (_NO_ISOLATION,) if options.isolation == "none" else ()
    if options.isolation in ("landlock", "seatbelt"):
        notes = (_PROXY_ONLY.format(options.isolation),)
    try:
        host = parse_rule_host(text)
    except BadHost as fault:
        reason = f"a request for it is refused as malformed: {fault.reason}"
        return Answer(f"{text}:{port}", False, reason, notes=notes)
    subject = f"{host.bracketed()}:{port}"
    if port in options.open_ports and leads_to_loopback(host):
        reason = "the cage's own loopback port is relayed to the host's, and recorded"
        return Answer(subject, True, reason, f"--open-port {port}", notes=notes)
    verdict = policy.decide(host, port)
    addresses = policy.addresses(host, port)
    if addresses is None and host.address is not None:
        addresses = (host.name,)
    for address in addresses or ():
        checked = policy.check_address(host, port, address, is_local=is_local(address))
        verdict = checked if verdict.allowed else verdict
    if verdict.allowed:
        pinned = policy.addresses(host, port)
        notes = (*notes, *_way(host, verdict, pinned, options.session.network.upstream_proxy))
    if leads_to_loopback(host) and _is_transparent(options):
        if verdict.allowed:
            notes = (*notes, _OWN_LOOPBACK.format(port=port))
        elif not policy.denial_of(host, port):
            reason = "the cage has a loopback of its own, in which nothing of this machine's is"
            if port in loopback_listeners():
                notes = (*notes, _LISTENS)
            return Answer(subject, False, reason, None, f"--open-port {port}", notes)
    elif verdict.allowed and verdict.intercepted:
        notes = (*notes, SEEN)
        notes = (*notes, *_secrets(options.session.network, host, port))
    elif verdict.allowed and _is_transparent(options):
        listened = port in transparent_ports(policy.named_ports)
        is_open = listened or policy.decides_every_port(host)
        notes = (*notes, _lets_through(verdict.inspection, port) if is_open else _NOT_OPEN)
        if is_open and not listened:
            notes = (*notes, _BY_TPROXY)
    return _from_verdict(subject, verdict, notes, options.session.network)


def _secrets(network: NetworkOptions, host: Host, port: int) -> Iterator[str]:
    """Say which secrets are sent there."""
    for one in network.credentials:
        if one.is_bound_to("https", host, port):
            yield f"in its requests the stand-in of the credential {one.name} is swapped"


def _require_host(text: str) -> None:
    """Refuse what is no host but has one in it: no request could ask for it, so the answer would
    be about nothing."""
    meant = meant_by(text)
    if meant is not None:
        _refuse_host(text, meant.what, meant.host, meant.port)
    if text.startswith("*."):
        _refuse_host(text, "a wildcard", f"www.{text[2:]}", None)


def _refuse_host(text: str, what: str, host: str, port: str | None) -> NoReturn:
    asked = f"--host {host}" if port is None else f"--host {host} --port {port}"
    raise UsageError(f"--host: expected a host, got {what}: {text!a}", hint=asked)


def _way(
    host: Host, verdict: Verdict, pinned: Sequence[str] | None, upstream: UpstreamProxy | None
) -> Iterator[str]:
    """Say how an allowed host is reached, where more than a literal address is known of it."""
    if pinned is not None:
        yield f"pinned to {', '.join(pinned)}"
    elif upstream is not None and not upstream.bypass.covers(host):
        yield f"through the upstream proxy {upstream.shown}, which resolves the names"
    elif host.address is None:
        if verdict.looked_up:
            yield format_looked_up(verdict.looked_up)
        yield _UNRESOLVED


def _is_transparent(options: RunOptions) -> bool:
    return options.isolation in ("auto", "namespace") and options.transparent is not False


def _lets_through(inspection: Inspection, port: int) -> str:
    passed = "whatever is spoken, its bytes are not looked at"
    if inspection is Inspection.TLS:
        passed = "TLS, whose hello may hide the name it asks for (ECH) or omit it"
    elif inspection is Inspection.NAME:
        is_http = port == HTTP_PORT
        passed = "HTTP with this host in its Host field" if is_http else "TLS with this host's name"
    return f"through the proxy a tunnel; from programs that know of none {passed}"


def _from_verdict(
    subject: str, verdict: Verdict, notes: tuple[str, ...], network: NetworkOptions
) -> Answer:
    reason, hint = verdict.reason or "an entry allows it", verdict.hint
    if verdict.observed:
        reason = "no entry allows it, --observe lets it through and records it"
    if verdict.rule is not None and verdict.allowed and verdict.rule not in network.allow:
        rule = endpoint_rule_shown(network, "allow", verdict.rule)
    elif verdict.rule is not None:
        name = "allow_domain" if verdict.allowed else "deny_domain"
        flag, source = (
            ALLOW_FLAG if verdict.allowed else DENY_FLAG,
            network.source(name, verdict.rule),
        )
        rule = f"{flag} {verdict.rule}" if source == flag else f"{verdict.rule} ({source})"
    elif network.block:
        rule = network.source("block_net")
    else:
        return Answer(subject, verdict.allowed, reason, None, hint, notes)
    return Answer(subject, verdict.allowed, reason, rule, hint, notes)


def endpoint_rule_shown(network: NetworkOptions, action: str, text: str) -> str:
    """Return a rule that decides about requests with its flag, or with the line it comes from."""
    name, entry, flag = "allow_domain", text, ALLOW_FLAG
    for rule in network.endpoints:
        if rule.partition(" ")[2] == text and (rule.startswith(action) or action == "allow"):
            name, entry, flag = "endpoint", rule, ""
    source = network.source(name, entry)
    if not source.startswith("--"):
        return f"{text} ({source})"
    return f"{flag or source} {shlex.quote(text.removeprefix(MCP))}"
