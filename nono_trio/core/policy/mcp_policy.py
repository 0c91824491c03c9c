"""The verdict about the MCP messages of one request, and the flag that would allow one of them.

Rules of this file:
- The rules about a path are those whose path a server may read in the request's. What opens must
  cover the request exactly, as an endpoint rule does.
- A deny rule beats every other one. Then an allow rule decides, then an audit rule. Where one of
  them is about the path, all else is denied. Where there are deny rules alone, all else passes.
- A batch is denied if one of its messages is: no server gets a part of it.
- A body that is no MCP message is refused, whatever the rules are.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.http.mcp_message import BadMessage
from nono_trio.core.http.mcp_reader import check_fields, read_messages
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.net.host import BadHost, Host, parse_host
from nono_trio.core.policy.endpoint_flag import drop_hint, origin, path_pattern, shown_url
from nono_trio.core.policy.endpoint_verdict import DEFAULT_RULE, EndpointVerdict
from nono_trio.core.policy.mcp_rule import (
    ALLOW_MCP_FLAG,
    DENY_MCP_FLAG,
    METHOD,
    folded_form,
    message_of,
    parse_mcp,
    rule_name,
    shown_name,
    writable_tool,
)
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.request_note import McpCall
from nono_trio.core.policy.rule import MCP
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.mcp_message import Message
    from nono_trio.core.policy.endpoint_path import CanonicalTarget
    from nono_trio.core.policy.mcp_rule import McpRule

CUT: Final = "..."
RESPONSE: Final = "(response)"  # in a record, the method of a response
MAX_SHOWN: Final = 256  # characters of a name in a record
NO_RULE_ALONE: Final = (
    "no MCP rule is for this path alone: it has a * or a password, or its first segment is too long"
)
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_RULE_FORM: Final = "name the server's path in the MCP rule: other paths are not judged then"


@dataclass(frozen=True, slots=True)
class MessageRules:
    """The MCP rules about one request to a host. `verdict` is the one about the request itself,
    which it must be allowed by."""

    rules: Sequence[McpRule]
    verdict: EndpointVerdict
    scheme: str
    host: Host
    port: int
    method: str
    target: CanonicalTarget
    observe: bool
    source: Callable[[str, str], str] | None

    def are_about(self, *, has_body: bool) -> bool:
        """As JudgesMessages."""
        return has_body or self.method not in _WITHOUT_BODY

    def judge(self, fields: Sequence[Field], body: bytes) -> tuple[EndpointVerdict, ...]:
        """As JudgesMessages."""
        try:
            check_fields(fields)
            messages = read_messages(body, fields)
        except BadMessage as fault:
            return (self.unreadable(fault),)
        denying, opening = self._rules_about()
        verdicts = tuple(self._verdict(one, denying, opening) for one in messages)
        denied = next((one for one in verdicts if not one.allowed), None)
        if denied is None:
            return verdicts
        return (replace(denied, message_id=None),) if len(messages) > 1 else (denied,)

    def unreadable(self, fault: BadMessage) -> EndpointVerdict:
        """As JudgesMessages."""
        reason = format_reason(DenialCode.MCP_UNREADABLE, detail=fault.reason)
        hint = _RULE_FORM if fault.status == 415 else None
        return self._refused(None, reason, hint, fault.status)

    def upgrade(self) -> EndpointVerdict:
        """As JudgesMessages."""
        return self._refused(None, format_reason(DenialCode.MCP_UPGRADE), None)

    def message_verdict(self, message: Message) -> EndpointVerdict:
        """As JudgesMessages."""
        return self._verdict(message, *self._rules_about())

    def _rules_about(self) -> tuple[list[McpRule], list[McpRule]]:
        """The rules that deny and those that open, whose endpoint covers the request: all messages
        of a batch have the same ones."""
        denying: list[McpRule] = []
        opening: list[McpRule] = []
        for rule in self.rules:
            endpoint = rule.endpoint
            if not rule.opens:
                if endpoint.may_cover(self.port, self.method, self.target):
                    denying.append(rule)
            elif endpoint.covers(self.scheme, self.port, self.method, self.target):
                opening.append(rule)
        return denying, opening

    def _verdict(
        self, message: Message, denying: Sequence[McpRule], opening: Sequence[McpRule]
    ) -> EndpointVerdict:
        call, folded_message = _call(message), folded_form(message)
        for rule in denying:
            if rule.may_cover(folded_message):
                reason = self._reason(call, rule.endpoint.text)
                text, entry = rule.endpoint.text, rule.endpoint.entry
                hint = drop_hint(DENY_MCP_FLAG, text.removeprefix(MCP), entry, self.source)
                return self._denied(message, text, reason, hint)
        if not any(rule.opens for rule in self.rules):
            return replace(self.verdict, messages=None, call=call)
        covering = [one.endpoint for one in opening if one.covers(message)]
        for action in ("allow", "audit"):
            for endpoint in covering:
                if endpoint.action == action:
                    return replace(
                        self.verdict, messages=None, action=endpoint.action, rule=endpoint.text,
                        observed=action == "audit", call=call,
                    )  # fmt: skip
        if self.observe:
            return replace(
                self.verdict, messages=None, action="audit", rule=DEFAULT_RULE, observed=True,
                call=call,
            )  # fmt: skip
        return self._denied(message, DEFAULT_RULE, self._reason(call, None), self._hint(message))

    def _reason(self, call: McpCall, rule: str | None) -> str:
        path = redact_path(self.target.path)
        url = shown_url(self.scheme, self.host, self.port, path)
        if call.tool:
            arguments = call.arguments or "none"
            if rule is None:
                code = DenialCode.MCP_TOOL_NOT_ALLOWED
                return format_reason(code, tool=call.tool, url=url, arguments=arguments)
            code = DenialCode.MCP_TOOL_DENIED
            return format_reason(code, tool=call.tool, url=url, arguments=arguments, detail=rule)
        if rule is None:
            return format_reason(DenialCode.MCP_METHOD_NOT_ALLOWED, mcp_method=call.method, url=url)
        code = DenialCode.MCP_METHOD_DENIED
        return format_reason(code, mcp_method=call.method, url=url, detail=rule)

    def _hint(self, message: Message) -> str:
        path = redact_path(self.target.path)
        flag = mcp_flag(self.scheme, self.host, self.port, rule_name(message), path)
        return NO_RULE_ALONE if flag is None else f"allow it with {flag}"

    def _denied(
        self, message: Message, rule: str, reason: str, hint: str | None
    ) -> EndpointVerdict:
        return replace(self._refused(rule, reason, hint), message_id=message.identifier)

    def _refused(
        self, rule: str | None, reason: str, hint: str | None, status: int = 403
    ) -> EndpointVerdict:
        return EndpointVerdict(
            False, self.verdict.target, self.verdict.path, "deny", rule, reason, hint, status
        )


def with_message(verdict: EndpointVerdict, name: str | None) -> EndpointVerdict:
    """Return the verdict about a request with one message: `name` is that of a tool, or of a method
    after `method:`. Raises UsageError for what is no name."""
    message = None if name is None else message_of(name)
    if message is None or verdict.messages is None:
        return verdict
    return verdict.messages.message_verdict(message)


def mcp_flag(scheme: str, host: Host, port: int, name: str, path: str) -> str | None:
    """Return the flag that allows one name at a canonical path, quoted for a shell; None if no
    rule is for this path alone."""
    pattern = path_pattern(path)
    if pattern is None:
        return None
    url = origin(scheme, host, port) + pattern
    flag = f"{ALLOW_MCP_FLAG} {shlex.quote(f'{name} {url}')}"
    try:
        parse_mcp(ALLOW_MCP_FLAG, f"{name} {url}", "allow")
    except UsageError:
        return None
    return flag


def suggested_mcp_flag(scheme: str, target: str, port: int, call: McpCall, path: str) -> str | None:
    """Return the flag of a message in a log; None if the log's text makes no rule. `path` is as
    `shown_url` has it."""
    name = writable_tool(call.tool) if call.tool else METHOD + call.method
    if CUT in (name[-len(CUT) :], path[-len(CUT) :]):
        return None
    try:
        return mcp_flag(scheme, parse_host(target), port, name, path)
    except (BadHost, ValueError):
        return None


def _call(message: Message) -> McpCall:
    """The part of a message that is recorded."""
    if message.method is None:
        return McpCall(RESPONSE)
    tool = "" if message.tool is None else _short(shown_name(message.tool))
    return McpCall(_short(shown_name(message.method)), tool, message.arguments)


def _short(name: str) -> str:
    return name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}{CUT}"
