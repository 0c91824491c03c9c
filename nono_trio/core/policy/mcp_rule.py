"""MCP rules: which tools of an MCP server may be called, from a person's text.

An entry is NAMES URL, as in `search_*,get_issue https://mcp.example.com/mcp`. A name is that of a
tool, or of a JSON-RPC method after `method:`; `*` is any text in it. The URL is as in an endpoint
rule, without a query; without a path it is every path of the host.

Rules of this file:
- Every other text raises UsageError with the flag and the entry.
- Names are compared exactly by a rule that allows. A rule that denies disregards case and form.
- Percent escapes stand for characters of a name that can't be written in a rule: comma, blank, `*`.
- A rule that opens covers the methods of a session too (SESSION_METHODS), and responses. A call
  is covered by the names of tools, and by those of methods in a rule without tools. A rule that
  denies is about each name in it, so `method:*` denies calls too, whatever tools it also names.
- `parse_mcp_entry` reads what `EndpointRule.entry` of its endpoint writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias
from urllib.parse import quote, unquote

from nono_trio.core.http.mcp_message import TOOLS_CALL, Message, folded
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.endpoint_pattern import has_in_order
from nono_trio.core.policy.endpoint_rule import FORM as ENDPOINT_FORM
from nono_trio.core.policy.endpoint_rule import EndpointRule, parse_endpoint
from nono_trio.core.policy.rule import MCP
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.policy.endpoint_rule import Action

ALLOW_MCP_FLAG: Final = "--allow-mcp-tool"
DENY_MCP_FLAG: Final = "--deny-mcp-tool"
METHOD: Final = "method:"
SESSION_METHODS: Final = frozenset({"initialize", "ping", "server/discover", "tools/list"})
NOTIFICATIONS: Final = "notifications/"

_HTTP_METHODS: Final = "POST,GET,DELETE"  # of MCP's streamable HTTP
_SAFE: Final = "/:@!$&()+=?;<>[]^{}|~"  # what a name may have in a rule as it is
_NAME: Final = late_pattern(r"[^\s,]+")
_BROKEN_ESCAPE: Final = late_pattern(r"%(?![0-9A-Fa-f]{2})")
_FORM: Final = "an entry is like 'search_*,get_issue https://mcp.example.com/mcp'"

_QUESTION: Final = "write --mcp-tool search_issues, or --mcp-tool method:resources/read"

# The texts between the stars of one name.
Glob: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class McpRule:
    """One rule. `endpoint` is about the requests that carry its messages; its `text` is NAMES URL
    after the word mcp."""

    endpoint: EndpointRule
    tools: tuple[Glob, ...]
    methods: tuple[Glob, ...]

    @property
    def opens(self) -> bool:
        """True if it allows, or lets through and records."""
        return self.endpoint.action != "deny"

    def covers(self, message: Message) -> bool:
        """Return True if a rule that opens covers a message."""
        method = message.method
        if method is None:
            return True
        if message.tool is not None:
            if method != TOOLS_CALL:
                return False
            if self.tools:
                return _fits(self.tools, message.tool)
            return _fits(self.methods, method)
        is_of_session = method in SESSION_METHODS or method.startswith(NOTIFICATIONS)
        return is_of_session or _fits(self.methods, method)

    def may_cover(self, message: Message) -> bool:
        """Return True if a rule that denies covers a message, which is `folded_form` of one."""
        if message.method is None:
            return False
        if _fits(self.methods, message.method):
            return True
        return message.tool is not None and _fits(self.tools, message.tool)


def parse_mcp(flag: str, text: str, action: Action) -> McpRule:
    """Parse NAMES URL. Raises UsageError."""
    names, blank, url = text.partition(" ")
    if not blank or "?" in url or " " in url:
        _refuse(flag, text, "expected names and a URL without a query")
    if "/" not in url.partition("://")[2]:
        url += "/**"
    methods = "*" if action == "deny" else _HTTP_METHODS
    try:
        endpoint = parse_endpoint(flag, f"{methods} {url}", action)
    except UsageError as error:
        reason = re.sub(r"^--[a-z-]+ '[^']*': ", "", error.message)
        _refuse(flag, text, reason, _FORM if error.hint in (None, ENDPOINT_FORM) else error.hint)
    words = [_parse_name(flag, text, one) for one in names.split(",")]
    if action == "deny":
        words = [(is_method, tuple(map(folded, one))) for is_method, one in words]
    return McpRule(
        replace(endpoint, text=MCP + text),
        tuple(one for is_method, one in words if not is_method),
        tuple(one for is_method, one in words if is_method),
    )


def parse_mcp_entry(text: str) -> McpRule:
    """Parse ACTION mcp NAMES URL. Raises UsageError."""
    action, _, rest = text.partition(" ")
    names = rest.removeprefix(MCP)
    if action == "deny":
        return parse_mcp(DENY_MCP_FLAG, names, "deny")
    if action == "allow":
        return parse_mcp(ALLOW_MCP_FLAG, names, "allow")
    if action == "audit":
        return parse_mcp(ALLOW_MCP_FLAG, names, "audit")
    raise UsageError(f"expected allow, deny or audit before a rule, got {action!a}", hint=_FORM)


def mcp_text(host: str, path: str, tools: Sequence[str], methods: Sequence[str]) -> str:
    """Return NAMES URL of the parts that a profile gives; without names it is no rule."""
    url = (host if "://" in host else f"https://{host}") + path.replace(" ", "%20")
    names = [*map(writable_tool, tools), *(METHOD + _writable(one) for one in methods)]
    return f"{','.join(names)} {url}"


def writable_tool(name: str) -> str:
    """Return a tool's name as a rule may have it, where it is not taken for a method's."""
    name = _writable(name)
    return name.replace(":", "%3A", 1) if name.startswith(METHOD) else name


def shown_name(name: str) -> str:
    """Return a tool or method as rules and records have it: printable ASCII without blanks."""
    return quote(name, safe=_SAFE)


def rule_name(message: Message) -> str:
    """Return the name in a rule that is for this message and no other."""
    if message.tool is not None:
        return writable_tool(shown_name(message.tool))
    return METHOD + shown_name(message.method or "")


def message_of(name: str) -> Message:
    """Return the message that a name in a question means: a call of a tool, or a method after
    `method:`. Raises UsageError."""
    is_method = name.startswith(METHOD)
    text = unquote(name.removeprefix(METHOD) if is_method else name)
    if _BROKEN_ESCAPE.search(name) or not text.isprintable() or text.strip() != text or not text:
        raise UsageError(f"expected the name of a tool, got {name!a}", hint=_QUESTION)
    if is_method and folded(text) == TOOLS_CALL:
        raise UsageError(f"expected the tool that {text} calls", hint=_QUESTION)
    return Message(text) if is_method else Message(TOOLS_CALL, text)


def folded_form(message: Message) -> Message:
    """Return a message with its names as a server may compare them, for `McpRule.may_cover`."""
    method = None if message.method is None else folded(message.method)
    return Message(method, None if message.tool is None else folded(message.tool))


def _parse_name(flag: str, text: str, name: str) -> tuple[bool, Glob]:
    """Return whether a name is that of a method, and its glob."""
    is_method = name.startswith(METHOD)
    name = name.removeprefix(METHOD) if is_method else name
    if not _NAME.fullmatch(name) or not name.isprintable():
        _refuse(flag, text, "expected names with commas between them")
    if _BROKEN_ESCAPE.search(name):
        _refuse(flag, text, "expected two hexadecimal digits after a percent sign")
    try:
        return is_method, tuple(unquote(one, errors="strict") for one in name.split("*"))
    except UnicodeDecodeError:
        _refuse(flag, text, "expected percent escapes of UTF-8")


def _fits(globs: Sequence[Glob], name: str) -> bool:
    return any(has_in_order(one, name) for one in globs)


def _writable(name: str) -> str:
    return name.replace(",", "%2C").replace(" ", "%20")


def _refuse(flag: str, text: str, reason: str, hint: str = _FORM) -> NoReturn:
    raise UsageError(f"{flag} {text!a}: {reason}", hint=hint)
