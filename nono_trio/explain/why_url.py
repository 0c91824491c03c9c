"""`why --url`: may a request with this method and URL be made, and by which rule.

Rules of this file: why_host.py answers about the host first; then the function that the
proxy calls answers about the request (`Policy.endpoint_verdict`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.net.host import parse_rule_host
from nono_trio.core.policy.asked_url import parse_asked_url
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ALLOW_FLAG
from nono_trio.explain.answer import Answer
from nono_trio.explain.why_host import SEEN, endpoint_rule_shown, host_answer
from nono_trio.session.prepare import build_policy

if TYPE_CHECKING:
    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.core.policy.endpoint_verdict import EndpointVerdict

_UNSEEN: Final = "the host is allowed, and requests to it are not seen"
_FIELDS: Final = "the answer is for a request without header fields that replace method or path"

_MESSAGES: Final = "MCP rules judge a body too: ask with --mcp-tool TOOL"


def explain_url(options: RunOptions, text: str, method: str, tool: str | None = None) -> Answer:
    """Say whether the cage's command may make a request; raises UsageError for bad rules and for a
    text that is no URL. `tool` is that of an MCP call in it, or a method after `method:`."""
    asked = parse_asked_url(text, method)
    policy = build_policy(options.session.network)
    answer = host_answer(options, policy, asked.host, asked.port)
    subject = f"{method} {asked.scheme}://{answer.subject}{asked.target}"
    if tool is not None:
        subject += f" ({tool})"
    notes = tuple(note for note in answer.notes if note != SEEN)
    answer = replace(answer, subject=subject, notes=notes)
    host, port = parse_rule_host(asked.host), asked.port
    verdict = policy.decide(host, port)
    if not answer.allowed:
        if verdict.allowed or not verdict.intercepted:
            return answer
        found = policy.endpoint_verdict(asked.scheme, host, port, method, asked.target)
        return answer if found.allowed else _with_verdict(answer, found, options.session.network)
    if verdict.tls_only and asked.scheme == "http":
        plain = f"{host.bracketed()}:{port}"
        reason = format_reason(DenialCode.TLS_ONLY, destination=plain)
        return Answer(subject, False, reason, None, f"allow it with {ALLOW_FLAG} {plain}")
    if not policy.intercepts(host, port):
        return answer if asked.scheme == "http" else replace(answer, reason=_UNSEEN)
    found = policy.endpoint_verdict(asked.scheme, host, port, method, asked.target)
    if found.messages is not None:
        from nono_trio.core.policy.mcp_policy import with_message  # imported with the rules

        found = with_message(found, tool)
    return _with_verdict(answer, found, options.session.network)


def _with_verdict(answer: Answer, found: EndpointVerdict, network: NetworkOptions) -> Answer:
    """The answer about a host, with the verdict about one request to it."""
    if found.action is None:
        return replace(answer, reason="the host is allowed, and no endpoint rule is about it")
    rule = None
    if found.is_by_rule:
        rule = endpoint_rule_shown(network, found.action, found.rule or "")
    if not found.allowed:
        return Answer(answer.subject, False, found.reason or "denied", rule, found.hint)
    reason = "an endpoint rule allows it"
    if found.observed:
        reason = "no endpoint rule allows it, but it is let through and recorded"
    elif rule is None:
        reason, rule = "the host is allowed, and no endpoint rule denies it", answer.rule
    notes = (_FIELDS,) if found.messages is None else (_FIELDS, _MESSAGES)
    return replace(answer, reason=reason, rule=rule, notes=notes)
