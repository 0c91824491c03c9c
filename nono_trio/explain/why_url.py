"""`why --url`: may a request with this method and URL be made, and by which rule.

Rules of this file: the host is asked about first, as by why_host.py; then the request, by the
function that the proxy calls (`Policy.endpoint_verdict`). A URL is read as a client sends it: the
fragment stays with the client, characters outside ASCII and spaces are escaped.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.host import parse_rule_host
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ALLOW_FLAG, HTTP_PORT, MAX_PORT, TLS_PORT
from nono_trio.errors import UsageError
from nono_trio.explain.answer import Answer
from nono_trio.explain.why_host import SEEN, endpoint_rule_shown, host_answer
from nono_trio.session.prepare import build_policy

if TYPE_CHECKING:
    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.core.policy.endpoint_policy import EndpointVerdict

_URL: Final = re.compile(
    r"(https?)://(\[[^\]/?#@]*\]|[^:/?#@\[\]]+)(?::([1-9][0-9]{0,4}))?([/?][^#]*)?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_METHOD: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE: Final = re.compile(r"[^\x21-\x7e]")
_UNSEEN: Final = "the host is allowed, and requests to it are not seen"
_FIELDS: Final = "the answer is for a request without header fields that replace method or path"


def explain_url(options: RunOptions, text: str, method: str) -> Answer:
    """Say whether the cage's command may make a request; raises UsageError for bad rules and for a
    text that is no URL."""
    match = _URL.fullmatch(text)
    if match is None or int(match[3] or HTTP_PORT) > MAX_PORT:
        hint = "a URL is like https://api.example.com/v1/items"
        raise UsageError(f"--url: expected a URL with http:// or https://, got {text!a}", hint=hint)
    if not _METHOD.fullmatch(method):
        raise UsageError(f"--method: expected a method, got {method!a}", hint="--method GET")
    scheme = match[1].lower()
    port = int(match[3] or (TLS_PORT if scheme == "https" else HTTP_PORT))
    target = _VISIBLE.sub(_escaped, match[4] or "/")
    target = target if target.startswith("/") else f"/{target}"
    policy = build_policy(options.session.network)
    answer = host_answer(options, policy, match[2], port)
    subject = f"{method} {scheme}://{answer.subject}{target}"
    notes = tuple(note for note in answer.notes if note != SEEN)
    answer = replace(answer, subject=subject, notes=notes)
    if not answer.allowed:
        return answer
    host = parse_rule_host(match[2])
    verdict = policy.decide(host, port)
    if verdict.tls_only and scheme == "http":
        plain = f"{host.bracketed()}:{port}"
        reason = format_reason(DenialCode.TLS_ONLY, destination=plain)
        return Answer(subject, False, reason, None, f"allow it with {ALLOW_FLAG} {plain}")
    if not policy.intercepts(host, port):
        return answer if scheme == "http" else replace(answer, reason=_UNSEEN)
    found = policy.endpoint_verdict(scheme, host, port, method, target)
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
    return replace(answer, reason=reason, rule=rule, notes=(_FIELDS,))


def _escaped(match: re.Match[str]) -> str:
    data = match[0].encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in data)
